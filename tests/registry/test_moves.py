"""Moves in this process: what is written, what is refused, and that nothing is written half."""

from __future__ import annotations

import shutil
import stat
from datetime import timedelta

import pytest
from registry.world import (
    BOTH,
    NAME,
    Registry,
    claims_of,
    digest_of,
    only_refused,
    told,
)

from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry import records
from kfm_mlflow.registry.store import Expectation
from kfm_mlflow.trust.ledger import verify_chain

on_both = pytest.mark.parametrize("database_kind", BOTH)
"""For what rests on the database; what rests on the gates is asked on one."""


def chain(registry: Registry) -> list[dict[str, object]]:
    with registry.store.ManagedSessionMaker(read_only=True) as session:
        rows = records.read_ledger(session)
    return [{**row.fields, "prev_hash": row.prev_hash, "row_hash": row.hash} for row in rows]


def aliases(registry: Registry) -> dict[str, int]:
    return dict(registry.query("SELECT alias, version FROM registered_model_aliases"))


def stages(registry: Registry) -> dict[int, str]:
    return dict(registry.query("SELECT version, current_stage FROM model_versions"))


# -- what a move writes ------------------------------------------------------------------------


@on_both
def test_staging_freezes_the_release_and_stage_alias_ledger_and_outbox_agree(registry, world):
    registry.register(world.releases[0])
    registry.store.transition_model_version_stage(
        NAME, "1", "Staging", archive_existing_versions=False
    )
    key = digest_of(world.releases[0]).removeprefix("sha256:")
    (location,) = registry.query("SELECT storage_location FROM model_versions")[0]
    assert location == f"mlflow-artifacts:/kfm-frozen/{key}/release"
    assert (registry.area / "kfm-frozen" / key / "release" / "MLmodel").is_file()
    assert stages(registry) == {1: "Staging"}
    assert aliases(registry) == {"staging": 1}
    assert registry.query("SELECT seq, event, level FROM kfm_outbox") == [(1, "moved", "staging")]
    ((seq, kind, body),) = registry.query("SELECT seq, kind, body FROM kfm_ledger")
    assert (seq, kind) == (1, "moved")
    claims = claims_of(body)
    assert claims["outcome"] == "allowed"
    assert claims["frozen_uri"] == location
    assert claims["report"]["release_id"] == digest_of(world.releases[0])


@on_both
def test_production_archives_the_version_before_and_takes_both_its_aliases(two):
    two.store.move(NAME, 2, Level.PRODUCTION)
    assert stages(two) == {1: "Archived", 2: "Production"}
    assert aliases(two) == {"production": 2, "champion": 2}
    assert [two.level(1), two.level(2)] == ["candidate", "production"]


def test_a_frozen_copy_survives_tampering_with_and_deleting_its_source(registry, world, tmp_path):
    bundle = world.copy(tmp_path)
    registry.register(bundle)
    registry.store.move(NAME, 1, Level.STAGING)
    before = registry.state()
    (bundle.release_dir / "model.onnx").write_bytes(b"tampered")
    shutil.rmtree(bundle.evidence_dir)
    assert registry.state() == before
    registry.store.move(NAME, 1, Level.CANARY)
    shutil.rmtree(bundle.release_dir)
    assert registry.level(1) == "canary"
    registry.endorse(1)
    registry.store.move(NAME, 1, Level.PRODUCTION)


def test_the_frozen_files_are_read_only(registry, world):
    registry.register(world.releases[0])
    registry.store.move(NAME, 1, Level.STAGING)
    modes = [path.stat().st_mode for path in (registry.area / "kfm-frozen").glob("*/**/*")]
    assert modes
    assert not any(mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) for mode in modes)


@on_both
@pytest.mark.parametrize("level", [Level.STAGING, Level.CANARY, Level.PRODUCTION])
def test_repeating_a_finished_move_writes_no_row(registry, world, level):
    registry.register(world.releases[0])
    registry.to_canary(1)
    registry.endorse(1)
    if level is Level.STAGING:
        registry.store.move(NAME, 1, Level.STAGING)
    if level is Level.PRODUCTION:
        registry.store.move(NAME, 1, Level.PRODUCTION)
    before = registry.state()
    assert registry.store.move(NAME, 1, level).seq == 0
    assert registry.state() == before


