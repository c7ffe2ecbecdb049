"""``kfm rollback``: put a former Production version back, traffic and registry."""

from __future__ import annotations

import click

from kfm_mlflow.cli.rollout_orders import REASON, SERVER, registered_model, tell
from kfm_mlflow.rollout.remote import RemoteRegistry


@click.command()
@click.argument("model")
@SERVER
@click.option(
    "--to",
    "to_version",
    type=click.IntRange(min=1),
    help="Former Production version that comes back; the one before by default.",
)
@REASON
def rollback(model: str, *, server: str | None, to_version: int | None, reason: str) -> None:
    """Put a former Production version of MODEL back, in any phase of a rollout or at rest."""
    name, remote = registered_model(model), RemoteRegistry(server)
    given = remote.give_order(name, "rollback", reason=reason, to_version=to_version)
    tell(
        remote,
        name,
        f"rollback is ordered (ledger row {given['order_id']}): v{given['to_version']} of {name} "
        f"is verified again, gets the traffic of v{given['version']}, then its level, and three "
        "reports are written",
    )
