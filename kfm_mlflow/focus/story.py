"""Telling a story: from a model's answer on one row to a storynode document.

A value is always the input's own, rounded. With a constrained lexicon, so is every band, and the
situation that the network finds likeliest is named only where the input shows a sign of it; else
the story says that no hazard is clear. Phrases come from the lexicon: there is no free text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import DataError
from kfm_mlflow.focus.answers import BANDS
from kfm_mlflow.focus.columns import SITUATIONS
from kfm_mlflow.focus.lexicon import UNCLEAR

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from kfm_mlflow.focus.answers import FocusAnswers
    from kfm_mlflow.focus.columns import Column
    from kfm_mlflow.focus.lexicon import Lexicon, ToldColumn

SIGNS: dict[str, tuple[tuple[str, str], ...]] = {
    "calm": (),
    "drought": (
        ("drought_index", "high"),
        ("soil_moisture_ratio", "low"),
        ("precipitation_mm", "low"),
        ("streamflow_percentile", "low"),
    ),
    "flood": (
        ("flood_stage_ratio", "high"),
        ("streamflow_percentile", "high"),
        ("runoff_mm", "high"),
        ("precipitation_mm", "high"),
    ),
    "storm": (("storm_day_count", "high"), ("cape_j_kg", "high")),
    "heat": (
        ("heat_day_count", "high"),
        ("temperature_c", "high"),
        ("evapotranspiration_mm", "high"),
    ),
    "fire": (("fire_danger_index", "high"),),
}
"""What a row must show, one of them at least, before a story may name a situation. The drought
index rises with dryness."""

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
LIKELIHOODS = ((0.9, "very likely"), (0.66, "likely"), (0.33, "may"), (0.0, "might"))
"""Words for probabilities, least first that they hold from; ``likely`` and ``very likely`` as in
the calibrated language of the IPCC (Mastrandrea et al. 2010)."""

RELEVANT_FROM = 0.5
_RANGE_WORDS = {"low": "below", "moderate": "within", "high": "above"}
_UNIT_WORDS = {"degC": "°C", "1": "", "percentile": "", "d": ""}  # labels say "days" themselves
_WITH_ARTICLE = {"temperature_c", "drought_index", "flood_stage_ratio", "fire_danger_index"}
_TEEN_ORDINALS = range(11, 14)
_ORDINAL_ENDINGS = {1: "st", 2: "nd", 3: "rd"}


@dataclass(frozen=True)
class Claim:
    """One thing that a story states.

    Attributes:
        told: What it is about.
        value: As stated, in the column's unit.
        band: ``low``, ``moderate`` or ``high``.
    """

    told: ToldColumn
    value: float
    band: str


def tell(
    answers: FocusAnswers,
    k: int,
    row: NDArray[np.float32],
    *,
    cell: str,
    time: str,
    lexicon: Lexicon,
) -> dict[str, Any]:
    """Tell the story of one answer.

    Args:
        answers: What the model answered.
        k: Which of the answers.
        row: The input that it answered, float32 [36].
        cell: H3 index of the place.
        time: Month, ``YYYY-MM``.
        lexicon: Words and limits.

    Returns:
        A storynode document (``docs/formats/storynode.md``), as JSON values.

    Raises:
        DataError: The time is no month.
    """
    values: list[float] = row.tolist()
    claims = _claims(answers, k, values, lexicon)
    situation, probability = _situation(answers.situation[k].tolist(), values, lexicon)
    month = month_words(time)
    likelihood = next((word for least, word in LIKELIHOODS if probability >= least), "might")
    return {
        "schema_version": "1",
        "title": lexicon.titles[situation].replace("{month}", month),
        "summary": _summary(claims, month, situation, lexicon),
        "geospatial_context": f"H3-{cell}",
        "time": time,
        "situation": situation,
        "climate_drivers": [
            f"{spoken(claim.told.column)} {_RANGE_WORDS[claim.band]} its usual range"
            for claim in claims
            if claim.band != "moderate" and claim.told.column.domain in {"climate", "hydrology"}
        ],
        "hazard_context": lexicon.contexts[situation].replace("{likelihood}", likelihood),
        "claims": [
            {
                "subject": claim.told.column.name,
                "quantity": claim.told.column.label,
                "value": claim.value,
                "unit": claim.told.column.unit,
                "time": time,
                "band": claim.band,
            }
            for claim in claims
        ],
        "sovereignty_masked": False,
    }


def supported_situations(values: Sequence[float], lexicon: Lexicon) -> frozenset[str]:
    """Return the situations that a row shows a sign of; ``calm`` needs none.

    Args:
        values: The row's 36 values.
        lexicon: Says what is usual.
    """
    bands = {told.column.name: told.band(told.stated(values[told.index])) for told in lexicon.told}
    return frozenset(
        situation
        for situation, signs in SIGNS.items()
        if not signs or any(bands[name] == band for name, band in signs)
    )


@cache
def month_words(time: str) -> str:
    """Return ``July 2024`` for ``2024-07``.

    Raises:
        DataError: It is no month.
    """
    year, _, month = time.partition("-")
    if not (
        len(year) == len("2024") and len(month) == len("07") and (year + month).isdecimal()
    ) or not 1 <= int(month) <= len(MONTHS):
        raise DataError("is no month", where="time", remedy="write it as 2024-07")
    return f"{MONTHS[int(month) - 1]} {year}"


def spoken(column: Column) -> str:
    """Return a column's quantity as a story says it."""
    article = "the " if column.name in _WITH_ARTICLE else ""
    return article + column.label.replace("degC", "°C")


