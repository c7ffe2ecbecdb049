"""``kfm fleet merge``: several LoRA adapters of one base become one."""

from __future__ import annotations

from pathlib import Path

import click

from kfm_mlflow.cli.fleet_options import find_manifests
from kfm_mlflow.errors import InputError

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.argument("adapters", nargs=-1, required=True, type=_FOLDER, metavar="ADAPTER...")
@click.option("--base", type=_FOLDER, required=True, help="The base that all were trained on.")
@click.option(
    "--manifests",
    "patterns",
    multiple=True,
    required=True,
    metavar="GLOB",
    help="Provider manifests that state each adapter's licence; quoted, may be repeated.",
)
@click.option("--weights", required=True, metavar="A,B,…", help="Of each adapter, in order.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the merged unit; must not exist yet.",
)
def merge(
    adapters: tuple[Path, ...],
    *,
    base: Path,
    patterns: tuple[str, ...],
    weights: str,
    output: Path,
) -> None:
    """Merge LoRA adapters by peft, with self-tests that must hold before anything is written."""
    from kfm_mlflow.fleet.lora import merge_adapters
    from kfm_mlflow.fleet.manifest import load_manifests

    try:
        numbers = [float(part) for part in weights.split(",")]
    except ValueError as exc:
        raise InputError("must be numbers", where="--weights", remedy="write 0.5,0.5") from exc
    manifests = load_manifests(find_manifests(patterns, ()))
    for finding in manifests.findings:
        # Whoever merges adapters need not have the manifests of those who make no adapters.
        if finding.code != "MISSING_PROVIDER":
            click.echo(f"refused: {finding}", err=True)
    folders = [path.resolve() for path in adapters]
    report = merge_adapters(folders, base.resolve(), numbers, output, manifests)
    for check in report["checks"]:
        click.echo(f"{check['name']}: differs by {check['max_difference']:.2g}")
    click.echo(f"license: {report['license']}")
    click.echo(f"{output}  {report['result_digest']}")
