"""``kfm drift``: current inputs held against the drift baseline of a release."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfm_mlflow.canonical import canonical_bytes, load_json, write_bytes
from kfm_mlflow.errors import InputError, StorageError

if TYPE_CHECKING:
    from kfm_mlflow.policy.drift import DriftPlan

_ARTIFACT_PATH = "drift"


def _release_dir(target: str, server: str | None) -> Path:
    if target.startswith("models:"):
        from kfm_mlflow.rollout.model_uri import parse_model_uri
        from kfm_mlflow.rollout.remote import RemoteRegistry

        return RemoteRegistry(server).fetch(*parse_model_uri(target)).release_dir
    root = Path(target)
    if not root.is_dir():
        raise InputError(
            "no such directory",
            where=target,
            remedy="give a release directory or models:/NAME/VERSION",
        )
    return root


def _plan(release_dir: Path, policy_dir: Path | None) -> DriftPlan:
    """Return the plan of the release's family; the default plan where its policy has none."""
    from kfm_mlflow.policy.drift import DriftPlan
    from kfm_mlflow.policy.load import load_policies

    metadata = load_json(release_dir / "model_metadata.json")
    family = metadata.get("family") if isinstance(metadata, dict) else None
    settings = load_policies(policy_dir).policy(str(family)).gates.drift
    return settings.plan if settings is not None else DriftPlan()


def _names(given: tuple[str, ...]) -> dict[str, str]:
    names = {}
    for text in given:
        name, equals, source = text.partition("=")
        if not (name and equals and source):
            raise click.UsageError(f"--field {text}: write FIELD=NAME")
        names[name] = source
    return names


def _log(run_id: str, files: dict[str, bytes], server: str | None) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    with tempfile.TemporaryDirectory(prefix="kfm-drift-") as folder:
        for name, content in files.items():
            write_bytes(Path(folder) / name, content)
        try:
            MlflowClient(tracking_uri=server).log_artifacts(run_id, folder, _ARTIFACT_PATH)
        except (MlflowException, OSError) as exc:
            raise StorageError(f"cannot be written to ({exc})", where=f"run {run_id}") from exc


@click.command()
@click.argument("target")
@click.option(
    "--current",
    type=click.Path(path_type=Path),
    required=True,
    help="Inputs now: .nc, .parquet or .csv.",
)
@click.option("--field", "fields", multiple=True, help="FIELD=NAME in the file; may be repeated.")
@click.option("--block", help="Column that says which rows belong together.")
@click.option(
    "--block-deg",
    type=click.FloatRange(min=0, min_open=True),
    help="Of a grid: over how many degrees the field forgets itself.",
)
@click.option(
    "--coarsen",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Of a grid: cells to average along each axis.",
)
@click.option(
    "--policy-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Whose plan to follow.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="A file.")
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Have Evidently test, and write its report here.",
)
@click.option("--log-to", "run_id", help="MLflow run to log the files to, under drift/.")
@click.option("--server", envvar="MLFLOW_TRACKING_URI", help="For models:/NAME/VERSION and runs.")
def drift(
    target: str,
    *,
    current: Path,
    fields: tuple[str, ...],
    block: str | None,
    block_deg: float | None,
    coarsen: int,
    policy_dir: Path | None,
    output: Path | None,
    html: Path | None,
    run_id: str | None,
    server: str | None,
) -> int:
    """Check current inputs for drift from those that TARGET was made for.

    TARGET is a release directory or models:/NAME/VERSION. Exits with 0 only when the verdict is
    PASS.
    """
    from kfm_mlflow.monitor.drift import check_drift
    from kfm_mlflow.monitor.drift_baseline import load_baseline
    from kfm_mlflow.monitor.drift_files import Reading, load_sample

    release_dir = _release_dir(target, server)
    baseline = load_baseline(release_dir)
    how = Reading(_names(fields), block, block_deg, coarsen)
    sample, plan = load_sample(current, baseline, how), _plan(release_dir, policy_dir)
    report, now = None, datetime.now(UTC)
    if html is None:
        summary = check_drift(baseline, sample, plan, now)
    else:
        from kfm_mlflow.monitor.drift_report import check_with_evidently

        summary, report = check_with_evidently(baseline, sample, plan, now)
    files = {"drift_summary.json": canonical_bytes(summary.to_dict())}
    if output is not None:
        write_bytes(output, files["drift_summary.json"])
    if html is not None and report is not None:
        files["report.html"] = report
        write_bytes(html, report)
    if run_id is not None:
        _log(run_id, files, server)
    for check in summary.checks:
        click.echo(f"{check.verdict:13} {check.check:13} {check.reason}")
        if check.remedy:
            click.echo(f"{'':27} {check.remedy}")
    click.echo(f"{summary.verdict}  {baseline.digest}")
    return 0 if summary.verdict == "PASS" else 1
