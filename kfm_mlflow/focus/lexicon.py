"""The words and limits that a Focus Mode story is told with: ``storynode_lexicon.json``.

A lexicon belongs to one release. It says from where to where a quantity is usual, how many digits
a story may give, how many claims it may make, and every phrase that is not a number. Whoever
judges a release judges its stories with a lexicon of thresholds that he trusts, not the release's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from string import Formatter
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kfm_mlflow.errors import DataError, EvidenceError
from kfm_mlflow.focus.columns import COLUMN_NAMES, SITUATIONS, TOLD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kfm_mlflow.focus.columns import Column

Band = Literal["low", "moderate", "high"]

DECIMALS: dict[str, int] = {
    "temperature_c": 1,
    "precipitation_mm": 0,
    "soil_moisture_ratio": 2,
    "streamflow_percentile": 0,
    "runoff_mm": 0,
    "evapotranspiration_mm": 0,
    "snow_water_mm": 0,
    "groundwater_depth_m": 1,
    "drought_index": 1,
    "heat_day_count": 0,
    "storm_day_count": 0,
    "flood_stage_ratio": 2,
    "fire_danger_index": 0,
    "cape_j_kg": -1,
}
"""Digits after the point that a story gives; -1 means tens."""

UNCLEAR = "unclear"
"""What a story says in place of a situation that its input shows no sign of."""

TITLES: dict[str, str] = {
    "calm": "An ordinary month, {month}",
    "drought": "Signs of drought, {month}",
    "flood": "Signs of flooding, {month}",
    "storm": "Signs of stormy weather, {month}",
    "heat": "Signs of unusual heat, {month}",
    "fire": "Signs of fire danger, {month}",
    UNCLEAR: "No hazard stands out, {month}",
}
CONTEXTS: dict[str, str] = {
    "calm": "Taken together, these readings {likelihood} reflect an ordinary month.",
    "drought": "Taken together, these readings {likelihood} reflect a drought.",
    "flood": "Taken together, these readings {likelihood} reflect a flood.",
    "storm": "Taken together, these readings {likelihood} reflect stormy weather.",
    "heat": "Taken together, these readings {likelihood} reflect a spell of heat.",
    "fire": "Taken together, these readings {likelihood} reflect fire weather.",
    UNCLEAR: "Taken together, these readings do not point to one hazard.",
}
OUTLOOKS: dict[str, str] = {
    "calm": "What the following months may bring is not known from this.",
    "drought": "Dry conditions like these can persist, or may ease with rain.",
    "flood": "Wet conditions like these can persist, or may ease with less rain.",
    "storm": "Unsettled weather like this may or may not continue into the following month.",
    "heat": "Heat like this can last, or may break with rain.",
    "fire": "Fire danger like this may lessen with rain, and can return without it.",
    UNCLEAR: "What the following months may bring is not known from this.",
}
CLAIM_SENTENCE = "{quantities}, {band} usual range."

_PLACEHOLDERS = {"titles": {"month"}, "contexts": {"likelihood"}, "outlooks": set[str]()}
Phrase = Annotated[str, Field(min_length=1, max_length=500)]


@dataclass(frozen=True)
class ToldColumn:
    """A column that stories may state, with what a lexicon says about it.

    Attributes:
        column: The column.
        index: Where it stands in a row.
        decimals: Digits after the point; negative for tens, hundreds.
        low: Values below are ``low``.
        high: Values above are ``high``.
    """

    column: Column
    index: int
    decimals: int
    low: float
    high: float

    def stated(self, value: float) -> float:
        """Return a value as precisely as a story may give it."""
        return round(value, self.decimals) + 0.0  # no minus before a zero

    def band(self, stated: float) -> Band:
        """Return where a stated value lies against the usual range, whose ends belong to it."""
        if stated < self.low:
            return "low"
        return "high" if stated > self.high else "moderate"


class Lexicon(BaseModel):
    """What a release's stories are told with.

    Attributes:
        constrained: Whether a story states only bands and situations that its input supports;
            otherwise it states what the network says.
        max_claim_count: Most claims in one story.
        thresholds: Least and greatest usual value of every told column, in its own unit.
        decimals: Digits after the point, for every told column.
        titles: Title per situation and for ``unclear``; ``{month}`` becomes ``July 2024``.
        contexts: Sentence per situation on the hazard; ``{likelihood}`` becomes ``likely``.
        outlooks: Sentence per situation on what may follow.
        claim_sentence: Sentence over claims of one band; ``{quantities}`` and ``{band}``.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    schema_version: Literal["1"] = "1"
    constrained: bool = True
    max_claim_count: Annotated[int, Field(ge=1, le=len(TOLD))] = 4
    thresholds: dict[str, tuple[float, float]]
    decimals: dict[str, Annotated[int, Field(ge=-3, le=3)]] = DECIMALS
    titles: dict[str, Phrase] = TITLES
    contexts: dict[str, Phrase] = CONTEXTS
    outlooks: dict[str, Phrase] = OUTLOOKS
    claim_sentence: Phrase = CLAIM_SENTENCE

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        told = {column.name for column in TOLD}
        for field, wanted in (
            ("thresholds", told),
            ("decimals", told),
            *((field, {*SITUATIONS, UNCLEAR}) for field in _PLACEHOLDERS),
        ):
            _require_keys(field, set(getattr(self, field)), wanted)
        for name, (low, high) in self.thresholds.items():
            if low > high:
                raise ValueError(f"thresholds.{name}: {low} is above {high}")
        for field, allowed in _PLACEHOLDERS.items():
            for situation, phrase in getattr(self, field).items():
                _require_placeholders(f"{field}.{situation}", phrase, allowed)
        _require_placeholders("claim_sentence", self.claim_sentence, {"quantities", "band"})
        return self

    @cached_property
    def told(self) -> tuple[ToldColumn, ...]:
        """The told columns, in the order in which a model scores them."""
        return tuple(
            ToldColumn(
                column,
                COLUMN_NAMES.index(column.name),
                self.decimals[column.name],
                *self.thresholds[column.name],
            )
            for column in TOLD
        )

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with some fields changed; what was worked out of the old ones is not kept.

        Args:
            update: Fields to change, already valid.
            deep: Whether to copy what the fields hold.
        """
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("told", None)
        return copied

    def to_dict(self) -> dict[str, Any]:
        """Return the lexicon as JSON values, as ``storynode_lexicon.json`` holds them."""
        return self.model_dump(mode="json")


def _require_keys(field: str, found: set[str], wanted: set[str]) -> None:
    if missing := sorted(wanted - found):
        raise ValueError(f"{field}: {', '.join(missing)} missing")
    if foreign := sorted(found - wanted):
        raise ValueError(f"{field}: {', '.join(foreign)} is none of {', '.join(sorted(wanted))}")


def _require_placeholders(where: str, phrase: str, allowed: set[str]) -> None:
    """Refuse a phrase that asks for more than a name: attributes, indices and formats are code."""
    try:
        parts = list(Formatter().parse(phrase))
    except ValueError as exc:
        raise ValueError(f"{where}: {exc}") from exc
    for _, name, form, conversion in parts:
        if name is not None and name not in allowed:
            known = ", ".join(f"{{{one}}}" for one in sorted(allowed)) or "none"
            raise ValueError(f"{where}: {{{name}}} is no placeholder here (known: {known})")
        if form or conversion:
            raise ValueError(f"{where}: {{{name}}} may have no format")


def build_lexicon(
    thresholds: Mapping[str, tuple[float, float]],
    *,
    constrained: bool = True,
    max_claim_count: int = 4,
) -> Lexicon:
    """Make the lexicon of a release, in this package's own phrases.

    Args:
        thresholds: Least and greatest usual value of every told column, in its own unit; rounded
            here to what a story states, so that a story and its numbers agree.
        constrained: See :class:`Lexicon`.
        max_claim_count: See :class:`Lexicon`.

    Raises:
        DataError: A told column has no thresholds, or they are the wrong way round.
    """
    rounded = {
        name: tuple(round(float(value), DECIMALS.get(name, 2)) + 0.0 for value in pair)
        for name, pair in thresholds.items()
    }
    try:
        return Lexicon.model_validate(
            {
                "constrained": constrained,
                "max_claim_count": max_claim_count,
                "thresholds": rounded,
            }
        )
    except ValidationError as exc:
        raise DataError(_first(exc), where="lexicon", remedy="give every told column once") from exc


def parse_lexicon(value: Any, *, where: str = "storynode_lexicon.json") -> Lexicon:
    """Read a lexicon from JSON values.

    Raises:
        EvidenceError: It lacks something or contradicts itself.
    """
    try:
        return Lexicon.model_validate(value)
    except ValidationError as exc:
        raise EvidenceError(_first(exc), where=where) from exc


def _first(exc: ValidationError) -> str:
    error = exc.errors(include_url=False)[0]
    place = ".".join(str(part) for part in error["loc"])
    said = error["msg"].removeprefix("Value error, ")
    return f"{place}: {said}" if place else said
