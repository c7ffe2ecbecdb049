"""By which rules answers are masked: regions, masking mode and scope, put together once.

The rules depend on the instant (consent runs out, seasons close); they are worked out at most once
a second, because a server asks for every answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kfm_mlflow.care.modes import is_known_mode
from kfm_mlflow.care.regions import PUBLIC_SCOPE, load_regions
from kfm_mlflow.care.screen_subject import OutputGrid
from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from kfm_mlflow.care.coverage import Coverage
    from kfm_mlflow.care.mask_places import Judge
    from kfm_mlflow.care.regions import RegionSet
    from kfm_mlflow.policy.models import Policy

DEFAULT_MODE = "h3-generalized"
NORTH_FIRST, SOUTH_FIRST = "north-to-south", "south-to-north"


@dataclass(frozen=True)
class MaskTerms:
    """What masking goes by.

    Attributes:
        regions: Whose ceilings, ``k_min`` and names hold.
        mode: Masking mode.
        scope: The ``care.scope`` under which answers are published.
        public_terms: Terms that are no misspelling of a restricted name.
        grid: Grid on which a release's fields are published; None when unknown.
        rows: ``north-to-south`` or ``south-to-north``; None when the release does not say.
    """

    regions: RegionSet
    mode: str = DEFAULT_MODE
    scope: str = PUBLIC_SCOPE
    public_terms: tuple[str, ...] = ()
    grid: OutputGrid | None = None
    rows: str | None = None
    _known: dict[str, tuple[int, Coverage, Judge]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def at(self, now: datetime) -> tuple[Coverage, Judge]:
        """Return the rules at an instant, and what judges texts and numbers by them.

        Args:
            now: The instant (aware); rules are worked out anew once a second.

        Raises:
            InputError: The mode is unknown, or the instant has no time zone.
        """
        if now.tzinfo is None:
            raise InputError("instant has no time zone", where="now")
        second = int(now.timestamp())
        known = self._known.get("now")
        if known is None or known[0] != second:
            coverage = self.regions.coverage(now, mode=self.mode, scope=self.scope)
            if known is not None and known[1] is coverage:
                known = (second, coverage, known[2])
            else:
                from kfm_mlflow.care.mask_places import Judge

                judge = Judge(self.regions, coverage, self.public_terms)
                known = (second, coverage, judge)
            self._known["now"] = known
        return known[1], known[2]


def terms_of_release(
    block: Any, regions: RegionSet, public_terms: tuple[str, ...] = ()
) -> MaskTerms:
    """Return how a release's answers are masked.

    Args:
        block: Its ``care`` object, as somebody wrote it; what it does not say, or says wrongly,
            takes the default mode and no known grid.
        regions: The policy's.
        public_terms: The policy's.
    """
    care: Mapping[str, Any] = block if isinstance(block, dict) else {}
    mode, scope, grid = care.get("masking"), care.get("scope"), care.get("output_grid")
    rows = grid.get("rows") if isinstance(grid, dict) else None
    return MaskTerms(
        regions,
        mode if isinstance(mode, str) and is_known_mode(mode) else DEFAULT_MODE,
        scope if isinstance(scope, str) else PUBLIC_SCOPE,
        public_terms,
        OutputGrid.from_mapping(grid),
        rows if rows in {NORTH_FIRST, SOUTH_FIRST} else None,
    )


def terms_of_policy(policy: Policy, mode: str = DEFAULT_MODE) -> MaskTerms:
    """Return how answers are masked under a policy.

    Args:
        policy: Whose regions hold; their file must still be the one that it was loaded with.
        mode: Masking mode.

    Raises:
        DataError: The regions file is missing, has changed, or is wrong.
        PolicyError: The policy came from elsewhere, without it.
    """
    care = policy.gates.care
    terms = () if care is None else care.public_terms
    return _terms(policy.regions_path, policy.regions_digest, terms, mode)


@lru_cache(maxsize=32)
def _terms(
    path: Path | None, digest: str | None, public_terms: tuple[str, ...], mode: str
) -> MaskTerms:
    regions = load_regions(path, digest=digest)
    return MaskTerms(regions, mode, public_terms=public_terms)


def utc_now() -> datetime:
    """Return the present instant."""
    from datetime import datetime

    return datetime.now(UTC)
