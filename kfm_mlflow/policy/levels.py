"""The four levels, and the MLflow stages and aliases that are only names for them.

An MLflow stage or alias never means anything of its own: stage Staging and alias ``staging``
name *staging*; alias ``canary`` names *canary* (MLflow has no such stage, so its stage stays
Staging); stage Production and aliases ``production`` and ``champion`` name *production*.
Everything else is *candidate*.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable


class Level(StrEnum):
    """How far a model version has been admitted; compared by :attr:`rank`."""

    CANDIDATE = "candidate"
    STAGING = "staging"
    CANARY = "canary"
    PRODUCTION = "production"

    @property
    def rank(self) -> int:
        """Place in the order candidate < staging < canary < production."""
        return _ORDER.index(self)


_ORDER = (Level.CANDIDATE, Level.STAGING, Level.CANARY, Level.PRODUCTION)

ALIASES: dict[Level, tuple[str, ...]] = {
    Level.CANDIDATE: (),
    Level.STAGING: ("staging",),
    Level.CANARY: ("canary",),
    Level.PRODUCTION: ("production", "champion"),
}

STAGES: dict[Level, str] = {
    Level.STAGING: "Staging",
    Level.CANARY: "Staging",
    Level.PRODUCTION: "Production",
}


def parse_level(text: str) -> Level:
    """Read a level's name, in any case.

    Raises:
        InputError: There is no such level.
    """
    try:
        return Level(text.strip().lower())
    except (ValueError, AttributeError) as exc:
        names = ", ".join(_ORDER)
        raise InputError(
            f"{text!r} is no level", where="level", remedy=f"use one of {names}"
        ) from exc


def level_of(stage: str | None, aliases: Iterable[str]) -> Level:
    """Return the level that an MLflow version's stage and aliases name together.

    Args:
        stage: The version's current stage, as MLflow spells it.
        aliases: All aliases that point to the version.
    """
    names = {alias.lower() for alias in aliases}
    if stage == STAGES[Level.PRODUCTION]:
        return Level.PRODUCTION
    if names & set(ALIASES[Level.CANARY]):
        return Level.CANARY
    return Level.STAGING if stage == STAGES[Level.STAGING] else Level.CANDIDATE


def level_of_alias(alias: str) -> Level | None:
    """Return the level that an alias names, or None for an alias that is nobody's concern."""
    folded = alias.lower()
    return next((level for level, names in ALIASES.items() if folded in names), None)


def level_of_stage(stage: str) -> Level:
    """Return the level that a move to a stage asks for; None and Archived ask for candidate."""
    wanted = stage.strip().lower()
    return {"staging": Level.STAGING, "production": Level.PRODUCTION}.get(wanted, Level.CANDIDATE)
