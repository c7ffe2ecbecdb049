"""Whether texts and loose numbers give away a name, or a place in a region too closely.

What stands in a text cannot be made coarser, only found: by the same readings, names and codes that
the screening of a release uses. A place outside every region is nobody's secret here; cells and
coordinates that are marked as such are generalised everywhere, by
:mod:`~kfm_mlflow.care.mask_json`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.care.cells import cell_side_km, parse_cells, resolutions
from kfm_mlflow.care.generalise import cells_of_points
from kfm_mlflow.care.modes import MAX_H3_RESOLUTION
from kfm_mlflow.care.passages import find_fixes, find_names
from kfm_mlflow.care.passages_fold import readings
from kfm_mlflow.care.passages_grids import recover_plus
from kfm_mlflow.care.passages_names import NameIndex
from kfm_mlflow.care.passages_places import number_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kfm_mlflow.care.coverage import Coverage
    from kfm_mlflow.care.regions import RegionSet

_FINE_RESOLUTION = 9
_SIDES_KM = np.array([*(cell_side_km(r) for r in range(MAX_H3_RESOLUTION + 1)), np.inf])
"""Side of a cell by ceiling; the last stands for -1, where nothing is coarse enough."""
_MARGIN_DEG = 0.1
_REMEMBERED_COUNT, _REMEMBERED_LENGTH = 512, 4096


class Judge:
    """Looks for names and places by the rules of one instant."""

    def __init__(
        self, regions: RegionSet, coverage: Coverage, public_terms: tuple[str, ...] = ()
    ) -> None:
        """Take the rules.

        Args:
            regions: Whose names are restricted.
            coverage: What holds where.
            public_terms: Terms that are no misspelling of a restricted name.
        """
        self.names = regions.restricted_names
        self._coverage = coverage
        self._public = public_terms
        self._known: dict[str, bool] = {}
        shapes = [region.shape for region in regions.regions]
        self._centres = [(shape.centroid.y, shape.centroid.x) for shape in shapes]
        bounds = np.array([shape.bounds for shape in shapes]).reshape(-1, 4)
        self._bounds = (
            (*(bounds[:, :2].min(axis=0) - _MARGIN_DEG), *(bounds[:, 2:].max(axis=0) + _MARGIN_DEG))
            if len(bounds)
            else None
        )

    def is_clean(self, text: str) -> bool:
        """Return whether a text holds no restricted name and fixes no place too closely."""
        # Of answer after answer the same keys are asked about.
        known = self._known.get(text)
        if known is None:
            named = bool(find_names(text, self.names, self._public))
            known = not named and not self._fixes_place(text)
            if len(text) <= _REMEMBERED_LENGTH:
                if len(self._known) >= _REMEMBERED_COUNT:
                    self._known.clear()
                self._known[text] = known
        return known

    def unclean(self, texts: Sequence[str]) -> set[str]:
        """Return those of many texts that are not clean; names are sought in all at once."""
        index = NameIndex([readings(text) for text in texts], self._public)
        found = {texts[number] for name in self.names for number in index.find(name)}
        return found | {text for text in texts if text not in found and self._fixes_place(text)}

    def _fixes_place(self, text: str) -> bool:
        if self._bounds is None:
            return False
        fixes = find_fixes(text)
        places = [fixes.places]
        if fixes.short_plus:
            # Beside the name of a region it would be read from there.
            spots = [recover_plus(c, *at) for c in fixes.short_plus for at in self._centres]
            places.append(np.array(spots, dtype=np.float64).reshape(-1, 3))
        if self.hits(np.concatenate(places)).any():
            return True
        cells = parse_cells(sorted(fixes.cells))
        touching = cells[self._coverage.touches(cells)]
        return bool((resolutions(touching) > self._coverage.ceilings(touching)).any())

    def hits(self, places: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which places lie in a region and are fixed more closely than it allows.

        Args:
            places: float64 [n, 3]: latitude, longitude in degrees, precision in km.
        """
        lat, lon, precision_km = places.T
        found = self._near(lat, lon)
        rows = np.flatnonzero(found)
        if rows.size:
            at = [np.ascontiguousarray(column[rows]) for column in (lat, lon)]
            cells = cells_of_points(at[0], at[1], _FINE_RESOLUTION)
            sides = _SIDES_KM[self._coverage.ceilings(cells)]
            found[rows] = self._coverage.touches(cells) & (precision_km[rows] < sides)
        return found

    def numbers_fix_place(self, values: Sequence[Any]) -> bool:
        """Return whether neighbours in a list of numbers are coordinates in a region.

        Args:
            values: Numbers, in order; whole numbers fix no place.
        """
        if self._bounds is None or len(values) < 2:  # noqa: PLR2004 - a pair
            return False
        row = np.fromiter(values, np.float64, len(values))
        _, south, _, north = self._bounds
        if not ((row >= south) & (row <= north)).any():
            return False
        near = [self._near(row[:-1], row[1:]), self._near(row[1:], row[:-1])]
        if not (near[0].any() or near[1].any()):
            return False
        pairs = [(values[i], values[i + 1]) for i in np.flatnonzero(near[0]).tolist()]
        pairs += [(values[i + 1], values[i]) for i in np.flatnonzero(near[1]).tolist()]
        return self.pairs_fix_place(pairs)

    def pairs_fix_place(self, pairs: Sequence[tuple[Any, Any]]) -> bool:
        """Return whether one of some latitudes and longitudes is a place in a region."""
        if self._bounds is None:
            return False
        plain = [(float(lat), float(lon)) for lat, lon in pairs if _is_written(lat, lon)]
        places = np.array(list(number_pairs(plain)), dtype=np.float64).reshape(-1, 3)
        return bool(self.hits(places).any())

    def _near(self, lat: NDArray[np.float64], lon: NDArray[np.float64]) -> NDArray[np.bool_]:
        if self._bounds is None:
            return np.zeros(lat.size, dtype=np.bool_)
        west, south, east, north = self._bounds
        near: NDArray[np.bool_] = (lat >= south) & (lat <= north) & (lon >= west) & (lon <= east)
        return near


def _is_written(lat: Any, lon: Any) -> bool:
    return isinstance(lat, float | np.floating) or isinstance(lon, float | np.floating)
