"""``kfm fleet``: from artifacts of several providers to a release on every agent."""

from __future__ import annotations

import click

from kfm_mlflow.cli.lazy import LazyGroup

_COMMANDS = {
    "collect": ("kfm_mlflow.cli.fleet_collect", "collect", "Fetch and verify artifacts."),
    "fuse": ("kfm_mlflow.cli.fleet_fuse", "fuse", "Choose the artifacts of a release."),
    "merge": ("kfm_mlflow.cli.fleet_merge", "merge", "Merge LoRA adapters of one base."),
    "run": ("kfm_mlflow.cli.fleet_run", "run", "Serve a release on every agent, batch by batch."),
    "status": ("kfm_mlflow.cli.fleet_show", "status", "Show every agent and what comes next."),
    "watch": ("kfm_mlflow.cli.fleet_show", "watch", "Print a line whenever something changes."),
    "rollback": ("kfm_mlflow.cli.fleet_rollback", "rollback", "Every agent back, at once."),
}


@click.group(cls=LazyGroup, table=_COMMANDS)
def fleet() -> None:
    """Collect artifacts, fuse them, and roll a release out over agents."""
