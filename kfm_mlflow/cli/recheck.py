"""``kfm recheck``: what is promoted now and would not be admitted today."""

from __future__ import annotations

import json

import click

from kfm_mlflow.cli.show import print_recheck
from kfm_mlflow.rollout.model_uri import parse_registered_model
from kfm_mlflow.rollout.remote import RemoteRegistry


@click.command()
@click.argument("model_uri", required=False)
@click.option("--family", help="Only models of this family.")
@click.option("--server", envvar="MLFLOW_TRACKING_URI", help="URL of the MLflow server.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def recheck(model_uri: str | None, *, family: str | None, server: str | None, as_json: bool) -> int:
    """Judge again what is promoted now, all of it or models:/NAME, and write nothing.

    Exit code 1 when anything would be recalled. What is merely stale (given under a former policy,
    or grown old) is shown and is none.
    """
    name = None
    if model_uri is not None:
        name = parse_registered_model(model_uri)
    found = RemoteRegistry(server).recheck(family=family, name=name)
    if as_json:
        click.echo(json.dumps(found, indent=1, sort_keys=True))
    else:
        print_recheck(found)
    return 1 if found["recall_count"] else 0
