"""Masking an answer: one call that any server can use, by the code that generalises releases.

``mask(value, policy)`` takes whatever a model or a tool is about to say: JSON with coordinates,
cells, grids, GeoJSON and texts; data frames; xarray fields. Rules kept here:

1. What comes out is nowhere finer than its ceiling, and that is asked again of what came out.
2. What cannot be masked is withheld whole, with a reason that names nobody and no place. A text
   with a restricted name or a place in it is replaced; an answer that is nothing else is withheld.
3. Nothing is raised. An answer at fault is withheld; masking at fault is withheld and *failed*,
   on which a rollout takes the release back.
4. It depends on the answer, the rules and the instant only, and masking again changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kfm_mlflow.care.mask_json import Reading
from kfm_mlflow.care.mask_terms import DEFAULT_MODE, MaskTerms, terms_of_policy, utc_now
from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from kfm_mlflow.policy.models import Policy

_UNTOLD = "it cannot be masked, and why cannot be told"


@dataclass(frozen=True)
class Masked:
    """What may be said, and what was done to it.

    Attributes:
        value: What may be published; None when it is withheld.
        withheld: The whole answer may not be published.
        reason: Why it is withheld, fit for the public; empty otherwise.
        failed: Masking itself went wrong, as opposed to the answer.
        counts: Kind (``points``, ``cells``, ``geometries``, ``texts``, ``pixels``) -> how many were
            changed.
        withheld_count: Parts of a published answer that were left out. Not for publication.
    """

    value: Any = None
    withheld: bool = False
    reason: str = ""
    failed: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    withheld_count: int = 0

    @property
    def masked_count(self) -> int:
        """How many places, texts and pixels were changed, of every kind."""
        return sum(self.counts.values())


def mask(
    value: Any,
    policy: Policy | MaskTerms,
    *,
    mode: str = DEFAULT_MODE,
    now: datetime | None = None,
) -> Masked:
    """Return what may be published of an answer.

    Args:
        value: JSON (also NumPy's), a pandas DataFrame, or an xarray DataArray or Dataset.
        policy: A family's policy, whose regions and public terms hold; or terms that were put
            together before.
        mode: Masking mode, when a policy is given.
        now: The instant whose rules hold (aware); None takes the clock's.
    """
    at = now or utc_now()
    try:
        terms = policy if isinstance(policy, MaskTerms) else terms_of_policy(policy, mode)
    except Exception as exc:  # noqa: BLE001 - a server must not fall over regions it cannot read
        return _failed(exc)
    return guarded(terms, at, lambda: mask_value(value, terms, at))


def _failed(exc: Exception) -> Masked:
    # The text of an error may quote the answer; its class does not.
    return Masked(withheld=True, failed=True, reason=f"masking failed ({type(exc).__name__})")


def guarded(terms: MaskTerms, now: datetime, work: Callable[[], Masked]) -> Masked:
    """Return what some masking gives; withheld where it raises.

    Args:
        terms: Whose names a reason may not hold.
        now: The instant.
        work: The masking.
    """
    try:
        _, judge = terms.at(now)
    except Exception as exc:  # noqa: BLE001 - same as below
        return _failed(exc)
    try:
        return work()
    except InputError as exc:
        # Its text may hold keys of the answer.
        reason = str(exc)[:200]
        return Masked(withheld=True, reason=reason if judge.is_clean(reason) else _UNTOLD)
    except RecursionError:
        return Masked(withheld=True, reason="is nested too deeply")
    except Exception as exc:  # noqa: BLE001 - whatever it is, nothing may come out
        return _failed(exc)


def mask_value(value: Any, terms: MaskTerms, now: datetime) -> Masked:
    """Mask a value, raising what is wrong with it; see :func:`mask`.

    Raises:
        DataError: It cannot be masked.
        InputError: Something that should be a cell is none.
    """
    coverage, judge = terms.at(now)
    kind = type(value)
    if kind.__module__.partition(".")[0] in {"pandas", "xarray"}:
        from kfm_mlflow.care.mask_files import mask_field, mask_frame

        return (mask_frame if kind.__name__ == "DataFrame" else mask_field)(value, terms, now)
    reading = Reading(coverage, judge)
    found = reading.mask(value)
    return Masked(found, counts=reading.counts, withheld_count=reading.withheld_count)
