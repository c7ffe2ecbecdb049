"""The lineage of a release as a picture and as a table, from its PROV-JSON and its STAC item.

Drawn from top to bottom, two things to a row, so that it can be read on a phone. What has the same
part in it stands together as one box (files, statements, council members), and who asked for a
decision, who decided and under which policy stands with the decision; the table names each.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kfm_mlflow.registry.graph_drawing import LABEL, Edge, Node, draw, layered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup

_FOLLOWED = "was followed by"
_KINDS = {"entity": "entity", "activity": "activity", "agent": "agent"}
# relation -> (from whom, to whom, how it reads); arrows point the way things flowed.
_FLOWS: dict[str, tuple[str, str, str]] = {
    "used": ("prov:entity", "prov:activity", "was used by"),
    "wasGeneratedBy": ("prov:activity", "prov:entity", "made"),
    "wasInformedBy": ("prov:informant", "prov:informed", _FOLLOWED),
    "wasAssociatedWith": ("prov:agent", "prov:activity", "carried out"),
    "actedOnBehalfOf": ("prov:responsible", "prov:delegate", "answers for"),
}
_MAX_NODES = 40
_TOGETHER = {
    "File": ("Files", "other files"),
    "Statement": ("Statements", "signed statements"),
    "CouncilMember": ("Council", "council members"),
}
"""Role -> role and label of the box that several of them share."""
_FOLDED = {"Actor": "asked by", "Registry": "decided by", "Policy": "under policy"}
"""Role -> how it is said with the decision, instead of an arrow to each."""


@dataclass(frozen=True)
class Lineage:
    """Picture and values of a lineage.

    Attributes:
        picture: The drawing.
        nodes: What is drawn, in its order.
        sentences: The same as sentences, one per arrow, and then what ended what.
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
    nodes, edges = _together(*_folded(nodes, edges))
    edges = _without_detours(nodes, edges)
    nodes, edges = _with_item(nodes, edges, item)
    truncated = len(nodes) > _MAX_NODES
    kept = {node.id: node for node in list(nodes.values())[:_MAX_NODES]}
    edges = [edge for edge in edges if edge.source in kept and edge.target in kept]
    rows = layered(kept, edges)
    order = [name for row in rows for name in row]
    edges.sort(key=lambda edge: (order.index(edge.target), order.index(edge.source)))
    sentences = tuple(
        f"{_named(kept[edge.source])} {edge.verb} {_named(kept[edge.target])}." for edge in edges
    )
    sentences += _endings(prov, kept)
    ordered = tuple(kept[name] for name in order)
    return Lineage(draw(rows, kept, edges), ordered, sentences, truncated)


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
        label = label if label and len(label) <= LABEL else name.rpartition(":")[2]
    elif name.startswith(("ledger:", "canary:")):
        label = f"{label}, {_text(fields.get('prov:startTime'))[:10]}"
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


def _folded(nodes: Mapping[str, Node], edges: Sequence[Edge]) -> tuple[dict[str, Node], list[Edge]]:
    """Say who asked, who decided, and by which policy with the decision itself."""
    gone = {name: node for name, node in nodes.items() if node.role in _FOLDED}
    said: dict[str, dict[str, None]] = defaultdict(dict)
    for edge in edges:
        node = gone.get(edge.source)
        if node is not None:
            said[edge.target][f"{_FOLDED[node.role]} {node.digest or node.label}"] = None
    kept = {
        name: replace(node, members=tuple(sorted(said[name]))) if name in said else node
        for name, node in nodes.items()
        if name not in gone
    }
    return kept, [edge for edge in edges if edge.source in kept and edge.target in kept]


def _together(
    nodes: Mapping[str, Node], edges: Sequence[Edge]
) -> tuple[dict[str, Node], list[Edge]]:
    """Put things of one role that came from, and went to, the same into one box."""
    made, used = defaultdict(set), defaultdict(set)
    for edge in edges:
        made[edge.target].add(edge.source)
        used[edge.source].add(edge.target)
    groups: dict[tuple[str, frozenset[str], frozenset[str]], list[Node]] = defaultdict(list)
    for name, node in nodes.items():
        if node.role in _TOGETHER and (made[name] or used[name]):
            groups[node.role, frozenset(made[name]), frozenset(used[name])].append(node)
    kept, boxes = dict(nodes), {}
    for (role, _, _), members in groups.items():
        if len(members) == 1:
            continue
        title, label = _TOGETHER[role]
        box = Node(
            f"together:{members[0].id}",
            members[0].kind,
            f"{len(members)} {label}",
            title,
            members=tuple(sorted(member.label for member in members)),
        )
        kept[box.id] = box
        for member in members:
            del kept[member.id]
            boxes[member.id] = box.id
    merged = {
        Edge(boxes.get(edge.source, edge.source), boxes.get(edge.target, edge.target), edge.verb)
        for edge in edges
    }
    return kept, sorted(merged, key=lambda edge: (edge.target, edge.source, edge.verb))


def _without_detours(nodes: Mapping[str, Node], edges: Sequence[Edge]) -> list[Edge]:
    """Leave out arrows that only repeat what a way over other things says."""
    targets: dict[str, set[str]] = defaultdict(set)
    for edge in edges:
        if edge.verb != _FOLLOWED:
            targets[edge.source].add(edge.target)
    deployments = {name for name, node in nodes.items() if node.role == "Deployment"}
    after = {target for name in deployments for target in targets[name]}

    def repeats(edge: Edge) -> bool:
        if edge.verb == _FOLLOWED:
            return any(edge.target in targets[middle] for middle in targets[edge.source])
        return nodes[edge.source].role == "Release" and edge.target in after

    return [edge for edge in edges if not repeats(edge)]


def _endings(prov: Mapping[str, Any], kept: Mapping[str, Node]) -> tuple[str, ...]:
    ends = sorted(
        (str(fields.get("prov:activity")), str(fields.get("prov:entity")))
        for values in _mapping(prov.get("wasInvalidatedBy")).values()
        for fields in [_mapping(values)]
    )
    return tuple(
        f"{_named(kept[activity])} ended {_named(kept[entity])}."
        for activity, entity in ends
        if activity in kept and entity in kept
    )


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
