"""Checks of every text of a release: names, places, and statements that come too close.

A finding says the file, and where in it: the JSON path, or the line. Nothing is quoted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.care.cells import cell_side_km
from kfm_mlflow.care.passages import find_fixes
from kfm_mlflow.care.passages_fold import fold, readings
from kfm_mlflow.care.passages_grids import recover_plus
from kfm_mlflow.care.passages_names import NameIndex
from kfm_mlflow.care.passages_places import named_pairs
from kfm_mlflow.care.screen_hazards import close_statements, may_state
from kfm_mlflow.care.screening import CareFinding, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from kfm_mlflow.care.regions import Region
    from kfm_mlflow.care.screen_subject import Subject

_MOST_LEAVES = 20_000
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def leaves(value: Any) -> Iterator[tuple[str, str]]:
    """Yield JSON path and text of every key, text and number of a JSON value, at most 20 000."""
    rest: list[tuple[str, Any]] = [("$", value)]
    left = _MOST_LEAVES
    while rest and left:
        path, item = rest.pop()
        left -= 1
        if isinstance(item, dict):
            for key, inner in item.items():
                step = f".{key}" if _PLAIN_KEY.fullmatch(key) else f"[{key!r}]"
                rest.append((path + step, inner))
                yield path + step, key
        elif isinstance(item, list):
            yield (
                path,
                " ".join(str(one) for one in item[:1000] if not isinstance(one, dict | list)),
            )
            rest += [(f"{path}[{index}]", one) for index, one in enumerate(item)]
        elif item is not None:
            yield path, str(item)


def spot_of(subject: Subject, path: str, holds: Any) -> str:
    """Return the file, and where in it something stands, without giving a name away.

    Args:
        subject: Whose texts.
        path: The file.
        holds: Asked of a part of the text; the first that holds it is named.
    """
    file = subject.regions.shown(path)
    document = subject.documents.get(path)
    if document is not None:
        for where, text in leaves(document):
            if holds(text):
                return f"{file}: {subject.regions.shown(where)}"
        return file
    for number, line in enumerate(subject.texts[path].splitlines()[:_MOST_LEAVES], start=1):
        if holds(line):
            return f"{file}: line {number}"
    return file


def restricted_names(subject: Subject) -> Iterator[CareFinding]:
    """Ask whether any text holds a restricted name, also misspelt, split or in disguise."""
    if not subject.regions.restricted_names:
        return
    public = subject.policy.public_terms
    paths = sorted(subject.texts)
    index = NameIndex(((path, *readings(subject.texts[path])) for path in paths), public)
    for name in subject.regions.restricted_names:
        for number in index.find(name):

            def holds(text: str, name: str = name) -> bool:
                return bool(NameIndex([readings(text)], public).find(name))

            mark = subject.regions.keyed_hash(name)
            yield CareFinding(
                Status.CONFLICT,
                f"holds restricted name #{mark}",
                "C-F04",
                spot_of(subject, paths[number], holds),
                observed="1 name or more",
                limit="none",
            )


def coordinates(subject: Subject) -> Iterator[CareFinding]:
    """Ask whether any text fixes a place in a region more closely than its ceiling."""
    regions = subject.regions.regions
    if not regions:
        return
    seen = _Places(subject)
    for path in sorted(subject.texts):
        text = subject.texts[path]
        found: dict[int, float] = {}
        seen.judge_text(text, found)
        if path in subject.documents:
            seen.judge(_named_places(subject.documents[path]), found)
        for number, precision_km in sorted(found.items()):
            region = regions[number]

            def holds(part: str, number: int = number) -> bool:
                inside: dict[int, float] = {}
                seen.judge_text(part, inside)
                return number in inside

            yield CareFinding(
                Status.CONFLICT,
                "coordinates finer than its ceiling",
                "S-F01",
                spot_of(subject, path, holds),
                f"{precision_km:.2g}",
                f"{cell_side_km(region.ceiling):.2f}",
                "km",
                subject.called(region),
            )


def _named_places(document: Any) -> NDArray[np.float64]:
    found: list[tuple[float, float, float]] = []
    rest = [document]
    while rest:
        item = rest.pop()
        if isinstance(item, dict):
            found += named_pairs(item)
            rest += item.values()
        elif isinstance(item, list):
            rest += item
    return np.array(found, dtype=np.float64).reshape(-1, 3)


class _Places:
    """Which places lie in which region, for as many places as one likes."""

    def __init__(self, subject: Subject) -> None:
        from shapely import STRtree

        self._subject = subject
        self._regions = subject.regions.regions
        self._tree = STRtree([region.shape for region in self._regions])
        self._sides = np.array([cell_side_km(region.ceiling) for region in self._regions])
        self._near = np.zeros((180, 360), dtype=bool)
        for region in self._regions:
            west, south, east, north = region.shape.bounds
            rows = slice(max(int(south // 1) + 90, 0), int(north // 1) + 91)
            self._near[rows, max(int(west // 1) + 180, 0) : int(east // 1) + 181] = True

    def judge(self, places: NDArray[np.float64], found: dict[int, float]) -> None:
        """Add the regions in which some place is fixed too closely, and how closely at finest."""
        if not len(places):
            return
        lat, lon, precision = places.T
        rows = np.clip(np.floor(lat).astype(int) + 90, 0, 179)
        columns = np.clip(np.floor(lon).astype(int) + 180, 0, 359)
        kept = self._near[rows, columns] & (precision < self._sides.max())
        if not kept.any():
            return
        import shapely

        lat, lon, precision = lat[kept], lon[kept], precision[kept]
        index, region = self._tree.query(shapely.points(lon, lat), predicate="intersects")
        close = precision[index] < self._sides[region]
        for at in np.unique(region[close]).tolist():
            finest = float(precision[index[close & (region == at)]].min())
            found[at] = min(finest, found.get(at, finest))

    def judge_text(self, text: str, found: dict[int, float]) -> None:
        """Add the regions in which a text fixes some place too closely."""
        import h3  # type: ignore[import-untyped]  # it ships no stubs

        fixes = find_fixes(text)
        self.judge(fixes.places, found)
        finest_ceiling = min(region.ceiling for region in self._regions)
        for cell in fixes.cells:
            resolution = h3.get_resolution(cell)
            if resolution <= finest_ceiling:
                continue
            side = cell_side_km(resolution)
            for region in self._subject.touching(cell):
                if resolution > region.ceiling:
                    number = self._regions.index(region)
                    found[number] = min(side, found.get(number, side))
        for code in fixes.short_plus:
            # Beside the name of the region it would be read from there.
            spots = [
                recover_plus(code, region.shape.centroid.y, region.shape.centroid.x)
                for region in self._regions
            ]
            self.judge(np.array(spots, dtype=np.float64).reshape(-1, 3), found)


def hazard_statements(subject: Subject) -> Iterator[CareFinding]:
    """Ask whether a sentence speaks of a hazard or a cultural site more closely than allowed."""
    public = _public_phrases(subject)
    for path in sorted(subject.texts):
        if not may_state(subject.texts[path]):
            continue
        document = subject.documents.get(path)
        parts = [subject.texts[path]] if document is None else [t for _, t in leaves(document)]
        for text in (part for part in parts if " " in part):
            for statement in close_statements(text, public, subject.policy.hyperlocal_m):

                def holds(part: str, text: str = text) -> bool:
                    return part.strip() != "" and part.strip() in text

                yield CareFinding(
                    statement.status,
                    statement.what,
                    statement.rule,
                    spot_of(subject, path, holds),
                    statement.observed,
                    statement.limit,
                    statement.unit,
                    subject.called(statement.region) if statement.region else "",
                )


_GENERIC = frozenset(
    ("reservation", "nation", "tribe", "tribal", "of", "in", "the", "and", "kansas", "nebraska",
     "missouri", "illustrative", "box", "part", "region", "area", "land", "lands", "territory",
     "community", "ks", "ne")
)  # fmt: skip


def _public_phrases(subject: Subject) -> Mapping[str, Region]:
    """Return folded phrases by which texts call the regions -> the region."""
    found: dict[str, Region] = {}
    for region in subject.regions.regions:
        for name in (region.name, region.id, region.authority or ""):
            words = fold(name.split("(")[0].replace("-", " ")).split()
            while words and words[-1] in _GENERIC:
                words.pop()
            while words and words[0] in _GENERIC:
                words.pop(0)
            phrase = " ".join(words)
            if len(phrase) > 2:  # noqa: PLR2004 - a letter or two call nothing by name
                found.setdefault(phrase, region)
    return found
