"""What ``kfm fleet run`` opens as plane ``ray-serve``: Ray, Serve and the plane of a fleet."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from kfm_serving.cluster import attach, reattach, start_local
from kfm_serving.fleet_plane import ServeFleet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kfm_mlflow.monitor.spans import SpanOptions


@contextmanager
def open_fleet(
    *,
    host: str,
    port: int,
    address: str | None = None,
    route_prefix: str = "/",
    dispatcher_replicas: int = 1,
    dispatcher_labels: Mapping[str, str] | None = None,
    deadline_s: float = 2.0,
    spans: SpanOptions | None = None,
) -> Iterator[ServeFleet]:
    """Open the plane of a fleet for the length of a block.

    Args:
        host: Address of Serve's HTTP proxy.
        port: Its port.
        address: Ray cluster to attach to; None starts a lean local one, which ends with the block
            and has one node without labels.
        route_prefix: Path under which tasks are taken.
        dispatcher_replicas: Processes that give tasks; those that are up keep their number.
        dispatcher_labels: Ray node labels of the nodes that they may run on; None for any.
        deadline_s: How long an instance may take for a task; then another is asked.
        spans: Which spans of tasks are kept; None keeps none.

    Raises:
        PlaneError: The port is in use, or Ray cannot be started or reached.
    """
    cluster = attach(address, port=port, host=host) if address else start_local(port, host=host)
    rejoin = partial(reattach, address, port=port, host=host) if address else None
    with cluster:
        yield ServeFleet(
            host=host,
            port=port,
            route_prefix=route_prefix,
            dispatcher_replicas=dispatcher_replicas,
            dispatcher_labels=dispatcher_labels,
            deadline_s=deadline_s,
            spans=spans,
            reattach=rejoin,
        )
