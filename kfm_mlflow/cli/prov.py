"""``kfm prov``: the lineage of a version from data to deployment, as the registry signs it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from kfm_mlflow.canonical import write_bytes
from kfm_mlflow.errors import IntegrityError
from kfm_mlflow.metadata.prov import prov_views
from kfm_mlflow.registry.deployed_prov import read_deployed
from kfm_mlflow.rollout.model_uri import parse_model_uri
from kfm_mlflow.rollout.remote import RemoteRegistry
from kfm_mlflow.trust.keys import load_public_key

_FORMATS = ("json", "provn", "ttl", "intoto")


@click.command()
@click.argument("model_uri")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write."
)
@click.option(
    "--format",
    "chosen",
    type=click.Choice(_FORMATS),
    default="json",
    show_default=True,
    help="PROV-JSON, PROV-N, Turtle, or the signed statement that holds the PROV-JSON.",
)
@click.option("--server", envvar="MLFLOW_TRACKING_URI", help="URL of the MLflow server.")
@click.option(
    "--key",
    "key_files",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="The registry's public key; again for a former one.  [default: as the server says]",
)
def prov(
    model_uri: str,
    *,
    output: Path | None,
    chosen: str,
    server: str | None,
    key_files: tuple[Path, ...],
) -> int:
    """Write the lineage of models:/NAME/VERSION from its data to its deployment.

    The registry's signature is checked first. Exits with 1 when the lineage does not hold.
    """
    name, version = parse_model_uri(model_uri)
    remote = RemoteRegistry(server)
    keys = tuple(load_public_key(path) for path in key_files) or (remote.registry_key(),)
    envelope = remote.deployed_prov(name, version)
    found = read_deployed(envelope, keys, datetime.now(UTC))
    if (found.binding.model_name, found.binding.version) != (name, version):
        raise IntegrityError(f"is about {found.binding.model_name}", where=model_uri)
    written = {"json": found.document, "intoto": envelope}.get(chosen)
    if written is None:
        written = prov_views(found.document)[chosen].encode("utf-8")
    if output is None:
        click.echo(written, nl=False)
    else:
        write_bytes(output, written)
        click.echo(f"{output}: lineage of {model_uri} up to ledger row {found.row}")
    problems = found.problems
    for problem in problems:
        click.echo(f"problem: {problem}", err=True)
    return 1 if problems else 0
