"""Every call that the plane makes to Ray Serve's control side, with limits that Serve lacks.

``serve.run`` waits without a limit and polls once a second; here an application is started
without waiting, and waited for until a given instant.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import PlaneError

if TYPE_CHECKING:
    from kfm_mlflow.monitor.spans import SpanOptions
    from kfm_mlflow.rollout.plane import MaskingOrder

_POLL_S = 0.05
_DELETE_S = 30.0
_STATUS_S = 10.0
"""Much less than the minute after which Ray ends a process whose head is away."""
_WARM_DEADLINE_S = 5.0
CARED_FOR = {
    "health_check_period_s": 2,
    "health_check_timeout_s": 10,
    "graceful_shutdown_wait_loop_s": 0.5,
    "graceful_shutdown_timeout_s": 10,
}
"""Deployment options: how Serve looks after a process, and lets it end what it has begun."""
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_ERROR_LINE = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception): (.+)$")


@dataclass(frozen=True)
class Status:
    """How an application is.

    Attributes:
        status: ``DEPLOYING``, ``RUNNING``, ``DEPLOY_FAILED``, ``UNHEALTHY``, ``DELETING`` …
        texts: What Serve says about it and its deployments.
    """

    status: str
    texts: tuple[str, ...]


def statuses() -> dict[str, Status]:
    """Return application name -> its status in Serve.

    Raises:
        PlaneError: The cluster, or Serve in it, does not answer.
    """
    import ray
    from ray.serve._private.application_state import StatusOverview
    from ray.serve.context import _get_global_client
    from ray.serve.generated.serve_pb2 import StatusOverview as StatusMessage

    if not ray.is_initialized():  # or Serve starts a cluster of its own without a word
        raise PlaneError(
            "this process is not connected to Ray",
            remedy="start a cluster with kfm_serving.cluster.start_local, or attach to one",
        )
    try:
        client = _get_global_client(raise_if_no_controller_running=False)
        if client is None:  # Serve was not started
            return {}
        # `serve.status` waits for a dead head until Ray ends this process, and pickles the options
        # of every deployment twice, which takes 11 ms for each of them.
        asked = client._controller.list_serve_statuses.remote()  # noqa: SLF001 no public call has a limit
        told = ray.get(asked, timeout=_STATUS_S)
        found = [StatusOverview.from_proto(StatusMessage.FromString(one)) for one in told]
        return {one.name: _read_status(one) for one in found}
    except Exception as exc:  # Ray has a dozen ways to lose a cluster, of no common root
        raise PlaneError(
            f"the cluster does not answer ({error_text(str(exc)) or type(exc).__name__})",
            remedy="look at `ray status`; a cluster that is back is joined again",
        ) from exc


def _read_status(found: Any) -> Status:
    messages = [deployment.message for deployment in found.deployment_statuses]
    return Status(found.app_status.status.value, (found.app_status.message, *messages))


def handle(app: str) -> Any:
    """Return a handle to an application."""
    from ray import serve

    return serve.get_app_handle(app)


async def warm_handle(app: str, *, deadline_s: float = _WARM_DEADLINE_S) -> Any:
    """Return a handle, by which the application has answered a ping, for calls from this loop.

    Args:
        app: Its name.
        deadline_s: How long the answer may take.

    Raises:
        Exception: It did not answer; Ray has a dozen classes for that, of no common root.
    """
    from ray import serve

    handle = await asyncio.to_thread(serve.get_app_handle, app)
    # What is sent is small and sent once: by value and in this loop the hop takes half the time.
    if not handle.is_initialized:  # Ray keeps one handle per application and process
        handle._init(_run_router_in_separate_loop=False)  # noqa: SLF001 no public option
    handle = handle.options(_by_reference=False)
    await asyncio.wait_for(handle.ping.remote(), deadline_s)
    return handle


def own_replica_id() -> str:
    """Return what Serve calls the process that asks."""
    from ray import serve

    return str(serve.get_replica_context().replica_id.unique_id)


def start(app: str, application: Any, *, route_prefix: str | None = None) -> None:
    """Ask Serve for an application; does not wait for it."""
    from ray import serve

    serve.run_many(
        [serve.RunTarget(application, name=app, route_prefix=route_prefix)],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )


def await_running(app: str, deadline_s: float) -> None:
    """Wait until an application runs.

    Args:
        app: Its name.
        deadline_s: Instant of ``time.monotonic()`` at which to give up.

    Raises:
        PlaneError: It failed to start (with the error of its constructor), or time is up.
    """
    while time.monotonic() < deadline_s:
        status = statuses().get(app)
        if status is not None and status.status == "RUNNING":
            return
        if status is not None and status.status == "DEPLOY_FAILED":
            raise PlaneError(startup_error(status))
        time.sleep(_POLL_S)
    raise PlaneError("it took too long")


def begin_delete(app: str) -> None:
    """Have an application end what it has begun, and go; does not wait for it."""
    from ray import serve

    serve.delete(app, _blocking=False)


def delete(app: str) -> None:
    """Take an application down, if it is there, and return when it is gone.

    Raises:
        PlaneError: It did not go within 30 s.
    """
    if app not in statuses():
        return
    begin_delete(app)
    deadline_s = time.monotonic() + _DELETE_S
    while app in statuses():
        if time.monotonic() > deadline_s:
            raise PlaneError("the application did not go", where=app)
        time.sleep(_POLL_S)


def build_replica(
    release_dir: str,
    digest: str,
    gpu_share: float,
    masking: MaskingOrder | None = None,
    explain_interval_s: float | None = None,
) -> Any:
    """Describe the application of one release.

    Args:
        release_dir: Directory of the release, the same on every node.
        digest: ``sha256:<hex>`` of its ``model.onnx``.
        gpu_share: GPUs lent to it; 0 for the CPU.
        masking: By which regions its answers are masked.
        explain_interval_s: Least time between two rows that are explained; None explains none.
    """
    from ray import serve

    from kfm_serving.replica import Replica

    deployment = serve.deployment(
        Replica,
        name="replica",
        max_ongoing_requests=32,
        max_constructor_retry_count=1,
        **CARED_FOR,
        ray_actor_options={"num_cpus": 0, "num_gpus": gpu_share},
    )
    return deployment.bind(
        release_dir, digest, masking, gpu_share=gpu_share, explain_interval_s=explain_interval_s
    )


def build_router(
    model_name: str,
    route_prefix: str,
    deadlines_s: tuple[float, float],
    replica_count: int,
    spans: SpanOptions | None = None,
) -> Any:
    """Describe the application that splits a model's traffic.

    Args:
        model_name: Registered model.
        route_prefix: Path under which Serve mounts it.
        deadlines_s: How long the stable release, and a canary, may take to answer.
        replica_count: Router processes.
        spans: Which spans they keep; None keeps none.
    """
    from ray import serve

    from kfm_serving.router import Router

    deployment = serve.deployment(
        Router,
        name="router",
        num_replicas=replica_count,
        max_ongoing_requests=100,
        **CARED_FOR,
        ray_actor_options={"num_cpus": 0},
        # Without one, Serve does not call `reconfigure` at a start.
        user_config={"schema_version": "1"},
    )
    return deployment.bind(model_name, route_prefix, *deadlines_s, spans=spans)


def error_text(text: str) -> str:
    """Return the message of the innermost error in a traceback that Ray made, at most 300 long.

    A text without a traceback gives its first line.
    """
    lines = _ANSI.sub("", text).strip().splitlines()
    found = [match.group(1) for line in lines if (match := _ERROR_LINE.match(line.strip()))]
    return (found[-1] if found else lines[0] if lines else "")[:300]


def reason(exc: BaseException | None) -> str:
    """Return the message of the innermost error that an exception carries, or its class."""
    return error_text(str(exc)) or type(exc).__name__


def startup_error(status: Status) -> str:
    """Return why an application did not start."""
    return error_text("\n".join(status.texts))
