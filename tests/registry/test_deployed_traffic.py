"""Deployments and changed weights in the lineage: what a controller signed, told once, by it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metadata.test_prov import GOOD
from prov.model import (
    PROV_TYPE,
    ProvActivity,
    ProvAgent,
    ProvAssociation,
    ProvDocument,
    ProvUsage,
)
from registry.test_prov_api import MODEL, Ledger
from rollout.simulated_plane import Quality
from rollout.simulated_registry import START
from rollout.simulator import World

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.metadata.prov_trace import evaluate_deployed
from kfm_mlflow.policy.trust import TrustPolicy
from kfm_mlflow.registry.deployed_prov import extended_prov
from kfm_mlflow.registry.deployed_traffic import read_traffic
from kfm_mlflow.trust.keys import generate_key, load_private_key
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

RELEASED = canonical_bytes(GOOD)


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "controller"
    generate_key(path)
    return load_private_key(path)


def trust_of(signer):
    held = {"name": "controller", "public_key": signer.public_key.pem}
    return TrustPolicy.model_validate({"controllers": [held]})


def ledger_until_canary():
    ledger = Ledger()
    for version, times in ((1, 3), (2, 2)):
        for _ in range(times):
            ledger.wish("up", version, START - timedelta(minutes=5))
    return ledger


def lineage(world, signer):
    """Return the lineage of version 2 with all verdicts that a controller published about it."""
    ledger = ledger_until_canary()
    release_id = ledger.entries[-1].release_id
    binding = Binding(MODEL, "v1.2.0", release_id, "sha256:" + "0" * 64, 2)
    envelopes = [
        sign_statement(
            build_statement(
                "canary-verdict",
                binding,
                {**verdict, "epoch": 1},
                datetime.fromisoformat(verdict["decided_at"]) + timedelta(seconds=1),
            ),
            signer,
        )
        for verdict in world.registry.verdicts
    ]
    return extended_prov(
        RELEASED, ledger.entries, version=2, trust=trust_of(signer), envelopes=envelopes
    )


def walk(document):
    """Return deployments and weight changes as the prov library reads them, in order of time."""
    read = ProvDocument.deserialize(content=document.decode(), format="json")
    agents = {a.identifier: {str(t) for t in a.get_attribute(PROV_TYPE)} for a in
              read.get_records(ProvAgent)}  # fmt: skip
    who, used = {}, {}
    for relation in read.get_records(ProvAssociation):
        activity, agent, *_ = (value for _, value in relation.formal_attributes)
        who.setdefault(activity, set()).add(agent)
    for relation in read.get_records(ProvUsage):
        activity, entity, *_ = (value for _, value in relation.formal_attributes)
        used.setdefault(activity, set()).add(str(entity))
    found = []
    for activity in read.get_records(ProvActivity):
        (kind,) = (str(t) for t in activity.get_attribute(PROV_TYPE))
        if kind not in {"kfm:ServingStart", "kfm:WeightChange"}:
            continue
        (agent,) = who[activity.identifier]
        assert agents[agent] == {"kfm:Controller"}
        said = {name.localpart: value for name, value in activity.extra_attributes}
        found.append((activity.get_startTime(), kind, said, used[activity.identifier]))
    return sorted(found, key=lambda item: (item[0], int(item[2].get("generation", 0))))


@pytest.mark.parametrize("outside_ratio", [0.0, 0.9], ids=["promoted", "rolled back"])
def test_every_deployment_and_weight_until_the_last_verdict_is_in_the_lineage(key, outside_ratio):
    world = World(production=1, canary=2)
    world.plane.quality[2] = Quality(outside_ratio=outside_ratio)
    deployed, deploy = [], world.plane.deploy
    world.plane.deploy = lambda release, **rest: (
        deployed.append(release.version),
        deploy(release, **rest),
    )
    world.run_to_rest()
    document = lineage(world, key)
    assert evaluate_deployed(json.loads(document)) == []
    events = walk(document)
    served = [e[2]["model_version"] for e in events if e[1] == "kfm:ServingStart"]
    assert sorted(served) == sorted(set(deployed)) == [1, 2]
    told = [
        (s.get("stable_version"), s.get("canary_version"), float(s.get("canary_pct", 0)) / 100)
        for _, kind, s, _ in events
        if kind == "kfm:WeightChange"
    ]
    # After a promotion no verdict follows; its row of the ledger tells of it.
    expected = world.plane.moves[:-1] if world.registry.held.production == 2 else world.plane.moves
    assert told == expected
    assert all("deployed:row-5" in entities for *_, entities in events)  # v2 at canary


def test_an_event_that_two_verdicts_tell_is_told_once(key):
    world = World(production=1, canary=2)
    world.run_to_rest()
    (verdict,) = world.registry.verdicts
    once = walk(lineage(world, key))
    world.registry.verdicts.append({**verdict, "decided_at": "2026-11-20T13:00:00Z"})
    assert walk(lineage(world, key)) == once


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.text(max_size=4) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
events = st.fixed_dictionaries(
    {"at": st.just("2026-11-20T13:00:00Z") | values, "kind": st.sampled_from(["deploy", "split"])},
    optional=dict.fromkeys(
        ("version", "stable", "canary", "canary_ratio", "mirror_ratio", "generation"), values
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({}, optional={"traffic": values | st.lists(events | values)}))
def test_whatever_a_verdict_holds_in_its_place_is_read_or_left_out(claims):
    for event in read_traffic(claims):
        assert event.at.tzinfo is UTC or event.at.utcoffset() is not None
        assert event.label
        assert all(isinstance(value, int | str) for value in event.attributes.values())
