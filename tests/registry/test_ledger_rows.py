"""Law: whatever is changed in a stored row of the ledger is found, and named."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from registry.world import NAME, query

from kfm_mlflow.canonical import load_json
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry.history import history_of, read_entry
from kfm_mlflow.registry.snapshot import (
    Cover,
    snapshot_document,
    snapshot_rows,
    verify_snapshot,
    write_snapshot,
)
from kfm_mlflow.trust.ledger_head import LedgerHead, signed_head
from kfm_mlflow.trust.ledger_rows import verify_rows

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = ("seq", "at", "kind", "model", "version", "body", "prev_hash", "hash")


def rows_of(database: Path) -> list[dict[str, Any]]:
    found = query(database, f"SELECT {', '.join(COLUMNS)} FROM kfm_ledger ORDER BY seq")
    return [dict(zip(COLUMNS, row, strict=True)) for row in found]


def verify(registry, database: Path) -> Any:
    key = registry.world.signer("registry").public_key
    return verify_rows(rows_of(database), keys=[key]).finding


def execute(database: Path, sql: str, *values: object) -> None:
    """Write past the registry: without its triggers, as somebody with the file in their hands."""
    with closing(sqlite3.connect(database)) as connection:
        named = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in named.fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(sql, values)
        connection.commit()


def test_real_moves_refusals_and_policy_changes_verify(two):
    rows = rows_of(two.database)
    assert {row["kind"] for row in rows} <= {"moved", "refused", "policy"}
    assert verify(two, two.database) is None


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seq=st.integers(1, 5),
    column=st.sampled_from(COLUMNS),
    place=st.integers(0, 10**6),
    bit=st.integers(0, 6),
)
def test_one_changed_character_of_any_column_of_any_row_is_found_at_its_row(
    two, seq, column, place, bit
):
    changed = two.database.with_name("changed.db")
    shutil.copy(two.database, changed)
    ((value,),) = query(changed, f"SELECT {column} FROM kfm_ledger WHERE seq = ?", seq)
    if isinstance(value, int):
        other: object = value ^ (1 << (bit + 4))
    else:
        place %= len(value)
        other = value[:place] + chr(ord(value[place]) ^ (1 << bit)) + value[place + 1 :]
    execute(changed, f"UPDATE kfm_ledger SET {column} = ? WHERE seq = ?", other, seq)
    found = verify(two, changed)
    # A row that calls itself another stands at another place, and the gap shows first.
    assert found.number <= seq if column == "seq" else found.number == seq


@pytest.mark.parametrize(
    ("sql", "number"),
    [
        ("DELETE FROM kfm_ledger WHERE seq = 1", 1),
        ("DELETE FROM kfm_ledger WHERE seq = 3", 3),
        (
            "UPDATE kfm_ledger SET seq = CASE seq WHEN 2 THEN 30 ELSE 3 END WHERE seq IN (2, 3)",
            2,
        ),
        (
            (
                "UPDATE kfm_ledger SET body = (SELECT body FROM kfm_ledger WHERE seq = 1)"
                " WHERE seq = 2"
            ),
            2,
        ),
    ],
)
def test_a_row_taken_out_moved_or_copied_is_named(two, sql, number):
    execute(two.database, sql)
    assert verify(two, two.database).number == number


def test_every_decision_is_signed_by_the_registry(two):
    from kfm_mlflow.trust.attestation import verify_envelope
    from kfm_mlflow.trust.keys import TrustedKey

    key = TrustedKey("registry", two.world.signer("registry").public_key.pem)
    for (body,) in two.query("SELECT body FROM kfm_ledger"):
        report = verify_envelope(body.encode(), [key], two.now)
        assert report.ok, report.problems
        assert report.kind in {"decision", "policy"}


def test_the_ledger_alone_says_what_the_registry_says_also_after_a_restore(two):
    two.store.move(NAME, 2, Level.PRODUCTION)
    two.store.move(NAME, 2, Level.CANDIDATE, restore=1)
    history = history_of((read_entry(row) for row in rows_of(two.database)), NAME)
    assert history.levels() == two.store.levels(NAME) == {1: Level.PRODUCTION}
    assert {t.version: str(t.level) for t in history.present} == {
        1: "production",
        2: "candidate",
    }


# -- snapshots -------------------------------------------------------------------------------------


def export(registry, path: Path) -> Path:
    rows = rows_of(registry.database)
    head = LedgerHead(rows[-1]["seq"], rows[-1]["hash"], rows[-1]["at"])
    signer = registry.world.signer("registry")
    cover = Cover(
        name="tiny",
        auditor="@kfm-governance",
        at=registry.now,
        head=signed_head(head, signer),
        key=signer.public_key,
    )
    assert write_snapshot(path, rows, cover) == len(rows)
    return path


def test_snapshot_is_canonical_json_of_the_documented_shape_and_verifies(two, tmp_path):
    from kfm_mlflow.canonical import canonical_bytes
    from kfm_mlflow.metadata.schemas import schema_problems

    path = export(two, tmp_path / "out" / "ledger_snapshot.json")
    document = load_json(path)
    assert path.read_bytes() == canonical_bytes(document)
    assert schema_problems("ledger_snapshot", document) == []
    assert document["rows"] == rows_of(two.database)
    assert list(path.parent.iterdir()) == [path]
    report, problems = verify_snapshot(path)
    assert (report.finding, problems) == (None, [])


def test_snapshot_says_who_approved_what_is_released_now(two, tmp_path):
    document = snapshot_document(export(two, tmp_path / "s.json"))
    # The fields of the governance record in the source document on checkpoints.
    five = {"ledger_id", "auditor", "reviewed_by", "status", "timestamp"}
    assert five <= set(document)
    live, canary = document["records"]
    assert five <= set(live)
    assert (live["version"], live["level"], live["status"]) == (1, "production", "approved")
    assert (canary["version"], canary["level"], canary["status"]) == (2, "canary", "admitted")
    assert len(live["reviewed_by"].split(", ")) >= 3
    assert (document["status"], document["reviewed_by"]) == ("approved", live["reviewed_by"])
    quarter = f"{two.now.year}q{(two.now.month - 1) // 3 + 1}"
    assert document["ledger_id"] == f"ledger_{quarter}_tiny"
    assert live["ledger_id"] == f"ledger_{quarter}_climate_tiny_v1"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"status":"admitted"', '"status":"approved"', "records does not follow"),
        ('"status":"approved","timestamp"', '"status":"admitted","timestamp"', "does not follow"),
        ('"ledger_id":"ledger_', '"ledger_id":"ledger_1999q1_', "ledger_id does not follow"),
        ('"head":{"at":"2', '"head":{"at":"1', "has another head"),
        ('"key_id":"', '"key_id":"0', None),
    ],
)
def test_what_a_snapshot_says_must_follow_from_its_rows(two, tmp_path, old, new, words):
    path = export(two, tmp_path / "s.json")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    if words is None:
        with pytest.raises(EvidenceError, match="key_id"):
            verify_snapshot(path)
        return
    report, problems = verify_snapshot(path)
    assert report.finding is None
    assert any(words in problem for problem in problems), problems


def test_a_snapshot_signed_by_somebody_else_verifies_only_by_its_own_word(two, tmp_path):
    path = export(two, tmp_path / "s.json")
    foreign = two.world.signer("foreign").public_key
    assert verify_snapshot(path, keys=[foreign])[0].finding.number == 1
    kept = LedgerHead(99, f"sha256:{'0' * 64}", None)
    assert "cut off" in verify_snapshot(path, kept=kept)[0].finding.problem


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"rows":[]}',
        '{"rows":[1]}',
        '{"rows":[{}',
        '{"rows":{}}',
        '{"b":1,"a":2}',
        '{"a":1,"a":2}',
        '{"a":NaN}',
        '{"a":' + "[" * 100000,
        '{"rows":[]} x',
        "\ud83d",
    ],
)
def test_what_is_no_snapshot_is_refused_in_one_sentence(tmp_path, text):
    path = tmp_path / "s.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(EvidenceError):
        snapshot_document(path)


@given(cut=st.integers(1, 100_000))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_snapshot_cut_anywhere_is_refused(two, cut):
    path = two.database.with_name("whole.json")
    if not path.exists():
        export(two, path)
    data = path.read_bytes()
    cut %= len(data)
    part = path.with_name("part.json")
    part.write_bytes(data[:cut])
    with pytest.raises(EvidenceError):
        snapshot_document(part)


def test_rows_are_read_one_at_a_time_however_the_file_is_cut_into_pieces(
    two, tmp_path, monkeypatch
):
    path = export(two, tmp_path / "s.json")
    for size in (1, 7, 64, 5000):
        monkeypatch.setattr("kfm_mlflow.registry.snapshot._CHUNK", size)
        assert list(snapshot_rows(path)) == rows_of(two.database)
