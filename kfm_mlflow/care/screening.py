"""What a screening says: findings, checks, and the whole; no check ever says "approved"."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Status(StrEnum):
    """What a check concludes, from best to worst."""

    NO_KNOWN_CONFLICT = "no-known-conflict"
    STALE = "stale"
    NEEDS_AUTHORITY = "needs-authority"
    CONFLICT = "conflict"


_ORDER = tuple(Status)
MEASURED = ("training-consent", "attribution-leakage")
"""Checks that need a validator's signed measurements."""


def worst_status(statuses: Iterable[Status]) -> Status:
    """Return the worst of some statuses; no-known-conflict of none."""
    return max(statuses, key=_ORDER.index, default=Status.NO_KNOWN_CONFLICT)


@dataclass(frozen=True)
class CareFinding:
    """One thing that a check found. It never holds a restricted name or a place.

    Attributes:
        status: What it makes of the check.
        what: The rule that is broken, as a phrase.
        rule: Code of the data-generalisation rules (``C-F01`` …, ``S-F01`` …); empty where they
            have none.
        where: File and JSON path, or file and line; empty when it is about the whole.
        observed: The value found, if it is one.
        limit: The value allowed, if it is one.
        unit: Unit of both.
        region: How to call the region that it is about; empty when it is about none.
    """

    status: Status
    what: str
    rule: str = ""
    where: str = ""
    observed: str = ""
    limit: str = ""
    unit: str = ""
    region: str = ""

    def __str__(self) -> str:
        """Return the finding as one sentence."""
        unit = f" {self.unit}" if self.unit else ""
        numbers = ", ".join(
            f"{name} {value}{unit}"
            for name, value in (("observed", self.observed), ("limit", self.limit))
            if value
        )
        head = "".join(
            f"{part}: "
            for part in (self.rule, self.where, self.region and f"region {self.region}")
            if part
        )
        return f"{head}{self.what}" + (f" ({numbers})" if numbers else "")

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; fields that say nothing are left out."""
        return {key: str(value) for key, value in vars(self).items() if value}


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        id: Name of the check.
        status: Worst of its findings.
        findings: What is wrong, without names and places; empty when nothing is.
        remedy: What to do; empty when nothing is wrong.
    """

    id: str
    status: Status
    findings: tuple[CareFinding, ...] = ()
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "id": self.id,
            "status": str(self.status),
            "findings": [finding.to_dict() for finding in self.findings],
            "remedy": self.remedy,
        }


def build_check(check_id: str, findings: Iterable[CareFinding], remedy: str) -> Check:
    """Return a check with the worst status of what it found."""
    found = tuple(findings)
    status = worst_status(finding.status for finding in found)
    return Check(check_id, status, found, remedy if found else "")


@dataclass(frozen=True)
class Screening:
    """What all checks say together.

    Attributes:
        status: The worst of the checks.
        checks: Always all of them that were asked, in one order.
        regions_digest: Regions file that was screened against.
        care: The block that was screened.
        unasked: Checks that nobody measured and the policy does not ask for.
    """

    status: Status
    checks: tuple[Check, ...]
    regions_digest: str
    care: Mapping[str, Any] = field(default_factory=dict)
    unasked: tuple[str, ...] = ()

    def check(self, check_id: str) -> Check:
        """Return a check by its name.

        Raises:
            KeyError: It was not asked.
        """
        for check in self.checks:
            if check.id == check_id:
                return check
        raise KeyError(check_id)

    def with_measured(self, checks: Iterable[Check]) -> Screening:
        """Return the screening with what a validator's measurements say, and what was not asked."""
        added = tuple(checks)
        made = {check.id for check in added}
        every = (*self.checks, *added)
        return Screening(
            worst_status(check.status for check in every),
            every,
            self.regions_digest,
            self.care,
            tuple(name for name in MEASURED if name not in made),
        )

    def to_dict(self, care: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the JSON form of ``care.json``.

        Args:
            care: The block to show; None takes the one that was screened.
        """
        return {
            "schema_version": "1",
            "care": dict(self.care if care is None else care),
            "screening": {
                "status": str(self.status),
                "checks": [check.to_dict() for check in self.checks],
                "regions_digest": self.regions_digest,
            },
        }
