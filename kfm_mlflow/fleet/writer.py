"""Format ``text-writer``: a feed-forward network writes a text for a vector, a word per position.

``base/config.json`` has ``dimension``, ``hidden``, ``positions`` and ``words`` (the first is empty
and ends the text), ``base/model.safetensors`` the float32 weights of two linear modules with tanh
between them: ``hidden`` [hidden, dimension] and ``words`` [positions x words, hidden], each with a
bias. ``adapter_config.json`` and ``adapter_model.safetensors``, where they are, are a LoRA adapter
as peft writes it; what it adds to a module is B A x lora_alpha / r (Hu et al., "LoRA", 2021).
Kinds of LoRA that compute something else are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from kfm_mlflow.errors import DataError, InputError, ManifestError
from kfm_mlflow.fleet.lora_kinds import PlainLora, parse_plain_lora
from kfm_mlflow.fleet.unit_files import (
    UNIT_FILE,
    read_count,
    read_object,
    read_safetensors,
    read_texts,
    shown,
)
from kfm_mlflow.release.manifest import build_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

BASE_WEIGHTS_FILE = "model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
MODULES = ("hidden", "words")
_MAX_COUNT = 2**16
_MAX_WEIGHT_COUNT = 2**28
_MAX_PASSES = 10**6


@dataclass(frozen=True)
class TextWriter:
    """Writes a text.

    Attributes:
        dimension: Of the vectors that it takes.
        words: Vocabulary; the first word is empty and ends the text.
        weights: ``hidden.weight``, ``hidden.bias``, ``words.weight``, ``words.bias``, with any
            adapter added; float32.
        passes: How often the network is computed for one text. More than once changes nothing but
            time and cost: a stand-in for a larger model.
    """

    role: ClassVar[str] = "textgen"
    dimension: int
    words: tuple[str, ...]
    weights: Mapping[str, np.ndarray]
    passes: int = 1

    def logits(self, vector: np.ndarray) -> np.ndarray:
        """Return the logits [positions, words] for a vector; float32."""
        import numpy as np

        of = self.weights
        hidden = np.tanh(of["hidden.weight"] @ vector.astype("float32") + of["hidden.bias"])
        flat: np.ndarray = of["words.weight"] @ hidden + of["words.bias"]
        return flat.reshape(-1, len(self.words))

    def write(self, vector: np.ndarray) -> str:
        """Return the text for a vector: the likeliest word of each position, up to the end."""
        logits = self.logits(vector)
        for _ in range(self.passes - 1):
            logits = self.logits(vector)
        found: list[str] = []
        for at in logits.argmax(axis=1):
            if at == 0:
                break
            found.append(self.words[int(at)])
        return " ".join(found)


def load_writer(directory: Path) -> TextWriter:
    """Load the base and, where there is one, the adapter.

    Raises:
        InputError: A field is wrong, or the adapter is of a kind that is not plain LoRA or is for
            another base.
        DataError: A file is wrong.
    """
    unit, base = read_object(directory / UNIT_FILE), directory / "base"
    shapes, words = _read_shapes(base / "config.json")
    weights = read_safetensors(base / BASE_WEIGHTS_FILE, shapes)
    weights = {name: array.astype("float32") for name, array in weights.items()}
    _check_base(base, unit.get("base_digest"))
    if (directory / ADAPTER_CONFIG_FILE).exists():
        if "base_digest" not in unit:
            raise InputError(
                "is missing, and there is an adapter",
                where=f"{shown(directory / UNIT_FILE)}: base_digest",
                remedy="state the digest of the base that it was trained on",
            )
        for module, delta in read_adapter(directory, weights).items():
            weights[f"{module}.weight"] = weights[f"{module}.weight"] + delta
    passes = 1
    if "passes" in unit:
        passes = read_count(unit, "passes", directory / UNIT_FILE, most=_MAX_PASSES)
    return TextWriter(shapes["hidden.weight"][1], words, weights, passes)


def _check_base(base: Path, stated: Any) -> None:
    """Refuse a base whose files are not those that a unit states, where it states any."""
    try:
        found = build_manifest(base).release_id
    except ManifestError as exc:
        raise DataError(str(exc), where=shown(base)) from exc
    if stated is not None and stated != found:
        raise DataError(
            f"is not the base that {UNIT_FILE} states",
            where=shown(base),
            remedy="put the base there that the adapter was trained on",
        )


def _read_shapes(path: Path) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    config = read_object(path)
    dimension, hidden, positions = (
        read_count(config, name, path, most=_MAX_COUNT)
        for name in ("dimension", "hidden", "positions")
    )
    words = read_texts(config, "words", path)
    if len(words) < 2 or words[0] != "" or "" in words[1:]:  # noqa: PLR2004 - the end and one word
        raise InputError(
            "must begin with the one empty text that ends a text, and have another",
            where=f"{shown(path)}: words",
        )
    count = positions * len(words)
    if hidden * (dimension + count) > _MAX_WEIGHT_COUNT:
        raise InputError(f"makes more than {_MAX_WEIGHT_COUNT} weights", where=shown(path))
    shapes: dict[str, tuple[int, ...]] = {
        "hidden.weight": (hidden, dimension),
        "hidden.bias": (hidden,),
        "words.weight": (count, hidden),
        "words.bias": (count,),
    }
    return shapes, words


def read_adapter(directory: Path, base: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what a LoRA adapter adds to the weight of each module that it adapts; float32.

    Args:
        directory: Holds ``adapter_config.json`` and ``adapter_model.safetensors``.
        base: The base's weights, by name.

    Raises:
        InputError: The adapter is no plain LoRA, or names a module that is not there.
        DataError: A file is wrong.
    """
    path = directory / ADAPTER_CONFIG_FILE
    lora = parse_plain_lora(read_object(path), where=shown(path))
    strangers = sorted(set(lora.target_modules) - set(MODULES))
    if strangers:
        raise InputError(
            f"{strangers[0]!r} is no module of the base",
            where=f"{shown(path)}: target_modules",
            remedy=f"adapt {' and '.join(MODULES)}",
        )
    return _deltas(directory / ADAPTER_WEIGHTS_FILE, lora, base)


def _deltas(path: Path, lora: PlainLora, base: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    shapes: dict[str, tuple[int, ...]] = {}
    for module in lora.target_modules:
        out, into = base[f"{module}.weight"].shape
        shapes[f"base_model.model.{module}.lora_A.weight"] = (lora.rank, into)
        shapes[f"base_model.model.{module}.lora_B.weight"] = (out, lora.rank)
    found = {
        name: array.astype("float32") for name, array in read_safetensors(path, shapes).items()
    }
    return {
        module: found[f"base_model.model.{module}.lora_B.weight"]
        @ found[f"base_model.model.{module}.lora_A.weight"]
        * lora.scaling
        for module in lora.target_modules
    }
