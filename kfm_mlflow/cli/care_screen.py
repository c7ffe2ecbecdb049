"""``kfm care screen``: the CARE checks over a release, and a report that a council can read."""

from __future__ import annotations

import json
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfm_mlflow.canonical import write_bytes
from kfm_mlflow.errors import InputError
from kfm_mlflow.release.bundle import bundle_at

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command("screen")
@click.argument("target", metavar="PATH|models:/NAME/VERSION")
@click.option(
    "--policy-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Whose regions, limits and keys count; else the packaged defaults.",
)
@click.option("--server", envvar="MLFLOW_TRACKING_URI", help="For models:/NAME/VERSION.")
@click.option("--json", "as_json", is_flag=True, help="Print the screening as JSON.")
@click.option(
    "--html",
    "html_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the report as one HTML page as well.",
)
def screen(
    *,
    target: str,
    policy_dir: Path | None,
    server: str | None,
    as_json: bool,
    html_file: Path | None,
) -> int:
    """Screen a release for CARE and sovereignty conflicts; changes nothing.

    Exit code 0 when no conflict is known, 1 otherwise. No name or place that may not be shown is.
    """
    from kfm_mlflow.care.screen_report import report_html, report_lines
    from kfm_mlflow.cli.release import _download, _stated
    from kfm_mlflow.gates.care import fair_care_score, measured_checks
    from kfm_mlflow.gates.evidence import EvidenceReader, care_subject
    from kfm_mlflow.gates.findings import Move
    from kfm_mlflow.policy.levels import Level
    from kfm_mlflow.policy.load import load_policies

    now = datetime.now(UTC)
    with ExitStack() as stack:
        version = 1
        envelopes: Sequence[bytes] = ()
        if target.startswith("models:"):
            bundle, envelopes, version, _ = _download(target, server, stack)
        else:
            bundle = bundle_at(Path(target).resolve())
        if not bundle.release_dir.is_dir():
            raise InputError(
                "no such directory", where=target, remedy="give a release or models:/NAME/VERSION"
            )
        stated = _stated(bundle.release_dir)
        policy = load_policies(policy_dir).policy(str(stated.get("family", "baseline")))
        evidence = EvidenceReader().read(bundle, policy, now=now, envelopes=envelopes)
    if evidence.screening is None:
        raise InputError(evidence.manifest_problem or "is no release", where=target)
    subject = care_subject(evidence.content, policy)
    name = str(stated.get("model_name", target))
    move = Move(name, version, Level.CANDIDATE, Level.STAGING, 0, None, now)
    screening = evidence.screening.with_measured(measured_checks(evidence, policy, move))
    score = fair_care_score(evidence.content, screening.checks)
    authorities = {
        subject.called(region): None
        if region.authority is None
        else subject.shown(region.authority)
        for region in subject.regions.regions
    }
    title = subject.shown(f"{name} {stated.get('release_version', '')}".strip())
    if html_file is not None:
        page = report_html(screening, title, now, authorities=authorities, score=score)
        write_bytes(html_file, page.encode())
    if as_json:
        document = {**screening.to_dict()["screening"], "fair_care": score.to_dict()}
        click.echo(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False))
    else:
        lines = report_lines(screening, title, now, authorities=authorities, score=score)
        click.echo("\n".join(lines))
    return 0 if screening.status == "no-known-conflict" else 1
