"""``kfm fleet merge``: several LoRA adapters of one base become one."""

from __future__ import annotations

from pathlib import Path

import click

from kfm_mlflow.errors import InputError

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.argument("adapters", nargs=-1, required=True, type=_FOLDER, metavar="ADAPTER...")
@click.option("--base", type=_FOLDER, required=True, help="The base that all were trained on.")
@click.option("--weights", required=True, metavar="A,B,…", help="Of each adapter, in order.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the merged unit; must not exist yet.",
)
def merge(adapters: tuple[Path, ...], *, base: Path, weights: str, output: Path) -> None:
    """Merge LoRA adapters by peft, with self-tests that must hold before anything is written."""
    from kfm_mlflow.fleet.lora import merge_adapters

    try:
        numbers = [float(part) for part in weights.split(",")]
    except ValueError as exc:
        raise InputError("must be numbers", where="--weights", remedy="write 0.5,0.5") from exc
    report = merge_adapters([path.resolve() for path in adapters], base, numbers, output)
    for check in report["checks"]:
        click.echo(f"{check['name']}: differs by {check['max_difference']:.2g}")
    click.echo(f"{output}  {report['result_digest']}")
