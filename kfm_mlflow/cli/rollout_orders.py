"""``kfm rollout start|pause|resume|promote|abort``: what a person asks of a rollout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kfm_mlflow.rollout.model_uri import parse_model_uri, parse_registered_model
from kfm_mlflow.rollout.remote import RemoteRegistry

if TYPE_CHECKING:
    from kfm_mlflow.rollout.inputs import OperatorOrder

PREFIX = "models:/"
SERVER = click.option("--server", envvar="MLFLOW_TRACKING_URI", help="URL of the MLflow server.")
REASON = click.option("--reason", required=True, help="Why, for the ledger and the reports.")
_VERSION = click.option(
    "--version",
    type=click.IntRange(min=1),
    help="Version, where a canary and a watched one are both under way.",
)


def registered_model(text: str) -> str:
    """Read ``NAME`` or ``models:/NAME``.

    Raises:
        InputError: The text is something else.
    """
    return parse_registered_model(text if text.startswith(PREFIX) else f"{PREFIX}{text}")


def tell(remote: RemoteRegistry, name: str, sentence: str) -> None:
    """Print what comes next, and how to follow it; warn where nobody is there to do it."""
    click.echo(f"{sentence}; follow it with `kfm rollout watch {name}`")
    if not remote.lease(name).holder:
        click.echo(
            f"no controller is at work, so nothing happens before one is: "
            f"`kfm rollout run {name} --key KEY`",
            err=True,
        )


@click.command()
@click.argument("model_uri", metavar="NAME/VERSION")
@SERVER
@click.option("--reason", default="", help="Why, for the ledger.")
def start(model_uri: str, *, server: str | None, reason: str) -> None:
    """Start the rollout of NAME/VERSION (or models:/NAME/VERSION): move it to canary."""
    written = model_uri if model_uri.startswith(PREFIX) else f"{PREFIX}{model_uri}"
    name, version = parse_model_uri(written)
    remote = RemoteRegistry(server)
    done = remote.request_move(name, version, "canary", reason=reason)
    row = f"ledger row {done['seq']}" if done["seq"] else "it was there already"
    tell(
        remote,
        name,
        f"{name} v{version} is at canary ({row}): the controller deploys it beside Production and "
        "takes it through the plan",
    )


def _next(remote: RemoteRegistry, order: str, given: dict[str, Any], name: str) -> str:
    """Return what an order leads to."""
    version = f"v{given['version']}"
    if order == "pause":
        deadline_s = remote.model(name)["rollout"]["pauseDeadline_s"]
        return (
            f"{version} keeps its present share, still measured, until `kfm rollout resume`; after "
            f"{deadline_s:g} s it is given up"
        )
    return {
        "resume": f"{version} goes on where it was paused, with the step's deadline anew",
        "promote": f"a timed pause of {version} ends now, or its promotion, where that is due, is "
        "given; evidence and votes are still asked for",
        "abort": f"{version} is taken back: traffic to the version before, then the registry, then "
        "the reports",
    }[order]


def _command(order: OperatorOrder, doing: str) -> click.Command:
    @click.command(order, help=doing)
    @click.argument("model")
    @SERVER
    @_VERSION
    @REASON
    def give(model: str, *, server: str | None, version: int | None, reason: str) -> None:
        name, remote = registered_model(model), RemoteRegistry(server)
        given = remote.give_order(name, order, reason=reason, version=version)
        said = _next(remote, order, given, name)
        tell(remote, name, f"{order} is ordered (ledger row {given['order_id']}): {said}")

    return give


pause = _command("pause", "Hold the present share of MODEL's canary, still measured.")
resume = _command("resume", "Go on after a pause, or keep Production after a failed rollback.")
promote = _command("promote", "End a timed pause, or give MODEL's promotion that is due.")
abort = _command("abort", "Take MODEL's canary back, or the version that is watched.")