def test_a_canary_asked_for_its_own_stage_by_mlflow_stays_a_canary(registry, world):
    registry.register(world.releases[0])
    registry.to_canary(1)
    before = registry.state()
    registry.store.transition_model_version_stage(
        NAME, "1", "staging", archive_existing_versions=True
    )
    assert registry.state() == before


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.transition_model_version_stage(
            NAME, "1", "Production", archive_existing_versions=True
        ),
        lambda store: store.set_registered_model_alias(NAME, "champion", "1"),
        lambda store: store.set_registered_model_alias(NAME, "production", "1"),
        lambda store: store.set_registered_model_alias(NAME, "canary", "1"),
        lambda store: store.move(NAME, 1, Level.PRODUCTION),
    ],
    ids=["stage", "champion", "production", "canary", "move"],
)
def test_a_candidate_reaches_no_level_beyond_staging_by_any_door(registry, world, ask):
    registry.register(world.releases[0])
    before = registry.state()
    with told(403, "KFM refused", "candidate cannot become") as caught:
        ask(registry.store)
    only_refused(before, registry.state())
    message = str(caught.value.message)
    assert len(message) < 300
    assert message.endswith(f"see /kfm/models/{NAME}/1")


@on_both
def test_a_refused_row_says_who_asked_for_what_and_why_not(registry, world):
    registry.register(world.releases[0])
    before = registry.state()
    with told(403):
        registry.store.move(NAME, 1, Level.PRODUCTION, reason="because I say so")
    claims = claims_of(only_refused(before, registry.state())["body"])
    assert claims["outcome"] == "refused"
    assert claims["actor"] == "unauthenticated"
    assert claims["reason"] == "because I say so"
    codes = {f["code"] for gate in claims["report"]["gates"] for f in gate["findings"]}
    assert {"LEVEL_SKIPPED", "QUORUM_PENDING", "CANARY_VERDICT_MISSING"} <= codes


@pytest.mark.parametrize("stage", ["Staging", "None", "Archived"])
def test_production_is_not_taken_down_by_a_stage(two, stage):
    before = two.state()
    with told(
        403, "Production comes down by promotion or rollback", "see /kfm/models/climate-tiny/1"
    ):
        two.store.transition_model_version_stage(NAME, "1", stage, archive_existing_versions=False)
    claims = claims_of(only_refused(before, two.state())["body"])
    assert claims["outcome"] == "refused"


@pytest.mark.parametrize("alias", ["production", "champion"])
def test_production_is_not_taken_down_by_deleting_its_alias(two, alias):
    before = two.state()
    with told(403, "Production comes down by promotion or rollback"):
        two.store.delete_registered_model_alias(NAME, alias)
    only_refused(before, two.state())


@on_both
def test_a_second_canary_is_a_conflict_and_the_first_one_stays(two, world):
    two.register(world.releases[2])
    two.store.move(NAME, 3, Level.STAGING)
    before = two.state()
    for ask in (two.store.move, two.store.check):
        with told(409, "v2 is the canary"):
            ask(NAME, 3, Level.CANARY)
    assert two.state() == before


@on_both
def test_deleting_the_staging_alias_takes_down_the_version_that_holds_it(registry, world):
    for bundle in world.releases[:2]:
        registry.register(bundle)
        registry.store.move(
            NAME, len(registry.query("SELECT 1 FROM model_versions")), Level.STAGING
        )
    assert aliases(registry) == {"staging": 2}
    registry.store.delete_registered_model_alias(NAME, "staging")
    assert stages(registry) == {1: "Staging", 2: "Archived"}


@on_both
def test_deleting_the_canary_alias_goes_back_to_staging_and_says_so_in_the_ledger(registry, world):
    registry.register(world.releases[0])
    registry.to_canary(1)
    registry.store.delete_registered_model_alias(NAME, "canary")
    assert registry.level(1) == "staging"
    assert aliases(registry) == {"staging": 1}
    report = claims_of(registry.query("SELECT body FROM kfm_ledger ORDER BY seq")[-1][0])["report"]
    assert (report["from_level"], report["to_level"]) == ("canary", "staging")
    assert registry.query("SELECT level FROM kfm_outbox ORDER BY seq")[-1] == ("staging",)


