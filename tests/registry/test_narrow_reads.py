"""What a move reads and answers in few statements is what MLflow's own methods say."""

from __future__ import annotations

import pytest
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from registry.world import BOTH, NAME, told, uri_of
from sqlalchemy import text

from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry import reading

pytestmark = pytest.mark.parametrize("database_kind", BOTH)


def test_a_transition_answers_the_version_as_mlflow_reads_it_afterwards(registry, world):
    registry.register(world.releases[0])
    store = registry.store
    store.set_model_version_tag(NAME, "1", ModelVersionTag("region", "plains"))
    store.set_registered_model_alias(NAME, "mine", "1")
    store.update_model_version(NAME, "1", "Downscales.")
    for stage in ("Staging", "Archived", "Staging"):
        answered = store.transition_model_version_stage(
            NAME, "1", stage, archive_existing_versions=False
        )
        read = store.get_model_version(NAME, "1")
        assert dict(answered) == dict(read)
        assert answered.current_stage == stage
        assert answered.tags["region"] == "plains"
        assert sorted(answered.aliases) == sorted(
            ["mine", "staging"] if stage == "Staging" else ["mine"]
        )


def test_the_narrow_read_of_a_version_knows_every_property_that_mlflow_gives_one(registry, world):
    registry.register(world.releases[0])
    store = registry.store
    with store.ManagedSessionMaker(read_only=True) as session:
        narrow = reading.version_entity(session, "default", NAME, 1)
    assert dict(narrow) == dict(store.get_model_version(NAME, "1"))
    assert dict(narrow)["creation_timestamp"] > 0


def test_a_version_that_a_plain_server_deletes_while_it_is_judged_stays_deleted(
    registry, world, monkeypatch
):
    registry.register(world.releases[0])
    store = registry.store
    decide = store.admission.decide

    def deleted_meanwhile(*args, **kwargs):
        decision = decide(*args, **kwargs)
        SqlAlchemyStore(uri_of(registry.database).removeprefix("kfm+")).delete_model_version(
            NAME, "1"
        )
        return decision

    monkeypatch.setattr(store.admission, "decide", deleted_meanwhile)
    with told(409, "was deleted"):
        store.move(NAME, 1, Level.STAGING)
    assert registry.query("SELECT current_stage FROM model_versions") == [("Deleted_Internal",)]
    with pytest.raises(MlflowException, match="not found"):
        store.get_model_version(NAME, "1")
    assert registry.query("SELECT count(*) FROM kfm_ledger WHERE kind = 'moved'") == [(0,)]


def test_a_vote_that_arrives_while_a_version_is_judged_makes_the_move_start_again(two, monkeypatch):
    store = two.store
    decide = store.admission.decide

    def voted_meanwhile(*args, **kwargs):
        decision = decide(*args, **kwargs)
        monkeypatch.setattr(store.admission, "decide", decide)
        two.vote(2, "council-ann", "deny")
        return decision

    before = two.level(2)
    monkeypatch.setattr(store.admission, "decide", voted_meanwhile)
    with told(409, "changed while"):
        store.move(NAME, 2, Level.PRODUCTION)
    assert two.level(2) == before


def test_a_lock_taken_for_nothing_that_matters_does_not_stop_a_move(registry, world, monkeypatch):
    registry.register(world.releases[0])
    store = registry.store
    decide = store.admission.decide

    def taken_meanwhile(*args, **kwargs):
        decision = decide(*args, **kwargs)
        with store.unit_of_work(f"model:{NAME}") as session:
            session.execute(text("SELECT 1"))
        return decision

    monkeypatch.setattr(store.admission, "decide", taken_meanwhile)
    assert store.move(NAME, 1, Level.STAGING).level is Level.STAGING
