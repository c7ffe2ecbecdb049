"""A traffic plane that lives in one file, so that it outlives the controllers that are killed.

It keeps what the protocol promises: calls may be repeated, generations only grow, and so do counts.
What no controller may do is noted under ``violations``. Each look at it lets some requests go by.
"""

from __future__ import annotations

import json
import math
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import PlaneError
from kfm_mlflow.monitor.spans import LOST_SPAN_RATIO
from kfm_mlflow.rollout.plane import ArmCounts, Observation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kfm_mlflow.rollout.plane import Deployable, Split

_EMPTY = {
    "split": {"generation": 0, "stable": None, "canary": None, "ratio": 0.0},
    "up": {},
    "counts": {},
    "error_ratio": {},
    "violations": [],
}
_REQUESTS = 50


class FilePlane:
    """The plane of one model, in ``plane.json`` of a folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "plane.json"

    def read(self) -> dict[str, Any]:
        """Return everything that is known."""
        return json.loads(self._file.read_text()) if self._file.exists() else dict(_EMPTY)

    def write(self, state: dict[str, Any]) -> None:
        """Replace everything; who is killed in between leaves it as it was."""
        fresh = self._file.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(state))
        fresh.rename(self._file)

    @contextmanager
    def _changed(self) -> Iterator[dict[str, Any]]:
        state = self.read()
        yield state
        self.write(state)

    def deploy(self, release: Deployable, *, timeout_s: float) -> None:  # noqa: ARG002 - the protocol's
        """Serve a release that lies where the registry's client verified it."""
        with self._changed() as state:
            if not (release.release_dir / "MLmodel").is_file():
                state["violations"].append(f"v{release.version} was deployed from nowhere")
            state["up"][str(release.version)] = release.release_id
            state["counts"].setdefault(str(release.version), [0, 0])

    def deployed(self) -> frozenset[int]:
        """Return the versions that are up."""
        return frozenset(int(version) for version in self.read()["up"])

    def remove(self, version: int) -> None:
        """Take a version down."""
        with self._changed() as state:
            if version in (state["split"]["stable"], state["split"]["canary"]):
                state["violations"].append(f"v{version} was removed under traffic")
            state["up"].pop(str(version), None)
            state["counts"].pop(str(version), None)

    def set_split(self, split: Split) -> None:
        """Apply a split, which must be newer than the one before."""
        with self._changed() as state:
            if split.generation <= state["split"]["generation"]:
                raise PlaneError(f"generation {split.generation} is not newer")
            for version in (split.stable, split.canary):
                if version is not None and str(version) not in state["up"]:
                    state["violations"].append(f"traffic to v{version}, which is not up")
            state["split"] = {
                "generation": split.generation,
                "stable": split.stable,
                "canary": split.canary,
                "ratio": split.canary_ratio,
            }

    def observe(self) -> Observation:
        """Let some requests go by, and return what all have counted."""
        with self._changed() as state:
            split = state["split"]
            to_canary = round(_REQUESTS * split["ratio"])
            arms = ((split["canary"], to_canary), (split["stable"], _REQUESTS - to_canary))
            for version, count in arms:
                if str(version) in state["up"]:
                    counts = state["counts"][str(version)]
                    counts[0] += count
                    counts[1] += round(count * state["error_ratio"].get(str(version), 0.0))
        return Observation(
            split["generation"],
            {int(v): _arm(*counts) for v, counts in state["counts"].items()},
        )


def _arm(request_count: int, error_count: int) -> ArmCounts:
    answered = request_count - error_count
    return ArmCounts(
        request_count,
        error_count,
        {20.0: answered, math.inf: answered},
        outside_count={LOST_SPAN_RATIO: 0},
        measured_count={LOST_SPAN_RATIO: request_count},
    )
