"""What gates say: findings, the result of a gate, and the report over all of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from kfm_mlflow.canonical import digest_json
from kfm_mlflow.gates.verdict import Verdict, worst
from kfm_mlflow.trust.model_key import split_key

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.gates.access import Asker
    from kfm_mlflow.gates.glass import BreakGlass
    from kfm_mlflow.policy.levels import Level


@dataclass(frozen=True)
class Waiver:
    """Why a finding is passed over; it stays in the report.

    Attributes:
        by: ``exemption`` of the policy, or ``break-glass``.
        owner: Who answers for it: a name in the policy, or the role that broke the glass.
        reason: Why.
        until: RFC 3339 instant, or how many hours after the decision.
    """

    by: Literal["exemption", "break-glass"]
    owner: str
    reason: str
    until: str


@dataclass(frozen=True)
class Finding:
    """One thing that a gate found.

    Attributes:
        code: Reason code, stable over releases, for example ``SIGNATURE_MISSING``.
        verdict: What it means for the gate.
        summary: A few words for the one-sentence refusal.
        detail: The whole sentence: what, where.
        observed: The value found, if it is one.
        limit: The value asked for, if it is one.
        unit: Unit of both.
        remedy: What to do next.
        waiver: Why it is passed over; None when it is not.
    """

    code: str
    verdict: Verdict
    summary: str
    detail: str
    observed: str = ""
    limit: str = ""
    unit: str = ""
    remedy: str = ""
    waiver: Waiver | None = None

    @property
    def effect(self) -> Verdict:
        """What it means for the gate: nothing bad once it is waived."""
        return self.verdict if self.waiver is None else Verdict.PASS

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; ``waiver`` is there only when there is one."""
        fields = {**vars(self), "verdict": str(self.verdict)}
        del fields["waiver"]
        return fields if self.waiver is None else {**fields, "waiver": asdict(self.waiver)}


@dataclass(frozen=True)
class GateResult:
    """One gate's findings; its verdict is their worst, and no findings are no evidence."""

    gate: str
    mode: Literal["enforce", "warn", "audit"]
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """Worst of the findings that are not waived."""
        return worst(finding.effect for finding in self.findings)


@dataclass(frozen=True)
class Move:
    """A model version on its way from one level to another.

    Attributes:
        model_name: Registered model, by its key: ``workspace/name`` outside the default workspace.
        version: MLflow model version, 1 or more.
        from_level: Level that it has.
        to_level: Level that is asked for.
        epoch: How often this version has been taken down; votes of an earlier epoch are void.
        production: Version that is Production now, None when there is none.
        now: Aware UTC instant of the evaluation.
        restores: Whether this brings back a release that was Production before, on a rollback.
        asker: Who asks; None when only the release is judged, as ``kfm verify`` and recheck do.
        break_glass: The emergency, if one is declared.
        policy_digest: The policy that votes and verdicts must name; empty for the one in force.
            Recheck asks with it whether they were enough for what they were given for.
    """

    model_name: str
    version: int
    from_level: Level
    to_level: Level
    epoch: int
    production: int | None
    now: datetime
    restores: bool = False
    asker: Asker | None = None
    break_glass: BreakGlass | None = None
    policy_digest: str = ""


