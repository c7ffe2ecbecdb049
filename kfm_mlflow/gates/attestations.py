"""Gate on what the signer of a release says of it beside it: provenance, screening, STAC item.

Each statement must be signed by a signer of releases, be about this release, and agree with it:
provenance with ``model_metadata.json``, the others with the document that they repeat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.gates.findings import Finding, Move
from kfm_mlflow.gates.measured import absent, binding_of, newest
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.trust.slsa import SLSA_KIND, parse_predicate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kfm_mlflow.gates.evidence import Evidence
    from kfm_mlflow.policy.models import Policy, StatementsPolicy
    from kfm_mlflow.trust.attestation import AttestationReport
    from kfm_mlflow.trust.slsa import Provenance

_METADATA = "model_metadata.json"
_LOG_AGAIN = "log it with kfm_mlflow.log_release, which writes and signs it"


def attestations(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask whether the signer said what the policy wants said, and the release says the same."""
    settings = policy.gates.attestations
    findings: list[Finding] = []
    for kind in settings.required if settings else ():
        report, problems = newest(evidence, kind, binding_of(evidence, move))
        if report is None:
            findings += absent(kind, problems, _LOG_AGAIN)
        elif kind == SLSA_KIND and settings is not None:
            findings += _provenance(report, evidence, settings)
        else:
            findings += _document(kind, report, evidence)
    return findings


def _finding(
    kind: str,
    word: str,
    summary: str,
    detail: str,
    *,
    observed: str = "",
    limit: str = "",
    remedy: str = "",
) -> Finding:
    return Finding(
        f"{kind.upper().replace('-', '_')}_{word}",
        Verdict.PASS if word == "VALID" else Verdict.FAIL,
        summary,
        detail,
        observed=observed,
        limit=limit,
        remedy=remedy,
    )


def _provenance(
    report: AttestationReport, evidence: Evidence, settings: StatementsPolicy
) -> list[Finding]:
    try:
        provenance = parse_predicate(report.claims)
    except EvidenceError as exc:
        return absent(SLSA_KIND, [str(exc)], _LOG_AGAIN)
    findings = _lacking(provenance, settings)
    findings += _disagreeing(provenance, evidence.content.mapping(_METADATA))
    detail = f"{', '.join(report.signers)} signed the provenance of run {provenance.invocation_id}"
    return findings or [_finding(SLSA_KIND, "VALID", "provenance valid", detail)]


def _lacking(provenance: Provenance, settings: StatementsPolicy) -> list[Finding]:
    """Return what a second run would need and the provenance does not give."""
    wanting = _commit_problem(provenance) if settings.require_commit else None
    unlocked = _lock_problem(provenance) if settings.require_lock else None
    return [
        _finding(SLSA_KIND, "INCOMPLETE", summary, detail, remedy=remedy)
        for summary, detail, remedy in filter(None, (wanting, unlocked))
    ]


def _commit_problem(provenance: Provenance) -> tuple[str, str, str] | None:
    """Return (summary, detail, remedy) unless what ran is the named commit."""
    if provenance.git_commit is None:
        detail = "the provenance of the training run names no commit"
        return "provenance without commit", detail, "train from a commit: mlflow run URL -v COMMIT"
    commit = provenance.git_commit[:12]
    if provenance.git_tree == "dirty":
        detail = f"the working copy of the training run differed from commit {commit}"
        return "trained from uncommitted code", detail, "commit or ignore what git status shows"
    if provenance.git_tree is None:
        detail = f"nobody says that the working copy of the training run was commit {commit}"
        return "provenance of an unknown tree", detail, "train where git is installed"
    return None


def _lock_problem(provenance: Provenance) -> tuple[str, str, str] | None:
    """Return (summary, detail, remedy) unless the installed packages are the pinned ones."""
    lock = provenance.lock
    if provenance.environment_lock is None or lock is None:
        what = "file of pinned versions" if lock is None else "list of installed packages"
        return (
            "provenance without lock",
            f"the provenance of the training run names no {what}",
            "name one in python_env.yaml, -c constraints.txt, and commit it",
        )
    if lock.problem:
        detail = f"{lock.path} does not fix what was installed: {lock.problem[:300]}"
        remedy = f"pin every version in {lock.path}, install from it, and train again"
        return "environment not locked", detail, remedy
    return None


def _disagreeing(provenance: Provenance, metadata: Mapping[str, Any]) -> list[Finding]:
    """Compare what was signed about the run with what the release says of itself."""
    code, listed = metadata.get("code"), metadata.get("data")
    said = code if isinstance(code, dict) else {}
    digests = {
        str(item.get("digest"))
        for item in (listed if isinstance(listed, list) else ())
        if isinstance(item, dict)
    }
    compared = (
        ("seed", provenance.seed, metadata.get("seed")),
        ("entry point", provenance.entry_point, said.get("entry_point")),
        ("commit", provenance.git_commit, said.get("git_commit")),
        ("data", sorted(provenance.data_digests), sorted(digests)),
    )
    return [
        _finding(
            SLSA_KIND,
            "DISAGREES",
            f"provenance names another {name}",
            f"the signed provenance says {name} {_shown(signed)}, {_METADATA} {_shown(stated)}",
            observed=_shown(stated),
            limit=_shown(signed),
            remedy=_LOG_AGAIN,
        )
        for name, signed, stated in compared
        if signed != stated
    ]


def _shown(value: Any) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)[:120]


def _document(kind: str, report: AttestationReport, evidence: Evidence) -> list[Finding]:
    """Compare the document that a statement repeats with the one in the release."""
    claims = report.claims or {}
    path = str(claims.get("path", ""))[:120]
    document = evidence.content.document(path)
    if document.problem or claims.get("document") != document.value:
        detail = f"the {kind} attestation repeats another {path or 'document'} than the release's"
        return [_finding(kind, "DISAGREES", f"{kind} of something else", detail, remedy=_LOG_AGAIN)]
    detail = f"{', '.join(report.signers)} signed what {path} says"
    return [_finding(kind, "VALID", f"{kind} valid", detail)]
