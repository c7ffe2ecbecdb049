"""``kfm ledger``: show and verify the decisions of a governed MLflow server."""

from __future__ import annotations

import json
from typing import Any

import click

from kfm_mlflow.rollout.remote import RemoteRegistry

_SERVER = click.option("--server", envvar="MLFLOW_TRACKING_URI", help="URL of the MLflow server.")


@click.group()
def ledger() -> None:
    """Show and verify the ledger."""


@ledger.command("list")
@click.argument("model", required=False)
@_SERVER
def list_rows(model: str | None, server: str | None) -> None:
    """List decisions, oldest first."""
    for row in RemoteRegistry(server).ledger(model):
        claims = _claims(row)
        report = claims["report"]
        click.echo(
            f"{row['seq']:>5}  {row['at']}  {row['kind']:<8} {row['model']} v{row['version']}  "
            f"{report['from_level']} → {report['to_level']}  {report['verdict']}  "
            f"by {claims['actor']}"
        )


def _claims(row: dict[str, Any]) -> dict[str, Any]:
    import base64

    payload = json.loads(base64.b64decode(json.loads(row["body"])["payload"]))
    claims: dict[str, Any] = payload["predicate"]["claims"]
    return claims


@ledger.command("verify")
@_SERVER
def verify_rows(server: str | None) -> int:
    """Compute the hash chain again; names the first bad row."""
    from kfm_mlflow.trust.ledger import verify_chain

    rows = RemoteRegistry(server).ledger(None)
    chain = [
        {**{k: v for k, v in row.items() if k != "hash"}, "row_hash": row["hash"]} for row in rows
    ]
    finding = verify_chain(chain)
    if finding is None:
        click.echo(f"{len(rows)} rows, chain intact")
        return 0
    click.echo(f"row {finding.index + 1}: {finding.problem}")
    return 1
