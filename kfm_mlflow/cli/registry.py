"""Commands that talk to a governed MLflow server: check and move."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import click

from kfm_mlflow.cli.show import print_report
from kfm_mlflow.rollout.model_uri import parse_model_uri
from kfm_mlflow.rollout.remote import RemoteRegistry
from kfm_mlflow.trust.keys import load_private_key

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")
_SERVER = click.option("--server", envvar="MLFLOW_TRACKING_URI", help="URL of the MLflow server.")
_TO = click.option("--to", "level", required=True, help="candidate, staging, canary or production.")


def _with_glass(command: Callable[P, R]) -> Callable[P, R]:
    for option in (
        click.option("--for-hours", type=float, help="Break-glass: for how long."),
        click.option("--ticket", default="", help="Break-glass: where the emergency is written."),
        click.option("--reason", default="", help="Why, for the ledger."),
        click.option(
            "--break-glass",
            "glass",
            is_flag=True,
            help="Pass over findings in an emergency; needs a role, reason, ticket and hours.",
        ),
    ):
        command = option(command)
    return command


def _glass(
    *, glass: bool, reason: str, ticket: str, for_hours: float | None
) -> dict[str, str | float] | None:
    if not glass:
        if ticket or for_hours is not None:
            raise click.UsageError("--ticket and --for-hours go with --break-glass")
        return None
    if not reason or not ticket or for_hours is None:
        raise click.UsageError("--break-glass needs --reason, --ticket and --for-hours")
    return {"reason": reason, "ticket": ticket, "hours": for_hours}


@click.command()
@click.argument("model_uri")
@_TO
@_SERVER
@_with_glass
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--all", "everything", is_flag=True, help="Show findings that pass, too.")
def check(
    model_uri: str,
    *,
    level: str,
    server: str | None,
    glass: bool,
    reason: str,
    ticket: str,
    for_hours: float | None,
    as_json: bool,
    everything: bool,
) -> int:
    """Evaluate a move of models:/NAME/VERSION exactly as the registry would, and write nothing."""
    name, version = parse_model_uri(model_uri)
    asked = _glass(glass=glass, reason=reason, ticket=ticket, for_hours=for_hours)
    found = RemoteRegistry(server).check(name, version, level, break_glass=asked)
    if as_json:
        click.echo(json.dumps(found, indent=1, sort_keys=True))
    else:
        print_report(found["report"], everything=everything)
        click.echo(f"{found['verdict']}  {found['outcome']}  decision {found['digest']}")
        if found["sentence"]:
            click.echo(found["sentence"])
    return 0 if found["verdict"] == "PASS" else 1


@click.command()
@click.argument("model_uri")
@_TO
@_SERVER
@_with_glass
@click.option(
    "--restore",
    type=click.IntRange(min=1),
    help="Taking Production down to candidate, the former Production version that comes back.",
)
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    help="With --restore: sign the rollback first, where the policy asks for it.",
)
def move(
    model_uri: str,
    *,
    level: str,
    server: str | None,
    glass: bool,
    reason: str,
    ticket: str,
    for_hours: float | None,
    restore: int | None,
    key: Path | None,
) -> None:
    """Move models:/NAME/VERSION to a level, or show why not."""
    name, version = parse_model_uri(model_uri)
    asked = _glass(glass=glass, reason=reason, ticket=ticket, for_hours=for_hours)
    remote = RemoteRegistry(server)
    if key is not None:
        if restore is None or not reason:
            raise click.UsageError("--key goes with --restore and --reason")
        remote.approve_rollback(
            name,
            restored=restore,
            replaced=version,
            signer=load_private_key(key),
            reason=reason,
            now=datetime.now(UTC),
        )
    done = remote.request_move(
        name, version, level, reason=reason, restore=restore, break_glass=asked
    )
    row = f"ledger row {done['seq']}" if done["seq"] else "it was there already"
    outcome = "" if done["outcome"] in {"", "allowed"} else f" ({done['outcome']})"
    click.echo(f"{name} v{version} is at {done['level']}; {row}{outcome}")
    for warning in done["warnings"]:
        click.echo(f"warning: {warning['gate']}: {warning['detail']}", err=True)
    if asked and done["seq"]:
        click.echo(f"glass broken for {for_hours:g} h; `kfm recheck` lists it afterwards", err=True)
