"""What the registry says after a rollback, and what the release that was bad needs to come back."""

from __future__ import annotations

from typing import get_args

import pystac
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from registry.causes import DRIFTED
from registry.loopback import listening
from registry.stac_world import stac_app
from registry.world import COUNCIL, NAME

from kfm_mlflow.errors import ConflictError, InputError, RefusedError
from kfm_mlflow.gates.cause import DriftContext, TriggerWord, parse_cause
from kfm_mlflow.metadata.schemas import load_schema
from kfm_mlflow.metadata.stac_schemas import stac_schema_sentences
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry.reversions import Reversion, Reverting
from kfm_mlflow.rollout.remote import RemoteRegistry
from kfm_mlflow.rollout.state import Trigger

CANDIDATE, STAGING, CANARY, PRODUCTION = Level


def followed(*moves):
    """Return what is told after moves of (version, level), one row each."""
    found = Reverting()
    for row, (version, level) in enumerate(moves, 1):
        found.add(row, version, level, f"t{row}")
    return found.reversion


def up(version):
    return [(version, STAGING), (version, CANARY), (version, PRODUCTION)]


@pytest.mark.parametrize(
    ("moves", "told_"),
    [
        ([], None),
        ([*up(1), *up(2)], None),
        ([*up(1), *up(2), (2, CANDIDATE), (1, PRODUCTION)], Reversion(8, 2, 1, "t8")),
        ([*up(1), *up(2), (2, CANDIDATE), (1, PRODUCTION), (3, STAGING), (3, CANARY)],
         Reversion(8, 2, 1, "t8")),
        ([*up(1), *up(2), (2, CANDIDATE), (1, PRODUCTION), *up(3)], None),
        ([*up(1), *up(2), (2, CANDIDATE), (1, PRODUCTION), *up(2)], None),
        ([*up(1), (2, STAGING), (2, CANARY), (2, CANDIDATE)], Reversion(6, 2, None, "t6")),
        ([*up(1), (1, CANDIDATE)], Reversion(4, 1, None, "t4")),
        ([*up(1), (2, STAGING), (2, CANDIDATE)], None),
    ],
    ids=["none", "promoted", "restored", "next-canary", "next-release", "same-again", "canary",
         "withheld", "staging"],
)  # fmt: skip
def test_what_is_told_of_a_rollback_follows_from_the_rows(moves, told_):
    assert followed(*moves) == told_


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(list(Level)))))
def test_a_promotion_by_way_of_canary_ends_every_reversion(moves):
    assert followed(*moves, (4, CANARY), (4, PRODUCTION)) is None


@pytest.fixture
def reverted(two, monkeypatch):
    """Return a registry whose Production went from v1 to v2 and back, and its remote client."""
    two.store.move(NAME, 2, PRODUCTION)
    with listening(two, monkeypatch) as url:
        remote = RemoteRegistry(url, controller_key=two.world.key("controller"))
        assert remote.model(NAME)["rollback_of"] is None
        held = {"expect_production": 2, "expect_canary": None}
        remote.move(NAME, 1, "production", **held, reason="bad", cause=DRIFTED)
        yield two, remote


def test_the_registry_names_what_is_active_and_what_it_took_the_place_of(reverted):
    registry, remote = reverted
    found = remote.model(NAME)
    assert (found["active"], found["rollback_of"]) == (1, 2)
    row, cause = found["reversion"]["row"], DRIFTED.model_dump(mode="json")
    assert found["reversion"]["cause"] == cause
    query = "SELECT model, version, kind FROM kfm_ledger WHERE seq = ?"
    assert registry.query(query, row) == [(NAME, 1, "moved")]
    pages = stac_app().test_client()
    served = pages.get(f"/kfm/stac/collections/{NAME}/items").json["features"]
    assert len(served) == 2
    for each in served:
        assert stac_schema_sentences(each) == []
        link = pystac.Item.from_dict(each).get_single_link("kfm:reversion")
        assert link.get_href(transform_href=False).endswith(f"/kfm/ledger/{row}")
        told_ = {key: link.extra_fields[f"kfm:{key}"] for key in ("rollback_of", "restored")}
        assert told_ == {"rollback_of": 2, "restored": 1}
        assert (link.extra_fields["kfm:cause"], link.extra_fields["kfm:row"]) == (cause, row)
        release = registry.query("SELECT release_id FROM kfm_release WHERE version = 1")[0][0]
        assert link.extra_fields["kfm:restored_hash"] == release
    registry.register(registry.world.releases[2])
    registry.to_production(3)
    assert (remote.model(NAME)["active"], remote.model(NAME)["rollback_of"]) == (3, None)


@pytest.mark.parametrize(
    "cause",
    [
        {"trigger": "the quiet spring"},
        {"trigger": "drift", "note": "the quiet spring"},
        {"trigger": "drift", "drift": {"verdict": "FAIL"}},
        {},
        "drift",
    ],
)
def test_a_cause_holds_fixed_words_and_numbers_alone(cause):
    with pytest.raises(InputError, match="is no cause") as refused:
        parse_cause(cause, where="cause")
    assert "quiet spring" not in str(refused.value)


def test_causes_know_every_trigger_of_a_rollout_and_the_schema_says_the_same():
    words = set(get_args(TriggerWord))
    assert words == {str(trigger) for trigger in Trigger}
    cause = load_schema("reversion")["properties"]["cause"]["properties"]
    assert set(cause["trigger"]["enum"]) == words
    drift = cause["drift"]["properties"]
    assert set(drift) == set(DriftContext.model_fields)


def test_only_what_is_taken_down_has_a_cause(two):
    with pytest.raises(MlflowException, match="goes with taking a version down"):
        two.store.move(NAME, 2, PRODUCTION, cause=DRIFTED)


def test_what_was_rolled_back_comes_back_by_new_votes_and_a_new_canary_alone(reverted):
    registry, remote = reverted
    store = registry.store
    with pytest.raises(RefusedError, match="candidate cannot become canary"):
        remote.move(NAME, 2, "canary", expect_production=1, expect_canary=None, reason="again")
    with pytest.raises(RefusedError, match="candidate cannot become production"):
        remote.request_move(NAME, 2, "production", reason="again")
    with pytest.raises(ConflictError, match="by a new admission only"):
        remote.move(NAME, 2, "production", expect_production=1, expect_canary=None, reason="again")
    registry.to_canary(2)
    passed, why = remote.admits(NAME, 2, "production")
    assert (passed, "votes" in why or "canary" in why) == (False, True)
    with pytest.raises(RefusedError):
        remote.move(NAME, 2, "production", expect_production=1, expect_canary=2, reason="again")
    registry.verdict(2)
    assert remote.admits(NAME, 2, "production")[0] is False  # The old votes are of another epoch.
    for member in COUNCIL:
        registry.vote(2, member)
    assert remote.admits(NAME, 2, "production") == (True, "")
    store.move(NAME, 2, PRODUCTION)
    assert (remote.model(NAME)["active"], remote.model(NAME)["rollback_of"]) == (2, None)