@dataclass(frozen=True)
class GateReport:
    """All gates on one move; the verdict is the worst of those that are enforced.

    The digest covers everything that decides and nothing that merely passes by: neither the
    time nor who asked. A dry run and the real move therefore give the same digest.
    """

    move: Move
    family: str
    policy_digest: str
    release_id: str
    release_version: str
    evidence: tuple[str, ...]
    gates: tuple[GateResult, ...]
    rollback_target: str = ""
    votes: dict[str, Any] = field(default_factory=dict)

    @property
    def outcome(self) -> Literal["allowed", "warned", "allowed-break-glass", "refused"]:
        """What becomes of the move, in one word.

        A move for which the glass was broken is named so even when nothing had to be passed over.
        """
        if self.verdict is not Verdict.PASS:
            return "refused"
        if self.move.break_glass is not None:
            return "allowed-break-glass"
        return "warned" if self.warnings else "allowed"

    @property
    def verdict(self) -> Verdict:
        """Worst of the enforced gates; without any, INCONCLUSIVE."""
        return worst(gate.verdict for gate in self.gates if gate.mode == "enforce")

    @property
    def blocking(self) -> tuple[tuple[str, Finding], ...]:
        """(gate, finding) of everything that refuses, in order."""
        return tuple(
            (gate.gate, finding)
            for gate in self.gates
            if gate.mode == "enforce"
            for finding in gate.findings
            if finding.effect is not Verdict.PASS
        )

    @property
    def warnings(self) -> tuple[tuple[str, Finding], ...]:
        """(gate, finding) of what gates in mode ``warn`` found, in order."""
        return tuple(
            (gate.gate, finding)
            for gate in self.gates
            if gate.mode == "warn"
            for finding in gate.findings
            if finding.effect is not Verdict.PASS
        )

    @property
    def waived(self) -> tuple[tuple[str, Finding], ...]:
        """(gate, finding) of what an exemption or break-glass passes over, in order."""
        return tuple(
            (gate.gate, finding)
            for gate in self.gates
            for finding in gate.findings
            if finding.waiver is not None
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form that the digest covers."""
        return {
            "schema_version": "1",
            "model_name": self.move.model_name,
            "version": self.move.version,
            "from_level": str(self.move.from_level),
            "to_level": str(self.move.to_level),
            "epoch": self.move.epoch,
            "restores": self.move.restores,
            "break_glass": None if self.move.break_glass is None else asdict(self.move.break_glass),
            "family": self.family,
            "policy_digest": self.policy_digest,
            "release_id": self.release_id,
            "release_version": self.release_version,
            "evidence": list(self.evidence),
            "rollback_target": self.rollback_target,
            "votes": self.votes,
            "verdict": str(self.verdict),
            "gates": [
                {
                    "gate": gate.gate,
                    "mode": gate.mode,
                    "verdict": str(gate.verdict),
                    "findings": [finding.to_dict() for finding in gate.findings],
                }
                for gate in self.gates
            ],
        }

    @cached_property
    def digest(self) -> str:
        """``sha256:<hex>`` of :meth:`to_dict`."""
        return digest_json(self.to_dict())


MAX_SENTENCE = 299
_SUMMARY_LENGTH = 60
_NAME_LENGTH = 60
_LEAST_FINDINGS = 75
_HOME = "/kfm/"


def _one_line(text: str, length: int) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _word(text: str) -> str:
    return "".join(
        c if c.isalnum() or c in "-._~" else quote(c, safe="", errors="replace") for c in text
    )


def page_path(model_name: str, version: int) -> str:
    """Return the path of a version's page, as one word.

    Letters and digits of any script stay as they are, so that people can read it. A name that
    would leave no room for anything else in a refusal gives the path of the list of all models.

    Args:
        model_name: The model's key; its workspace is named as in MLflow's own addresses.
        version: Model version.
    """
    workspace, name = split_key(model_name)
    path = f"/kfm/models/{_word(name)}/{version}"
    path += f"?workspace={_word(workspace)}" if workspace else ""
    return path if len(f"KFM refused; see {path}") <= MAX_SENTENCE else _HOME


def _head(move: Move, tail: str) -> str:
    """Return the most telling beginning that leaves room for findings, else for the tail."""
    level = str(move.to_level).capitalize()
    short = _one_line(move.model_name, _NAME_LENGTH)
    full = " ".join(move.model_name.split()) if move.model_name.isprintable() else short
    for head, room in (
        (f"KFM refused {level} for {full} v{move.version}: ", _LEAST_FINDINGS),
        (f"KFM refused {level} for {short} v{move.version}: ", _LEAST_FINDINGS),
        (f"KFM refused {level}: ", _LEAST_FINDINGS),
        (f"KFM refused {level}; ", 0),
    ):
        if len(head) + room + len(tail) <= MAX_SENTENCE:
            return head
    return "KFM refused; "


def refusal_sentence(report: GateReport) -> str:
    """Return one sentence of under 300 characters that says what was refused and why.

    Findings are shortened to their summaries, joined by ``;``; what does not fit is counted. The
    sentence is one line and always ends in the path of the page that says everything.
    """
    move = report.move
    tail = f"see {page_path(move.model_name, move.version)}"
    head = _head(move, tail)
    found = (_one_line(finding.summary, _SUMMARY_LENGTH) for _, finding in report.blocking)
    words = list(dict.fromkeys(word for word in found if word)) or ["no gate passed"]
    for count in range(len(words), -1, -1):
        hidden = len(words) - count
        rest = "more" if count else "finding" if hidden == 1 else "findings"
        parts = words[:count] + ([f"{hidden} {rest}"] if hidden else [])
        sentence = head + "; ".join(parts) + "; " + tail
        if len(sentence) <= MAX_SENTENCE:
            return sentence
    return head + tail
