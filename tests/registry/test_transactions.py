"""One transaction or none: failures inside it, compare-and-set, races."""

from __future__ import annotations

import threading

import pytest
from mlflow.exceptions import MlflowException
from registry.world import (
    BOTH,
    NAME,
    Registry,
    stranger,
    told,
)
from sqlalchemy.exc import OperationalError

from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry import records
from kfm_mlflow.registry.store import Expectation, KfmStore
from kfm_mlflow.trust.ledger import verify_chain

pytestmark = pytest.mark.parametrize("database_kind", BOTH)


def chain(registry: Registry) -> list[dict[str, object]]:
    with registry.store.ManagedSessionMaker(read_only=True) as session:
        rows = records.read_ledger(session)
    return [{**row.fields, "prev_hash": row.prev_hash, "row_hash": row.hash} for row in rows]


def stages(registry: Registry) -> dict[int, str]:
    return dict(registry.query("SELECT version, current_stage FROM model_versions"))


# -- one transaction -----------------------------------------------------------------------------


def raising(error: Exception):
    def instead(*args: object, **kwargs: object) -> None:
        raise error

    return instead


BREAKS = {
    "ledger": (records, "append_ledger"),
    "release": (records, "add_release"),
    "outbox": (None, "kfm_outbox"),
    "ledger table": (None, "kfm_ledger"),
    "alias": (None, "registered_model_aliases"),
}
ERRORS = (
    RuntimeError("lost"),
    OperationalError("INSERT", {}, Exception("disk I/O error")),
    MemoryError(),
)


def break_at(registry: Registry, monkeypatch: pytest.MonkeyPatch, where: str):
    module, name = BREAKS[where]
    if module is not None:
        monkeypatch.setattr(module, name, raising(RuntimeError("lost")))
        return
    with stranger(registry.database) as connection:
        if isinstance(registry.database, str):
            connection.execute(
                "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS"
                " $$BEGIN RAISE EXCEPTION 'broken'; END$$"
            )
            then = "EXECUTE FUNCTION broken()"
        else:
            then = "BEGIN SELECT RAISE(ABORT, 'broken'); END"
        connection.execute(f"CREATE TRIGGER broken BEFORE INSERT ON {name} FOR EACH ROW {then}")
        connection.commit()


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning"
)  # the tracebacks hold connections for a while
@pytest.mark.parametrize("where", BREAKS)
def test_a_failure_anywhere_in_the_transaction_leaves_everything_as_it_was(
    registry, world, monkeypatch, where
):
    registry.register(world.releases[0])
    before = registry.state()
    break_at(registry, monkeypatch, where)
    with pytest.raises(MlflowException) as caught:
        registry.store.move(NAME, 1, Level.STAGING)
    assert caught.value.get_http_status_code() in (400, 403, 409)
    after = registry.state()
    # The frozen copy is made before the transaction, and is content-addressed: it may stay.
    assert {**before, "files": None} == {**after, "files": None}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_no_failure_inside_a_move_becomes_a_status_that_the_client_retries(two, monkeypatch, error):
    before = two.state()
    monkeypatch.setattr(records, "append_ledger", raising(error))
    status = 409 if isinstance(error, OperationalError) else 403
    with told(status, "nothing was changed"):
        two.store.move(NAME, 2, Level.PRODUCTION)
    assert two.state() == before


def test_a_restore_that_fails_half_way_leaves_production_where_it_was(two, monkeypatch):
    two.store.move(NAME, 2, Level.PRODUCTION)
    before = two.state()
    real, calls = records.append_ledger, []

    def second_fails(*args: object, **kwargs: object) -> int:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("lost")
        return real(*args, **kwargs)

    monkeypatch.setattr(records, "append_ledger", second_fails)
    with told(403, "nothing was changed"):
        two.store.move(NAME, 2, Level.CANDIDATE, restore=1)
    assert len(calls) == 2
    assert two.state() == before


def test_a_model_that_changed_while_it_was_judged_is_a_conflict(two, monkeypatch):
    decide, other = type(two.store.admission).decide, two.open()

    def meanwhile(self, *args: object, **kwargs: object):
        monkeypatch.setattr(type(two.store.admission), "decide", decide)
        other.move(NAME, 2, Level.STAGING)
        return decide(self, *args, **kwargs)

    monkeypatch.setattr(type(two.store.admission), "decide", meanwhile)
    with told(409, "changed while v2 was judged"):
        two.store.move(NAME, 2, Level.PRODUCTION)
    assert [two.level(1), two.level(2)] == ["production", "staging"]
    other._dispose_engine()


# -- compare and set, and races --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("production", "canary"), [(None, 2), (2, 2), (1, None), (1, 1), (None, None)]
)
def test_an_expectation_that_is_no_longer_true_is_a_conflict(two, production, canary):
    before = two.state()
    with told(409, "Production is v1 and canary v2"):
        two.store.move(NAME, 2, Level.PRODUCTION, expect=Expectation(production, canary))
    assert two.state() == before


def test_an_expectation_that_holds_lets_the_move_through(two):
    assert two.store.move(NAME, 2, Level.PRODUCTION, expect=Expectation(1, 2)).seq


def test_racing_promotions_leave_exactly_one_production_and_a_chain_that_verifies(two, world):
    stores = [two.store, *(two.open() for _ in range(3))]
    barrier, outcomes = threading.Barrier(4), []

    def ask(store: KfmStore, version: int, level: Level, restore: int | None) -> None:
        barrier.wait()
        try:
            outcomes.append(store.move(NAME, version, level, restore=restore).seq)
        except MlflowException as exc:
            outcomes.append(exc.get_http_status_code())

    asked = [(2, Level.PRODUCTION, None)] * 3 + [(2, Level.STAGING, None)]
    threads = [
        threading.Thread(target=ask, args=(store, *what))
        for store, what in zip(stores, asked, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores[1:]:
        store._dispose_engine()
    assert list(stages(two).values()).count("Production") == 1
    assert set(outcomes) <= {0, 403, 409, *range(1, 100)}
    assert len(outcomes) == 4
    assert verify_chain(chain(two)) is None
    # One of the two things happened to v2, or one after the other was refused.
    assert sorted(two.store.levels(NAME).values()) in (["production"], ["production", "staging"])


def test_two_versions_racing_to_canary_leave_one_canary(registry, world):
    for index, bundle in enumerate(world.releases[:2]):
        registry.register(bundle)
        registry.store.move(NAME, index + 1, Level.STAGING)
    other, barrier, outcomes = registry.open(), threading.Barrier(2), []

    def ask(store: KfmStore, version: int) -> None:
        barrier.wait()
        try:
            store.move(NAME, version, Level.CANARY)
            outcomes.append("moved")
        except MlflowException as exc:
            outcomes.append(exc.get_http_status_code())

    threads = [
        threading.Thread(target=ask, args=pair) for pair in ((registry.store, 1), (other, 2))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other._dispose_engine()
    assert sorted(map(str, outcomes)) == ["409", "moved"]
    assert list(registry.store.levels(NAME).values()).count(Level.CANARY) == 1