# -- check is the move, without writing ----------------------------------------------------------


@pytest.mark.parametrize("level", list(Level)[1:])
def test_a_check_writes_nothing_and_has_the_digest_and_order_of_the_refused_move(
    registry, world, tmp_path, level
):
    bundle = world.copy(tmp_path)
    (bundle.release_dir / "sbom.spdx.json").unlink()
    registry.register(bundle)
    before = registry.state()
    report = registry.store.check(NAME, 1, level).report
    assert registry.state() == before
    registry.now += timedelta(seconds=5)
    with told(403):
        registry.store.move(NAME, 1, level)
    claims = claims_of(only_refused(before, registry.state())["body"])
    assert claims["report_digest"] == report.digest
    assert claims["report"] == report.to_dict()


@on_both
def test_a_check_has_the_digest_of_every_move_on_the_way_up_and_down(registry, world):
    registry.register(world.releases[0])
    journey = [Level.STAGING, Level.CANARY, Level.STAGING, Level.CANARY, Level.PRODUCTION]
    for level in journey:
        if level is Level.PRODUCTION:
            registry.endorse(1)
        digest = registry.store.check(NAME, 1, level).report.digest
        result = registry.store.move(NAME, 1, level)
        (body,) = registry.query("SELECT body FROM kfm_ledger WHERE seq = ?", result.seq)[0]
        assert result.decision_digest == digest == claims_of(body)["report_digest"]


# -- going back ------------------------------------------------------------------------------------


@on_both
def test_a_restore_brings_the_former_production_back_in_one_transaction(two):
    two.store.move(NAME, 2, Level.PRODUCTION)
    head = len(chain(two))
    two.store.move(NAME, 2, Level.CANDIDATE, restore=1, reason="worse", expect=Expectation(2, None))
    assert stages(two) == {1: "Production", 2: "Archived"}
    assert aliases(two) == {"production": 1, "champion": 1}
    rows = chain(two)[head:]
    moves = [(row["version"], claims_of(row["body"])["report"]["to_level"]) for row in rows]
    assert moves == [(2, "candidate"), (1, "production")]
    assert {claims_of(row["body"])["reason"] for row in rows} == {"worse"}
    assert verify_chain(chain(two)) is None


def test_a_restore_of_changed_bytes_is_refused_and_production_stays(two, world):
    two.store.move(NAME, 2, Level.PRODUCTION)
    key = digest_of(world.releases[0]).removeprefix("sha256:")
    target = two.area / "kfm-frozen" / key / "release" / "model.onnx"
    target.chmod(0o644)
    target.write_bytes(target.read_bytes() + b"\0")
    before = two.state()
    with told(403, "KFM refused Production for climate-tiny v1", "bytes changed"):
        two.store.move(NAME, 2, Level.CANDIDATE, restore=1)
    only_refused(before, two.state())


@pytest.mark.parametrize(
    ("version", "level", "restore", "words"),
    [
        (1, Level.CANDIDATE, 2, "never Production"),
        (2, Level.CANDIDATE, 1, "is not Production"),
        (1, Level.STAGING, 2, "goes with the move"),
        (1, Level.CANDIDATE, 1, "goes with the move"),
        (1, Level.CANDIDATE, 2**40, "no model version"),
    ],
)
def test_a_restore_that_makes_no_sense_is_bad_input(two, version, level, restore, words):
    before = two.state()
    with told(400, words):
        two.store.move(NAME, version, level, restore=restore)
    assert two.state() == before


def test_a_broken_rollback_target_stops_the_next_production(two, world):
    key = digest_of(world.releases[0]).removeprefix("sha256:")
    shutil.rmtree(two.area / "kfm-frozen" / key)
    before = two.state()
    with told(403, "rollback target v1 broken"):
        two.store.move(NAME, 2, Level.PRODUCTION)
    only_refused(before, two.state())
