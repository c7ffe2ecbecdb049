"""The documents of a Focus Mode release that only its family has: fusion weights, context cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from focus_mode.reserved import is_reserved
from kfm_mlflow.errors import DataError
from kfm_mlflow.focus.answers import FUSION_DIMENSION
from kfm_mlflow.focus.columns import COLUMN_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from focus_mode.world import World
    from kfm_mlflow.care.regions import RegionSet
    from kfm_mlflow.focus.fusion import FusionBaseline

_DECIMALS = 3


def fusion_weights(baseline: FusionBaseline, *, seed: int) -> dict[str, Any]:
    """Return ``fusion_weights.json``.

    Args:
        baseline: Of the training rows.
        seed: The one seed of the training.
    """
    # Rounded shares need not sum to 1; dividing makes the printed weights do so.
    total = sum(baseline.shares.values())
    return {
        "schema_version": "1",
        "seed": seed,
        "dimension": FUSION_DIMENSION,
        "weights": {domain: share / total for domain, share in baseline.shares.items()},
        "baseline": baseline.to_dict(),
    }


def xai_summary(domains: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``xai/summary.json``: what ``xai/domains.json`` says, as every family says it.

    Args:
        domains: The explanation of the likeliest situation.
    """
    stability = domains["stability"]
    return {
        "schema_version": "1",
        **{
            name: domains[name]
            for name in ("method", "library", "baseline", "step_count", "sample_count", "seed")
        },
        "convergence_delta": domains["completeness_error"],
        "features": [column for domain in domains["domains"] for column in domain["columns"]],
        "stability": {name: stability[name] for name in ("seed_count", "min_correlation")},
        "notes": [
            f"Target: {domains['target']}; see xai/domains.json.",
            f"Stability: noise of {stability['noise_ratio']:.0%} of each column's deviation.",
        ],
    }


def context_cells(world: World, regions: RegionSet) -> dict[str, Any]:
    """Return ``context_cells.json``: each cell's row of the latest month, reserved cells left out.

    Args:
        world: All rows, reserved ones included, so that they can be counted.
        regions: The policy's.

    Raises:
        DataError: No cell is left.
    """
    import h3

    latest = np.flatnonzero(world.months == world.months.max())
    hidden = is_reserved([world.cells[k] for k in latest], regions)
    cells = {
        world.cells[k]: [round(float(value), _DECIMALS) + 0.0 for value in world.rows[k]]
        for k, is_hidden in zip(latest, hidden, strict=True)
        if not is_hidden
    }
    if not cells:
        raise DataError(
            "every cell touches a region",
            where=world.name,
            remedy="give rows of other places, too",
        )
    return {
        "schema_version": "1",
        "time": world.times[int(latest[0])],
        "resolution": h3.get_resolution(next(iter(cells))),
        "bbox": list(world.bbox),
        "withheld_cell_count": int(hidden.sum()),
        "columns": list(COLUMN_NAMES),
        "cells": cells,
    }
