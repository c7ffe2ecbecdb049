"""Drawing things and what flowed into what, from top to bottom, narrow enough for a phone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kfm_mlflow.registry.svg import drawing, element, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from markupsafe import Markup

_MAX_ROUNDS = 60
_WIDTH, _BOX, _TALL, _GAP_X, _GAP_Y, _PAD = 352.0, 168.0, 52.0, 12.0, 30.0, 2.0
_PER_ROW = 2
LABEL = 24
"""Letters of a label that fit into a box."""


@dataclass(frozen=True)
class Node:
    """One thing in the lineage.

    Attributes:
        id: Its name in the document.
        kind: ``entity``, ``activity`` or ``agent``.
        label: What to call it.
        role: What it is, in one word.
        digest: ``sha256:<hex>``, when it has bytes.
        members: Labels of what stands together here.
    """

    id: str
    kind: str
    label: str
    role: str
    digest: str = ""
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Edge:
    """``source`` flowed into ``target``."""

    source: str
    target: str
    verb: str


def layered(nodes: Mapping[str, Node], edges: Sequence[Edge]) -> list[list[str]]:
    """Return names row by row: everything below what flowed into it, two to a row."""
    depth = dict.fromkeys(nodes, 0)
    for _ in range(_MAX_ROUNDS):  # a cycle, which gate prov refuses, ends here
        changed = False
        for edge in edges:
            if depth[edge.target] < depth[edge.source] + 1:
                depth[edge.target] = depth[edge.source] + 1
                changed = True
        if not changed:
            break
    # What flows in from nowhere stands just above where it is used, not at the top.
    for name in nodes:
        targets = [depth[edge.target] for edge in edges if edge.source == name]
        if targets and not any(edge.target == name for edge in edges):
            depth[name] = min(targets) - 1
    layers: dict[int, list[str]] = defaultdict(list)
    for name in sorted(nodes, key=lambda name: (nodes[name].kind != "entity", name)):
        layers[depth[name]].append(name)
    return [
        layers[level][start : start + _PER_ROW]
        for level in sorted(layers)
        for start in range(0, len(layers[level]), _PER_ROW)
    ]


def draw(rows: Sequence[Sequence[str]], nodes: Mapping[str, Node], edges: Iterable[Edge]) -> Markup:
    """Return the drawing of rows of names from top to bottom, with an arrow per edge."""
    where: dict[str, tuple[float, float]] = {}
    for line, row in enumerate(rows):
        span = len(row) * _BOX + (len(row) - 1) * _GAP_X
        for place, name in enumerate(row):
            x = (_WIDTH - span) / 2 + place * (_BOX + _GAP_X)
            where[name] = (x, _PAD + line * (_TALL + _GAP_Y))
    arrows = [part for edge in edges for part in _arrow(where[edge.source], where[edge.target])]
    boxes = [_box(nodes[name], *place) for name, place in where.items()]
    height = _PAD * 2 + max(len(rows), 1) * (_TALL + _GAP_Y) - _GAP_Y
    return drawing(
        "kfm-graph",
        "Lineage of the release",
        "Data, code and people at the top flow through the training run into the weights and "
        "the release, and through each decision to where it is deployed, at the bottom. The list "
        "beside it says the same.",
        width=_WIDTH,
        height=height,
        children=[*arrows, *boxes],
    )


def _arrow(source: tuple[float, float], target: tuple[float, float]) -> list[Markup]:
    x1, y1 = source[0] + _BOX / 2, source[1] + _TALL
    x2, y2 = target[0] + _BOX / 2, target[1]
    # Ends are drawn apart, so that arrows from both sides stay two.
    x2 += max(-30.0, min(30.0, (x1 - x2) / 4))
    bend = (y2 - y1) / 2
    tip = f"{x2 - 4:.1f},{y2 - 7:.1f} {x2 + 4:.1f},{y2 - 7:.1f} {x2:.1f},{y2 - 1:.1f}"
    start, end = f"{x1:.1f} {y1:.1f}", f"{x2:.1f} {y2 - 6:.1f}"
    line = f"M{start}C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f} {end}"
    return [
        element("path", d=line, class_="flow"),
        element("polygon", points=tip, class_="tip"),
    ]


def _box(node: Node, x: float, y: float) -> Markup:
    round_px = {"activity": 3.0, "entity": 12.0, "agent": 26.0}[node.kind]
    middle = x + _BOX / 2
    return element(
        "g",
        element("title", f"{node.role}: {node.label}"),
        element("rect", x=x, y=y, width=_BOX, height=_TALL, rx=round_px, class_=node.kind),
        element("text", shortened(node.role, LABEL), x=middle, y=y + 20, class_="role"),
        element("text", shortened(node.label, LABEL - 2), x=middle, y=y + 38, class_="label"),
    )
