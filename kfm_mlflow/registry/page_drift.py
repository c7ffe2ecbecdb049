"""The drift check before promotion on a version's page: what the validator signed, and the report.

Evidently's report is a page with scripts. It lies with the run of the version and is fetched from
there by MLflow's own route, which sends every artifact as a download: it is opened as a file, on
no server's domain. Its digest is signed with the validation, so a report that was exchanged since
can be told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kfm_mlflow.trust.attestation import AttestationReport

REPORT_PATH = "drift/report.html"
"""Where ``kfm drift --log-to`` and a validation put it in the run."""


@dataclass(frozen=True)
class DriftChecked:
    """The newest signed drift check of a release.

    Attributes:
        verdict: ``PASS``, ``INCONCLUSIVE`` or ``FAIL``.
        reason: What decided.
        baseline_digest: Of the ``drift/baseline.json`` that was compared with.
        report_digest: Of Evidently's report; empty when none was made.
        report_url: Where it is downloaded; empty without a report or a run.
    """

    verdict: str
    reason: str
    baseline_digest: str
    report_digest: str
    report_url: str


def drift_checked(reports: Sequence[AttestationReport], run_id: str | None) -> DriftChecked | None:
    """Return what the newest verified validation says about drift; None when none does.

    Args:
        reports: What every envelope about the version proves.
        run_id: MLflow run of the version; None without one.
    """
    found: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
    for report in reports:
        summary = (report.claims or {}).get("drift")
        if not report.ok or report.kind != "validation" or not isinstance(summary, dict):
            continue
        inputs = summary.get("inputs")
        if isinstance(inputs, dict):
            found.append((str(report.issued_at), summary, inputs))
    if not found:
        return None
    _, summary, inputs = max(found, key=lambda item: item[0])
    digest = str(inputs.get("report_digest") or "")
    query = urlencode({"run_uuid": run_id or "", "path": REPORT_PATH})
    return DriftChecked(
        str(summary.get("verdict")),
        str(summary.get("reason") or ""),
        str(inputs.get("baseline_digest") or ""),
        digest,
        f"/get-artifact?{query}" if digest and run_id else "",
    )
