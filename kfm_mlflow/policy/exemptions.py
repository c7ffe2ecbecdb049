"""Exemptions: which finding may be passed over, for which release, until when, by whose word.

Rules kept here:

1. :func:`exemption_for` is the only place that decides whether an exemption holds. Gates, pages,
   command line and recheck all ask it, so that none of them honours one that has run out.
2. Bytes, signatures, CARE and a veto are never waived (:func:`may_be_waived`), and neither is a
   gate that could not answer: nobody knows what it would have said. Break-glass keeps this rule.
3. Every exemption names its scope, its owner, its reason and its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AwareDatetime, Field, field_validator, model_validator

from kfm_mlflow.canonical import parse_digest
from kfm_mlflow.errors import InputError
from kfm_mlflow.policy.written import NonEmpty, Written

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

NEVER_WAIVED_GATES = frozenset({"integrity", "signature", "care", "authority"})
NEVER_WAIVED_CODES = frozenset({"VETOED"})
ENGINE_CODE_PREFIX = "GATE_"
"""Beginning of the codes by which the engine says that a gate gave no answer."""

State = Literal["pending", "active", "expired"]


def may_be_waived(gate: str, code: str) -> bool:
    """Return whether anything at all, exemption or break-glass, may pass over a finding."""
    return (
        gate not in NEVER_WAIVED_GATES
        and code not in NEVER_WAIVED_CODES
        and not code.startswith(ENGINE_CODE_PREFIX)
    )


class Exemption(Written):
    """A finding that one policy passes over for a while.

    Attributes:
        gate: The gate whose findings are meant.
        codes: Reason codes that are meant; without any, all of the gate's that may be waived.
        models: Shell-style pattern of registered model names.
        version: The one model version that is meant; None for all.
        release_id: The one release that is meant, ``sha256:<hex>``; None for all.
        owner: Who answers for it.
        reason: Why.
        not_before: Holds from then on; None for at once.
        expires_at: Holds until then, exclusive.
    """

    gate: NonEmpty
    codes: tuple[NonEmpty, ...] = ()
    models: NonEmpty
    version: Annotated[int, Field(ge=1)] | None = None
    release_id: str | None = None
    owner: NonEmpty
    reason: NonEmpty
    not_before: AwareDatetime | None = None
    expires_at: AwareDatetime

    @field_validator("release_id")
    @classmethod
    def _one_notation(cls, text: str | None) -> str | None:
        try:
            return None if text is None else parse_digest(text, where="release_id")
        except InputError as exc:
            raise ValueError(str(exc)) from exc

    @model_validator(mode="after")
    def _may_waive(self) -> Self:
        if self.gate in NEVER_WAIVED_GATES:
            raise ValueError(f"gate {self.gate} is never waived")
        wrong = [code for code in self.codes if not may_be_waived(self.gate, code)]
        if wrong:
            raise ValueError(f"{wrong[0]} is never waived")
        if self.not_before is not None and self.not_before >= self.expires_at:
            raise ValueError("expires before it begins")
        return self

    def state_at(self, now: datetime) -> State:
        """Return whether its time has come, or is over, at an instant (aware)."""
        if now >= self.expires_at:
            return "expired"
        if self.not_before is not None and now < self.not_before:
            return "pending"
        return "active"


@dataclass(frozen=True)
class Subject:
    """One finding about one release: what an exemption is asked for."""

    gate: str
    code: str
    model_name: str
    version: int
    release_id: str


def _covers(exemption: Exemption, subject: Subject) -> bool:
    return (
        exemption.gate == subject.gate
        and (not exemption.codes or subject.code in exemption.codes)
        and fnmatchcase(subject.model_name, exemption.models)
        and exemption.version in (None, subject.version)
        and exemption.release_id in (None, subject.release_id)
    )


def exemption_for(
    exemptions: Iterable[Exemption], subject: Subject, now: datetime
) -> Exemption | None:
    """Return the exemption that holds for a finding at an instant; None when none does.

    Args:
        exemptions: In the policy's order; the first that holds counts.
        subject: The finding and what it is about.
        now: The instant (aware).
    """
    if not may_be_waived(subject.gate, subject.code):
        return None
    return next(
        (
            exemption
            for exemption in exemptions
            if exemption.state_at(now) == "active" and _covers(exemption, subject)
        ),
        None,
    )
