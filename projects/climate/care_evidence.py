"""What only the data and the running model can tell of regions: CARE evidence for the validation.

**Training rows.** A row lies in a region when the centre of any of its values' cells does.

**Invariance.** An input is restricted where the region that its cell touches lets nothing so fine be
published, or nothing at all; an output is public where it is not restricted itself. Rows of one
place, in which both are found, are asked: the inputs that are restricted are exchanged between
times. Where that moves public outputs, integrated gradients of their mean say how much of it comes
from those inputs. Where data have no place, nothing is measured, and the evidence does not speak of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
import torch

from kfm_mlflow.care.cells import cell_side_km
from kfm_mlflow.care.passages import KM_PER_DEGREE
from kfm_mlflow.care.screen_measured import (
    attribution_share,
    count_training_rows,
    measure_invariance,
)
from kfm_mlflow.monitor.attribution import attribute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from kfm_mlflow.care.regions import Region, RegionSet
    from prepared import Degrees, Placed, Predict, Prepared

    Mask = NDArray[np.bool_]

_BORDER_POINT_COUNT = 8
_EXPLAINED_COUNT = 16


def care_evidence(
    prepared: Prepared, regions: RegionSet, now: datetime, *, seed: int
) -> Callable[[Predict, torch.nn.Module | None], dict[str, Any]]:
    """Return what :func:`kfm_mlflow.log_validation` asks for as ``care``.

    Args:
        prepared: The task on its data.
        regions: Whose areas and ceilings hold.
        now: Decides season, embargo and consent (aware).
        seed: Of the permutations.
    """

    def measured(predict: Predict, model: torch.nn.Module | None) -> dict[str, Any]:
        found: dict[str, Any] = {"regions_digest": regions.digest}
        if prepared.training_places is not None:
            found["training_rows"] = count_training_rows(*prepared.training_places, regions)
        invariance = _invariance(prepared, predict, model, regions, now, seed)
        return found if invariance is None else {**found, "invariance": invariance}

    return measured


def _invariance(  # noqa: PLR0917 - the model in both its forms, and what it is asked
    prepared: Prepared,
    predict: Predict,
    model: torch.nn.Module | None,
    regions: RegionSet,
    now: datetime,
    seed: int,
) -> dict[str, Any] | None:
    """Return the worst of what was measured around each region; None when rows have no place."""
    if prepared.rows_around is None:
        return None
    worst: dict[str, Any] | None = None
    touched = regions.overlapping(prepared.source.bbox)
    for region in touched:
        best = max(
            _asked(prepared, region, touched, now),
            key=lambda asked: min(int(mask.sum()) for mask in asked[1:]),
            default=None,
        )
        if best is None or not (best[1].any() and best[2].any()):
            continue
        said = measure_invariance(predict, best[0].rows, best[1], best[2], seed=seed)
        if model is not None and float(said["max_change_ratio"]) > 0:
            said |= _explained(model, prepared, *best)
        if worst is None or float(said["max_change_ratio"]) > float(worst["max_change_ratio"]):
            worst = said
    if worst is not None:
        return worst
    # Nothing is restricted, or nothing beside it is public: said with its count, which is 0.
    rows = prepared.validation_rows[:2]
    return measure_invariance(predict, rows, np.zeros(rows.shape[1:], bool), seed=seed)


def _explained(
    model: torch.nn.Module, prepared: Prepared, placed: Placed, is_restricted: Mask, is_public: Mask
) -> dict[str, float]:
    """Return how much of the public outputs' mean comes from restricted inputs."""
    shown = torch.from_numpy(is_public)

    def public_mean(outputs: torch.Tensor) -> torch.Tensor:
        return outputs[:, shown].mean(dim=1)

    rows = placed.rows[:_EXPLAINED_COUNT]
    found = attribute(model, rows, public_mean, baseline=prepared.explained_from)
    return attribution_share(found, is_restricted)


def _asked(
    prepared: Prepared, region: Region, regions: Sequence[Region], now: datetime
) -> Iterator[tuple[Placed, Mask, Mask]]:
    """Yield places in and on the border of a region, with what is restricted and what is public."""
    assert prepared.rows_around is not None
    inside, border = region.shape.representative_point(), region.shape.boundary
    shares = np.arange(_BORDER_POINT_COUNT) / _BORDER_POINT_COUNT
    for point in (inside, *(border.interpolate(share, normalized=True) for share in shares)):
        placed = prepared.rows_around(point.y, point.x)
        if placed is not None:
            given, answered = placed.cell_sizes_deg
            is_restricted = restricted(*placed.inputs, given, regions, now)
            yield placed, is_restricted, ~restricted(*placed.outputs, answered, regions, now)


def restricted(
    lat_deg: Degrees,
    lon_deg: Degrees,
    cell_size_deg: float,
    regions: Sequence[Region],
    now: datetime,
) -> Mask:
    """Return which cells of a grid are finer than a region that they touch lets be published.

    Args:
        lat_deg: Latitude of the cells' centres.
        lon_deg: Longitude, of the same shape.
        cell_size_deg: Size of a cell in either direction.
        regions: Whose ceilings hold.
        now: Decides season, embargo and consent (aware).
    """
    half = cell_size_deg / 2
    lon = np.where(lon_deg > 180.0, lon_deg - 360.0, lon_deg)  # noqa: PLR2004 - degrees
    cells = shapely.box(lon - half, lat_deg - half, lon + half, lat_deg + half)
    side_km = cell_size_deg * KM_PER_DEGREE * np.cos(np.radians(np.abs(lat_deg)))
    found = np.zeros(lat_deg.shape, bool)
    for region in regions:
        rule = region.rule_at(now)
        finer = rule.is_withheld or side_km < cell_side_km(rule.ceiling)
        found |= np.logical_and(finer, shapely.intersects(region.shape, cells))
    return found
