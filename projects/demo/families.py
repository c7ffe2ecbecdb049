"""What the demo does differently for each family: how to release, what to ask, what to refuse."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "projects" / n) for n in ("climate", "focus_mode", "focus_transformer")]

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Rows = NDArray[np.float32]

NAMES = ("climate", "focus-mode", "focus-transformer")
ROW_COUNT, LIVE_SEED = 512, 2024


@dataclass(frozen=True)
class Family:
    """One family in the demo.

    Attributes:
        name: As policies call it.
        model: The registered model.
        rows: Fair rows for the clients to ask about, float32 [n, …].
        bodies: What the clients send, in turn; whatever holds for rows holds for them.
        parameters: Of ``mlflow run . -e release``, besides version, data, size and keys.
        refused: Parameters of a release that must not get through.
        refusal: Words of the sentence that refuses it; of the release script, where nothing is
            registered.
        is_registered: Whether that release is registered at all.
        is_rebuilt: Whether the release can be made again byte for byte.
        reads_raw: Whether the endpoint answers the model's numbers, as plain MLflow does.
    """

    name: str
    model: str
    rows: Rows
    bodies: tuple[Mapping[str, Any], ...]
    parameters: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    refusal: str = "KFM refused Staging"
    is_registered: bool = True
    is_rebuilt: bool = True
    reads_raw: bool = True


def find_family(name: str, task: str, data: str, size: str) -> Family:
    """Return a family with what its clients ask.

    Raises:
        DataError: The data cannot be read.
    """
    if name == "focus-mode":
        return _focus_mode(data, size)
    if name == "focus-transformer":
        return _focus_transformer(data, size)
    from task import default_name, prepare

    rows = _chosen(prepare(task, data, size=size, seed=LIVE_SEED).validation_rows)
    return Family(
        name="climate",
        model=default_name(task),
        rows=rows,
        bodies=_as_inputs(rows),
        parameters={"family": "climate", "task": task},
        refused={"shuffled_ratio": "1.0"},
    )


def _chosen(rows: Rows) -> Rows:
    order = np.random.default_rng(LIVE_SEED).permutation(len(rows))[:ROW_COUNT]
    return np.ascontiguousarray(rows[order])


def _as_inputs(rows: Rows) -> tuple[Mapping[str, Any], ...]:
    return tuple({"inputs": rows[k : k + 1].tolist()} for k in range(len(rows)))


def _focus_mode(data: str, size: str) -> Family:
    from focus_mode.prepared import prepare
    from kfm_mlflow.focus.columns import COLUMN_NAMES

    world = prepare(data, size=size, seed=42, regions="packaged").world
    held = np.flatnonzero(world.is_held_out)
    order = np.random.default_rng(LIVE_SEED).permutation(held)[:ROW_COUNT]
    rows = np.ascontiguousarray(world.rows[order])
    bodies = tuple(
        {
            "dataframe_records": [
                {
                    "cell": world.cells[k],
                    "time": world.times[k],
                    **dict(zip(COLUMN_NAMES, world.rows[k].tolist(), strict=True)),
                }
            ]
        }
        for k in order
    )
    return Family(
        name="focus-mode",
        model="focus-mode",
        rows=rows,
        bodies=bodies,
        parameters={"family": "focus-mode"},
        refused={"defect": "swapped-router"},
        refusal="routing_accuracy",
        reads_raw=False,
    )


def _focus_transformer(data: str, size: str) -> Family:
    from focus_transformer.prepared import prepare

    rows = _chosen(prepare(data, size=size, seed=42, regions="packaged").held.rows)
    return Family(
        name="focus-transformer",
        model="focus-transformer",
        rows=rows,
        bodies=_as_inputs(rows),
        parameters={
            "family": "focus-transformer",
            "policy": "{folder}/policies/focus-transformer.yaml",
            "council": "{folder}/keys",
            "checkpoints": "{folder}/checkpoints/{version}",
        },
        refused={"council": "none"},
        refusal="waiting for the council",
        is_registered=False,
        is_rebuilt=False,
    )
