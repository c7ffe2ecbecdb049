"""``kfm fleet run``: serve a fused release on a fleet of agents and follow the registry."""

from __future__ import annotations

import json
import logging
import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfm_mlflow.errors import InputError
from kfm_mlflow.monitor.span_export import otlp_endpoint
from kfm_mlflow.monitor.spans import SpanOptions
from kfm_mlflow.rollout.leadership import LEASE_S
from kfm_mlflow.rollout.planes import FLEET, load_plane
from kfm_mlflow.rollout.remote import RemoteRegistry, find_cache

if TYPE_CHECKING:
    from kfm_mlflow.rollout.watched import Watcher

MODEL = "fleet"


@click.command()
@click.argument("model", default=MODEL)
@click.option("--server", envvar="MLFLOW_TRACKING_URI", help="URL of the MLflow server.")
@click.option(
    "--agents",
    "agents_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help='Who is in the fleet: {"agents": [{"name": …, "specialty": …, "labels": {…}}, …]}, JSON.',
)
@click.option(
    "--key", type=click.Path(path_type=Path), required=True, help="Signs the first batch's verdict."
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, help="Where tasks are taken.")
@click.option("--address", help="Ray cluster to attach to; starts a local one by default.")
@click.option("--dispatchers", type=click.IntRange(1), default=1, show_default=True)
@click.option("--interval-s", default=0.5, show_default=True, help="Between passes of the loop.")
@click.option(
    "--lease-s",
    type=click.FloatRange(0.1, 600),
    default=LEASE_S,
    show_default=True,
    help="How long another waits if this one dies.",
)
@click.option(
    "--cache-dir", type=click.Path(path_type=Path), help="Where verified releases are kept."
)
@click.option("--metrics-port", type=int, help="Serve Prometheus' metrics here.")
@click.option(
    "--telemetry-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write spans into this folder. Without it they go to OTEL_EXPORTER_OTLP_ENDPOINT, if that "
    "is set.",
)
def run(  # one parameter per option
    model: str,
    *,
    server: str | None,
    agents_file: Path,
    key: Path,
    host: str,
    port: int,
    address: str | None,
    dispatchers: int,
    interval_s: float,
    lease_s: float,
    cache_dir: Path | None,
    metrics_port: int | None,
    telemetry_dir: Path | None,
) -> None:
    """Serve MODEL (by default `fleet`) on every agent, batch by batch, until stopped (Ctrl-C)."""
    from kfm_mlflow.fleet.agents import parse_agents
    from kfm_mlflow.fleet.events import FleetSpans
    from kfm_mlflow.fleet.exposition import FleetExposition
    from kfm_mlflow.fleet.loop import FleetLoop
    from kfm_mlflow.monitor.span_export import open_exporters
    from kfm_mlflow.monitor.spans import SpanLog
    from kfm_mlflow.rollout.exposition import serve_metrics
    from kfm_mlflow.rollout.ports import SystemClock
    from kfm_mlflow.rollout.watched import watched

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for noisy in ("ray", "ray.serve", "mlflow", "urllib3", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    registry = RemoteRegistry(
        server, controller_key=key, cache_dir=find_cache(cache_dir, os.environ)
    )
    plan = registry.policy(registry.model(model)["family"]).fleet
    if plan is None:
        raise InputError(
            "has no fleet: its policy has no `fleet` section",
            where=model,
            remedy=f"serve it by `kfm rollout run {model}`",
        )
    agents = parse_agents(_read(agents_file), plan.specialties, where=str(agents_file))
    opener = load_plane("ray-serve", where="fleet plane", group=FLEET)
    stopped: list[int] = []
    spans = _span_options(telemetry_dir)
    with ExitStack() as stack:
        watchers: list[Watcher] = []
        if metrics_port is not None:
            exposition = FleetExposition(model)
            stack.enter_context(serve_metrics(exposition, metrics_port, host))
            watchers.append(exposition)
        if spans is not None:
            folder = spans.directory
            path = None if folder is None else folder / "spans-fleet.jsonl"
            log = SpanLog(open_exporters(path), service_name="kfm-fleet")
            stack.callback(log.close)
            watchers.append(FleetSpans(log, model))
        plane = stack.enter_context(
            opener(
                host=host, port=port, address=address, dispatcher_replicas=dispatchers, spans=spans
            )
        )
        # Ray installs its own handlers when it starts, so ours come after.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda received, _: stopped.append(received))
        click.echo(f"{len(agents)} agents take tasks at {plane.url}; following {registry.server}")
        loop = FleetLoop(
            watched(registry, watchers),
            watched(plane, watchers),
            plan,
            SystemClock(),
            model,
            agents=agents,
            lease_s=lease_s,
        )
        loop.run(lambda: bool(stopped), interval_s)


def _span_options(directory: Path | None) -> SpanOptions | None:
    """Return how spans are kept; None when nobody would take them."""
    if directory is None and otlp_endpoint(os.environ) is None:
        return None
    return SpanOptions(None if directory is None else directory.resolve(), 1.0)


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise InputError(f"is no JSON ({exc})", where=str(path)) from exc
