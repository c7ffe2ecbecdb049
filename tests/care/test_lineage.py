"""Restrictions join along a lineage: a release never bears less than anything it came from."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfm_mlflow.care.licences import Terms, read_licence
from kfm_mlflow.care.lineage import (
    NO_RESTRICTION,
    Graph,
    Restriction,
    declared,
    read_graph,
    restrictions,
)

RESTRICTIONS = st.builds(
    Restriction,
    st.integers(0, 15),
    st.frozensets(st.sampled_from(["TK A", "TK NC", "BC P"])),
    st.integers(0, 4),
    st.booleans(),
)


@given(RESTRICTIONS, RESTRICTIONS, RESTRICTIONS)
def test_joining_ignores_order_grouping_and_repetition(a, b, c):
    assert a.join(b) == b.join(a)
    assert a.join(b).join(c) == a.join(b.join(c))
    assert a.join(a) == a
    assert a.join(NO_RESTRICTION) == a


@given(RESTRICTIONS, RESTRICTIONS)
def test_a_join_covers_both_and_only_the_stricter_covers_the_weaker(a, b):
    assert a.join(b).covers(a)
    assert a.join(b).covers(b)
    assert a.covers(b) == (a.join(b) == a)


NODES = [f"e{n}" for n in range(8)]
EDGES = st.lists(st.tuples(st.sampled_from(NODES), st.sampled_from(NODES)), max_size=20)
SCOPED = st.dictionaries(st.sampled_from(NODES), st.sampled_from([3, 5, 7]), max_size=4)


def _graph(edges, ceilings):
    inputs = {}
    for out, source in edges:
        inputs.setdefault(out, set()).add(source)
    entities = {n: {"kfm:h3_max_resolution": ceilings[n]} if n in ceilings else {} for n in NODES}
    return Graph(entities, {out: frozenset(sources) for out, sources in inputs.items()})


@settings(deadline=None)
@given(EDGES, SCOPED)
def test_every_node_bears_what_each_of_its_ancestors_bears_in_any_graph(edges, ceilings):
    graph = _graph(edges, ceilings)
    found = restrictions(graph)
    for node in NODES:
        seen, rest = {node}, [node]
        while rest:  # the plain definition: walk to every ancestor
            for source in graph.inputs.get(rest.pop(), ()):
                if source not in seen:
                    seen.add(source)
                    rest.append(source)
        assert found[node].ceiling == min([15, *(ceilings[n] for n in seen if n in ceilings)])


@settings(deadline=None)
@given(EDGES, SCOPED, st.tuples(st.sampled_from(NODES), st.sampled_from(NODES)))
def test_another_step_never_frees_anything(edges, ceilings, more):
    before = restrictions(_graph(edges, ceilings))
    after = restrictions(_graph([*edges, more], ceilings))
    assert all(after[node].covers(before[node]) for node in NODES)


@pytest.mark.parametrize(
    ("relation", "edge"),
    [
        ("wasDerivedFrom", {"prov:generatedEntity": "out", "prov:usedEntity": "in"}),
        ("hadMember", {"prov:collection": "out", "prov:entity": "in"}),
        ("specializationOf", {"prov:specificEntity": "out", "prov:generalEntity": "in"}),
        ("alternateOf", {"prov:alternate1": "out", "prov:alternate2": "in"}),
        ("alternateOf", {"prov:alternate1": "in", "prov:alternate2": "out"}),
    ],
)
def test_restrictions_go_along_every_relation_of_prov(relation, edge):
    part = {"entity": {"out": {}, "in": {"kfm:scope": "restricted"}}, relation: {"_:1": edge}}
    for document in (part, {"bundle": {"b": part}}):
        assert restrictions(read_graph(document))["out"].rank == 3


def test_restrictions_go_through_activities_that_inform_each_other():
    document = {
        "entity": {"out": {}, "in": {"kfm:labels": ["TK A"]}},
        "wasGeneratedBy": {"_:1": {"prov:entity": "out", "prov:activity": "late"}},
        "wasInformedBy": {"_:2": {"prov:informed": "late", "prov:informant": "early"}},
        "used": {"_:3": {"prov:activity": "early", "prov:entity": "in"}},
    }
    assert restrictions(read_graph(document))["out"].labels == {"TK A"}


@pytest.mark.parametrize(
    ("attributes", "rank", "ceiling"),
    [
        ({}, 0, 15),
        ({"kfm:scope": "public-generalized"}, 1, 15),
        ({"kfm:scope": "nobody knows"}, 3, 15),
        ({"kfm:labels": ["sworn to silence"]}, 3, 15),
        ({"kfm:labels": {"$": "TK SS", "type": "xsd:string"}}, 3, 15),
        ({"kfm:h3_max_resolution": "5"}, 0, 5),
        ({"kfm:h3_max_resolution": "five"}, 0, 0),
        ({"kfm:publication_class": "withheld"}, 4, 15),
    ],
)
def test_what_cannot_be_read_is_taken_for_the_strictest(attributes, rank, ceiling):
    found = declared(attributes)
    assert (found.rank, found.ceiling) == (rank, ceiling)


@given(
    st.recursive(
        st.none() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["entity", "used", "bundle", "a"]), inner, max_size=3)
        ),
    )
)
def test_no_document_whatever_raises(document):
    restrictions(read_graph(document))


@pytest.mark.parametrize(
    ("expression", "commercial"),
    [
        ("MIT", True),
        ("CC-BY-NC-4.0", False),
        ("CC-BY-NC-SA-4.0 OR MIT", True),
        ("CC-BY-NC-SA-4.0 AND MIT", False),
        ("(CC-BY-NC-4.0 OR CC-BY-NC-ND-4.0) AND Apache-2.0", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", True),
        ("NCSA", True),
        ("NOASSERTION", None),
        ("LicenseRef-council", None),
        ("MIT AND NOASSERTION", None),
        ("MIT extra", None),
        ("(MIT", None),
        (None, None),
    ],
)
def test_a_licence_says_whether_commerce_is_allowed_or_nobody_knows(expression, commercial):
    assert read_licence(expression).commercial is commercial


def test_no_derivatives_is_read_from_creative_commons():
    assert read_licence("CC-BY-ND-4.0") == Terms(commercial=True, derivatives=False)
