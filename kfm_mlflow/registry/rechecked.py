"""What recheck says of one promoted version."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from kfm_mlflow.errors import KfmError
from kfm_mlflow.gates.findings import Finding
from kfm_mlflow.gates.ruling import standing_of
from kfm_mlflow.gates.verdict import Verdict

if TYPE_CHECKING:
    from kfm_mlflow.gates.ruling import Standing
    from kfm_mlflow.policy.levels import Level

Status = Literal["holds", "break-glass", "stale", "recall"]
_ORDER: tuple[Status, ...] = ("holds", "break-glass", "stale", "recall")
_UNJUDGED = "recheck"
_AGAIN = "take it down, and move it up again through its gates"


@dataclass(frozen=True)
class Remark:
    """One reason why a version does not simply hold."""

    gate: str
    finding: Finding
    status: Status
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "gate": self.gate,
            "status": self.status,
            "why": self.why,
            **self.finding.to_dict(),
        }


@dataclass(frozen=True)
class Ended:
    """A waiver that the version was admitted with, and whose time is over."""

    by: str
    gate: str
    code: str
    owner: str
    reason: str
    expired_at: str


@dataclass(frozen=True)
class Rechecked:
    """What recheck says of one promoted version.

    Attributes:
        seq: Ledger row of the decision that gave it its level; 0 when there is none.
        decided_under: Policy digest of that decision.
        policy_digest: Policy digest today.
    """

    model_name: str
    version: int
    family: str
    level: Level
    seq: int
    decided_under: str
    policy_digest: str
    remarks: tuple[Remark, ...]
    ended: tuple[Ended, ...] = ()

    @property
    def status(self) -> Status:
        """Worst of the remarks; without any, it holds."""
        return max((remark.status for remark in self.remarks), key=_ORDER.index, default="holds")

    @property
    def standing(self) -> Standing:
        """Whether it may still be served, by consent, labels, embargoes and vetoes."""
        if any(remark.gate == _UNJUDGED for remark in self.remarks):
            return "stale"
        return standing_of((remark.gate, remark.finding) for remark in self.remarks)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "model_name": self.model_name,
            "version": self.version,
            "family": self.family,
            "level": str(self.level),
            "status": self.status,
            "standing": self.standing,
            "seq": self.seq,
            "decided_under": self.decided_under,
            "policy_digest": self.policy_digest,
            "remarks": [remark.to_dict() for remark in self.remarks],
            "ended": [asdict(item) for item in self.ended],
        }


def overdue(ended: Ended) -> Remark:
    """Return that broken glass was not mended in time."""
    finding = Finding(
        "BREAK_GLASS_EXPIRED",
        Verdict.FAIL,
        "break-glass expired",
        f"the glass was broken by {ended.owner} until {ended.expired_at}: {ended.reason}",
        observed=ended.expired_at,
        remedy=_AGAIN,
    )
    return Remark("break_glass", finding, "recall")


def undecided(level: Level) -> Remark:
    """Return that no decision gave a version its level."""
    finding = Finding(
        "NO_DECISION",
        Verdict.FAIL,
        "no decision",
        f"no decision in the ledger put it at {level}",
        remedy=_AGAIN,
    )
    return Remark("path", finding, "recall")


def unjudged(name: str, version: int, level: Level, exc: Exception) -> Rechecked:
    """Return an entry for a version that could not be judged."""
    said = str(exc) if isinstance(exc, KfmError) else type(exc).__name__
    finding = Finding(
        "RECHECK_ERROR",
        Verdict.ERROR,
        "cannot be judged",
        f"could not be judged: {said}",
        remedy="see the server's log",
    )
    return Rechecked(name, version, "", level, 0, "", "", (Remark(_UNJUDGED, finding, "recall"),))
