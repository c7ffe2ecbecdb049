"""``kfm attest``: send a signed statement about a version that a registry already has."""

from __future__ import annotations

from pathlib import Path

import click

from kfm_mlflow.rollout.model_uri import parse_model_uri
from kfm_mlflow.rollout.remote import RemoteRegistry


@click.command()
@click.argument("model_uri")
@click.argument("envelope", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--server", envvar="MLFLOW_TRACKING_URI", help="URL of the MLflow server.")
def attest(model_uri: str, envelope: Path, *, server: str | None) -> None:
    """Send the DSSE envelope in a file, for example a newer validation of what is served.

    The registry keeps it if it verifies under the policy's keys and is about the version's release.
    """
    name, version = parse_model_uri(model_uri)
    digest = RemoteRegistry(server).attest(name, version, envelope.read_bytes())
    click.echo(f"sent a statement on {name} v{version}: {digest}")
