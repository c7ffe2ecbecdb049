"""What ``kfm rollout run`` opens as plane ``portable``: Ray, Serve and a traffic plane."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from kfm_serving.cluster import attach, reattach, start_local
from kfm_serving.portable import PortablePlane

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kfm_mlflow.monitor.spans import SpanOptions


@contextmanager
def open_portable(
    model_name: str,
    *,
    host: str,
    port: int,
    address: str | None = None,
    route_prefix: str = "/",
    router_replicas: int = 1,
    gpu_share: float = 0.0,
    spans: SpanOptions | None = None,
) -> Iterator[PortablePlane]:
    """Open a traffic plane for the length of a block.

    Args:
        model_name: Registered model.
        host: Address of Serve's HTTP proxy.
        port: Its port.
        address: Ray cluster to attach to; None starts a lean local one, which ends with the block.
        route_prefix: Path under which the model is served.
        router_replicas: Processes that split the traffic; a router that is up keeps its number.
        gpu_share: GPUs lent to each release; 0 serves on the CPU.
        spans: Which spans of predictions are kept; None keeps none.

    Raises:
        PlaneError: The port is in use, or Ray cannot be started or reached.
    """
    cluster = attach(address, port=port, host=host) if address else start_local(port, host=host)
    rejoin = partial(reattach, address, port=port, host=host) if address else None
    with cluster:
        yield PortablePlane(
            model_name,
            host=host,
            port=port,
            route_prefix=route_prefix,
            router_replicas=router_replicas,
            gpu_share=gpu_share,
            spans=spans,
            reattach=rejoin,
        )
