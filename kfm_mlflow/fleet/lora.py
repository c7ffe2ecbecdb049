"""Merging LoRA adapters of one base by peft, with self-tests that must hold before a file appears.

Rules kept here:

1. Only adapters of the very same base are merged: equal digests of its folder.
2. Only plain LoRA is merged (:mod:`kfm_mlflow.fleet.lora_kinds`), and only by concatenation, the
   one of peft's combinations that is the weighted sum of the adapters exactly. Modules that only
   some adapters adapt need no agreement then.
3. Three tests, each with the largest difference that was found: every adapter merged alone at
   weight 1.0 answers as it did; the merge answers as the base plus ``sum of weight x B A x alpha /
   rank``, computed without peft; and it answers the same after it was saved and loaded.
4. The result is a unit of its own, with report and lineage: derived from every adapter and the
   base. It appears whole or not at all, and the same inputs give the same bytes.
5. Every adapter has a licence in a manifest that lets others pass on what is made from it; the
   result is under all of them (:mod:`kfm_mlflow.fleet.licences`).

It works on bases of format ``text-writer``; quality and safety of a merge are not judged here.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import digest_file, write_json
from kfm_mlflow.errors import EvidenceError, InputError, IntegrityError
from kfm_mlflow.fleet.licences import REPORT_FILE, merge_licences
from kfm_mlflow.fleet.lora_documents import MAX_DIFFERENCE, Check, build_lineage, build_report
from kfm_mlflow.fleet.lora_kinds import PlainLora, parse_plain_lora
from kfm_mlflow.fleet.unit_files import UNIT_FILE, read_object, read_safetensors
from kfm_mlflow.fleet.writer import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    load_writer,
)
from kfm_mlflow.release.manifest import build_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from kfm_mlflow.fleet.manifest import Manifests

LINEAGE_FILE = "provenance.json"
_INPUT_COUNT = 64
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """A plain LoRA adapter on disk.

    Attributes:
        directory: Holds ``adapter_config.json``, ``adapter_model.safetensors`` and ``unit.json``.
        settings: What its settings file says.
        base_name: What it calls its base.
        digest: Of its weights file.
        unit: Its ``unit.json``.
        deltas: Module -> what it adds to the weight, ``B A x alpha / rank``, in float64.
    """

    directory: Path
    settings: PlainLora
    base_name: str | None
    digest: str
    unit: Mapping[str, Any]
    deltas: Mapping[str, np.ndarray]


def load_adapter(directory: Path, base: Mapping[str, np.ndarray], base_digest: str) -> Adapter:
    """Read an adapter and check that it is plain LoRA of a base.

    Args:
        directory: Of the adapter.
        base: The base's weights by name.
        base_digest: Release id of the base's folder.

    Raises:
        InputError: It is of another kind, of another base, or adapts what is not there.
        DataError: A file is missing or wrong.
    """
    where = f"{directory.name}/{ADAPTER_CONFIG_FILE}"
    stated = read_object(directory / ADAPTER_CONFIG_FILE)
    settings = parse_plain_lora(stated, where=where)
    unit = read_object(directory / UNIT_FILE)
    if unit.get("base_digest") != base_digest:
        raise InputError(
            f"was trained on base {str(unit.get('base_digest'))[:19]}…, not {base_digest[:19]}…",
            where=f"{directory.name}/{UNIT_FILE}: base_digest",
            remedy="merge adapters of one base only",
        )
    shapes: dict[str, tuple[int, ...]] = {}
    for module in settings.target_modules:
        weight = base.get(f"{module}.weight")
        if weight is None:
            raise InputError(f"adapts {module[:40]!r}, which the base does not have", where=where)
        out_size, in_size = weight.shape
        shapes[f"{_PREFIX}{module}.lora_A.weight"] = (settings.rank, in_size)
        shapes[f"{_PREFIX}{module}.lora_B.weight"] = (out_size, settings.rank)
    path = directory / ADAPTER_WEIGHTS_FILE
    found = {name: a.astype("float64") for name, a in read_safetensors(path, shapes).items()}
    deltas = {
        module: settings.scaling
        * found[f"{_PREFIX}{module}.lora_B.weight"]
        @ found[f"{_PREFIX}{module}.lora_A.weight"]
        for module in settings.target_modules
    }
    base_name = stated.get("base_model_name_or_path")
    return Adapter(directory, settings, base_name, digest_file(path), unit, deltas)


def merge_adapters(
    adapters: Sequence[Path],
    base: Path,
    weights: Sequence[float],
    output: Path,
    manifests: Manifests,
) -> dict[str, Any]:
    """Merge adapters into one, and write it as a unit.

    Args:
        adapters: Folders of adapters, at least one.
        base: Folder of the base: ``config.json`` and ``model.safetensors``.
        weights: Of each adapter, in the same order; finite and not 0.
        output: Folder that does not exist yet.
        manifests: Say under which licence each adapter is, found by the digest of its folder.

    Returns:
        The report that was written as ``merge.json`` (docs/formats/lora-merge.md).

    Raises:
        InputError: The adapters do not go together, a weight is wrong, the output exists, peft is
            not installed, or a licence is missing or forbids it.
        DataError: A file is missing or wrong.
        IntegrityError: A self-test failed; nothing was written.
        EvidenceError: peft failed.
    """
    if output.exists():
        raise InputError("is there already", where=str(output), remedy="name a new folder")
    if len(weights) != len(adapters) or not adapters:
        raise InputError(
            f"{len(weights)} weights for {len(adapters)} adapters",
            where="--weights",
            remedy="give one for each, as 0.5,0.5",
        )
    if not all(math.isfinite(weight) and weight != 0 for weight in weights):
        raise InputError("must be numbers other than 0", where="--weights")
    licences = merge_licences(adapters, base, manifests)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".merge-", dir=output.parent) as folder:
        draft = Path(folder) / "unit"
        plain = _base_weights(base, Path(folder))
        base_digest = build_manifest(base).release_id
        loaded = [load_adapter(path, plain, base_digest) for path in adapters]
        _write_unit(loaded, base, base_digest, draft)
        checks = _merge_by_peft(loaded, weights, plain, draft)
        failed = [check for check in checks if not check.max_difference <= MAX_DIFFERENCE]
        if failed:
            raise IntegrityError(
                "; ".join(f"{c.name}: logits differ by {c.max_difference:.3g}" for c in failed),
                where="merge",
                remedy="nothing was written; serve the adapters one by one",
            )
        result = digest_file(draft / ADAPTER_WEIGHTS_FILE)
        report = build_report(loaded, weights, base_digest, result, checks, licences=licences)
        write_json(draft / REPORT_FILE, report)
        write_json(draft / LINEAGE_FILE, build_lineage(report))
        draft.replace(output)
    return report


def _base_weights(base: Path, folder: Path) -> Mapping[str, np.ndarray]:
    """Return the base's weights, read and checked as the unit that it makes without an adapter."""
    alone = folder / "alone"
    shutil.copytree(base, alone / "base")
    write_json(alone / UNIT_FILE, {"schema_version": "1", "format": "text-writer"})
    return load_writer(alone).weights


