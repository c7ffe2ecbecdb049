"""Constraints on a PROV document that its library does not check, and tracing by digest.

The constraints are those of W3C PROV-CONSTRAINTS (2013) that a lineage of ours can break: a start
precedes its end, generation lies within its activity and is unique and precedes usage, usage
precedes invalidation, derivation has no cycle, what is referred to is declared, and nothing is both
entity and activity.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import NAMESPACE, parse_digest
from kfm_mlflow.errors import EvidenceError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prov.model import ProvDocument

KFM = f"{NAMESPACE}ns#"


def read_document(prov_json: Any) -> ProvDocument:
    """Read PROV-JSON values.

    Raises:
        EvidenceError: They are not a PROV document.
    """
    from prov.model import ProvDocument

    try:
        return ProvDocument.deserialize(content=json.dumps(prov_json), format="json")
    except Exception as exc:  # the parser raises whatever a foreign value makes it stumble over
        raise EvidenceError(f"not PROV-JSON ({type(exc).__name__})", where="provenance") from exc


def unify(document: ProvDocument) -> ProvDocument:
    """Flatten bundles and merge the records of one thing.

    Raises:
        EvidenceError: Two records of one thing contradict each other.
    """
    try:
        return document.flattened().unified()
    except Exception as exc:  # ProvException, or whatever contradicting values make it raise
        raise EvidenceError(f"records of one thing contradict ({exc})", where="provenance") from exc


def _utc(instant: Any) -> datetime | None:
    if not isinstance(instant, datetime):
        return None
    return instant if instant.utcoffset() is not None else instant.replace(tzinfo=UTC)


@dataclass
class Records:
    """The records of a document, by kind."""

    entities: dict[Any, Any] = field(default_factory=dict)
    activities: dict[Any, Any] = field(default_factory=dict)
    agents: dict[Any, Any] = field(default_factory=dict)
    relations: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def span(self, activity: Any) -> tuple[datetime | None, datetime | None]:
        """Return start and end of an activity, as far as they are said."""
        record = self.activities.get(activity)
        if record is None:
            return None, None
        return _utc(record.get_startTime()), _utc(record.get_endTime())


def read_records(document: ProvDocument) -> Records:
    """Return the records of a document by kind.

    Args:
        document: As :func:`unify` returns it.
    """
    from prov.model import ProvActivity, ProvAgent, ProvEntity

    found = Records()
    for record in document.get_records():
        if isinstance(record, ProvEntity):
            found.entities[record.identifier] = record
        elif isinstance(record, ProvActivity):
            found.activities[record.identifier] = record
        elif isinstance(record, ProvAgent):
            found.agents[record.identifier] = record
        else:
            kind = record.get_type().localpart
            formal = {key.localpart: value for key, value in record.formal_attributes}
            found.relations.append((kind, formal))
    return found


_REFERENCES = {
    "entity": "entities",
    "generatedEntity": "entities",
    "usedEntity": "entities",
    "plan": "entities",
    "collection": "entities",
    "specificEntity": "entities",
    "generalEntity": "entities",
    "activity": "activities",
    "informed": "activities",
    "informant": "activities",
    "agent": "agents",
    "delegate": "agents",
    "responsible": "agents",
}


def _undeclared(records: Records) -> list[str]:
    found: list[str] = []
    for kind, formal in records.relations:
        for role, value in formal.items():
            table = _REFERENCES.get(role)
            if table is None or value is None or value in getattr(records, table):
                continue
            # An entity may also be attributed to, or be, an agent.
            if role == "entity" and value in records.agents:
                continue
            found.append(f"{kind}: {value} is not declared among the {table}")
    return found


def _typing(records: Records) -> list[str]:
    both = records.activities.keys() & (records.entities.keys() | records.agents.keys())
    return [f"{name}: cannot be an activity and something else" for name in both]


def _spans(records: Records) -> list[str]:
    found: list[str] = []
    for name in records.activities:
        start, end = records.span(name)
        if start and end and end < start:
            found.append(f"{name}: ends before it starts")
    return found


def _generations(records: Records) -> tuple[list[str], dict[Any, datetime]]:
    found: list[str] = []
    by: dict[Any, set[Any]] = defaultdict(set)
    made_at: dict[Any, datetime] = {}
    for kind, formal in records.relations:
        if kind != "Generation":
            continue
        entity, activity, instant = formal["entity"], formal["activity"], _utc(formal["time"])
        if activity is not None:
            by[entity].add(activity)
        start, end = records.span(activity)
        if instant and ((start and instant < start) or (end and instant > end)):
            found.append(f"{entity}: is generated outside the time of {activity}")
        earliest = instant or start
        if earliest:
            made_at[entity] = min(earliest, made_at.get(entity, earliest))
    found += [f"{entity}: is generated twice" for entity, made in by.items() if len(made) > 1]
    return found, made_at


def _usages(records: Records, made_at: dict[Any, datetime]) -> list[str]:
    found: list[str] = []
    gone_at: dict[Any, datetime] = {}
    for kind, formal in records.relations:
        instant = _utc(formal["time"]) if kind == "Invalidation" else None
        if instant:
            gone_at[formal["entity"]] = min(instant, gone_at.get(formal["entity"], instant))
    found += [
        f"{entity}: is invalidated before it is generated"
        for entity, gone in gone_at.items()
        if entity in made_at and gone < made_at[entity]
    ]
    for kind, formal in records.relations:
        if kind != "Usage":
            continue
        entity, instant = formal["entity"], _utc(formal["time"])
        start, end = records.span(formal["activity"])
        earliest, latest = instant or start, instant or end
        made, gone = made_at.get(entity), gone_at.get(entity)
        if made and latest and latest < made:
            found.append(f"{entity}: is used before it is generated")
        if gone and earliest and earliest > gone:
            found.append(f"{entity}: is used after it is invalidated")
    return found


def derivations(records: Records) -> list[tuple[Any, Any]]:
    """Return (made, used) of every derivation that names both."""
    return [
        (formal["generatedEntity"], formal["usedEntity"])
        for kind, formal in records.relations
        if kind == "Derivation" and None not in (formal["generatedEntity"], formal["usedEntity"])
    ]


def _halves(records: Records) -> list[str]:
    """Return derivations that do not say from what to what (PROV-DM 5.2.1 demands both)."""
    return [
        f"Derivation: names no {role}"
        for kind, formal in records.relations
        if kind == "Derivation"
        for role in ("generatedEntity", "usedEntity")
        if formal[role] is None
    ]


def _cycles(records: Records) -> list[str]:
    import networkx as nx

    graph: nx.DiGraph[Any] = nx.DiGraph(derivations(records))
    if nx.is_directed_acyclic_graph(graph):
        return []
    steps = nx.find_cycle(graph)
    return [f"{steps[0][0]}: is derived from itself over {len(steps)} step(s)"]


def constraint_sentences(document: ProvDocument) -> list[str]:
    """Return the constraints that a unified document breaks, sorted.

    Args:
        document: As :func:`unify` returns it.
    """
    records = read_records(document)
    generations, made_at = _generations(records)
    found = _typing(records) + _spans(records) + generations
    found += _usages(records, made_at) + _undeclared(records) + _halves(records)
    found += _cycles(records)
    return sorted(set(found))


def types_of(entity: Any) -> set[str]:
    """Return the types of an entity as URIs."""
    return {getattr(value, "uri", str(value)) for value in entity.get_asserted_types()}


def digests_of(entity: Any) -> set[str]:
    """Return every ``kfm:sha256`` of an entity as ``sha256:<hex>``; what is no digest as it is."""
    found: set[str] = set()
    for key, value in entity.extra_attributes:
        if key.uri == f"{KFM}sha256":
            try:
                found.add(parse_digest(str(value)))
            except InputError:
                found.add(str(value))
    return found


def reached_from(start: Any, edges: Iterable[tuple[Any, Any]]) -> set[Any]:
    """Return everything that edges (from what was made to what it was made of) lead to."""
    sources: dict[Any, list[Any]] = defaultdict(list)
    for made, used in edges:
        sources[made].append(used)
    reached, waiting = {start}, [start]
    while waiting:
        for source in sources[waiting.pop()]:
            if source not in reached:
                reached.add(source)
                waiting.append(source)
    return reached


def lineage_sentences(
    document: ProvDocument, *, weights_sha256: str, dataset_sha256s: Iterable[str]
) -> list[str]:
    """Return where the release's derivation from its weights and data sets breaks.

    Args:
        document: As :func:`unify` returns it.
        weights_sha256: Digest that the weights must carry.
        dataset_sha256s: Digests of which each must be reached; no other data set may be.
    """
    records = read_records(document)
    releases = [n for n, e in records.entities.items() if f"{KFM}Release" in types_of(e)]
    if len(releases) != 1:
        return [f"{len(releases)} entities are a kfm:Release; exactly one must be"]
    reached = reached_from(releases[0], derivations(records))
    reached_entities = [records.entities[n] for n in reached if n in records.entities]
    by_kind: dict[str, set[str]] = {"Weights": set(), "Dataset": set()}
    found: list[str] = []
    for entity in reached_entities:
        kinds = [kind for kind in by_kind if f"{KFM}{kind}" in types_of(entity)]
        digests = digests_of(entity)
        if kinds and len(digests) != 1:
            found.append(f"{entity.identifier}: must carry one kfm:sha256")
        for kind in kinds:
            by_kind[kind] |= digests
    return sorted(found) + _compare(by_kind, weights_sha256, dataset_sha256s)


def _normal(digest: str) -> str:
    try:
        return parse_digest(digest)
    except InputError:
        return digest


def _compare(
    by_kind: dict[str, set[str]], weights_sha256: str, dataset_sha256s: Iterable[str]
) -> list[str]:
    wanted = [_normal(digest) for digest in dataset_sha256s]
    found: list[str] = []
    if not wanted:
        found.append("the release names no data set that its lineage could lead to")
    if by_kind["Weights"] != {_normal(weights_sha256)}:
        found.append("the release is not derived from exactly the weights that lie in it")
    found += [
        f"no derivation leads from the release to the data set {digest}"
        for digest in wanted
        if digest not in by_kind["Dataset"]
    ]
    found += [
        f"the release is derived from the data set {digest}, which it does not name"
        for digest in sorted(by_kind["Dataset"] - set(wanted))
    ]
    return found
