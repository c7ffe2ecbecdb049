"""Lineage: read by independent tools, traced by digest, and held to PROV-CONSTRAINTS."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metadata import made_facts

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.metadata.facts import AgentFact
from kfm_mlflow.metadata.prov import build_prov, evaluate_prov, prov_views

FILES = made_facts.make_files()
WEIGHTS = next(file for file in FILES if file.path == "model.pt")
DATA = made_facts.make_datasets()
DIGESTS = tuple(fact.sha256 for fact in DATA)
TRAINING_RUN = "run:training-0123456789abcdef"
COMPOSING = "run:composing-climate-downscaler-v1-2-0"
RELEASE = "release:climate-downscaler-v1-2-0"
TRAINING_DATA = "data:training-era-interim-monthly-aaaaaaaaaaaa"
PT = f"file:model-pt-{WEIGHTS.sha256[7:19]}"


def make_prov(**changes):
    release = replace(made_facts.make_release(), **changes)
    return build_prov(release, FILES, DATA, made_facts.make_run(), made_facts.make_agents())


GOOD = make_prov()


def judge(document, *, weights_sha256=WEIGHTS.sha256, dataset_sha256s=DIGESTS):
    return evaluate_prov(document, weights_sha256=weights_sha256, dataset_sha256s=dataset_sha256s)


def test_lineage_of_a_complete_release_has_no_problem():
    assert judge(GOOD) == []


def test_release_without_predecessor_run_id_or_commit_has_a_valid_lineage():
    run = replace(made_facts.make_run(), run_id=None, git_commit=None, git_url=None)
    release = replace(made_facts.make_release(), predecessor=None)
    document = build_prov(release, FILES, DATA, run, made_facts.make_agents()[2:])
    assert judge(document) == []


def test_rdflib_finds_the_way_from_the_release_to_both_data_sets_in_the_turtle_view():
    import rdflib

    graph = rdflib.Graph().parse(data=prov_views(canonical_bytes(GOOD))["ttl"], format="turtle")
    rows = graph.query(
        """
        PREFIX prov: <http://www.w3.org/ns/prov#>
        PREFIX kfm: <https://kfm-mlflow.github.io/ns#>
        SELECT ?digest WHERE {
          ?release a kfm:Release .
          ?release (prov:wasDerivedFrom|(prov:qualifiedDerivation/prov:entity))+ ?data .
          ?data a kfm:Dataset ; kfm:sha256 ?digest .
        }"""
    )
    assert {str(row[0]) for row in rows} == set(DIGESTS)


def test_prov_library_reads_both_json_and_provn_as_the_same_document():
    from prov.model import ProvDocument

    written = ProvDocument.deserialize(content=canonical_bytes(GOOD).decode(), format="json")
    provn = prov_views(canonical_bytes(GOOD))["provn"]
    assert ProvDocument.deserialize(content=provn, format="provn") == written


def test_trainer_acts_through_software_and_the_signer_answers_for_the_release():
    delegated = {
        (d["prov:delegate"], d["prov:responsible"]) for d in GOOD["actedOnBehalfOf"].values()
    }
    assert ("agent:kfm-mlflow", "agent:trainer-example-org") in delegated
    attributed = {(a["prov:entity"], a["prov:agent"]) for a in GOOD["wasAttributedTo"].values()}
    assert (RELEASE, "agent:climate-group") in attributed
    assert (RELEASE, "agent:trainer-example-org") not in attributed


def test_lineage_does_not_hold_digests_of_its_own_folder():
    assert not [name for name in GOOD["entity"] if name.startswith("file:provenance")]


def test_foreign_weights_are_found():
    assert "not derived from exactly the weights" in judge(GOOD, weights_sha256="cc" * 32)[0]


@pytest.mark.parametrize("digest", ["", "sha256:xyz"])
def test_unknown_weights_are_a_problem_and_not_an_error(digest):
    assert judge(GOOD, weights_sha256=digest) != []


@given(
    index=st.integers(0, 1), position=st.integers(7, 70), digit=st.sampled_from("0123456789abcdef")
)
@settings(deadline=None, max_examples=25)
def test_any_changed_digit_of_a_data_digest_is_found(index, position, digit):
    digests = list(DIGESTS)
    digests[index] = digests[index][:position] + digit + digests[index][position + 1 :]
    assert (judge(GOOD, dataset_sha256s=digests) == []) == (tuple(digests) == DIGESTS)


def test_data_set_that_the_release_does_not_name_is_found():
    (sentence,) = judge(GOOD, dataset_sha256s=DIGESTS[:1])
    assert "which it does not name" in sentence


def test_release_that_names_no_data_set_is_refused():
    assert any("names no data set" in s for s in judge(GOOD, dataset_sha256s=()))


def _relation(kind, **fields):
    def change(document):
        document.setdefault(kind, {})["_:added"] = {f"prov:{k}": v for k, v in fields.items()}

    return change


def _without(kind, **fields):
    def change(document):
        wanted = {f"prov:{k}": v for k, v in fields.items()}.items()
        document[kind] = {k: v for k, v in document[kind].items() if not wanted <= v.items()}

    return change


def _attribute(kind, name, field, value):
    def change(document):
        document[kind][name][field] = value

    return change


BROKEN = {
    "derivation in a circle": (
        _relation("wasDerivedFrom", generatedEntity=TRAINING_DATA, usedEntity=RELEASE),
        "is derived from itself",
    ),
    "used before it was made": (
        _relation("used", activity=TRAINING_RUN, entity=RELEASE, time="2026-01-31T12:01:00Z"),
        "is used before it is generated",
    ),
    "used by a run that ended before it was made": (
        _relation("used", activity=TRAINING_RUN, entity=RELEASE),
        "is used before it is generated",
    ),
    "undeclared entity": (
        _relation("used", activity=COMPOSING, entity="data:nowhere"),
        "data:nowhere is not declared among the entities",
    ),
    "undeclared agent": (
        _relation("wasAttributedTo", entity=RELEASE, agent="agent:nobody"),
        "is not declared among the agents",
    ),
    "undeclared activity": (
        _relation("used", activity="run:none", entity=TRAINING_DATA),
        "is not declared among the activities",
    ),
    "activity and entity at once": (
        lambda document: document["activity"].update({PT: {}}),
        "",
    ),
    "generated by two activities": (
        _relation("wasGeneratedBy", entity=PT, activity=COMPOSING),
        "is generated twice",
    ),
    "generated after its activity": (
        _relation("wasGeneratedBy", entity=PT, activity=TRAINING_RUN, time="2027-01-01T00:00:00Z"),
        "is generated outside the time of",
    ),
    "activity that ends before it starts": (
        _attribute("activity", TRAINING_RUN, "prov:startTime", "2027-01-01T00:00:00Z"),
        "ends before it starts",
    ),
    "time without zone": (
        _attribute("activity", TRAINING_RUN, "prov:startTime", "2027-01-01T00:00:00"),
        "ends before it starts",
    ),
    "used after invalidation": (
        lambda document: (
            _relation("wasInvalidatedBy", entity=TRAINING_DATA, time="2026-01-01T00:00:00Z")(
                document
            ),
            _relation(
                "used", activity=TRAINING_RUN, entity=TRAINING_DATA, time="2026-01-31T12:01:00Z"
            )(document),
        ),
        "is used after it is invalidated",
    ),
    "weights not derived from their data": (
        _without("wasDerivedFrom", generatedEntity=PT),
        "no derivation leads from the release to the data set sha256:aaaa",
    ),
    "release not derived from its weights": (
        _without("wasDerivedFrom", usedEntity=PT),
        "not derived from exactly the weights",
    ),
    "data set without digest": (
        lambda document: document["entity"][TRAINING_DATA].pop("kfm:sha256"),
        "must carry one kfm:sha256",
    ),
    "data set with two digests": (
        _attribute(
            "entity", TRAINING_DATA, "kfm:sha256", ["sha256:" + "aa" * 32, "sha256:" + "ee" * 32]
        ),
        "must carry one kfm:sha256",
    ),
    "two releases": (
        lambda document: document["entity"].update(
            {"release:other": copy.deepcopy(document["entity"][RELEASE])}
        ),
        "2 entities are a kfm:Release",
    ),
    "no release": (
        lambda document: document["entity"][RELEASE].pop("prov:type"),
        "0 entities are a kfm:Release",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_lineage_is_found(name):
    change, expected = BROKEN[name]
    document = copy.deepcopy(GOOD)
    change(document)
    problems = judge(document)
    assert problems
    assert any(expected in sentence for sentence in problems), problems


@pytest.mark.parametrize(
    "value",
    [None, [], "x", 3, {}, {"entity": 3}, {"entity": {"a": []}}, {"bundle": {"b": {"used": 1}}}],
)
def test_anything_that_is_no_lineage_gives_sentences_and_never_raises(value):
    assert judge(value) != []


def test_views_of_what_is_no_lineage_are_refused():
    with pytest.raises(EvidenceError):
        prov_views(b'{"entity": 3}')
    with pytest.raises(EvidenceError):
        prov_views(b"not json")


@pytest.mark.parametrize(
    "agents",
    [
        (),
        (AgentFact("a", "A", "person", on_behalf_of="nobody"),),
        (AgentFact("a", "A", "person", on_behalf_of="a"),),
        (AgentFact("a b", "A", "person"), AgentFact("a-b", "B", "person")),
    ],
)
def test_agents_that_nobody_can_hold_responsible_are_refused(agents, release, run):
    with pytest.raises(InputError):
        build_prov(release, FILES, DATA, run, agents)


def test_release_made_before_its_training_ended_is_refused():
    with pytest.raises(InputError, match="released_at"):
        make_prov(released_at=datetime(2026, 1, 1, tzinfo=UTC))
