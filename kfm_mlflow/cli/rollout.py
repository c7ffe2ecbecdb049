"""``kfm rollout``: serve a governed model and carry its rollouts; show where one stands."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import click

from kfm_mlflow.cli.rollout_orders import abort, pause, promote, resume, start
from kfm_mlflow.cli.rollout_show import status, watch
from kfm_mlflow.cli.rollout_telemetry import (
    Telemetry,
    open_watchers,
    span_dir_of,
    telemetry_options,
)
from kfm_mlflow.rollout.deployments_announced import announced
from kfm_mlflow.rollout.deployments_asked import parse_url
from kfm_mlflow.rollout.leadership import LEASE_S
from kfm_mlflow.rollout.planes import load_plane
from kfm_mlflow.rollout.remote import RemoteRegistry, find_cache

_SERVER = click.option("--server", envvar="MLFLOW_TRACKING_URI", help="URL of the MLflow server.")


@click.group()
def rollout() -> None:
    """Serve a model and run its rollouts."""


@rollout.command()
@click.argument("model")
@_SERVER
@click.option(
    "--key", type=click.Path(path_type=Path), required=True, help="Signs canary verdicts."
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, help="Where the model is served.")
@click.option("--route-prefix", default="/", show_default=True)
@click.option(
    "--endpoint-url",
    metavar="URL",
    help="Where others reach the model, to be written down for `mlflow deployments`. By default it "
    "is HOST:PORT, if nothing else is written there.",
)
@click.option(
    "--router-replicas",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes that split the traffic.",
)
@click.option("--address", help="Ray cluster to attach to; starts a local one by default.")
@click.option("--plane", default="portable", show_default=True)
@click.option(
    "--interval-s", default=0.5, show_default=True, help="Between passes of the controller."
)
@click.option(
    "--lease-s",
    type=click.FloatRange(0.1, 600),
    default=LEASE_S,
    show_default=True,
    help="How long another waits if this one dies.",
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
@telemetry_options
def run(  # one parameter per option
    model: str,
    *,
    server: str | None,
    key: Path,
    host: str,
    port: int,
    route_prefix: str,
    endpoint_url: str | None,
    router_replicas: int,
    address: str | None,
    plane: str,
    interval_s: float,
    lease_s: float,
    gpu_share: float,
    cache_dir: Path | None,
    regions: Path | None,
    **telemetry: Any,
) -> None:
    """Serve MODEL at http://HOST:PORT and follow the registry until stopped (Ctrl-C)."""
    from kfm_mlflow.rollout.controller import Controller
    from kfm_mlflow.rollout.ports import SystemClock
    from kfm_mlflow.rollout.watched import watched

    cache = find_cache(cache_dir, os.environ)
    told = Telemetry(**telemetry, span_dir=span_dir_of(model, cache))
    if endpoint_url is not None:
        endpoint_url = parse_url(
            endpoint_url, where="--endpoint-url", remedy="use http://HOST:PORT"
        )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for noisy in ("ray", "ray.serve", "mlflow", "urllib3", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    registry = RemoteRegistry(
        server,
        controller_key=key,
        cache_dir=cache,
        regions_file=None if regions is None else regions.resolve(),
    )
    policy = registry.policy(registry.model(model)["family"])
    asked = policy.gates.telemetry
    click.echo(told.tell_spans(None if asked is None else asked.min_span_ratio))
    stopped: list[int] = []
    opener = load_plane(plane, where="--plane")
    extra: dict[str, Any] = {} if told.spans is None else {"spans": told.spans}
    if router_replicas > 1:
        extra["router_replicas"] = router_replicas
    with (
        open_watchers(model, told, host) as watchers,
        opener(
            model,
            host=host,
            port=port,
            address=address,
            route_prefix=route_prefix,
            gpu_share=gpu_share,
            **extra,
        ) as opened,
        announced(
            registry, model, opened.url, named=endpoint_url, lasts=address is not None
        ) as announcements,
    ):
        # Ray installs its own handlers when it starts, so ours come after.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda received, _: stopped.append(received))
        click.echo(f"serving {model} at {opened.url}; following {registry.server}")
        port_of = watched(registry, watchers)
        plane_of = watched(opened, [*watchers, *announcements])
        controller = Controller(
            port_of, plane_of, policy.rollout, SystemClock(), model, lease_s=lease_s
        )
        controller.run(lambda: bool(stopped), interval_s)


for command in (start, pause, resume, promote, abort, status, watch):
    rollout.add_command(command)
