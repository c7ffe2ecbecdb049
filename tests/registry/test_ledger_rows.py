"""Law: whatever is changed in a stored row of the ledger is found."""

from __future__ import annotations

import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from registry.world import query

from kfm_mlflow.trust.ledger import verify_chain

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = ("seq", "at", "kind", "model", "version", "body", "prev_hash", "hash")


def verify(database: Path) -> object:
    rows = query(database, f"SELECT {', '.join(COLUMNS)} FROM kfm_ledger ORDER BY seq")
    named = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    return verify_chain(
        [
            {**{k: v for k, v in row.items() if k != "hash"}, "row_hash": row["hash"]}
            for row in named
        ]
    )


def execute(database: Path, sql: str, *values: object) -> None:
    connection = sqlite3.connect(database)
    connection.execute(sql, values)
    connection.commit()
    connection.close()


def test_the_chain_of_real_moves_and_refusals_verifies(two):
    assert len(two.query("SELECT seq FROM kfm_ledger")) == 5
    assert verify(two.database) is None


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seq=st.integers(1, 5),
    column=st.sampled_from(COLUMNS),
    place=st.integers(0, 10**6),
    bit=st.integers(0, 6),
)
def test_one_changed_character_of_any_column_of_any_row_is_found(two, seq, column, place, bit):
    changed = two.database.with_name("changed.db")
    shutil.copy(two.database, changed)
    ((value,),) = query(changed, f"SELECT {column} FROM kfm_ledger WHERE seq = ?", seq)
    if isinstance(value, int):
        other: object = value ^ (1 << (bit + 4))
    else:
        place %= len(value)
        other = value[:place] + chr(ord(value[place]) ^ (1 << bit)) + value[place + 1 :]
    execute(changed, f"UPDATE kfm_ledger SET {column} = ? WHERE seq = ?", other, seq)
    assert verify(changed) is not None


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM kfm_ledger WHERE seq = 1",
        "DELETE FROM kfm_ledger WHERE seq = 3",
        "UPDATE kfm_ledger SET seq = CASE seq WHEN 2 THEN 30 ELSE 3 END WHERE seq IN (2, 3)",
        "UPDATE kfm_ledger SET body = (SELECT body FROM kfm_ledger WHERE seq = 1) WHERE seq = 2",
    ],
)
def test_a_row_taken_out_moved_or_copied_is_found(two, sql):
    execute(two.database, sql)
    assert verify(two.database) is not None


def test_every_decision_is_signed_by_the_registry(two):
    from kfm_mlflow.trust.attestation import verify_envelope
    from kfm_mlflow.trust.keys import TrustedKey

    key = TrustedKey("registry", two.world.signer("registry").public_key.pem)
    for (body,) in two.query("SELECT body FROM kfm_ledger"):
        report = verify_envelope(body.encode(), [key], two.now, kind="decision")
        assert report.ok, report.problems
