"""``kfm fleet rollback``: every agent back to a former release, at once."""

from __future__ import annotations

import click

from kfm_mlflow.cli.fleet_run import MODEL
from kfm_mlflow.cli.rollout_orders import SERVER
from kfm_mlflow.errors import InputError
from kfm_mlflow.rollout.remote import RemoteRegistry


@click.command()
@click.argument("model", default=MODEL)
@SERVER
@click.option(
    "--target-version",
    help="Release version (v2.1.0) or number of the former Production version that comes back; "
    "the one before by default.",
)
@click.option(
    "--reason",
    default="rollback to last known good",
    show_default=True,
    help="Why, for the ledger and the reports.",
)
def rollback(model: str, *, server: str | None, target_version: str | None, reason: str) -> None:
    """Put every agent of MODEL back to a former release, traffic first, without batches."""
    remote = RemoteRegistry(server)
    to_version = None if target_version is None else _find(remote, model, target_version)
    given = remote.give_order(model, "rollback", reason=reason, to_version=to_version)
    click.echo(
        f"rollback is ordered (ledger row {given['order_id']}): every agent goes from "
        f"v{given['version']} to v{given['to_version']}, then the registry, then three reports "
        f"are written; follow it with `kfm fleet status`"
    )
    if not remote.lease(model).holder:
        click.echo(
            "no fleet is at work, so nothing happens before one is: kfm fleet run --agents FILE "
            "--key KEY",
            err=True,
        )


def _find(remote: RemoteRegistry, model: str, target: str) -> int:
    """Return the version of a model that has this release version, or is this number.

    Raises:
        InputError: There is none; names those that there are.
    """
    if target.isdigit():
        return int(target)
    known: dict[str, int] = {}
    for number in remote.version_numbers(model):
        release = remote.version(model, number)["release"]
        if release:
            known[release["version"]] = number
    if target not in known:
        raise InputError(
            f"no release {target!r} was ever admitted",
            where=f"--target-version of {model}",
            remedy=f"there are {', '.join(sorted(known)) or 'none'}",
        )
    return known[target]
