"""The doctor reads PostgreSQL as it reads SQLite, by both drivers, and writes to neither."""

from __future__ import annotations

import os

import pytest
from registry.world import NAME, stranger, uri_of

from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry.doctor import Installation, examine


def examined(registry) -> dict:
    found = Installation(
        registry_uri=f"kfm+{uri_of(registry.database)}",
        artifacts_destination=str(registry.area),
        key=registry.world.key("registry"),
        policy_dir=registry.world.policies,
        former_keys=(),
        environ={k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")},
        folder=registry.area,
    )
    return {finding.check: finding for finding in examine(found, seen=(), hashed=True)}


@pytest.mark.parametrize("database_kind", ["sqlite", "postgresql", "psycopg2"])
def test_a_healthy_registry_is_found_healthy_and_left_alone(two):
    before = two.state()
    found = examined(two)
    assert [f for f in found.values() if f.status == "problem"] == []
    assert found["ledger"].status == found["levels"].status == found["releases"].status == "ok"
    assert two.state() == before


@pytest.mark.parametrize("database_kind", ["postgresql"])
def test_a_level_written_past_the_triggers_is_found(two):
    with stranger(two.database) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            "UPDATE model_versions SET current_stage = 'Production' WHERE version = 2"
        )
        connection.commit()
    found = examined(two)["levels"]
    assert found.status == "problem"
    assert f"{NAME} v2 is production, and by the ledger canary" in found.detail


@pytest.mark.parametrize("database_kind", ["postgresql"])
def test_a_disabled_trigger_is_found(two):
    with stranger(two.database) as connection:
        connection.execute("ALTER TABLE kfm_ledger DISABLE TRIGGER kfm_guard_kfm_ledger_delete")
        connection.commit()
    found = examined(two)["triggers"]
    assert (found.status, "kfm_guard_kfm_ledger_delete" in found.detail) == ("problem", True)


def test_a_restore_and_a_successor_leave_levels_and_ledger_in_agreement(two):
    two.store.move(NAME, 2, Level.PRODUCTION)
    assert examined(two)["levels"].status == "ok"
    two.store.move(NAME, 2, Level.CANDIDATE, restore=1)
    assert examined(two)["levels"].status == "ok"