def _write_unit(adapters: Sequence[Adapter], base: Path, base_digest: str, draft: Path) -> None:
    """Write the parts of the merged unit that do not depend on weights."""
    first = adapters[0]
    for other in adapters[1:]:
        differing = sorted(
            name
            for name in {*first.unit, *other.unit}
            if first.unit.get(name) != other.unit.get(name)
        )
        if differing:
            raise InputError(
                f"{differing[0]} is not that of {first.directory.name}",
                where=f"{other.directory.name}/{UNIT_FILE}",
                remedy="merge adapters whose units say the same",
            )
    shutil.copytree(base, draft / "base")
    write_json(draft / UNIT_FILE, {**first.unit, "base_digest": base_digest})


def _logits(weights: Mapping[str, np.ndarray], vectors: np.ndarray) -> np.ndarray:
    """Return the logits of a text-writer in float64, by NumPy alone."""
    import numpy as np

    of = {name: array.astype("float64") for name, array in weights.items()}
    hidden = np.tanh(vectors @ of["hidden.weight"].T + of["hidden.bias"])
    logits: np.ndarray = hidden @ of["words.weight"].T + of["words.bias"]
    return logits


def _largest(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference as a share of the largest value; NaN where one is NaN."""
    import numpy as np

    return float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30))


def _module(weights: Mapping[str, np.ndarray]) -> Any:
    """Return a text-writer's base as a torch module, which peft can wrap."""
    import torch

    class Writer(torch.nn.Module):
        hidden: torch.nn.Linear
        words: torch.nn.Linear

        def __init__(self) -> None:
            super().__init__()
            for name in ("hidden", "words"):
                out_size, in_size = weights[f"{name}.weight"].shape
                setattr(self, name, torch.nn.Linear(in_size, out_size))
            self.load_state_dict({n: torch.from_numpy(a.copy()) for n, a in weights.items()})

        def forward(self, vectors: torch.Tensor) -> Any:
            return self.words(torch.tanh(self.hidden(vectors)))

    return Writer().eval()


def _merge_by_peft(
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    plain: Mapping[str, np.ndarray],
    draft: Path,
) -> list[Check]:
    """Merge, save the merged adapter into the draft, and return what the self-tests found."""
    import numpy as np

    try:
        import torch
        from peft import PeftModel
    except ImportError as exc:
        raise InputError(
            "peft is not installed", where="merge", remedy="pip install 'kfm-mlflow[peft]'"
        ) from exc
    vectors = np.random.default_rng(0).standard_normal(
        (_INPUT_COUNT, plain["hidden.weight"].shape[1])
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = torch.from_numpy(vectors.astype("float32"))

    def answers(model: Any, name: str) -> np.ndarray:
        model.set_adapter(name)
        with torch.no_grad():
            found: np.ndarray = model(rows).numpy().astype("float64")
        return found

    names = [f"adapter{k}" for k in range(len(adapters))]
    places = [
        _nameless(adapter, draft.with_name(n)) for n, adapter in zip(names, adapters, strict=True)
    ]
    checks = []
    try:
        model = PeftModel.from_pretrained(_module(plain), str(places[0]), adapter_name=names[0])
        for name, place in zip(names[1:], places[1:], strict=True):
            model.load_adapter(str(place), adapter_name=name)
        for name, adapter in zip(names, adapters, strict=True):
            model.add_weighted_adapter([name], [1.0], f"{name}-alone", combination_type="cat")
            own = answers(model, name)
            difference = _largest(answers(model, f"{name}-alone"), own)
            checks.append(Check(f"identity of {adapter.directory.name}", difference))
        model.add_weighted_adapter(names, list(weights), "merged", combination_type="cat")
        merged = answers(model, "merged")
        _save(model, draft, adapters[0].base_name)
        saved = _nameless(load_adapter(draft, plain, adapters[0].unit["base_digest"]), places[0])
        again = PeftModel.from_pretrained(_module(plain), str(saved), adapter_name="merged")
        checks.append(Check("saved and loaded", _largest(answers(again, "merged"), merged)))
    except (ValueError, TypeError, RuntimeError, KeyError, OSError) as exc:
        raise EvidenceError(
            f"peft failed ({type(exc).__name__}: {' '.join(str(exc).split())[:200]})", where="merge"
        ) from exc
    wanted = dict(plain)
    for adapter, weight in zip(adapters, weights, strict=True):
        for module, delta in adapter.deltas.items():
            wanted[f"{module}.weight"] = wanted[f"{module}.weight"] + weight * delta
    checks.append(Check("weighted sum", _largest(merged, _logits(wanted, vectors))))
    return checks


def _nameless(adapter: Adapter, place: Path) -> Path:
    """Copy an adapter's two files to a place, without the name of its base.

    peft asks the Hugging Face hub about a base that has a name; a merge asks nobody.
    """
    settings = read_object(adapter.directory / ADAPTER_CONFIG_FILE)
    settings |= {"base_model_name_or_path": None, "revision": None, "auto_mapping": None}
    write_json(place / ADAPTER_CONFIG_FILE, settings)
    shutil.copyfile(adapter.directory / ADAPTER_WEIGHTS_FILE, place / ADAPTER_WEIGHTS_FILE)
    return place


def _save(model: Any, draft: Path, base_name: str | None) -> None:
    """Save the merged adapter; without the vendor's README, and settings in canonical form."""
    from safetensors.numpy import load_file, save_file

    with tempfile.TemporaryDirectory(prefix="kfm-merge-") as folder:
        model.save_pretrained(
            folder,
            selected_adapters=["merged"],
            safe_serialization=True,
            save_embedding_layers=False,
        )
        saved = Path(folder) / "merged"
        settings = read_object(saved / ADAPTER_CONFIG_FILE)
        # The vendor writes a set: in another order with every run.
        settings["target_modules"] = sorted(settings["target_modules"])
        settings |= {"auto_mapping": None, "base_model_name_or_path": base_name}
        write_json(draft / ADAPTER_CONFIG_FILE, settings)
        # It also makes zeros of random numbers by multiplying: + 0.0 takes the sign off a zero.
        arrays = {n: array + 0.0 for n, array in load_file(saved / ADAPTER_WEIGHTS_FILE).items()}
        save_file(arrays, draft / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})
