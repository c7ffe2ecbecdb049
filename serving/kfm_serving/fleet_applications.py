"""The applications of a fleet, described for Serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kfm_serving.applications import CARED_FOR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kfm_mlflow.fleet.agents import Agent
    from kfm_mlflow.monitor.spans import SpanOptions


def build_instance(agent: Agent, release_dir: str, release_id: str) -> Any:
    """Describe one agent serving one release.

    Args:
        agent: Where it may run, and which share of a GPU it gets.
        release_dir: Directory of the release, the same on every node.
        release_id: ``sha256:<hex>`` that its files must have.
    """
    from ray import serve

    from kfm_serving.fleet_instance import AgentInstance

    deployment = serve.deployment(
        AgentInstance,
        name="instance",
        max_ongoing_requests=32,
        max_constructor_retry_count=2,  # the first may have lost its node
        **CARED_FOR,
        ray_actor_options={
            "num_cpus": 0,
            "num_gpus": agent.gpu_ratio,
            "label_selector": dict(agent.labels),
        },
    )
    return deployment.bind(release_dir, release_id, agent.gpu_ratio)


def build_dispatcher(
    route_prefix: str,
    deadline_s: float,
    replica_count: int,
    labels: Mapping[str, str],
    spans: SpanOptions | None,
) -> Any:
    """Describe the application that gives tasks to agents.

    Args:
        route_prefix: Path under which Serve mounts it.
        deadline_s: How long an instance may take for a task.
        replica_count: Dispatcher processes.
        labels: Ray node labels that their nodes must have.
        spans: Which spans they keep; None keeps none.
    """
    from ray import serve

    from kfm_serving.fleet_dispatcher import Dispatcher

    deployment = serve.deployment(
        Dispatcher,
        name="dispatcher",
        num_replicas=replica_count,
        max_ongoing_requests=100,
        **CARED_FOR,
        ray_actor_options={"num_cpus": 0, "label_selector": dict(labels)},
        # Without one, Serve does not call `reconfigure` at a start.
        user_config={"schema_version": "1"},
    )
    return deployment.bind(route_prefix, deadline_s, spans)
