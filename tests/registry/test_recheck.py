"""Recheck: what holds, what only grew old, what would be recalled; and nothing is written."""

from __future__ import annotations

import shutil
from datetime import timedelta

import pytest
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from registry.asking import repolicy, request_of, with_roles
from registry.test_policy_life import GLASS, MISSED, exempt, unmeasured
from registry.world import COUNCIL, NAME, Registry, digest_of

from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry.recheck import recheck


def rechecked(registry, **asked):
    """Return version -> what recheck says, and assert that it wrote nothing."""
    before = registry.state()
    found = recheck(registry.store, **asked)
    assert registry.state() == before
    return {entry.version: entry for entry in found}


def codes(entry):
    return {(remark.status, remark.finding.code) for remark in entry.remarks}


@pytest.fixture
def produced(two):
    """Return a registry in which v2 followed v1 to Production."""
    two.store.move(NAME, 2, Level.PRODUCTION)
    return two


def test_what_was_promoted_just_now_holds_at_every_level(two):
    found = rechecked(two)
    assert {v: (str(e.level), e.status) for v, e in found.items()} == {
        1: ("production", "holds"),
        2: ("canary", "holds"),
    }
    assert [entry.seq for entry in found.values()] == [3, 5]


def test_votes_that_were_spent_on_their_decision_say_nothing_when_they_expire(produced):
    produced.now += timedelta(days=8)
    assert rechecked(produced)[2].status == "holds"


def test_a_validation_that_grew_old_is_stale_and_no_recall(produced):
    produced.now += timedelta(days=31)
    entry = rechecked(produced)[2]
    assert entry.status == "stale"
    assert {code for _, code in codes(entry)} == {"VALIDATION_EXPIRED"}
    assert "has run out since" in entry.remarks[0].why


def test_after_a_change_of_policy_votes_and_verdict_are_stale_and_the_two_policies_are_named(
    produced,
):
    old = produced.store.admission.policy("climate").digest
    new = repolicy(produced, description="another").digest
    entry = rechecked(produced)[2]
    assert entry.status == "stale"
    assert codes(entry) == {
        ("stale", "CANARY_VERDICT_INVALID"),
        ("stale", "SPANS_UNKNOWN"),
        ("stale", "QUORUM_PENDING"),
    }
    assert all(old in remark.why and new in remark.why for remark in entry.remarks)
    assert (entry.decided_under, entry.policy_digest) == (old, new)


def test_a_limit_that_became_tighter_is_a_recall(produced):
    repolicy(produced, gates={"metrics": {"limits": [{"metric": "nrmse", "max": 0.05}]}})
    entry = rechecked(produced)[2]
    assert entry.status == "recall"
    assert ("recall", "METRIC_OUTSIDE") in codes(entry)


def test_a_council_that_would_not_have_approved_is_a_recall(produced):
    raw = produced.store.admission.policy("climate").trust.model_dump(mode="json")
    for member in raw["council"]["members"][:2]:
        member["revoked_at"] = produced.now.isoformat()
    repolicy(produced, trust=raw)
    entry = rechecked(produced)[2]
    assert ("recall", "QUORUM_PENDING") in codes(entry)
    (votes,) = [remark for remark in entry.remarks if remark.gate == "votes"]
    assert votes.finding.observed == str(len(COUNCIL) - 2)


def test_a_revoked_signer_recalls_everything_that_it_signed(produced):
    raw = produced.store.admission.policy("climate").trust.model_dump(mode="json")
    raw["signers"][0]["revoked_at"] = produced.now.isoformat()
    repolicy(produced, trust=raw)
    found = rechecked(produced)
    assert {entry.status for entry in found.values()} == {"recall"}
    assert ("recall", "SIGNATURE_INVALID") in codes(found[2])


def test_changed_bytes_are_a_recall(produced, world):
    key = digest_of(world.releases[1]).removeprefix("sha256:")
    target = produced.area / "kfm-frozen" / key / "release" / "model.onnx"
    target.chmod(0o644)
    target.write_bytes(target.read_bytes() + b"\0")
    assert ("recall", "BYTES_CHANGED") in codes(rechecked(produced)[2])


def test_a_lost_rollback_target_is_a_recall_of_who_relies_on_it(produced, world):
    key = digest_of(world.releases[0]).removeprefix("sha256:")
    shutil.rmtree(produced.area / "kfm-frozen" / key)
    found = codes(rechecked(produced)[2])
    # Nobody knows any more, either, what both releases tell together.
    assert found == {("recall", "TARGET_BROKEN"), ("recall", "CARE_DIFFERENCING")}


def test_a_restored_release_is_asked_what_a_restore_asks(produced):
    produced.store.move(NAME, 2, Level.CANDIDATE, restore=1)
    repolicy(produced, gates={"metrics": {"limits": [{"metric": "nrmse", "max": 0.05}]}})
    found = rechecked(produced)
    assert {v: entry.status for v, entry in found.items()} == {1: "holds"}


