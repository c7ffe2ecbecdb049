"""The lineage of a release as W3C PROV: data, code and run that made the weights, and who did it.

Rules kept here:

1. PROV-JSON is the signed form; PROV-N and Turtle are views made from it.
2. Everything that has bytes carries its digest as ``kfm:sha256``, so that lineage is traced by
   digest and not by name.
3. Nothing is claimed about the future: signing and deploying come after this document and leave
   their own records.

It does not read files. Judging a document is :func:`evaluate_prov`.
"""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import parse_json
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.metadata.facts import find_file
from kfm_mlflow.metadata.prov_constraints import (
    constraint_sentences,
    lineage_sentences,
    read_document,
    unify,
)
from kfm_mlflow.metadata.prov_lineage import Lineage
from kfm_mlflow.metadata.sentences import capped
from kfm_mlflow.metadata.stac import sorted_datasets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prov.model import ProvDocument

    from kfm_mlflow.metadata.facts import AgentFact, DatasetFact, FileFact, ReleaseFact, RunFact


def build_prov(
    release: ReleaseFact,
    files: Sequence[FileFact],
    datasets: Sequence[DatasetFact],
    run: RunFact,
    agents: Sequence[AgentFact],
) -> dict[str, Any]:
    """Build the lineage of a release.

    Training used the training data under the code as plan and generated the weights; composing
    used the weights and the validation data and generated the release and its other files.
    Files that others made came in by the run: it used their parents and generated them, each
    derived from the parents of its folder, and the weights, which are their index, from them.

    Args:
        release: What the release says about itself.
        files: Every file that exists by now; those under ``provenance/`` are left out.
        datasets: What was trained and validated on, and what it is made of.
        run: The training run.
        agents: Who trained and who signs; software carries out the activities.

    Returns:
        PROV-JSON values, ready for ``canonical_bytes``.

    Raises:
        InputError: The weights are missing, nobody is responsible, an agent acts for one that is
            not named, two things have one name, or the release came before the run ended.
    """
    from prov.model import PROV

    if not agents:
        raise InputError("nobody is responsible", where="agents", remedy="name who trained")
    lineage = Lineage(release, run)
    document = lineage.document
    ordered = sorted_datasets(datasets)
    data = [lineage.dataset(fact) for fact in ordered]
    code = lineage.code()
    training, composing = lineage.activities()
    weights_file = find_file(tuple(files), release.weights_path)
    weights = lineage.file(weights_file, "Weights")
    whole = lineage.whole(release.release_version, (lineage.kfm["Release"], PROV["Collection"]))
    document.wasGeneratedBy(weights, training, run.ended_at)
    document.used(composing, weights)
    document.wasGeneratedBy(whole, composing, release.released_at)
    document.wasDerivedFrom(whole, weights, composing)
    document.hadMember(whole, weights)
    parents = []
    for fact, entity in zip(ordered, data, strict=True):
        if fact.role == "parent":
            parents.append((fact.folders, entity))
            document.used(training, entity)
            document.wasDerivedFrom(whole, entity)
            continue
        activity, made = (training, weights) if fact.role == "training" else (composing, whole)
        document.used(activity, entity)
        document.wasDerivedFrom(made, entity, activity)
    for other in sorted(files, key=lambda fact: fact.path):
        # A document cannot hold the digest of itself or of views made from it.
        if other.path != release.weights_path and not other.path.startswith("provenance/"):
            entity = lineage.file(other, "File")
            if other.path in release.imported:
                document.wasGeneratedBy(entity, training)
                document.wasDerivedFrom(weights, entity, training)
                for folders, parent in parents:
                    if other.path.startswith(folders):
                        document.wasDerivedFrom(entity, parent, training)
            else:
                document.wasGeneratedBy(entity, composing)
            document.hadMember(whole, entity)
    if release.predecessor is not None:
        before = lineage.whole(release.predecessor, ())
        revision = {"prov:type": PROV["Revision"]}
        document.wasDerivedFrom(whole, before, other_attributes=revision)
    _attribute(
        lineage,
        agents,
        activities=(training, composing),
        code=code,
        weights=weights,
        whole=whole,
    )
    values: dict[str, Any] = json.loads(document.serialize(format="json"))
    return values


def _attribute(
    lineage: Lineage,
    facts: Sequence[AgentFact],
    *,
    activities: tuple[Any, Any],
    code: Any,
    weights: Any,
    whole: Any,
) -> None:
    document, known = lineage.document, lineage.agents(facts)
    software = [fact.id for fact in facts if fact.kind == "software"]
    people = [fact.id for fact in facts if fact.kind != "software"]
    signers = [fact.id for fact in facts if fact.signs]
    training, composing = activities
    for name in software or people:
        document.wasAssociatedWith(training, known[name], code)
        document.wasAssociatedWith(composing, known[name])
    for name in people or software:
        document.wasAttributedTo(weights, known[name])
    for name in signers or people or software:
        document.wasAttributedTo(whole, known[name])


def prov_views(prov_json: bytes) -> dict[str, str]:
    """Write a PROV-JSON document as PROV-N and as Turtle.

    Args:
        prov_json: The bytes of the document.

    Returns:
        ``provn`` and ``ttl``. Bundles are flattened, which Turtle cannot name.

    Raises:
        EvidenceError: The bytes are not a PROV-JSON document, or not one that can be written so.
    """
    document = read_document(parse_json(prov_json, where="provenance")).flattened()
    try:
        return {"provn": document.get_provn(), "ttl": _turtle(document)}
    except Exception as exc:  # the writers raise whatever a half-said relation makes them
        raise EvidenceError(f"has no such view ({type(exc).__name__})", where="provenance") from exc


def _turtle(document: ProvDocument) -> str:
    """Write a document as Turtle, the same bytes on every repeat.

    Qualified relations become blank nodes, which rdflib numbers at random and sorts by number;
    numbering them by their content makes the order follow from the document.
    """
    from rdflib import Graph
    from rdflib.compare import to_canonical_graph

    with warnings.catch_warnings():
        # rdflib 7.6 warns of its own use of Dataset.default_context.
        warnings.filterwarnings("ignore", "Dataset", DeprecationWarning)
        turtle = document.serialize(format="rdf", rdf_format="turtle")
    graph = Graph().parse(data=turtle, format="turtle")
    ordered = Graph(bind_namespaces="none")
    for prefix, uri in sorted(graph.namespaces()):
        ordered.bind(prefix, uri)
    for triple in sorted(to_canonical_graph(graph)):
        ordered.add(triple)
    return ordered.serialize(format="turtle")


def evaluate_prov(
    prov_json: Mapping[str, Any], *, weights_sha256: str, dataset_sha256s: Iterable[str]
) -> list[str]:
    """Return everything that is wrong with a lineage, as sentences.

    Args:
        prov_json: Parsed JSON.
        weights_sha256: Digest of the weights that lie in the release.
        dataset_sha256s: Digests of every data set that the release says it was made from.

    Returns:
        Violations of PROV-CONSTRAINTS, and every break in the derivation of the release from its
        weights and data sets, traced by digest. Empty when there are none.
    """
    try:
        document = unify(read_document(prov_json))
    except EvidenceError as exc:
        return [str(exc)]
    found = constraint_sentences(document)
    found += lineage_sentences(
        document, weights_sha256=weights_sha256, dataset_sha256s=sorted(set(dataset_sha256s))
    )
    return capped(list(dict.fromkeys(found)))
