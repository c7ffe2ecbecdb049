"""The lineage of a release as a picture and as a table, from its PROV-JSON and its STAC item.

Drawn from top to bottom, two things to a row, so that it can be read on a phone. Files that one
activity made and nothing used again stand together as one box; the table names each.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.registry.svg import drawing, element, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from markupsafe import Markup

_KINDS = {"entity": "entity", "activity": "activity", "agent": "agent"}
# relation -> (from whom, to whom, how it reads); arrows point the way things flowed.
_FLOWS: dict[str, tuple[str, str, str]] = {
    "used": ("prov:entity", "prov:activity", "was used by"),
    "wasGeneratedBy": ("prov:activity", "prov:entity", "made"),
    "wasAssociatedWith": ("prov:agent", "prov:activity", "carried out"),
    "actedOnBehalfOf": ("prov:responsible", "prov:delegate", "answers for"),
}
_MAX_NODES = 40
_MAX_ROUNDS = 60
_WIDTH, _BOX, _TALL, _GAP_X, _GAP_Y, _PAD = 352.0, 168.0, 52.0, 12.0, 30.0, 2.0
_PER_ROW = 2
_LABEL = 24


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


@dataclass(frozen=True)
class Lineage:
    """Picture and values of a lineage.

    Attributes:
        picture: The drawing.
        nodes: What is drawn, in its order.
        sentences: The same as sentences, one per arrow.
        truncated: Whether there is more than is drawn.
    """

    picture: Markup
    nodes: tuple[Node, ...]
    sentences: tuple[str, ...]
    truncated: bool


def build_lineage(prov: Mapping[str, Any], item: Mapping[str, Any]) -> Lineage:
    """Read and draw a lineage.

    Args:
        prov: PROV-JSON values.
        item: The STAC item that describes the release.
    """
    nodes, edges = parse_prov(prov)
    nodes, edges = _together(nodes, edges)
    nodes, edges = _with_item(nodes, edges, item)
    truncated = len(nodes) > _MAX_NODES
    kept = {node.id: node for node in list(nodes.values())[:_MAX_NODES]}
    edges = [edge for edge in edges if edge.source in kept and edge.target in kept]
    rows = _rows(kept, edges)
    order = [name for row in rows for name in row]
    edges.sort(key=lambda edge: (order.index(edge.target), order.index(edge.source)))
    sentences = tuple(
        f"{_named(kept[edge.source])} {edge.verb} {_named(kept[edge.target])}." for edge in edges
    )
    ordered = tuple(kept[name] for name in order)
    return Lineage(_draw(rows, kept, edges), ordered, sentences, truncated)


def parse_prov(prov: Mapping[str, Any]) -> tuple[dict[str, Node], list[Edge]]:
    """Return the things and flows of a PROV-JSON document; what is malformed is left out."""
    nodes = {
        str(name): _node(str(name), kind, values)
        for kind in _KINDS
        for name, values in _mapping(prov.get(kind)).items()
    }
    edges = []
    for relation, (source, target, verb) in _FLOWS.items():
        for values in _mapping(prov.get(relation)).values():
            fields = _mapping(values)
            ends = (str(fields.get(source)), str(fields.get(target)))
            if ends[0] in nodes and ends[1] in nodes:
                edges.append(Edge(*ends, verb))
            plan = str(fields.get("prov:plan", ""))
            if plan in nodes and ends[1] in nodes:
                edges.append(Edge(plan, ends[1], "was the plan of"))
    return nodes, sorted(edges, key=lambda edge: (edge.target, edge.source, edge.verb))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _node(name: str, kind: str, values: Any) -> Node:
    fields = _mapping(values)
    role = _text(fields.get("prov:type")).rpartition(":")[2] or kind
    label = _text(fields.get("kfm:path")) or _text(fields.get("prov:label"))
    if kind == "agent":
        # Labels of agents are names or key ids; the local name says which one it is.
        label = label if label and len(label) <= _LABEL else name.rpartition(":")[2]
    elif kind == "activity" or not label:
        label = _text(fields.get("kfm:run_id"))[:16] or name.rpartition(":")[2]
    commit = _text(fields.get("kfm:git_commit"))
    if commit:
        label = f"{_text(fields.get('kfm:entry_point')) or 'code'} at {commit[:12]}"
    return Node(name, kind, label, role, _text(fields.get("kfm:sha256")))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return _text(value[0]) if value else ""
    if isinstance(value, dict):
        return str(value.get("$", ""))
    return "" if value is None else str(value)


def _named(node: Node) -> str:
    return f"{node.role} “{node.label}”"


def _together(
    nodes: Mapping[str, Node], edges: Sequence[Edge]
) -> tuple[dict[str, Node], list[Edge]]:
    """Put files that only one activity made, and nothing used, into one box each."""
    makers: dict[str, set[str]] = defaultdict(set)
    for edge in edges:
        makers[edge.target].add(edge.source)
    used = {edge.source for edge in edges}
    groups: dict[str, list[Node]] = defaultdict(list)
    for name, node in nodes.items():
        if node.role == "File" and name not in used and len(makers[name]) == 1:
            groups[next(iter(makers[name]))].append(node)
    kept, gone = dict(nodes), {}
    for maker, members in groups.items():
        if len(members) < _PER_ROW:
            continue
        box = Node(
            f"files:{maker}",
            "entity",
            f"{len(members)} other files",
            "Files",
            members=tuple(sorted(member.label for member in members)),
        )
        kept[box.id] = box
        for member in members:
            del kept[member.id]
            gone[member.id] = box.id
    merged = {
        Edge(edge.source, gone.get(edge.target, edge.target), edge.verb): None for edge in edges
    }
    return kept, list(merged)


def _with_item(
    nodes: dict[str, Node], edges: list[Edge], item: Mapping[str, Any]
) -> tuple[dict[str, Node], list[Edge]]:
    """Add the STAC item under the release that it describes."""
    release = next((n for n in nodes.values() if n.role in {"Release", "Collection"}), None)
    if release is None or not item.get("id"):
        return nodes, edges
    assets = _mapping(item.get("assets"))
    described = Node(
        "stac:item",
        "entity",
        str(item["id"]),
        f"STAC item, {len(assets)} assets",
        members=tuple(sorted(map(str, assets))),
    )
    return {**nodes, described.id: described}, [
        *edges,
        Edge(release.id, described.id, "is described by"),
    ]


def _rows(nodes: Mapping[str, Node], edges: Sequence[Edge]) -> list[list[str]]:
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


def _draw(
    rows: Sequence[Sequence[str]], nodes: Mapping[str, Node], edges: Iterable[Edge]
) -> Markup:
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
        "the release at the bottom. The list beside it says the same.",
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
        element("text", shortened(node.role, _LABEL), x=middle, y=y + 20, class_="role"),
        element("text", shortened(node.label, _LABEL - 2), x=middle, y=y + 38, class_="label"),
    )
