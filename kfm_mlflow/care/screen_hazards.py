"""Statements that come too close: hazards at a household, a distance to a burial ground.

The source documents ask that deployments make no hyperlocal hazard interpretation and reveal no
culturally sensitive context. One sentence is a statement when it speaks of

1. a hazard, a region (or tribal land), and a place finer than the limit: a conflict;
2. a hazard, a region, and that it is worse there than around: for the authority to decide;
3. a cultural site and a place finer than the limit: a conflict in a region, else for an authority.

A depth, a height or an amount is no place: a length counts only with a word of distance or scale.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kfm_mlflow.care.cells import cell_side_km
from kfm_mlflow.care.passages_fold import fold, plain
from kfm_mlflow.care.screening import Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kfm_mlflow.care.regions import Region

_HAZARD = re.compile(
    r"\b(?:flood\w*|tornado\w*|drought\w*|wild ?fires?|fire risk|heat ?waves?|hail\w*|landslides?|"
    r"erosion|contaminat\w+|spills?|storm\w*|inundat\w+|subsidence|hazards?|water shortages?)\b"
)
_SITE = re.compile(
    r"\b(?:burials?|graves?|graveyards?|cemeter(?:y|ies)|ceremon\w+|sacred|petroglyphs?|"
    r"pictographs?|medicine wheels?|cultural sites?|mounds?|sweat lodges?|ancestral sites?)\b"
)
_TRIBAL = re.compile(
    r"\b(?:tribal (?:lands?|nations?)|reservations?|indigenous (?:lands?|territor))"
)
_WORSE = re.compile(
    r"\b(?:amplif\w+|disproportionate\w*|(?:higher|greater|worse|more|highest|elevated|increased)"
    r" (?:\w+ ){0,3}?(?:risk|hazard|exposure|likely|frequent|severe|than))\b"
)
_UNIT_M = {
    "m": 1.0,
    "metre": 1.0,
    "meter": 1.0,
    "ft": 0.3048,
    "feet": 0.3048,
    "foot": 0.3048,
    "yard": 0.9144,
    "km": 1000.0,
    "kilometre": 1000.0,
    "kilometer": 1000.0,
    "mile": 1609.344,
    "mi": 1609.344,
}
_LENGTH = r"(\d+(?:\.\d+)?)[ -]?(" + "|".join(sorted(_UNIT_M, key=len, reverse=True)) + r")e?s?\b"
_NEAR = re.compile(
    rf"\bwithin\s{_LENGTH}(?:\s(?:of|from)\b)?|"
    rf"{_LENGTH}[ -](?:of|from|away|north\w*|south\w*|east\w*|west\w*|up ?stream|down ?stream|"
    r"resolution|grid\w*|cells?|radius|buffer|scale|accuracy|pixels?|tiles?)\b",
    re.IGNORECASE,
)
_SPOT = re.compile(
    r"\b(?:parcels?|households?|homesteads?|house|houses|street address\w*|city blocks?|"
    r"block level|wells? (?:no|number|\d)|quarter section|section \d+|address(?:es)? of|doorstep)\b"
)
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n{2,}|[\r\n]+(?=\s*[-*#])")
_LONGEST = 2000
_STEMS = (
    "flood", "tornad", "drought", "fire", "heat", "hail", "slide", "erosi", "contam", "spill",
    "storm", "inund", "subsid", "hazard", "shortage", "burial", "grave", "cemet", "ceremon",
    "sacred", "glyph", "pictogr", "medicine", "cultural", "mound", "sweat", "ancestr",
)  # fmt: skip


@dataclass(frozen=True)
class Statement:
    """A sentence that comes too close; the fields are those of a finding."""

    status: Status
    what: str
    rule: str
    observed: str
    limit: str
    unit: str
    region: Region | None


def may_state(text: str) -> bool:
    """Return whether a text holds any word without which no sentence is a statement."""
    lowered = text.lower()
    return any(stem in lowered for stem in _STEMS)


def close_statements(
    text: str, phrases: Mapping[str, Region], hyperlocal_m: float
) -> Iterator[Statement]:
    """Yield what sentences of a text come too close.

    Args:
        text: Prose.
        phrases: Folded phrases by which regions are called.
        hyperlocal_m: Lengths below are too close, and below a named region's ceiling.
    """
    if not may_state(text):
        return
    for sentence in _SENTENCE.split(plain(text)):
        if len(sentence) <= _LONGEST and may_state(sentence):
            found = _judge(sentence, phrases, hyperlocal_m)
            if found is not None:
                yield found


def _judge(sentence: str, phrases: Mapping[str, Region], hyperlocal_m: float) -> Statement | None:
    folded = fold(sentence)
    padded = f" {folded} "
    region = next(
        (
            region
            for phrase, region in phrases.items()
            if f" {phrase} " in padded and (" " in phrase or _TRIBAL_WORD.search(folded))
        ),
        None,
    )
    on_land = region is not None or bool(_TRIBAL.search(folded))
    hazard, site = _HAZARD.search(folded), _SITE.search(folded)
    limit_m = max(hyperlocal_m, cell_side_km(region.ceiling) * 1000 if region else 0.0)
    near_m = _nearest_m(sentence)
    too_close = near_m < limit_m or bool(_SPOT.search(folded))
    observed = f"{near_m:.0f}" if near_m < limit_m else "one property"
    numbers = (observed, f"{limit_m:.0f}", "m")
    if hazard and on_land and too_close:
        return Statement(Status.CONFLICT, "hyperlocal hazard statement", "S-F01", *numbers, region)
    if site and too_close:
        status = Status.CONFLICT if on_land else Status.NEEDS_AUTHORITY
        return Statement(status, "how close a cultural site is", "C-F04", *numbers, region)
    if hazard and on_land and _WORSE.search(folded):
        what = "hazard said to be worse in a region than around it"
        return Statement(Status.NEEDS_AUTHORITY, what, "C-F02", "", "", "", region)
    return None


_TRIBAL_WORD = re.compile(r"\b(?:reservation|nation|tribe|tribal|lands?|territory|region)\b")


def _nearest_m(sentence: str) -> float:
    found = [float("inf")]
    for match in _NEAR.finditer(sentence):
        number, unit = [group for group in match.groups() if group is not None]
        found.append(float(number) * _UNIT_M[unit.lower()])
    return min(found)
