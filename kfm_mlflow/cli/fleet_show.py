"""``kfm fleet status`` and ``watch``: where every agent stands, and what comes next.

What is printed was worked out by the loop and stands in the journal; nothing is decided here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from kfm_mlflow.cli.fleet_run import MODEL
from kfm_mlflow.cli.rollout_orders import SERVER
from kfm_mlflow.cli.rollout_show import follow, told_lines, watching
from kfm_mlflow.fleet.state import FleetPhase
from kfm_mlflow.rollout.narrative import NARRATIVE_KEY
from kfm_mlflow.rollout.ports import SystemClock
from kfm_mlflow.rollout.remote import RemoteRegistry

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEAD = ("agent", "specialty", "version", "state", "coherence", "error_rate", "p95 ms", "tasks")


@click.command()
@click.argument("model", default=MODEL)
@SERVER
@click.option("--json", "as_json", is_flag=True, help="Print levels and journal as JSON.")
def status(model: str, *, server: str | None, as_json: bool) -> None:
    """Show the fleet of MODEL: every agent, their health together, and what comes next."""
    registry = RemoteRegistry(server)
    journal, levels = registry.load_journal(model), registry.levels(model)
    if as_json:
        click.echo(json.dumps({"levels": levels.__dict__, "fleet": journal}, indent=1))
        return
    for level, version in (("production", levels.production), ("canary", levels.canary)):
        click.echo(f"{level}: {'none' if version is None else _named(registry, model, version)}")
    if journal is None:
        click.echo("no fleet has served this model yet: kfm fleet run --agents FILE --key KEY")
        return
    for label, text in told_lines(journal):
        click.echo(f"{label:<10} {text}")
    told = journal.get(NARRATIVE_KEY) or {}
    for line in _fleet_lines(told):
        click.echo(line)


@click.command()
@click.argument("model", default=MODEL)
@SERVER
@watching(FleetPhase)
def watch(model: str, *, server: str | None, **how: Any) -> int:
    """Print a line whenever something changes in the fleet of MODEL, until stopped (Ctrl-C)."""
    return follow(RemoteRegistry(server), model, SystemClock(), say=click.echo, **how)


def _named(registry: RemoteRegistry, model: str, version: int) -> str:
    release = registry.version(model, version)["release"]
    return f"v{version}" + (f" (release {release['version']})" if release else "")


def _fleet_lines(told: Mapping[str, Any]) -> list[str]:
    agents, fleet = told.get("agents"), told.get("fleet")
    if not agents:
        return []
    lines = [f"stage      {told['stage']}"]
    if fleet:
        lines.append(
            f"fleet      consensus_rate {_number(fleet['consensus_rate'])}  "
            f"safety_score {_number(fleet['safety_score'])}  "
            f"task_throughput {fleet['tasks_per_min']:.0f}/min  (of {fleet['agent_count']} agents)"
        )
    rows = [_HEAD, *(_row(agent) for agent in agents)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(_HEAD))]
    written = ("  ".join(cell.ljust(widths[k]) for k, cell in enumerate(row)) for row in rows)
    return [*lines, *(line.rstrip() for line in written)]


def _row(agent: Mapping[str, Any]) -> tuple[str, ...]:
    version = "none" if agent["version"] is None else f"v{agent['version']}"
    if agent["canary"] is not None:
        version += f"+v{agent['canary']}"
    return (
        agent["name"],
        agent["specialty"],
        version,
        agent["state"],
        _number(agent["coherence"]),
        _number(agent["error_ratio"]),
        _number(agent["p95_ms"]),
        str(agent["task_count"]),
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
