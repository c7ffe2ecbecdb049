"""``kfm rollout status`` and ``watch``: read along where a rollout stands and what comes next.

What they print was worked out by the controller and stands in the journal; nothing is decided here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from kfm_mlflow.errors import StorageError
from kfm_mlflow.rollout.narrative import NARRATIVE_KEY
from kfm_mlflow.rollout.ports import SystemClock
from kfm_mlflow.rollout.remote import RemoteRegistry
from kfm_mlflow.rollout.state import RESTING, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from enum import StrEnum

    from kfm_mlflow.rollout.inputs import Levels
    from kfm_mlflow.rollout.ports import Clock

_SERVER = click.option("--server", envvar="MLFLOW_TRACKING_URI", help="URL of the MLflow server.")
_ON_THE_WAY = {str(Phase.SOAKING): {str(Phase.SOAKING), str(Phase.SUCCEEDED)}}
"""Phases that stand for one that is asked for: what has succeeded was watched before."""
REACHED, ROLLED_BACK, FAILED = 0, 1, 2
"""Exit codes of a watch that waits for a phase."""
_TOLD = (
    "phase",
    "candidate",
    "step_number",
    "canary_pct",
    "happening",
    "reason",
    "next",
    "verdict",
)
"""Fields whose change is worth a line."""


@click.command()
@click.argument("model")
@_SERVER
@click.option("--json", "as_json", is_flag=True, help="Print levels and journal as JSON.")
def status(model: str, *, server: str | None, as_json: bool) -> None:
    """Show where the rollout of MODEL stands, why, and what comes next."""
    registry = RemoteRegistry(server)
    journal = registry.load_journal(model)
    levels = registry.levels(model)
    if as_json:
        click.echo(json.dumps({"levels": levels.__dict__, "rollout": journal}, indent=1))
        return
    click.echo(f"production: {_name(levels.production)}   canary: {_name(levels.canary)}")
    if journal is None:
        click.echo("no controller has served this model yet")
        return
    for label, text in told_lines(journal):
        click.echo(f"{label:<10} {text}")


def watching(phases: type[StrEnum]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options of a watch to a command: ``until``, ``timeout_s``, ``interval_s``."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option(
                "--interval-s", type=click.FloatRange(min=0.1), default=1.0, show_default=True,
                help="Between two looks.",
            ),
            click.option(
                "--timeout-s",
                type=click.FloatRange(min=0),
                help="Stop after so long, with exit 2.",
            ),
            click.option(
                "--until",
                type=click.Choice([str(phase) for phase in phases], case_sensitive=False),
                callback=lambda _, __, name: None if name is None else phases(name),
                help="Stop at this phase: exit 0 there, 1 when it was rolled back, 2 when that "
                "failed.",
            ),
        ):  # fmt: skip
            command = option(command)
        return command

    return add


@click.command()
@click.argument("model")
@_SERVER
@watching(Phase)
def watch(model: str, *, server: str | None, **how: Any) -> int:
    """Print a line whenever something changes in the rollout of MODEL, until stopped (Ctrl-C)."""
    return follow(RemoteRegistry(server), model, SystemClock(), say=click.echo, **how)


def follow(
    registry: RemoteRegistry,
    model: str,
    clock: Clock,
    *,
    until: StrEnum | None,
    timeout_s: float | None,
    interval_s: float,
    say: Callable[[str], None],
) -> int:
    """Say what changes until a phase is reached, or the time is over.

    Args:
        registry: Where the journal is.
        model: Registered model.
        clock: Time.
        until: Phase to wait for; None goes on until the time is over.
        timeout_s: For how long; None for ever.
        interval_s: Between two looks.
        say: Takes one line.

    Returns:
        The exit code.
    """
    began, said = clock.now(), None
    while True:
        seen = _look(registry, model, until)
        if seen.key != said:
            say(f"{_time(clock.now().isoformat())}  {seen.line}")
            said = seen.key
        if seen.code is not None:
            return seen.code
        waited_s = (clock.now() - began).total_seconds()
        if timeout_s is not None and waited_s >= timeout_s:
            say(f"{_time(clock.now().isoformat())}  stopped after {timeout_s:g} s")
            return FAILED
        clock.sleep(interval_s)


@dataclass(frozen=True)
class _Seen:
    """One look: what there is to say, what of it must change to be said again, and the end."""

    line: str
    key: Any
    code: int | None = None


def _look(registry: RemoteRegistry, model: str, until: StrEnum | None) -> _Seen:
    try:
        journal = registry.load_journal(model)
        levels = registry.levels(model)
    except StorageError as exc:
        return _Seen(f"the registry does not answer: {exc}", "away")
    if journal is None:
        return _Seen("no controller has served this model yet", "nothing")
    if _is_of_before(journal, levels):
        line = f"v{levels.canary} is at canary; no controller has begun its rollout yet"
        return _Seen(line, line)
    told = journal.get(NARRATIVE_KEY)
    key = tuple((told or journal).get(name) for name in _TOLD)
    return _Seen(_line(journal), key, None if until is None else _ended(journal["phase"], until))


def _ended(phase: str, until: StrEnum) -> int | None:
    """Return the exit code when there is nothing left to wait for."""
    if phase in _ON_THE_WAY.get(str(until), {str(until)}):
        return REACHED
    return {str(Phase.ROLLED_BACK): ROLLED_BACK, str(Phase.ROLLBACK_FAILED): FAILED}.get(phase)


def _is_of_before(journal: Mapping[str, Any], levels: Levels) -> bool:
    """Whether the journal tells of an earlier rollout than the one that the registry asks for."""
    waiting = levels.canary not in {None, levels.production}
    return waiting and journal["phase"] in RESTING


def _line(journal: Mapping[str, Any]) -> str:
    told = journal.get(NARRATIVE_KEY)
    if told is None:
        return f"{journal['phase']}: {journal['reason'] or 'no remarks'}"
    step = f" step {told['step_number']}/{told['step_count']}" if told["step_number"] else ""
    verdict = f" {told['verdict']}" if told["verdict"] and told["phase"] not in RESTING else ""
    head = f"{told['phase']} {told['canary_pct']:g} %{step}{verdict}"
    loud = "!!! " if told["is_loud"] else ""
    parts = [f"{loud}{head}: {told['happening']}", f"why: {told['reason']}", *_coming(told)]
    return " | ".join(parts)


def _coming(told: Mapping[str, Any]) -> list[str]:
    when = f" (from {_time(told['next_at'])} on)" if told["next_at"] else ""
    parts = [f"next: {told['next']}{when}"]
    if told["deadline_at"]:
        parts.append(f"until {_time(told['deadline_at'])}, then {told['on_deadline']}")
    if told["to_do"]:
        parts.append(f"to do: {told['to_do']}")
    return parts


def told_lines(journal: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (label, text) of what a journal tells, without what is empty."""
    told = journal.get(NARRATIVE_KEY)
    if told is None:
        return [(journal["phase"], f"since {journal['entered_at']}: {journal['reason'] or '-'}")]
    at = f"step {told['step_number']} of {told['step_count']}, {told['step']}"
    lines = [
        (told["phase"], told["happening"]),
        ("since", _time(told["since"])),
        ("traffic", told["traffic"]),
        ("why", told["reason"]),
        ("step", at if told["step_number"] else ""),
        ("next", told["next"]),
        ("from", _time(told["next_at"])),
        ("until", _time(told["deadline_at"])),
        ("then", told["on_deadline"]),
        ("to do", told["to_do"]),
        ("verdict", "" if told["verdict"] is None else f"{told['verdict']}: {told['measured']}"),
    ]
    return [(label, text) for label, text in lines if text]


def _time(instant: str | None) -> str:
    """Write an instant to the second, in UTC."""
    return "" if instant is None else f"{instant[:19]}Z"


def _name(version: int | None) -> str:
    return "none" if version is None else f"v{version}"
