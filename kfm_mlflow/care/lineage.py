"""Restrictions along a lineage: an output is never less restricted than any of its inputs.

A restriction is an element of a join-semilattice: the lowest ceiling, all labels, the narrowest
scope, and whether commercial use is excluded. What an entity must bear is the join over everything
that it was derived from, through any number of steps, over activities, collections,
specialisations, alternates and nested bundles; cycles are no obstacle, the join is a fixed point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.care.labels import effect_of, parse_label
from kfm_mlflow.care.licences import read_licence
from kfm_mlflow.care.modes import MAX_H3_RESOLUTION, mode_resolution
from kfm_mlflow.care.screen_subject import Subject, is_resolution
from kfm_mlflow.care.screen_terms import licences_of
from kfm_mlflow.care.screening import CareFinding, Status
from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

PROV_PATH = "provenance/provenance.json"
SCOPES = ("public-stream", "public-generalized", "controlled", "restricted", "withheld")
"""Scopes from widest to narrowest; one that is unknown counts as ``restricted``."""
_CLASSES = {
    "public-safe": 0,
    "approved": 0,
    "generalized": 1,
    "review-required": 2,
    "revision": 2,
    "controlled": 2,
    "restricted": 3,
    "withheld": 4,
}
_RESTRICTED_RANK = 3


@dataclass(frozen=True)
class Restriction:
    """What something may not be used for.

    Attributes:
        ceiling: Finest H3 resolution that may be published.
        labels: Labels that go along, verbatim.
        rank: Place in :data:`SCOPES` of the widest scope that is allowed.
        is_non_commercial: Whether commercial use is excluded.
    """

    ceiling: int = MAX_H3_RESOLUTION
    labels: frozenset[str] = frozenset()
    rank: int = 0
    is_non_commercial: bool = False

    def join(self, other: Restriction) -> Restriction:
        """Return the weakest restriction that is no weaker than either."""
        return Restriction(
            min(self.ceiling, other.ceiling),
            self.labels | other.labels,
            max(self.rank, other.rank),
            self.is_non_commercial or other.is_non_commercial,
        )

    def covers(self, other: Restriction) -> bool:
        """Return whether this is no weaker than another."""
        return self.join(other) == self


NO_RESTRICTION = Restriction()


def scope_rank(scope: object) -> int:
    """Return how narrow a scope is; what is unknown counts as restricted."""
    if isinstance(scope, str) and scope in SCOPES:
        return SCOPES.index(scope)
    return _RESTRICTED_RANK


def _values(attributes: Mapping[str, Any], *names: str) -> Iterator[Any]:
    for key, value in attributes.items():
        if str(key).rsplit(":", 1)[-1] in names:
            for one in value if isinstance(value, list) else [value]:
                yield one.get("$") if isinstance(one, Mapping) and "$" in one else one


def declared(attributes: Mapping[str, Any]) -> Restriction:
    """Return what the attributes of a PROV entity say that it is restricted to.

    Args:
        attributes: ``kfm:label(s)``, ``kfm:h3_max_resolution``, ``kfm:scope``,
            ``kfm:publication_class`` or ``kfm:care_status``, ``kfm:license``. A value that cannot
            be read is taken for the strictest.
    """
    found = NO_RESTRICTION
    for value in _values(attributes, "label_type", "labels", "tk_label", "bc_label", "care_label"):
        found = found.join(of_label(value))
    for value in _values(attributes, "h3_max_resolution", "h3_resolution_ceiling"):
        number = int(value) if isinstance(value, str) and value.isdigit() else value
        found = found.join(Restriction(ceiling=number if is_resolution(number) else 0))
    for value in _values(attributes, "scope", "care_scope"):
        found = found.join(Restriction(rank=scope_rank(value)))
    for value in _values(attributes, "publication_class", "care_status", "consent_scope"):
        rank = _CLASSES.get(str(value), scope_rank(value))
        found = found.join(Restriction(rank=rank))
    for value in _values(attributes, "license"):
        if read_licence(value).commercial is False:
            found = found.join(Restriction(is_non_commercial=True))
    return found


def of_label(value: Any) -> Restriction:
    """Return what a label restricts; an unknown one keeps from every public scope."""
    try:
        label = parse_label(value, where="label")
    except DataError:
        return Restriction(labels=frozenset({str(value)}), rank=_RESTRICTED_RANK)
    rank = _RESTRICTED_RANK if effect_of(label.label_type).is_withheld else 0
    ceiling = effect_of(label.label_type).ceiling
    return Restriction(
        MAX_H3_RESOLUTION if ceiling is None else ceiling,
        frozenset({label.name}),
        rank,
        label.label_type == "non_commercial",
    )


# Relation -> (what comes out, what goes in), in PROV-JSON.
_EDGES = {
    "wasDerivedFrom": ("prov:generatedEntity", "prov:usedEntity"),
    "wasGeneratedBy": ("prov:entity", "prov:activity"),
    "used": ("prov:activity", "prov:entity"),
    "wasInformedBy": ("prov:informed", "prov:informant"),
    "hadMember": ("prov:collection", "prov:entity"),
    "specializationOf": ("prov:specificEntity", "prov:generalEntity"),
    "mentionOf": ("prov:specificEntity", "prov:generalEntity"),
    "alternateOf": ("prov:alternate1", "prov:alternate2"),
    "wasInfluencedBy": ("prov:influencee", "prov:influencer"),
}
_BOTH_WAYS = frozenset({"alternateOf"})


@dataclass(frozen=True)
class Graph:
    """A lineage as a graph.

    Attributes:
        entities: Entity -> its attributes.
        inputs: Node -> what it came from.
    """

    entities: Mapping[str, Mapping[str, Any]]
    inputs: Mapping[str, frozenset[str]]


def _listed(value: Any) -> list[Mapping[str, Any]]:
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, Mapping)]


def read_graph(document: Any) -> Graph:
    """Read the entities and steps of a PROV-JSON document, bundles included.

    Args:
        document: Parsed JSON; parts that are not PROV are passed over.
    """
    entities: dict[str, dict[str, Any]] = {}
    inputs: dict[str, set[str]] = {}
    rest = [document]
    while rest:
        part = rest.pop()
        if not isinstance(part, Mapping):
            continue
        for name, value in _items(part.get("entity")):
            for attributes in _listed(value):
                known = entities.setdefault(name, {})
                for key, item in attributes.items():
                    both = [*_as_list(known.get(key, [])), *_as_list(item)]
                    known[key] = both
        for relation, (out, into) in _EDGES.items():
            for _, value in _items(part.get(relation)):
                for edge in _listed(value):
                    for source in _as_list(edge.get(into, [])):
                        _link(inputs, edge.get(out), source, both=relation in _BOTH_WAYS)
        rest += [value for _, value in _items(part.get("bundle"))]
    return Graph(entities, {name: frozenset(sources) for name, sources in inputs.items()})


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    return value.items() if isinstance(value, Mapping) else ()


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _link(inputs: dict[str, set[str]], out: Any, source: Any, *, both: bool) -> None:
    if isinstance(out, str) and isinstance(source, str):
        inputs.setdefault(out, set()).add(source)
        if both:
            inputs.setdefault(source, set()).add(out)


def restrictions(graph: Graph) -> dict[str, Restriction]:
    """Return what every node must bear: its own restriction joined with those of all inputs."""
    found = {name: declared(attributes) for name, attributes in graph.entities.items()}
    outputs: dict[str, set[str]] = {}
    for name, sources in graph.inputs.items():
        for source in sources:
            outputs.setdefault(source, set()).add(name)
    rest = list(found)
    while rest:
        source = rest.pop()
        for name in outputs.get(source, ()):
            before = found.get(name, NO_RESTRICTION)
            after = before.join(found.get(source, NO_RESTRICTION))
            if after != before or name not in found:
                found[name] = after
                rest.append(name)
    return found


def _of_release(subject: Subject) -> Restriction:
    """Return what the release itself promises to be restricted to, by block and licence."""
    care = subject.care
    mode = care.get("masking")
    limits = [care.get("h3_max_resolution"), mode_resolution(mode) if isinstance(mode, str) else 0]
    known = (int(limit) for limit in limits if limit is not None and is_resolution(limit))
    ceiling = min(known, default=MAX_H3_RESOLUTION)
    names: set[str] = set()
    carried = care.get("labels")
    for value in carried if isinstance(carried, list) else []:
        try:
            names.add(parse_label(value, where="care.labels").name)
        except DataError:
            continue
    licences = licences_of(subject.documents).values()
    closed = bool(licences) and all(read_licence(one).commercial is False for one in licences)
    return Restriction(ceiling, frozenset(names), scope_rank(care.get("scope")), closed)


def _is_release(attributes: Mapping[str, Any]) -> bool:
    return any(str(value).rsplit(":", 1)[-1] == "Release" for value in _values(attributes, "type"))


def lineage(subject: Subject) -> Iterator[CareFinding]:
    """Ask whether the release, and every entity on the way, bears what its inputs bear."""
    document = subject.documents.get(PROV_PATH)
    if document is None:
        return
    graph = read_graph(document)
    owed = restrictions(graph)
    releases = [name for name, attributes in graph.entities.items() if _is_release(attributes)]
    promised = _of_release(subject)
    for name in releases or sorted(graph.entities):
        yield from _less_than(subject, promised, owed[name], name, "the release")
    for name, attributes in sorted(graph.entities.items()):
        own = declared(attributes)
        # An entity that says nothing inherits; one that names another scope claims to be freer.
        if name not in releases and list(_values(attributes, "scope", "publication_class")):
            stated = Restriction(own.ceiling, owed[name].labels, own.rank, is_non_commercial=True)
            if own.rank < owed[name].rank:
                yield from _less_than(subject, stated, owed[name], name, "an entity")


def _less_than(
    subject: Subject, promised: Restriction, owed: Restriction, name: str, what: str
) -> Iterator[CareFinding]:
    if promised.covers(owed):
        return
    where = f"{PROV_PATH}: {subject.regions.shown(f'$.entity[{name!r}]')}"

    def found(said: str, observed: str, limit: str, unit: str = "") -> CareFinding:
        what_ = f"{what} is less restricted than its inputs: {said}"
        return CareFinding(Status.CONFLICT, what_, "C-F03", where, observed, limit, unit)

    if promised.rank < owed.rank:
        yield found("scope", SCOPES[promised.rank], SCOPES[owed.rank])
    if promised.ceiling > owed.ceiling:
        yield found("resolution", f"r{promised.ceiling}", f"r{owed.ceiling}", "H3 resolution")
    if missing := owed.labels - promised.labels:
        yield found("labels", f"{len(missing)} not carried on", "all carried on")
    if owed.is_non_commercial and not promised.is_non_commercial:
        yield found("licence", "commercial use allowed or unknown", "non-commercial")
