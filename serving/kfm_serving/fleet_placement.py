"""Why no node takes an instance: Ray itself only waits, with an empty message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Node:
    """A living node.

    Attributes:
        node_id: Ray's id, in hex.
        labels: Its Ray labels.
        gpu_count: GPUs that it gave to Ray.
    """

    node_id: str
    labels: Mapping[str, str]
    gpu_count: float


def living_nodes() -> tuple[Node, ...]:
    """Return the nodes of the cluster that are alive."""
    import ray

    return tuple(
        Node(node["NodeID"], node.get("Labels") or {}, node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    )


def explain_unplaced(labels: Mapping[str, str], gpu_ratio: float, nodes: Sequence[Node]) -> str:
    """Return why none of some nodes can take an instance; empty when one can.

    Args:
        labels: Labels that its node must have.
        gpu_ratio: GPUs that it needs.
        nodes: Living nodes.
    """

    def has(node: Node, name: str) -> bool:
        return node.labels.get(name) == labels[name]

    for name, value in sorted(labels.items()):
        if not any(has(node, name) for node in nodes):
            return f"no node has label {name}={value}"
    fitting = [node for node in nodes if all(has(node, name) for name in labels)]
    shown = ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))
    if not fitting:
        return f"no node has all labels of {shown}"
    if gpu_ratio > 0 and not any(node.gpu_count >= gpu_ratio for node in fitting):
        place = f"node with {shown}" if shown else "node"
        return f"no {place} has {gpu_ratio:g} GPU"
    return ""
