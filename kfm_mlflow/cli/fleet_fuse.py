"""``kfm fleet fuse``: choose one artifact of each provider, and make their release."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfm_mlflow.cli.fleet_options import (
    find_manifests,
    manifests_option,
    registering_options,
    registering_terms,
)
from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from kfm_mlflow.fleet.fusion import Fused
    from kfm_mlflow.fleet.manifest import Manifests, Metrics


@click.command()
@manifests_option
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Where fused_release.json goes; rejections.json is written beside it.",
)
@click.option("--min-quality", type=float, default=0.80, show_default=True)
@click.option("--min-safety", type=float, default=0.95, show_default=True)
@click.option("--max-latency-ms-p95", type=float, default=200.0, show_default=True)
@click.option("--max-cost-per-1k-tokens", type=float, default=1.00, show_default=True)
@click.option(
    "--measured",
    "measured_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What a validator measured; decides in place of what providers claim.",
)
@click.option(
    "--artifacts",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder that `kfm fleet collect` filled; for --register and --measure.",
)
@click.option(
    "--probes",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Probe tasks: go into the release; --measure asks them.",
)
@click.option("--measure", is_flag=True, help="Measure artifacts on the probes, and decide by it.")
@click.option(
    "--usd-per-cpu-hour",
    type=click.FloatRange(0, min_open=True),
    default=0.05,
    show_default=True,
    help="Price that measured cost is computed with.",
)
@registering_options
def fuse(  # one parameter per option
    patterns: tuple[str, ...],
    more: tuple[str, ...],
    *,
    output: Path,
    min_quality: float,
    min_safety: float,
    max_latency_ms_p95: float,
    max_cost_per_1k_tokens: float,
    measured_file: Path | None,
    artifacts: Path | None,
    probes: Path | None,
    measure: bool,
    usd_per_cpu_hour: float,
    register: bool,
    key: Path | None,
    bbox: str | None,
    server: str | None,
) -> int:
    """Choose one artifact per provider by gates and score, and write fused_release.json.

    Every other artifact is in rejections.json, with each gate's value and limit. Without a winner
    of every provider there is no release, an older --output is removed, and the exit code is 1.
    """
    from kfm_mlflow.canonical import write_json
    from kfm_mlflow.fleet.fused import REJECTIONS_FILE
    from kfm_mlflow.fleet.fusion import Limits, load_measured
    from kfm_mlflow.fleet.fusion import fuse as fuse_manifests
    from kfm_mlflow.fleet.manifest import load_manifests

    if measured_file is not None and measure:
        raise click.UsageError("give --measured or --measure")
    if (register or measure) and artifacts is None:
        raise InputError("needs the files", where="kfm fleet fuse", remedy="give --artifacts")
    limits = Limits(min_quality, min_safety, max_latency_ms_p95, max_cost_per_1k_tokens)
    terms = registering_terms(key, bbox, server, probes) if register else None
    manifests = load_manifests(find_manifests(patterns, more))
    measured = load_measured(measured_file) if measured_file is not None else {}
    if measure and artifacts is not None:
        manifests, measured = _measure(manifests, artifacts, probes, usd_per_cpu_hour)
    fused = fuse_manifests(manifests, limits, measured)
    write_json(output.with_name(REJECTIONS_FILE), fused.rejections_document())
    _print(fused)
    if not fused.is_complete:
        output.unlink(missing_ok=True)
        return 1
    document = fused.release_document()
    write_json(output, document)
    click.echo(f"{document['fused_model_id']}  {output}")
    if terms is not None and artifacts is not None:
        from kfm_mlflow.fleet.registering import register_fused

        made = register_fused(fused, artifacts, terms)
        verb = "registered" if made.is_new else "is there already:"
        click.echo(f"{verb} {made.name} v{made.version}")
    return 0


def _measure(
    manifests: Manifests, artifacts: Path, probes: Path | None, usd_per_cpu_hour: float
) -> tuple[Manifests, dict[str, Metrics]]:
    from kfm_mlflow.fleet.fused import measure_artifacts

    if probes is None:
        raise InputError("needs tasks to ask", where="--measure", remedy="give --probes")
    return measure_artifacts(manifests, artifacts, probes, usd_per_cpu_hour)


def _print(fused: Fused) -> None:
    for provider, one in fused.units.items():
        artifact = one.artifact
        click.echo(f"{provider:3}  {artifact.role:7}  {artifact.id}  score {one.score:.4f}")
    for rejection in fused.rejections:
        artifact, winner = rejection.judged.artifact, rejection.lost_to
        if winner is None:
            reason = "; ".join(
                f"{gate.gate}: {gate.observed:g}, limit {gate.limit:g}"
                for gate in rejection.judged.gates
                if not gate.passed
            )
        else:
            behind = winner.score - rejection.judged.score
            reason = f"lost to {winner.artifact.id} by {behind:.4f}"
        click.echo(f"rejected: {artifact.provider} {artifact.id}: {reason}", err=True)
    for finding in fused.findings:
        click.echo(f"finding: {finding}", err=True)