def spoken_value(told: ToldColumn, value: float) -> str:
    """Return a stated value with its unit: ``12 mm``, ``the 9th percentile``."""
    number = f"{value:,.{max(told.decimals, 0)}f}"
    unit = told.column.unit
    if unit == "percentile":
        return f"the {number}{_ordinal_ending(round(value))} percentile"
    return f"{number} {_UNIT_WORDS.get(unit, unit)}".rstrip()


@cache
def _usual(told: ToldColumn) -> str:
    low, high = spoken_value(told, told.low), spoken_value(told, told.high)
    shorter = low.partition(" percentile" if told.column.unit == "percentile" else " ")[0]
    return f"{shorter} to {high}"


def _ordinal_ending(number: int) -> str:
    if number % 100 in _TEEN_ORDINALS:
        return "th"
    return _ORDINAL_ENDINGS.get(number % 10, "th")


def _claims(
    answers: FocusAnswers, k: int, values: Sequence[float], lexicon: Lexicon
) -> list[Claim]:
    """Return what is worth telling, most relevant first; one at least."""
    relevance: list[float] = answers.relevance[k].tolist()
    order = sorted(range(len(relevance)), key=lambda j: (-relevance[j], j))
    chosen = [j for j in order[: lexicon.max_claim_count] if relevance[j] >= RELEVANT_FROM]
    said: list[list[float]] = [] if lexicon.constrained else answers.bands[k].tolist()
    claims = []
    for j in chosen or order[:1]:
        told = lexicon.told[j]
        value = told.stated(values[told.index])
        band = told.band(value) if lexicon.constrained else BANDS[said[j].index(max(said[j]))]
        claims.append(Claim(told, value, band))
    return claims


def _situation(
    probabilities: Sequence[float], values: Sequence[float], lexicon: Lexicon
) -> tuple[str, float]:
    """Return the likeliest situation with its probability; none where nothing shows it."""
    probability = max(probabilities)
    situation = SITUATIONS[probabilities.index(probability)]
    if lexicon.constrained and situation not in supported_situations(values, lexicon):
        situation = UNCLEAR
    return situation, probability


def _summary(claims: Sequence[Claim], month: str, situation: str, lexicon: Lexicon) -> str:
    """Return the claims as prose, those of one band in one sentence, and the outlook."""
    groups: dict[str, list[Claim]] = {}
    for claim in claims:
        groups.setdefault(claim.band, []).append(claim)
    sentences = [_claim_sentence(group, lexicon) for group in groups.values()]
    sentences[0] = f"In {month}, {sentences[0]}"
    sentences[1:] = [sentence[0].upper() + sentence[1:] for sentence in sentences[1:]]
    return " ".join([*sentences, lexicon.outlooks[situation]])


def _claim_sentence(group: Sequence[Claim], lexicon: Lexicon) -> str:
    words = []
    for place, claim in enumerate(group):
        told = claim.told
        verb = "" if place else "stood "
        value = spoken_value(told, claim.value)
        words.append(f"{spoken(told.column)} {verb}at {value} (usually {_usual(told)})")
    quantities = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
    band = _RANGE_WORDS[group[0].band]
    band = {1: f"{band} its", 2: f"both {band} their"}.get(len(group), f"all {band} their")
    sentence = lexicon.claim_sentence.replace("{quantities}", quantities)
    return sentence.replace("{band}", band)
