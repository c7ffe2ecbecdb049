"""What ``kfm rollout run`` tells of itself: spans, metrics, energy. See docs/monitoring.md."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfm_mlflow.monitor.span_export import open_exporters, otlp_endpoint
from kfm_mlflow.monitor.spans import SpanLog, SpanOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kfm_mlflow.rollout.watched import Watcher

_CONTROLLER_FILE = "spans-controller.jsonl"


@dataclass(frozen=True)
class Telemetry:
    """What was asked for.

    Attributes:
        telemetry_dir: Folder of spans and energy; None writes no files.
        span_ratio: Share of good answers of which a span is kept, 0..1.
        metrics_port: Where Prometheus' metrics are served; None serves none.
        grid: Country and region, as ``USA/kansas``.
    """

    telemetry_dir: Path | None
    span_ratio: float
    metrics_port: int | None
    grid: str

    @property
    def spans(self) -> SpanOptions | None:
        """How spans are kept; None when nobody would take them."""
        if self.telemetry_dir is None and otlp_endpoint(os.environ) is None:
            return None
        directory = None if self.telemetry_dir is None else self.telemetry_dir.resolve()
        return SpanOptions(directory, self.span_ratio)


def telemetry_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of :class:`Telemetry` to a command, by their names."""
    for add in (
        click.option(
            "--grid",
            default="USA/kansas",
            show_default=True,
            help="Whose carbon intensity holds: COUNTRY (three letters), or COUNTRY/REGION.",
        ),
        click.option("--metrics-port", type=int, help="Serve Prometheus' metrics here."),
        click.option(
            "--span-ratio",
            type=click.FloatRange(0, 1),
            default=1.0,
            show_default=True,
            help="Share of good answers of which a span is kept; errors always are.",
        ),
        click.option(
            "--telemetry-dir",
            type=click.Path(path_type=Path, file_okay=False),
            help="Write spans and energy into this folder. Spans also go to "
            "OTEL_EXPORTER_OTLP_ENDPOINT.",
        ),
    ):
        command = add(command)
    return command


@contextmanager
def open_watchers(model: str, asked: Telemetry, host: str) -> Iterator[list[Watcher]]:
    """Open what watches the controller of a model, for the length of a block.

    Args:
        model: Registered model.
        asked: What is asked for.
        host: Address at which metrics are served.
    """
    from kfm_mlflow.rollout.events import ControllerSpans
    from kfm_mlflow.rollout.exposition import Exposition, serve_metrics
    from kfm_mlflow.rollout.serving_energy import measured_serving

    watchers: list[Watcher] = []
    with ExitStack() as stack:
        options = asked.spans
        if options is not None:
            folder = options.directory
            path = None if folder is None else folder / _CONTROLLER_FILE
            log = SpanLog(open_exporters(path), service_name="kfm-controller")
            stack.callback(log.close)
            watchers.append(ControllerSpans(log, model))
        if asked.metrics_port is not None:
            exposition = Exposition(model)
            stack.enter_context(serve_metrics(exposition, asked.metrics_port, host))
            watchers.append(exposition)
        if options is not None and options.directory is not None:
            country, _, region = asked.grid.partition("/")
            energy = measured_serving(
                model, options.directory, country_iso_code=country, region=region or None
            )
            watchers.append(stack.enter_context(energy))
        yield watchers
