"""Whether a story's text says of its row what the row holds: numbers, bands, months, hazards.

A number belongs to the last quantity that its sentence named before it. It must be that quantity's
value, or an end of its usual range where that is spoken of, as the lexicon rounds them. A band
belongs to the quantity that it stands next to, or else to those before it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kfm_mlflow.focus.columns import TOLD
from kfm_mlflow.focus.narrative_phrases import clauses, is_denied
from kfm_mlflow.focus.story import MONTHS, supported_situations

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kfm_mlflow.focus.lexicon import Lexicon, ToldColumn
    from kfm_mlflow.focus.narrative_phrases import Check

_ALIASES = {
    "temperature": "temperature_c",
    "rainfall": "precipitation_mm",
    "snowpack": "snow_water_mm",
    "groundwater": "groundwater_depth_m",
    "fire danger": "fire_danger_index",
    "soil": "soil_moisture_ratio",
    "soils": "soil_moisture_ratio",
    "rain": "precipitation_mm",
    "river": "streamflow_percentile",
    "rivers": "streamflow_percentile",
    "stream": "streamflow_percentile",
    "streams": "streamflow_percentile",
}
_NAME_OF_LABEL = {column.label.lower(): column.name for column in TOLD}
_BY_LABEL = {**_ALIASES, **_NAME_OF_LABEL}


def _any_of(labels: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(map(re.escape, labels), key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(longest_first)})\b", re.IGNORECASE)


_TOLD_LABEL, _LABEL = _any_of(_NAME_OF_LABEL), _any_of(_BY_LABEL)
_BAND_WORDS = {
    "low": "below low lower dry",
    "high": "above high higher elevated wet",
    "moderate": "within moderate normal average ordinary",
}
_BAND_OF = {word: band for band, words in _BAND_WORDS.items() for word in words.split()}
_BAND = re.compile(rf"\b(?:{'|'.join(_BAND_OF)})\b", re.IGNORECASE)
_BEFORE_LABEL = re.compile(rf"\b({'|'.join(_BAND_OF)})(?:[ -](?:normal|usual|average))? $")
_UNIT = re.compile(
    r"(?:st|nd|rd|th)? ?(mm|cm|km|kg|days?|degC|percentile|per ?cent|hours?|months?|years?|[mjsk%])"
    r"(?![A-Za-z])",
    re.IGNORECASE,
)
_UNITS_OF = {"d": {"d", "day", "days"}, "J/kg": {"j"}, "1": set[str]()}
_NONE = re.compile(r"\b(?:no|without|zero)(?: any)? $")
_MONTH_NAMES = {name.lower(): number for number, name in enumerate(MONTHS, 1)}
_MONTH = re.compile(rf"\b({'|'.join(MONTHS)})\b(?: (\d{{4}})\b)?|\b(\d{{4}})-(\d\d)\b(?!-)")
_NUMBER = re.compile(r"(?<![A-Za-z\d.])-?\d[\d,]*(?:\.\d+)?")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_HAZARDS = {
    "drought": "droughts? dry dryness",
    "flood": "flood flooding floods wet",
    "storm": "storms? stormy",
    "heat": "heat hot warm",
    "fire": "fires? wildfires?",
}
_HAZARD = {
    situation: re.compile(rf"\b(?:{'|'.join(words.split())})\b")
    for situation, words in _HAZARDS.items()
}
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)  # fmt: skip
_SMALL = {word: number for number, word in enumerate(_ONES)}
_TEN_WORDS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_TENS = {word: 10 * number for number, word in enumerate(_TEN_WORDS, 2)}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
_NUMBER_WORD = "|".join([*_SMALL, *_TENS, *_SCALES])
_SPELLED = re.compile(
    rf"\b(?:minus )?(?:{_NUMBER_WORD})(?:[ -](?:and )?(?:{_NUMBER_WORD}))*"
    rf"(?: point(?: (?:{_NUMBER_WORD}))+)?\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class RowBands:
    """What a row shows of the told columns.

    Attributes:
        told: Column by name.
        values: As a story may state them.
        bands: Where they lie.
        situations: Those that the row shows a sign of.
        time: ``YYYY-MM``.
    """

    told: Mapping[str, ToldColumn]
    values: Mapping[str, float]
    bands: Mapping[str, str]
    situations: frozenset[str]
    time: str


def bands_of_row(values: Sequence[float], time: str, lexicon: Lexicon) -> RowBands:
    """Return what a row shows.

    Args:
        values: Its 36 values.
        time: Its month, ``YYYY-MM``.
        lexicon: Says what is usual, and how precisely a story may tell.
    """
    stated = {told.column.name: told.stated(values[told.index]) for told in lexicon.told}
    return RowBands(
        told={told.column.name: told for told in lexicon.told},
        values=stated,
        bands={told.column.name: told.band(stated[told.column.name]) for told in lexicon.told},
        situations=supported_situations(values, lexicon),
        time=time,
    )


def without_labels(sentence: str) -> str:
    """Return a sentence without the labels of quantities, which hold words that are refused."""
    return _TOLD_LABEL.sub(_blank, sentence)


def _blank(match: re.Match[str]) -> str:
    return "_" * len(match.group())


def numbers_as_digits(sentence: str) -> str:
    """Return a sentence with spelled numbers in digits; a lone ``one`` may be a pronoun, stays."""
    return _SPELLED.sub(_digits, sentence)


def unsupported(sentence: str, row: RowBands) -> list[tuple[Check, str]]:
    """Return the checks that a sentence fails against its row, with what it does.

    Args:
        sentence: In ASCII.
        row: What it is about.
    """
    sentence = numbers_as_digits(sentence)
    labels = [(m.start(), m.end(), _BY_LABEL[m.group().lower()]) for m in _LABEL.finditer(sentence)]
    bare = _LABEL.sub(_blank, sentence)
    months = _other_months(bare, row.time)
    bare = _MONTH.sub(lambda match: " " * len(match.group()), bare)
    return [
        *months,
        *_numbers(bare, labels, row),
        *_bands(bare, labels, row),
        *_hazards(bare, row.situations),
    ]


def _digits(match: re.Match[str]) -> str:
    words = re.split(r"[ -]+", match.group().lower())
    if words == ["one"]:
        return match.group()
    sign = "-" if words[0] == "minus" else ""
    whole, _, fraction = " ".join(words).removeprefix("minus ").partition(" point ")
    total = part = 0
    for word in whole.split():
        if word in _SCALES:
            part = max(part, 1) * _SCALES[word]
            if _SCALES[word] > _SCALES["hundred"]:
                total, part = total + part, 0
        elif word != "and":
            part += _SMALL.get(word, 0) + _TENS.get(word, 0)
    digits = "".join(str(_SMALL.get(word, _TENS.get(word, 0))) for word in fraction.split())
    return f"{sign}{total + part}{'.' if digits else ''}{digits}"


def _other_months(sentence: str, time: str) -> list[tuple[Check, str]]:
    found: list[tuple[Check, str]] = []
    for name, year, iso_year, iso_month in _MONTH.findall(sentence):
        month = int(iso_month) if iso_month else _MONTH_NAMES[name.lower()]
        said = f"{year or iso_year or time[:4]}-{month:02d}"
        if said != time:
            found.append(("unsupported-claim", "speaks of another month than its row's"))
    return found


def _numbers(
    sentence: str, labels: list[tuple[int, int, str]], row: RowBands
) -> list[tuple[Check, str]]:
    found: list[tuple[Check, str]] = []
    for match in _NUMBER.finditer(sentence):
        text = match.group().rstrip(",")
        decimals = len(text.partition(".")[2])
        number = _number(text)
        # "0.18-0.34": the hyphen is no minus
        if text[0] == "-" and match.start() and sentence[match.start() - 1].isalnum():
            number = -number
        before = [label for label in labels if label[1] <= match.start()]
        nearest = before[-1:] or labels[:1]
        if not nearest:
            check: Check = "over-precision" if decimals else "unsupported-claim"
            found.append((check, "gives a number of nothing that its row holds"))
            continue
        _, end, name = nearest[0]
        told = row.told[name]
        is_range = "usual" in sentence[end : match.start()].lower()
        if decimals > max(told.decimals, 0) or told.stated(number) != number:
            found.append(("over-precision", "gives more digits than its lexicon allows"))
        elif number != row.values[name] and not (is_range and number in {told.low, told.high}):
            found.append(("unsupported-claim", "gives a number that its row does not hold"))
        elif not _is_in_unit(sentence, match.end(), told):
            found.append(("unsupported-claim", "gives a number another unit than its row's"))
    return found


def _number(text: str) -> float:
    plain = text.replace(",", "") if _THOUSANDS.fullmatch(text) else text.replace(",", ".", 1)
    try:
        return float(plain)
    except ValueError:
        return math.inf


def _is_in_unit(sentence: str, end: int, told: ToldColumn) -> bool:
    unit = _UNIT.match(sentence, end)
    own = told.column.unit
    return unit is None or unit.group(1).lower() in _UNITS_OF.get(own, {own.lower()})


def _bands(
    sentence: str, labels: list[tuple[int, int, str]], row: RowBands
) -> list[tuple[Check, str]]:
    lowered = sentence.lower()
    beside: dict[int, re.Match[str]] = {}
    for place, (start, _, _) in enumerate(labels):
        if match := _BEFORE_LABEL.search(lowered[:start]):
            beside[place] = match
    taken = {match.start(1) for match in beside.values()}
    free = [m for m in _BAND.finditer(lowered) if m.start() not in taken]
    for place, (start, end, name) in enumerate(labels):
        if _NONE.search(lowered[:start]) and row.values[name] != 0:
            return [("unsupported-claim", "says that there is none of a quantity that there is")]
        match = beside.get(place) or next((m for m in free if m.start() >= end), None)
        if match is None:
            continue
        is_said = _BAND_OF[match.group(1) if place in beside else match.group()] == row.bands[name]
        said_at = match.start(1) if place in beside else match.start()
        if is_said == is_denied(lowered, said_at):
            return [("unsupported-claim", "gives a quantity another band than its row does")]
    return []


def _hazards(sentence: str, situations: frozenset[str]) -> list[tuple[Check, str]]:
    for clause in clauses(sentence.lower()):
        for situation, pattern in _HAZARD.items():
            if situation in situations:
                continue
            for match in pattern.finditer(clause):
                if not is_denied(clause, match.start()):
                    return [("unsupported-claim", f"speaks of {situation}, of which no sign shows")]
    return []
