"""Facts: what is wrong on its face is refused when the fact is made."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from metadata import made_facts

from kfm_mlflow.errors import InputError
from kfm_mlflow.metadata.facts import FileFact, TensorFact, read_file_fact, utc_text


def test_file_read_from_disk_has_the_digests_that_hashlib_gives(tmp_path):
    (tmp_path / "xai").mkdir()
    (tmp_path / "xai" / "a.bin").write_bytes(b"x" * 3_000_000)
    fact = read_file_fact(tmp_path, "xai/a.bin")
    assert fact.sha256 == "sha256:" + hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert fact.sha1 == hashlib.sha1(b"x" * 3_000_000).hexdigest()
    assert fact.size_bytes == 3_000_000
    with pytest.raises(InputError, match="absent"):
        read_file_fact(tmp_path, "absent")


def test_digests_in_any_notation_are_written_in_one():
    bare, dashed = FileFact("a", 1, "AB" * 32), FileFact("a", 1, "sha256-" + "ab" * 32)
    assert bare == dashed == FileFact("a", 1, "sha256:" + "ab" * 32)
    assert bare.multihash == "1220" + "ab" * 32


@pytest.mark.parametrize("path", ["", "/a", "../a", "a/../b", "a//b", ".git/config", "a\\b"])
def test_paths_that_no_release_may_hold_are_refused(path):
    with pytest.raises(InputError):
        FileFact(path, 1, "ab" * 32)


def test_instants_are_written_in_utc_whatever_their_zone():
    zone = timezone(timedelta(hours=-6))
    assert utc_text(datetime(2026, 1, 31, 6, tzinfo=zone)) == "2026-01-31T12:00:00Z"


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (made_facts.make_release, {"release_version": "1.2.0"}),
        (made_facts.make_release, {"release_version": "v1.2"}),
        (made_facts.make_release, {"release_version": "v1.2.3-" + "a" * 58}),
        (made_facts.make_release, {"predecessor": "v1.2.0"}),
        (made_facts.make_release, {"model_name": "a/b"}),
        (made_facts.make_release, {"bbox": (258.0, 37.0, 265.0, 40.0)}),
        (made_facts.make_release, {"released_at": datetime(2026, 1, 1)}),  # noqa: DTZ001 - the point
        (made_facts.make_run, {"ended_at": datetime(2020, 1, 1, tzinfo=UTC)}),
        (made_facts.make_run, {"environment_lock_sha256": "xyz"}),
        (lambda: made_facts.make_datasets()[0], {"sha256": "aa"}),
        (lambda: made_facts.make_datasets()[0], {"end_at": datetime(1900, 1, 1, tzinfo=UTC)}),
        (lambda: made_facts.make_datasets()[0], {"name": ""}),
        (lambda: made_facts.make_files()[0], {"size_bytes": -1}),
        (lambda: made_facts.make_files()[0], {"sha1": "xyz"}),
        (lambda: TensorFact("a", "float32", (1,), ("batch",)), {"dim_order": ()}),
    ],
)
def test_wrong_facts_are_refused(make, changes):
    with pytest.raises(InputError):
        replace(make(), **changes)
