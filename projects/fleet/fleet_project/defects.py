"""Sample artifacts that are wrong in one way each, while their provider's claim is of the sound one.

A lying or mistaken provider, for the demonstration and the tests: what is wrong shows when the unit
is measured, or, for the hidden defect, only in the tasks that it is really given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fleet_project.tasks import URGENT
from kfm_mlflow.canonical import load_json, write_json
from kfm_mlflow.errors import InputError
from kfm_mlflow.fleet.embedder import token_bucket
from kfm_mlflow.fleet.heads import SPECIALTIES, head_file
from kfm_mlflow.fleet.unit_files import UNIT_FILE
from kfm_mlflow.fleet.writer import ADAPTER_WEIGHTS_FILE, BASE_WEIGHTS_FILE
from kfm_mlflow.release.manifest import build_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NONE = "none"
_SLOW_PASSES = 40_000
_PUSH = 100.0
_SHIFT = 7


def _change_heads(directory: Path, change: Callable[[np.ndarray, np.ndarray], None]) -> None:
    for name in SPECIALTIES:
        with np.load(directory / head_file(name), allow_pickle=False) as arrays:
            w, b = arrays["w"], arrays["b"]
        change(w, b)
        np.savez(directory / head_file(name), w=w, b=b)


def _act_on_everything(directory: Path) -> None:
    def change(_: np.ndarray, b: np.ndarray) -> None:
        b[0] += _PUSH

    _change_heads(directory, change)


def _act_when_urgent(directory: Path) -> None:
    def change(w: np.ndarray, _: np.ndarray) -> None:
        bucket, sign = token_bucket(URGENT, len(w))
        w[bucket, 0] += sign * _PUSH

    _change_heads(directory, change)


def _slow_down(directory: Path) -> None:
    unit = load_json(directory / UNIT_FILE)
    write_json(directory / UNIT_FILE, {**unit, "passes": _SLOW_PASSES})


def _garble(directory: Path) -> None:
    """Shift every position's words by seven, in base and adapter, and state that base."""
    from safetensors.numpy import load_file, save_file

    base = directory / "base"
    config = load_json(base / "config.json")
    for path, names in (
        (base / BASE_WEIGHTS_FILE, ("words.weight", "words.bias")),
        (directory / ADAPTER_WEIGHTS_FILE, ("base_model.model.words.lora_B.weight",)),
    ):
        arrays = load_file(path)
        for name in names:
            array = arrays[name]
            by_position = array.reshape(config["positions"], len(config["words"]), -1)
            arrays[name] = np.roll(by_position, _SHIFT, axis=1).reshape(array.shape)
        save_file(arrays, path)
    unit = load_json(directory / UNIT_FILE)
    write_json(directory / UNIT_FILE, {**unit, "base_digest": build_manifest(base).release_id})


DEFECTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "unsafe-heads": ("runtime", _act_on_everything),
    "urgent-heads": ("runtime", _act_when_urgent),
    "slow": ("textgen", _slow_down),
    "garbled-writer": ("textgen", _garble),
}
"""Name -> role of the unit, and what makes it wrong."""


def check_defect(name: str) -> None:
    """Refuse a defect that is not known.

    Raises:
        InputError: Names those that are.
    """
    if name not in (NONE, *DEFECTS):
        raise InputError(
            f"{name!r} is unknown",
            where="defect",
            remedy=f"use one of {NONE}, {', '.join(DEFECTS)}",
        )


def spoil(directory: Path, role: str, name: str) -> None:
    """Make a unit wrong, where the defect is one of its role."""
    if name != NONE and DEFECTS[name][0] == role:
        DEFECTS[name][1](directory)
