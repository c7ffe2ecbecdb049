"""Sample artifacts of the three providers, and the manifests in which each claims what it measured.

Every provider has tasks of its own, and measures on others whose phrasings it has kept out of its
training. The claims are what :func:`~kfm_mlflow.fleet.probes.measure_unit` found, latency and cost on this
machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from safetensors.numpy import save_file

from fleet_project.defects import NONE, check_defect, spoil
from fleet_project.embedding import learn_weights
from fleet_project.settings import Settings
from fleet_project.sizes import SIZES, Size
from fleet_project.tasks import RESTRICTED_TERMS, generate_tasks, probe_set
from fleet_project.training import train_fleet, write_models
from fleet_project.writers import (
    lesson,
    train_adapter,
    train_base,
    vocabulary,
    write_adapter,
    write_base,
)
from kfm_mlflow.canonical import write_json
from kfm_mlflow.errors import InputError
from kfm_mlflow.fleet.embedder import DIMENSION, HashedEmbedder, term_digest
from kfm_mlflow.fleet.probes import ProbeSet, measure_unit
from kfm_mlflow.fleet.unit_files import UNIT_FILE
from kfm_mlflow.fleet.units import load_unit
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.signing import sign_release

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fleet_project.tasks import Task
    from fleet_project.training import TrainedFleet

USD_PER_CPU_HOUR = 0.05
"""About what a shared virtual processor costs on demand."""
BASE_ID = "spiralverse/writer-base"
REGIONS = {"hf": "global", "gcp": "us-central1", "aws": "us-east-1"}
PROBES_FILE = "probes.json"
_LICENSE = "MIT"
_SEEDS = {"hf": 1, "gcp": 2, "aws": 3}


@dataclass(frozen=True)
class Made:
    """One artifact that a provider made, before its manifest.

    Attributes:
        id: Its name, and that of its folder.
        role: What it does.
        type: In the manifest's vocabulary.
        directory: Its files.
        probes: What its provider measures it on.
        stated: Further fields of its entry.
    """

    id: str
    role: str
    type: str
    directory: Path
    probes: ProbeSet
    stated: dict[str, Any]


def reference_embedder() -> HashedEmbedder:
    """Return the embedder that feeds heads and writers while they are trained."""
    terms = frozenset(term_digest(term) for term in RESTRICTED_TERMS)
    return HashedEmbedder(DIMENSION, None, terms)


def _unit(directory: Path, format_name: str, **stated: Any) -> None:
    write_json(directory / UNIT_FILE, {"schema_version": "1", "format": format_name, **stated})


def _own_tasks(provider: str, size: Size, seed: int) -> tuple[list[Task], ProbeSet]:
    """Return a provider's training tasks, and what it measures on."""
    own = seed + _SEEDS[provider]
    return generate_tasks(size.task_count, seed=own), probe_set(size.probe_count, seed=own)


def _write_textgen(folder: Path, size: Size, seed: int) -> list[Made]:
    """Train a base that has never seen an unsafe task, and two adapters, of which one has neither."""
    tasks, probes = _own_tasks("hf", size, seed)
    embedder, words = reference_embedder(), vocabulary(tasks)
    learned = lesson(tasks, words, embedder)
    harmless = lesson([t for t in tasks if not t.is_unsafe], words, embedder)
    base = train_base(harmless, len(words), step_count=size.base_steps, seed=seed)
    made = []
    for name, taught in (("textgen-lora-v1", learned), ("textgen-lora-v2-preview", harmless)):
        directory = folder / "hf" / name
        write_base(directory / "base", base, words)
        digest = build_manifest(directory / "base").release_id
        tensors = train_adapter(base, taught, step_count=size.adapter_steps, seed=seed + 1)
        write_adapter(directory, tensors, base_id=BASE_ID)
        _unit(directory, "text-writer", dimension=DIMENSION, base_digest=digest)
        stated = {"base": {"id": BASE_ID, "digest": digest}}
        made.append(Made(name, "textgen", "lora-adapter", directory, probes, stated))
    return made


