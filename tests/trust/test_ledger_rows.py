"""A row is believed when it is chained, signed by the registry, and says what its columns say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trust.made_ledger import chained, claims, fields, good, policy_claims, signer

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.errors import InputError, LedgerError
from kfm_mlflow.trust.ledger_head import (
    LedgerHead,
    head_signature_problem,
    parse_head,
    signed_head,
)
from kfm_mlflow.trust.ledger_rows import checked_rows, verify_rows


def keys():
    return [signer().public_key]


def head_of(rows) -> LedgerHead:
    return LedgerHead(rows[-1]["seq"], rows[-1]["hash"], rows[-1]["at"])


def finding(rows, **asked):
    return verify_rows(rows, keys=keys(), **asked).finding


def test_moves_refusals_and_policies_of_the_registry_verify():
    report = verify_rows(good(), keys=keys())
    assert (report.finding, report.row_count, report.signatures_checked) == (None, 5, True)
    assert report.head == head_of(good())


def test_without_a_key_only_the_chain_is_looked_at_and_it_says_so():
    rows = chained([*good()[:4], fields(5, claims(2), key="mallory")])
    assert verify_rows(rows).finding is None
    assert not verify_rows(rows).signatures_checked


def test_a_row_that_another_key_signed_is_named_with_the_key():
    rows = chained([*good()[:3], fields(4, claims(2), key="mallory"), good()[4]])
    found = finding(rows)
    assert found.number == 4
    assert signer("mallory").public_key.key_id in found.problem


def test_a_former_key_of_the_registry_still_verifies_what_it_signed():
    rows = chained([fields(1, claims(1), key="former"), fields(2, claims(2))])
    assert finding(rows).number == 1
    both = [*keys(), signer("former").public_key]
    assert verify_rows(rows, keys=both).finding is None


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("model", "other", "says model 'other'"),
        ("version", 7, "says version '7'"),
        ("kind", "refused", "says kind 'refused'"),
        ("kind", "policy", "decision attestation, not policy"),
        ("kind", "deleted", "does not know"),
        ("at", "2026-11-08T20:00:00.000Z", "not yet valid"),
        ("at", "yesterday", "is not dated"),
        ("body", "{}", "is not signed by the registry"),
        ("seq", 9, "calls itself row 9"),
    ],
)
def test_a_column_that_disagrees_with_what_was_signed_is_found_though_rechained(
    column, value, words
):
    rows = good()
    rows[3][column] = value
    found = finding(chained(rows))
    assert (found.number, words in str(found)) == (4, True), str(found)


def test_a_decision_that_contradicts_itself_is_bad_though_the_registry_signed_it():
    twisted = claims(1)
    twisted["outcome"] = "refused"
    assert "contradicts itself" in finding(chained([fields(1, twisted, kind="refused")])).problem
    forged = claims(1)
    forged["report_digest"] = f"sha256:{'0' * 64}"
    assert "another digest" in finding(chained([fields(1, forged)])).problem
    assert "contradicts" in finding(chained([fields(1, {**claims(1), "report_digest": 5})])).problem


@pytest.mark.parametrize("change", [{"extra": 1}, {"at": None}])
def test_rows_with_other_columns_are_bad(change):
    rows = good()
    name, value = next(iter(change.items()))
    rows[2] = {**rows[2], name: value} if value else {k: v for k, v in rows[2].items() if k != name}
    found = finding(rows)
    assert found.number == 3
    assert name in found.problem


@settings(max_examples=60, deadline=None)
@given(
    row=st.integers(0, 4),
    column=st.sampled_from(sorted(good()[0])),
    place=st.integers(0, 10**6),
    bit=st.integers(0, 6),
)
def test_one_changed_bit_anywhere_is_found_at_its_row(row, column, place, bit):
    rows = good()
    value = rows[row][column]
    if isinstance(value, int):
        rows[row][column] = value ^ (1 << bit)
    else:
        place %= len(value)
        rows[row][column] = value[:place] + chr(ord(value[place]) ^ 1 << bit) + value[place + 1 :]
    assert rows == good() or finding(rows).index == row


@settings(max_examples=40, deadline=None)
@given(length=st.integers(0, 5), kept=st.integers(0, 5))
def test_a_kept_head_finds_every_cut_and_no_growth(length, kept):
    rows = good()
    head = head_of(rows[:kept]) if kept else LedgerHead()
    found = finding(rows[:length], kept=head)
    assert (found is None) == (length >= kept)
    if found is not None:
        assert found.number == length + 1
        assert f"{kept - length} cut off the end" in found.problem


def test_a_ledger_written_anew_is_found_by_a_head_from_before():
    kept = head_of(good()[:3])
    rows = good()
    anew = chained([*rows[:2], rows[3], *(dict(rows[4]) for _ in range(1))])
    anew = chained([{**row, "seq": seq} for seq, row in enumerate(anew, 1)])
    assert finding(anew) is None
    found = finding(anew, kept=kept)
    assert found.number == 3
    assert "written anew" in found.problem


def test_checked_rows_hands_on_good_rows_and_stops_at_the_first_bad_one():
    rows = good()
    assert list(checked_rows(rows, keys(), head_of(rows))) == rows
    rows[3]["version"] = 9
    seen = []
    with pytest.raises(LedgerError, match="row 4 was changed"):
        seen.extend(checked_rows(rows, keys(), head_of(rows)))
    with pytest.raises(LedgerError, match="1 cut off the end"):
        list(checked_rows(good()[:4], keys(), head_of(good())))


def test_head_is_signed_over_all_of_it_and_read_back():
    head = head_of(good())
    document = signed_head(head, signer())
    assert parse_head(document) == head
    assert head_signature_problem(document, signer().public_key) is None
    assert "by key" in head_signature_problem(document, signer("mallory").public_key)
    for name, value in (("seq", 4), ("hash", f"sha256:{'0' * 64}"), ("at", None), ("x", 1)):
        changed = {**document, name: value}
        assert "does not verify" in head_signature_problem(changed, signer().public_key)
    unsigned = head.to_dict()
    assert head_signature_problem(unsigned, signer().public_key) == "is not signed"
    bad = {**document, "signature": {**document["signature"], "sig": "zz"}}
    assert "hexadecimal" in head_signature_problem(bad, signer().public_key)


def test_head_signature_covers_the_canonical_bytes():
    document = signed_head(LedgerHead(), signer())
    signature = bytes.fromhex(document.pop("signature")["sig"])
    expected = (
        b'{"at":null,"hash":"sha256:' + b"0" * 64 + b'","schema_version":"1","seq":0}'
    )  # RFC 8785, written by hand
    assert canonical_bytes(document) == expected
    assert signer().public_key.verifies(signature, expected)


@pytest.mark.parametrize(
    "value", [None, [], {}, {"seq": -1}, {"seq": True, "hash": "x"}, {"seq": 1, "hash": "x"}]
)
def test_what_is_no_head_is_refused_with_a_remedy(value):
    with pytest.raises(InputError, match="head"):
        parse_head(value)


def test_policy_rows_count_as_rows_of_the_registry():
    assert finding(chained([fields(1, policy_claims())])) is None
    assert finding(chained([fields(1, policy_claims(), key="mallory")])).number == 1
