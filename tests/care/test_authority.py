"""Whose word counts over a region: read from the file, weighed without keys or clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from care.made_regions import NOW, feature, region_set
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.care.authority import (
    Scope,
    Statement,
    build_claims,
    parse_claims,
    region_digest,
    rule_on,
)
from kfm_mlflow.errors import DataError, EvidenceError

KEYS = {"a": frozenset({"k1", "k2"}), "b": frozenset({"k3"})}


def public(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


PRIVATE = ec.generate_private_key(ec.SECP256R1())
PEM = public(PRIVATE)
REGIONS = region_set(feature(), feature(id="b", restricted_names=["Quiet Heron Spring"]))
DIGEST = region_digest(REGIONS.regions[0])
CARE = {"masking": "h3_r7", "scope": "public-generalized"}


def said(choice="approve", *, minutes=0, key="k1", **more):
    return Statement(
        **{
            "choice": choice,
            "region": "a",
            "region_digest": DIGEST,
            "scope": Scope(),
            "reason": "because",
            "key_ids": frozenset({key}),
            "issued_at": NOW + timedelta(minutes=minutes),
            "digest": f"{choice}{minutes}{key}",
            **more,
        }
    )


def rule(*statements, care=CARE, regions=REGIONS):
    found = rule_on(statements, regions, KEYS, care)
    return set(found.approved), set(found.vetoed), [item.code for item in found.ignored]


# -- the file ----------------------------------------------------------------------------------------


def test_a_name_alone_is_an_authority_without_keys_and_an_object_names_them():
    old, new = region_set(
        feature(authority="Example Council"),
        feature(id="b", authority={"name": "Council", "contact": "by post", "keys": [PEM, PEM]}),
    ).regions
    assert (old.authority, old.authority_keys) == ("Example Council", ())
    assert (new.authority, new.authority_contact) == ("Council", "by post")
    assert new.authority_keys == (PEM, PEM)
    assert "BEGIN" not in repr(new)


WRONG_KEYS = {
    "private": PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    "another curve": public(ec.generate_private_key(ec.SECP384R1())),
    "another kind": public(ed25519.Ed25519PrivateKey.generate()),
    "text": "ann",
    "number": 7,
}


@pytest.mark.parametrize("key", WRONG_KEYS.values(), ids=WRONG_KEYS)
def test_a_file_whose_key_is_none_is_refused_and_the_key_is_not_shown(key):
    with pytest.raises(DataError, match=r"authority\.keys\.1: is no EC P-256 public key") as caught:
        region_set(feature(authority={"name": "Council", "keys": [PEM, key]}))
    assert "BEGIN" not in str(caught.value)


@pytest.mark.parametrize("value", [7, [], {}, {"name": ""}, {"name": "x", "key": PEM}])
def test_an_authority_of_another_shape_is_refused(value):
    with pytest.raises(DataError, match="authority"):
        region_set(feature(authority=value))


# -- weighing ----------------------------------------------------------------------------------------

statements = st.lists(
    st.builds(
        said,
        st.sampled_from(["approve", "veto"]),
        minutes=st.integers(0, 4),
        key=st.sampled_from(["k1", "k2", "k3", "k9"]),
        scope=st.sampled_from([Scope(), Scope(modes=("h3_r5",)), Scope("model")]),
        fault=st.sampled_from(["", "expired at 2026"]),
        region_digest=st.sampled_from([DIGEST, "sha256:other"]),
    ),
    max_size=6,
)


@given(statements, st.randoms())
def test_the_order_of_statements_says_nothing_and_none_is_both(found, random):
    mixed = list(found)
    random.shuffle(mixed)
    approved, vetoed, codes = rule(*found)
    other = rule(*mixed)
    assert other[:2] == (approved, vetoed)
    assert sorted(other[2]) == sorted(codes)
    assert not approved & vetoed


@given(statements)
def test_a_valid_veto_that_is_not_older_than_anything_else_always_stands(found):
    assert rule(*found, said("veto", minutes=4, digest="z"))[1] == {"a"}


@given(statements)
def test_what_does_not_count_changes_nothing(found):
    for idle in (said(key="k9"), said("veto", key="k3"), said("veto", fault="expired at 2026")):
        assert rule(*found, idle)[:2] == rule(*found)[:2]


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        (said(fault="expired at 2026"), "EXPIRED"),
        (said(fault="not yet valid"), "INVALID"),
        (said(key="k3"), "FOREIGN_KEY"),
        (said(region="nowhere"), "REGION_UNKNOWN"),
        (said(region_digest="sha256:other"), "REGION_CHANGED"),
        (said(scope=Scope(modes=("h3_r5",))), "OUT_OF_SCOPE"),
        (said("veto", scope=Scope(uses=("public-stream",))), "OUT_OF_SCOPE"),
        (said("veto", region="nowhere"), "REGION_UNKNOWN"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.choice,
)
def test_why_a_statement_does_not_count_is_named(statement, code):
    assert rule(statement) == (set(), set(), [code])


def test_a_veto_outlives_the_rules_and_the_hash_that_it_was_given_under():
    assert rule(said("veto", region_digest="sha256:other"))[1] == {"a"}
    hashed = said("veto", region="#0123456789abcdef")
    assert rule(hashed)[1] == {"#0123456789abcdef"}
    assert rule(replace(hashed, choice="approve")) == (set(), set(), ["REGION_UNKNOWN"])


def test_of_a_release_that_says_nothing_of_itself_a_scoped_approval_is_none_and_a_veto_is_one():
    scope = Scope(modes=("h3_r7",))
    assert rule(said(scope=scope), care={}) == (set(), set(), ["OUT_OF_SCOPE"])
    assert rule(said("veto", scope=scope), care={})[1] == {"a"}


@pytest.mark.parametrize(
    "changed",
    [
        {"h3_max_resolution": 5},
        {"k_min": 9},
        {"labels": ["TK A"]},
        {"sensitivity": "high"},
        {"seasonality": {"starts": "03-01", "ends": "04-01"}},
        {"embargo": {"until": "2030-01-01"}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_every_rule_of_a_region_is_in_its_digest(changed):
    assert region_digest(region_set(feature(**changed)).regions[0]) != DIGEST


def test_names_consent_and_keys_are_not_in_its_digest():
    same = feature(
        name="x", restricted_names=["y"], consent={"status": "granted"},
        authority={"name": "Council", "keys": [PEM]},
    )  # fmt: skip
    assert region_digest(region_set(same).regions[0]) == DIGEST


# -- claims ------------------------------------------------------------------------------------------

GOOD = build_claims(
    "veto",
    region="a",
    region_digest=DIGEST,
    regions_digest=REGIONS.digest,
    scope=Scope("model", ("h3_r7",), ("public-stream",)),
    reason="because",
)


def test_claims_are_read_back_as_they_were_built():
    scope = Scope("model", ("h3_r7",), ("public-stream",))
    assert parse_claims(GOOD) == ("veto", "a", DIGEST, scope, "because")


@pytest.mark.parametrize(
    "wrong",
    [
        {"choice": "maybe"},
        {"region": ""},
        {"region_digest": None},
        {"reason": 7},
        {"reason": "x" * 1001},
        {"scope": {}},
        {"scope": {"covers": "house", "modes": [], "uses": []}},
        {"scope": {"covers": "model", "modes": "h3_r7", "uses": []}},
        {"scope": {"covers": "model", "modes": [1], "uses": []}},
    ],
    ids=repr,
)
def test_claims_of_another_shape_are_refused(wrong):
    with pytest.raises(EvidenceError):
        parse_claims({**GOOD, **wrong})
