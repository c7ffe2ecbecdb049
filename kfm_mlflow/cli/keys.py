"""``kfm keys``: development keys, one file pair per name."""

from __future__ import annotations

from pathlib import Path

import click

from kfm_mlflow.trust.keys import generate_key, load_public_key


@click.group()
def keys() -> None:
    """Make and show EC P-256 signing keys."""


@keys.command()
@click.argument("names", nargs=-1, required=True)
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("keys"),
    show_default=True,
    help="Where to write.",
)
def new(names: tuple[str, ...], folder: Path) -> None:
    """Make a key pair per NAME: NAME.pem (mode 0600) and NAME.pem.pub. Never overwrites."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        public = generate_key(folder / f"{name}.pem")
        click.echo(f"{folder / f'{name}.pem'}  {public.key_id}")


@keys.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True))
def show(path: Path) -> None:
    """Print the key id and PEM of a public key."""
    public = load_public_key(path)
    click.echo(public.key_id)
    click.echo(public.pem, nl=False)
