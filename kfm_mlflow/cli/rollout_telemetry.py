"""What ``kfm rollout run`` tells of itself: spans, metrics, energy. See docs/monitoring.md."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

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
        telemetry_dir: Folder of spans and energy; None measures no energy.
        span_ratio: Share of good answers of which a span is kept, 0..1.
        metrics_port: Where Prometheus' metrics are served; None serves none.
        grid: Country and region, as ``USA/kansas``.
        span_dir: Folder of spans where ``telemetry_dir`` is None; None writes none.
        no_spans: Keep no spans at all.
    """

    telemetry_dir: Path | None
    span_ratio: float
    metrics_port: int | None
    grid: str
    span_dir: Path | None = None
    no_spans: bool = False

    @property
    def spans(self) -> SpanOptions | None:
        """How spans are kept; None when nobody would take them.

        A collector takes the place of the folder that nobody named, not of one that was named.
        """
        has_collector = otlp_endpoint(os.environ) is not None
        directory = self.telemetry_dir or (None if has_collector else self.span_dir)
        if self.no_spans or (directory is None and not has_collector):
            return None
        return SpanOptions(None if directory is None else directory.resolve(), self.span_ratio)

    def tell_spans(self, min_span_ratio: float | None) -> str:
        """Return where spans go, and whether that is enough for what the policy asks.

        Args:
            min_span_ratio: Share of a canary's answers of which the policy asks for a span.
        """
        spans = self.spans
        if spans is None:
            told = "no spans are kept"
        elif spans.directory is None:
            told = "spans go to the collector"
        else:
            told = f"spans are kept in {spans.directory}"
        kept_ratio = 0.0 if spans is None else spans.ratio
        if min_span_ratio is None or kept_ratio >= min_span_ratio:
            return told
        return (
            f"{told}, of {kept_ratio:g} of all answers; the policy asks for {min_span_ratio:g} of "
            "a canary's, so none gets to Production"
        )


def span_dir_of(model: str, cache: Path) -> Path:
    """Return where spans of a model are kept when no folder was named: beside its releases.

    Releases lie where every machine that serves them can reach them, and so do these.
    """
    return cache / "telemetry" / quote(model, safe="")


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
            help="Write spans and energy into this folder. Without it, spans go to "
            "OTEL_EXPORTER_OTLP_ENDPOINT, or else into the folder of --cache-dir.",
        ),
        click.option("--no-spans", is_flag=True, help="Keep no spans."),
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
        if asked.telemetry_dir is not None:
            country, _, region = asked.grid.partition("/")
            energy = measured_serving(
                model,
                asked.telemetry_dir.resolve(),
                country_iso_code=country,
                region=region or None,
            )
            watchers.append(stack.enter_context(energy))
        yield watchers
