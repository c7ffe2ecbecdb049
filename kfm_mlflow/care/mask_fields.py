"""Masking arrays: the answer of a model that computes fields, on the grid that its release names.

An array whose last two dimensions are the whole grid is placed, if the release says in which order
its rows stand (``care.output_grid.rows``); it is generalised as a raster. Of any other array nobody
knows where its values lie: it is published only where the grid is coarse enough for every region
that it might touch, and withheld otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.care.cells import cell_side_km
from kfm_mlflow.care.mask_terms import SOUTH_FIRST
from kfm_mlflow.care.modes import MAX_H3_RESOLUTION
from kfm_mlflow.care.raster import Blocks, blocks_of_grid, blocks_of_values
from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from kfm_mlflow.care.coverage import Coverage
    from kfm_mlflow.care.mask_terms import MaskTerms

_PIXEL_RATIO = 1e-6


def mask_lists(
    lats_deg: list[Any],
    lons_deg: list[Any],
    fields: Mapping[Any, NDArray[np.float64]],
    coverage: Coverage,
) -> tuple[dict[Any, Any], int, int]:
    """Return fields on one grid as nested lists, null where they are withheld.

    Args:
        lats_deg: Axis, ordered.
        lons_deg: Axis, ordered.
        fields: Name -> float64 [..., lat, lon].
        coverage: Whose rules hold.

    Returns:
        The lists, how many values were changed, and how many withheld.

    Raises:
        DataError: An axis is not ordered, or off the globe.
    """
    axes = [np.array(axis, dtype=np.float64) for axis in (lats_deg, lons_deg)]
    for axis in axes:
        steps = np.diff(axis)
        if not ((steps > 0).all() or (steps < 0).all()):
            raise DataError("an axis of the grid is not ordered")
    blocks = blocks_of_grid(axes[0], axes[1], coverage)
    found, changed, hidden = {}, 0, 0
    for key, array in fields.items():
        out = _generalised(array, blocks, coverage)
        changed += int((np.isfinite(out) & (out != array)).sum())
        hidden += int((np.isfinite(array) & ~np.isfinite(out)).sum())
        found[key] = with_gaps(out).tolist()
    return found, changed, hidden


def with_gaps(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array with None for NaN, as JSON has no other word for it."""
    gaps = np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, dtype=np.bool_)
    if not gaps.any():
        return array
    found = array.astype(object)
    found[gaps] = None
    return found


def _generalised(array: NDArray[Any], blocks: Blocks, coverage: Coverage) -> NDArray[np.float64]:
    rows = array.reshape(-1, blocks.block.size).astype(np.float64)
    out = blocks_of_values(rows, blocks, coverage.max_border_step_ratio)
    return out.reshape(array.shape)


@dataclass
class FieldMask:
    """Masks a release's arrays; remembers how its grid is published under the rules of now.

    Attributes:
        terms: By which rules, on which grid.
    """

    terms: MaskTerms
    _known: dict[str, tuple[Coverage, Blocks]] = field(default_factory=dict, repr=False)

    def mask(
        self, arrays: Mapping[str, NDArray[Any]], coverage: Coverage
    ) -> tuple[dict[str, NDArray[Any]], int, int]:
        """Return what may be published of arrays.

        Args:
            arrays: Name -> finite numbers, batch first.
            coverage: The rules of now.

        Returns:
            The same arrays, NaN where a value is withheld; how many values were changed, and how
            many withheld.

        Raises:
            DataError: An array cannot be placed, and the grid is too fine not to know where.
        """
        axes = self._axes()
        found, changed, hidden = {}, 0, 0
        for name, array in arrays.items():
            if axes is None or array.shape[-2:] != (axes[0].size, axes[1].size):
                self._check_unplaced(coverage)
                found[name] = array
                continue
            before = array.astype(np.float64)
            out = _generalised(before, self._blocks(axes, coverage), coverage)
            changed += int((np.isfinite(out) & (out != before)).sum())
            hidden += int((~np.isfinite(out)).sum())
            dtype = array.dtype if array.dtype.kind == "f" else np.float64
            found[name] = array if np.array_equal(out, before) else out.astype(dtype)
        return found, changed, hidden

    def _axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        grid, rows = self.terms.grid, self.terms.rows
        if grid is None or grid.cell_size_deg is None or rows is None:
            return None
        west, south, east, north = grid.bbox
        axes = []
        for low, high, step in (
            (south, north, grid.cell_size_deg[1]),
            (west, east, grid.cell_size_deg[0]),
        ):
            count = round((high - low) / step)
            if count < 1 or abs(count * step - (high - low)) > _PIXEL_RATIO + step / 2:
                return None
            axes.append(low + (np.arange(count) + 0.5) * (high - low) / count)
        return axes[0] if rows == SOUTH_FIRST else axes[0][::-1].copy(), axes[1]

    def _blocks(
        self, axes: tuple[NDArray[np.float64], NDArray[np.float64]], coverage: Coverage
    ) -> Blocks:
        known = self._known.get("now")
        if known is None or known[0] is not coverage:
            known = coverage, blocks_of_grid(*axes, coverage)
            self._known["now"] = known
        return known[1]

    def _check_unplaced(self, coverage: Coverage) -> None:
        """Refuse values of which nobody knows where they lie, unless they are coarse anywhere."""
        regions, grid = self.terms.regions, self.terms.grid
        touched = regions.overlapping(None if grid is None else grid.bbox)
        limits = [
            rule.ceiling
            for region, rule in zip(regions.regions, coverage.rules, strict=True)
            if region in touched
        ]
        if not limits and (grid is None or coverage.ceiling == MAX_H3_RESOLUTION):
            return
        if grid is None:
            raise DataError("the release does not say on which grid its values lie")
        limit = min([*limits, coverage.ceiling])
        if limit < 0:
            raise DataError(
                "a region that is closed now lies in its extent, and values have no place"
            )
        if grid.finest_km < cell_side_km(limit):
            raise DataError("its grid is finer than a region allows, and values have no place")
