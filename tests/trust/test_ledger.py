"""The hash chain: any change to any row is found, at the row where it is."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.errors import InputError
from kfm_mlflow.trust.ledger import GENESIS, row_hash, verify_chain

FIELDS = st.dictionaries(
    st.sampled_from(["seq", "kind", "body", "at"]),
    st.integers(-(2**40), 2**40) | st.text(max_size=8) | st.none() | st.booleans(),
    max_size=4,
)


def chain(all_fields):
    rows, previous = [], GENESIS
    for fields in all_fields:
        current = row_hash(previous, fields)
        rows.append({**fields, "prev_hash": previous, "row_hash": current})
        previous = current
    return rows


def test_hash_is_sha256_of_the_canonical_form():
    text = json.dumps(
        {"fields": {"a": 1, "b": "x"}, "prev_hash": GENESIS}, sort_keys=True, separators=(",", ":")
    )
    expected = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert row_hash(GENESIS, {"b": "x", "a": 1}) == expected


def test_genesis_is_not_the_hash_of_anything_known():
    assert GENESIS == "sha256:" + "0" * 64


def test_empty_chain_is_good_unless_a_head_is_expected():
    assert verify_chain([]) is None
    assert verify_chain([], head=row_hash(GENESIS, {})).index == 0


@given(st.lists(FIELDS, max_size=6))
def test_untouched_chain_is_good(all_fields):
    rows = chain(all_fields)
    assert verify_chain(rows, head=rows[-1]["row_hash"] if rows else None) is None


@given(st.lists(FIELDS, min_size=1, max_size=6), st.data())
def test_changed_field_is_found_at_its_row(all_fields, data):
    rows = chain(all_fields)
    at = data.draw(st.integers(0, len(rows) - 1))
    changed = data.draw(FIELDS.filter(lambda fields: chain([fields]) != chain([all_fields[at]])))
    kept = {name: rows[at][name] for name in ("prev_hash", "row_hash")}
    rows[at] = {**changed, **kept}
    assert verify_chain(rows).index == at


@given(st.lists(FIELDS, min_size=2, max_size=6), st.data())
def test_removed_or_swapped_row_is_found(all_fields, data):
    rows = chain(all_fields)
    at = data.draw(st.integers(0, len(rows) - 2))
    assert verify_chain(rows[:at] + rows[at + 1 :]).index == at
    swapped = [*rows]
    swapped[at], swapped[at + 1] = swapped[at + 1], swapped[at]
    assert verify_chain(swapped).index == at


def test_rows_cut_off_the_end_are_found_by_the_head_alone():
    rows = chain([{"seq": 1}, {"seq": 2}])
    assert verify_chain(rows[:1]) is None
    assert verify_chain(rows[:1], head=rows[1]["row_hash"]).index == 1


def test_rewritten_row_with_a_fresh_hash_breaks_the_next():
    rows = chain([{"seq": 1}, {"seq": 2}])
    rows[0] = chain([{"seq": 9}])[0]
    assert verify_chain(rows).index == 1


@pytest.mark.parametrize("row", [{}, {"prev_hash": GENESIS}, {"prev_hash": GENESIS, "row_hash": 1}])
def test_row_without_its_hashes_is_bad(row):
    assert verify_chain([row]).index == 0


def test_row_that_is_no_json_is_bad_not_an_exception():
    finding = verify_chain([{"x": float("nan"), "prev_hash": GENESIS, "row_hash": GENESIS}])
    assert "cannot be hashed" in finding.problem


def test_fields_may_not_shadow_the_chain():
    with pytest.raises(InputError, match="prev_hash"):
        row_hash(GENESIS, {"prev_hash": "x"})