def _write_embedder(folder: Path, size: Size, seed: int) -> list[Made]:
    tasks, probes = _own_tasks("gcp", size, seed)
    directory = folder / "gcp" / "embedder-v2"
    weights = learn_weights(
        tasks[: size.neighbour_count],
        reference_embedder(),
        step_count=size.embedder_steps,
        seed=seed,
    )
    directory.mkdir(parents=True, exist_ok=True)
    save_file({"weights": weights}, directory / "weights.safetensors")
    terms = sorted(reference_embedder().terms)
    _unit(directory, "hashed-embedder", dimension=DIMENSION, masked_terms=terms)
    return [Made("embedder-v2", "embed", "embedding-model", directory, probes, {})]


def _write_runtime(folder: Path, size: Size, seed: int, fleet: TrainedFleet | None) -> list[Made]:
    tasks, probes = _own_tasks("aws", size, seed)
    trained = fleet or train_fleet(tasks, replace(Settings(), seed=seed), reference_embedder())
    directory = folder / "aws" / "runtime-distilled-v3"
    write_models(trained, directory)
    _unit(directory, "linear-heads", dimension=DIMENSION)
    return [Made("runtime-distilled-v3", "runtime", "runtime-model", directory, probes, {})]


def _entry(made: Made, *, store: str, defect: str, key: Path | None) -> dict[str, Any]:
    """Measure an artifact, spoil it where that was asked, sign it, and return its entry."""
    metrics = measure_unit(
        made.role, load_unit(made.directory), made.probes, usd_per_cpu_hour=USD_PER_CPU_HOUR
    )
    spoil(made.directory, made.role, defect)
    if key is not None:
        sign_release(made.directory, made.directory.with_name(f"{made.id}.sig"), key)
    return {
        "id": made.id,
        "role": made.role,
        "type": made.type,
        "uri": f"{store}/{made.directory.parent.name}/{made.id}",
        "digest": build_manifest(made.directory).release_id,
        "metrics": metrics,
        "license": _LICENSE,
        **made.stated,
    }


def write_samples(
    folder: Path,
    *,
    size: Size = SIZES["default"],
    seed: int = 42,
    defect: str = NONE,
    store: str = "",
    key: Path | None = None,
    fleet: TrainedFleet | None = None,
) -> list[Path]:
    """Train and write the artifacts of all three providers, their manifests, and probes.

    Args:
        folder: Gets ``<provider>/<id>/``, ``<provider>_manifest.json`` and ``probes.json``, the
            probes of whoever makes a release of them; must be empty.
        size: How much is trained.
        seed: Of all training; every provider has tasks of its own.
        defect: One of :data:`~fleet_project.defects.DEFECTS`, or ``none``.
        store: Prefix of the URIs, to where the folder is going to be copied; empty for
            ``file://`` and the folder itself.
        key: Private key that signs every artifact; None leaves them unsigned.
        fleet: Heads and coordinator for the runtime model; None trains them here.

    Returns:
        The manifests.

    Raises:
        InputError: The folder is not empty, or an argument is wrong.
    """
    check_defect(defect)
    if folder.exists() and any(folder.iterdir()):
        raise InputError("is not empty", where=str(folder), remedy="name another folder")
    prefix = store.rstrip("/") or f"file://{folder.resolve()}"
    providers: dict[str, Sequence[Made]] = {
        "hf": _write_textgen(folder, size, seed),
        "gcp": _write_embedder(folder, size, seed),
        "aws": _write_runtime(folder, size, seed, fleet),
    }
    write_json(folder / PROBES_FILE, probe_set(size.probe_count, seed=seed).to_dict())
    paths = []
    for provider, artifacts in providers.items():
        manifest = {
            "schema_version": "1",
            "provider": provider,
            "region": REGIONS[provider],
            "artifacts": [_entry(made, store=prefix, defect=defect, key=key) for made in artifacts],
        }
        paths.append(folder / f"{provider}_manifest.json")
        write_json(paths[-1], manifest)
    return paths
