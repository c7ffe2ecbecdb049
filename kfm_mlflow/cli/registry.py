"""Commands that talk to a governed MLflow server: check, move, vote, ledger."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfm_mlflow.cli.show import print_report
from kfm_mlflow.rollout.remote import RemoteRegistry, parse_model_uri

if TYPE_CHECKING:
    from kfm_mlflow.trust.quorum import Choice

_SERVER = click.option("--server", envvar="MLFLOW_TRACKING_URI", help="URL of the MLflow server.")
_TO = click.option("--to", "level", required=True, help="candidate, staging, canary or production.")


@click.command()
@click.argument("model_uri")
@_TO
@_SERVER
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--all", "everything", is_flag=True, help="Show findings that pass, too.")
def check(
    model_uri: str, *, level: str, server: str | None, as_json: bool, everything: bool
) -> int:
    """Evaluate a move of models:/NAME/VERSION exactly as the registry would, and write nothing."""
    name, version = parse_model_uri(model_uri)
    found = RemoteRegistry(server).check(name, version, level)
    if as_json:
        click.echo(json.dumps(found, indent=1, sort_keys=True))
    else:
        print_report(found["report"], everything=everything)
        click.echo(f"{found['verdict']}  decision {found['digest']}")
        if found["sentence"]:
            click.echo(found["sentence"])
    return 0 if found["verdict"] == "PASS" else 1


@click.command()
@click.argument("model_uri")
@_TO
@_SERVER
@click.option("--reason", default="", help="Why, for the ledger.")
@click.option(
    "--restore",
    type=click.IntRange(min=1),
    help="Taking Production down to candidate, the former Production version that comes back.",
)
def move(
    model_uri: str, *, level: str, server: str | None, reason: str, restore: int | None
) -> None:
    """Move models:/NAME/VERSION to a level, or show why not."""
    name, version = parse_model_uri(model_uri)
    done = RemoteRegistry(server).request_move(name, version, level, reason=reason, restore=restore)
    row = f"ledger row {done['seq']}" if done["seq"] else "it was there already"
    click.echo(f"{name} v{version} is at {done['level']}; {row}")


@click.command()
@click.argument("model_uri")
@_TO
@_SERVER
@click.option(
    "--key", type=click.Path(path_type=Path), required=True, help="The member's private key."
)
@click.option("--approve", "choice", flag_value="approve", help="Approve the move.")
@click.option("--deny", "choice", flag_value="deny", help="Deny it; of a veto role, this stops it.")
@click.option("--abstain", "choice", flag_value="abstain", help="Abstain.")
@click.option("--escalate", "choice", flag_value="escalate", help="Ask a higher body.")
@click.option("--reason", required=True, help="Why; stands in the signed vote.")
@click.option("--valid-days", default=7.0, show_default=True, help="How long the vote holds.")
def vote(
    model_uri: str,
    *,
    level: str,
    server: str | None,
    key: Path,
    choice: Choice | None,
    reason: str,
    valid_days: float,
) -> None:
    """Sign a vote on one move of exactly these bytes under this policy, and send it."""
    if choice is None:
        raise click.UsageError("say --approve, --deny, --abstain or --escalate")
    name, version = parse_model_uri(model_uri)
    now = datetime.now(UTC)
    digest = RemoteRegistry(server).cast_vote(
        name,
        version,
        level,
        key=key,
        choice=choice,
        reason=reason,
        now=now,
        expires_at=now + timedelta(days=valid_days),
    )
    click.echo(f"{choice} of {name} v{version} to {level}: {digest}")


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
