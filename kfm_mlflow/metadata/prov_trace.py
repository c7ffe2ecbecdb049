"""Walking a lineage back by digest: from model files, or from what is deployed, to the data.

An entity is recognised by its ``kfm:sha256`` and never by its name. The way back leads over
generation, usage and derivation alike: a file that says only which activity made it comes from
everything that activity used.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.metadata.prov_constraints import (
    KFM,
    constraint_sentences,
    digests_of,
    read_document,
    read_records,
    types_of,
    unify,
)
from kfm_mlflow.metadata.sentences import capped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kfm_mlflow.metadata.prov_constraints import Records

_RELEASE, _DATASET, _DEPLOYMENT = f"{KFM}Release", f"{KFM}Dataset", f"{KFM}Deployment"
_TRAINING = "training"
_DIGEST_LENGTH = len("sha256:") + 64
BreakKind = Literal["unreadable", "broken", "undigested", "disagrees", "cycle"]


@dataclass(frozen=True)
class Break:
    """One place where the way from a model to its data does not hold.

    Attributes:
        kind: ``broken`` leads nowhere; ``undigested`` is an entity without one SHA-256;
            ``disagrees`` is a digest that is not the one that is known; ``cycle`` comes from
            itself; ``unreadable`` is no lineage at all.
        subject: The entity, or the path of the file.
        sentence: What is wrong, beginning with the subject.
    """

    kind: BreakKind
    subject: str
    sentence: str


class _Graph:
    """What came from what, in one unified document."""

    def __init__(self, records: Records) -> None:
        self.entities = records.entities
        self.names = tuple(dict.fromkeys([*records.entities, *records.activities]))
        self._declared = frozenset(self.names)
        self._sources: dict[Any, list[Any]] = defaultdict(list)
        for kind, formal in records.relations:
            ends = _ENDS.get(kind)
            if ends and None not in (formal[ends[0]], formal[ends[1]]):
                self._sources[formal[ends[0]]].append(formal[ends[1]])

    def of_type(self, uri: str) -> list[Any]:
        """Return the names of the entities of a type."""
        return [name for name, entity in self.entities.items() if uri in types_of(entity)]

    def walk(self, start: Any) -> tuple[list[Any], list[Break]]:
        """Return what a thing came from, itself included, and where the way breaks."""
        reached, waiting, breaks = {start: None}, [start], []
        while waiting:
            name = waiting.pop()
            for source in self._sources[name]:
                if source not in self._declared:
                    text = f"{name}: comes from {source}, which is not declared"
                    breaks.append(Break("broken", str(name), text))
                elif source not in reached:
                    reached[source] = None
                    waiting.append(source)
        return list(reached), breaks

    def cycles(self, names: Iterable[Any]) -> list[Break]:
        """Return the first circle among some things."""
        import networkx as nx

        within = dict.fromkeys(names)
        graph: nx.DiGraph[Any] = nx.DiGraph(
            (name, source) for name in within for source in self._sources[name] if source in within
        )
        if nx.is_directed_acyclic_graph(graph):
            return []
        steps = nx.find_cycle(graph)
        name = min((str(step[0]) for step in steps if step[0] in self.entities), default="")
        name = name or str(steps[0][0])
        return [Break("cycle", name, f"{name}: comes from itself over {len(steps)} step(s)")]


_ENDS = {
    "Generation": ("entity", "activity"),
    "Usage": ("activity", "entity"),
    "Derivation": ("generatedEntity", "usedEntity"),
}
"""Relation -> (what came, from what)."""


@dataclass(frozen=True)
class _Data:
    """Data sets that a walk reached: digest -> name of the entity, and those without one digest."""

    names: Mapping[str, str]
    breaks: tuple[Break, ...]


def _is_digest(text: str) -> bool:
    return text.startswith("sha256:") and len(text) == _DIGEST_LENGTH


def _data(graph: _Graph, reached: Iterable[Any]) -> _Data:
    names: dict[str, str] = {}
    breaks: list[Break] = []
    for name in reached:
        entity = graph.entities.get(name)
        if entity is None or _DATASET not in types_of(entity):
            continue
        found = digests_of(entity)
        if len(found) == 1 and _is_digest(next(iter(found))):
            names[next(iter(found))] = str(name)
        else:
            text = f"{name}: is a data set without one sha256"
            breaks.append(Break("undigested", str(name), text))
    return _Data(names, tuple(breaks))


def trace_release(
    prov_json: Any, *, model_files: Mapping[str, str], datasets: Mapping[str, frozenset[str]]
) -> tuple[Break, ...]:
    """Walk from every file of a model, and from the release, to each data set.

    Args:
        prov_json: Parsed JSON of the lineage.
        model_files: Path -> ``sha256:<hex>`` of every file that holds weights, as it lies there.
        datasets: ``sha256:<hex>`` -> roles, of every data set that the release names elsewhere.

    Returns:
        Every break, each once. A file must lead to every ``training`` data set, the release to
        every one, and neither to any other. Nothing raises on bad evidence.
    """
    try:
        graph = _Graph(read_records(unify(read_document(prov_json))))
    except EvidenceError as exc:
        return (Break("unreadable", "provenance", str(exc)),)
    trained = {digest for digest, roles in datasets.items() if _TRAINING in roles}
    breaks: list[Break] = []
    if not model_files:
        breaks.append(Break("broken", "model", "model: the release holds no file with weights"))
    if not datasets:
        breaks.append(Break("broken", "data", "data: the release names no data set"))
    everything: dict[Any, None] = {}
    for path, digest in sorted(model_files.items()):
        starts, wrong = _of_file(graph, path, digest)
        breaks += wrong
        for start in starts:
            reached, found = graph.walk(start)
            everything |= dict.fromkeys(reached)
            breaks += [*found, *_compared(path, _data(graph, reached), trained, datasets)]
    releases = graph.of_type(_RELEASE)
    if len(releases) != 1:
        text = f"release: {len(releases)} entities are a kfm:Release; exactly one must be"
        breaks.append(Break("broken", "release", text))
    for release in releases:
        reached, found = graph.walk(release)
        everything |= dict.fromkeys(reached)
        breaks += [*found, *_compared(str(release), _data(graph, reached), set(datasets), datasets)]
    breaks += graph.cycles(everything)
    return tuple(dict.fromkeys(breaks))


def _of_file(graph: _Graph, path: str, digest: str) -> tuple[list[Any], list[Break]]:
    """Return the entities that are a file, by digest, and those that only claim its path."""
    starts, breaks = [], []
    for name, entity in graph.entities.items():
        found = digests_of(entity)
        paths = {str(value) for key, value in entity.extra_attributes if key.uri == f"{KFM}path"}
        if path not in paths:
            continue
        if found == {digest}:
            starts.append(name)
        else:
            said = ", ".join(sorted(found)) or "nothing"
            kind: BreakKind = "disagrees" if found else "undigested"
            text = f"{name}: carries {said} as the digest of {path}, which is {digest}"
            breaks.append(Break(kind, str(name), text))
    if not starts and not breaks:
        breaks.append(Break("broken", path, f"{path}: no entity of the lineage is this file"))
    return starts, breaks


def _compared(
    subject: str, data: _Data, wanted: set[str], known: Mapping[str, frozenset[str]]
) -> list[Break]:
    breaks = list(data.breaks)
    if not data.names and not breaks:
        breaks.append(Break("broken", subject, f"{subject}: leads to no data set"))
        return breaks
    breaks += [
        Break("broken", subject, f"{subject}: does not lead to the data set {digest}")
        for digest in sorted(wanted - data.names.keys())
    ]
    breaks += [
        Break("disagrees", name, f"{name}: carries {digest}, which no data set of the release has")
        for digest, name in sorted(data.names.items())
        if digest not in known
    ]
    return breaks


def evaluate_deployed(prov_json: Any) -> list[str]:
    """Return everything that is wrong with the lineage of a release and its deployment.

    Args:
        prov_json: Parsed JSON of the extended document.

    Returns:
        Violations of PROV-CONSTRAINTS, and every break on the way from each deployment of the
        release to its data sets, as sentences. Empty when there are none.
    """
    try:
        document = unify(read_document(prov_json))
    except EvidenceError as exc:
        return [str(exc)]
    found = constraint_sentences(document)
    graph = _Graph(read_records(document))
    deployments = graph.of_type(_DEPLOYMENT)
    if not deployments:
        found.append("nothing is a kfm:Deployment")
    releases = set(graph.of_type(_RELEASE))
    for name in deployments:
        reached, breaks = graph.walk(name)
        if releases.isdisjoint(reached):
            continue  # Another version's, of which this document tells no more.
        data = _data(graph, reached)
        breaks += _compared(str(name), data, set(), dict.fromkeys(data.names, frozenset()))
        found += [item.sentence for item in breaks]
    found += [item.sentence for item in graph.cycles(graph.names)]
    return capped(list(dict.fromkeys(found)))
