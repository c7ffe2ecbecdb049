"""``kfm rollout``: serve a governed model and carry its rollouts; show where one stands."""

from __future__ import annotations

import json
import logging
import signal
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click

from kfm_mlflow.errors import InputError
from kfm_mlflow.rollout.remote import RemoteRegistry

_PLANES = "kfm_mlflow.traffic_plane"
_SERVER = click.option("--server", envvar="MLFLOW_TRACKING_URI", help="URL of the MLflow server.")


@click.group()
def rollout() -> None:
    """Serve a model and run its rollouts."""


def _plane(name: str) -> Any:
    found = {point.name: point for point in entry_points(group=_PLANES)}
    if name not in found:
        raise InputError(
            f"there is no traffic plane {name!r}",
            where="--plane",
            remedy=f"installed: {', '.join(sorted(found)) or 'none'}",
        )
    return found[name].load()


@rollout.command()
@click.argument("model")
@_SERVER
@click.option(
    "--key", type=click.Path(path_type=Path), required=True, help="Signs canary verdicts."
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, help="Where the model is served.")
@click.option("--route-prefix", default="/", show_default=True)
@click.option("--address", help="Ray cluster to attach to; starts a local one by default.")
@click.option("--plane", default="portable", show_default=True)
@click.option(
    "--interval-s", default=0.5, show_default=True, help="Between passes of the controller."
)
@click.option("--gpu-share", default=0.0, show_default=True, help="GPUs lent to each release.")
@click.option(
    "--cache-dir", type=click.Path(path_type=Path), help="Where verified releases are kept."
)
@click.option(
    "--regions",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The policy's regions file, where it lies elsewhere than on the server.",
)
def run(  # one parameter per option
    model: str,
    *,
    server: str | None,
    key: Path,
    host: str,
    port: int,
    route_prefix: str,
    address: str | None,
    plane: str,
    interval_s: float,
    gpu_share: float,
    cache_dir: Path | None,
    regions: Path | None,
) -> None:
    """Serve MODEL at http://HOST:PORT and follow the registry until stopped (Ctrl-C)."""
    from kfm_mlflow.rollout.controller import Controller
    from kfm_mlflow.rollout.ports import SystemClock

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for noisy in ("ray", "ray.serve", "mlflow", "urllib3", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    registry = RemoteRegistry(
        server,
        controller_key=key,
        cache_dir=cache_dir,
        regions_file=None if regions is None else regions.resolve(),
    )
    plan = registry.policy(registry.model(model)["family"]).rollout
    stopped: list[int] = []
    opener = _plane(plane)
    with opener(
        model, host=host, port=port, address=address, route_prefix=route_prefix, gpu_share=gpu_share
    ) as opened:
        # Ray installs its own handlers when it starts, so ours come after.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda received, _: stopped.append(received))
        click.echo(f"serving {model} at {opened.url}; following {registry.server}")
        Controller(registry, opened, plan, SystemClock(), model).run(
            lambda: bool(stopped), interval_s
        )


@rollout.command()
@click.argument("model")
@_SERVER
@click.option("--json", "as_json", is_flag=True, help="Print the journal as JSON.")
def status(model: str, *, server: str | None, as_json: bool) -> None:
    """Show where the rollout of MODEL stands, and why."""
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
    click.echo(
        f"{journal['phase']} since {journal['entered_at']}: {journal['reason'] or 'no remarks'}"
    )


def _name(version: int | None) -> str:
    return "none" if version is None else f"v{version}"