def test_a_level_from_before_the_registry_was_governed_is_a_recall(world, tmp_path):
    plain = SqlAlchemyStore(f"sqlite:///{tmp_path / 'registry.db'}")
    plain.create_registered_model(NAME)
    plain.create_model_version(NAME, str(world.releases[0].release_dir), "run")
    plain.transition_model_version_stage(NAME, 1, "Staging", archive_existing_versions=False)
    plain._dispose_engine()
    governed = Registry(world, tmp_path / "registry.db", tmp_path / "artifacts")
    entry = rechecked(governed)[1]
    assert (entry.seq, codes(entry)) == (0, {("recall", "NO_DECISION")})
    governed.store._dispose_engine()


# -- waivers that end ------------------------------------------------------------------------------


def test_an_exemption_holds_until_its_end_and_is_listed_with_the_recall_after_it(
    registry, world, tmp_path
):
    unmeasured(registry, world, tmp_path)
    exempt(registry, *MISSED)
    registry.store.move(NAME, 1, Level.STAGING)
    assert rechecked(registry)[1].status == "holds"
    registry.now += timedelta(days=1)
    entry = rechecked(registry)[1]
    assert entry.status == "recall"
    assert {(e.by, e.owner) for e in entry.ended} == {("exemption", "ada")}
    assert {e.gate for e in entry.ended} == {gate for gate, _ in _refusing(entry)} == set(MISSED)


def _refusing(entry):
    return {(remark.gate, remark.finding.code) for remark in entry.remarks}


def test_an_exemption_that_was_renewed_has_not_ended(registry, world, tmp_path):
    unmeasured(registry, world, tmp_path)
    exempt(registry, *MISSED)
    registry.store.move(NAME, 1, Level.STAGING)
    registry.now += timedelta(days=1)
    exempt(registry, *MISSED)
    entry = rechecked(registry)[1]
    assert (entry.status, entry.ended) == ("holds", ())


def test_an_expired_exemption_of_the_quorum_is_not_revived_by_looking_back(registry, world):
    """Votes are asked as of the decision; the exemption must not hold again there."""
    registry.register(world.releases[0])
    exempt(registry, "votes", "canary", "telemetry")
    registry.to_canary(1)
    registry.store.move(NAME, 1, Level.PRODUCTION)
    assert rechecked(registry)[1].status == "holds"
    registry.now += timedelta(days=1)
    entry = rechecked(registry)[1]
    assert entry.status == "recall"
    assert {remark.finding.code for remark in entry.remarks} == {
        "CANARY_VERDICT_MISSING",
        "SPANS_UNKNOWN",
        "QUORUM_PENDING",
    }


@pytest.mark.parametrize("needed", [True, False])
def test_broken_glass_holds_for_its_hours_and_is_a_recall_afterwards(
    registry, world, tmp_path, needed
):
    with request_of("tom"):
        if needed:
            unmeasured(registry, world, tmp_path)
        else:
            registry.register(world.releases[0])
    with_roles(registry, break_glass={"roles": ["operator"], "max_hours": 8})
    with request_of("olga"):
        registry.store.move(NAME, 1, Level.STAGING, break_glass=GLASS)
    entry = rechecked(registry)[1]
    assert entry.status == ("break-glass" if needed else "holds")
    registry.now += timedelta(hours=4)
    entry = rechecked(registry)[1]
    assert entry.status == "recall"
    assert entry.remarks[0].finding.code == "BREAK_GLASS_EXPIRED"
    assert {e.by for e in entry.ended} == {"break-glass"}


# -- which -----------------------------------------------------------------------------------------


def test_only_the_asked_model_or_family_is_judged_and_prompts_never(two):
    from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
    from mlflow.entities.model_registry.prompt_version import IS_PROMPT_TAG_KEY

    store = two.store
    store.create_registered_model("ask", [RegisteredModelTag(IS_PROMPT_TAG_KEY, "true")])
    store.create_model_version("ask", "x", tags=[ModelVersionTag(IS_PROMPT_TAG_KEY, "true")])
    store.set_registered_model_alias("ask", "canary", 1)
    assert set(rechecked(two)) == {1, 2}
    assert {entry.model_name for entry in rechecked(two).values()} == {NAME}
    assert set(rechecked(two, family="climate")) == set(rechecked(two, name=NAME)) == {1, 2}
    assert rechecked(two, family="baseline") == {}


def test_one_version_that_can_not_be_judged_hides_no_other(two, monkeypatch):
    judge = two.store.admission.judge

    def trips(snapshot, *more):
        if snapshot.version == 1:
            raise ZeroDivisionError("on purpose")
        return judge(snapshot, *more)

    monkeypatch.setattr(two.store.admission, "judge", trips)
    found = rechecked(two)
    assert codes(found[1]) == {("recall", "RECHECK_ERROR")}
    assert found[2].status == "holds"
