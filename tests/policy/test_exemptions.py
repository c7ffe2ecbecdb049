"""Exemptions: one function decides, and there is much that it never lets pass."""

from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kfm_mlflow.policy.exemptions import Exemption, Subject, exemption_for, may_be_waived

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
RELEASE = f"sha256:{'a' * 64}"
SUBJECT = Subject("telemetry", "ENERGY_EXCEEDED", "climate-tiny", 3, RELEASE)


def exemption(**changes):
    fields = {
        "gate": "telemetry",
        "models": "climate-*",
        "owner": "ada",
        "reason": "the meter was broken",
        "expires_at": NOW + HOUR,
    }
    return Exemption.model_validate({**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"codes": ["ENERGY_EXCEEDED"]}, True),
        ({"codes": ["CARBON_EXCEEDED"]}, False),
        ({"gate": "xai"}, False),
        ({"models": "focus-*"}, False),
        ({"models": "climate-tiny"}, True),
        ({"models": "Climate-*"}, False),
        ({"version": 3}, True),
        ({"version": 4}, False),
        ({"release_id": "a" * 64}, True),
        ({"release_id": f"sha256:{'b' * 64}"}, False),
        ({"expires_at": NOW}, False),
        ({"expires_at": NOW + timedelta(microseconds=1)}, True),
        ({"not_before": NOW}, True),
        ({"not_before": NOW + timedelta(microseconds=1)}, False),
    ],
)
def test_an_exemption_holds_within_all_of_its_scope_and_its_time_only(changes, holds):
    found = exemption(**changes)
    assert exemption_for((found,), SUBJECT, NOW) == (found if holds else None)


@pytest.mark.parametrize("gate", ["integrity", "signature", "care", "authority"])
def test_bytes_signatures_and_care_can_not_even_be_written_as_exempt(gate):
    with pytest.raises(ValidationError, match="never waived"):
        exemption(gate=gate)


@pytest.mark.parametrize("code", ["VETOED", "GATE_ERROR", "GATE_UNKNOWN"])
def test_a_veto_and_a_gate_without_an_answer_are_never_waived(code):
    assert not may_be_waived("votes", code)
    with pytest.raises(ValidationError, match="never waived"):
        exemption(gate="votes", codes=["QUORUM_PENDING", code])
    blanket = exemption(gate="votes", models="*")
    assert (
        exemption_for((blanket,), Subject("votes", code, "climate-tiny", 3, RELEASE), NOW) is None
    )


@pytest.mark.parametrize("missing", ["gate", "models", "owner", "reason", "expires_at"])
def test_scope_owner_reason_and_end_must_be_written(missing):
    fields = exemption().model_dump(mode="json")
    del fields[missing]
    with pytest.raises(ValidationError, match=missing):
        Exemption.model_validate(fields)


@pytest.mark.parametrize(
    "changes",
    [
        {"expires_at": "2026-06-01T12:00:00"},
        {"not_before": NOW + HOUR},
        {"version": 0},
        {"release_id": "abc"},
        {"owner": ""},
        {"until": NOW},
    ],
    ids=["no zone", "never active", "version 0", "no digest", "nobody", "unknown field"],
)
def test_an_exemption_that_says_nothing_certain_is_refused(changes):
    with pytest.raises(ValidationError):
        exemption(**changes)


INSTANTS = st.integers(-30 * 24, 30 * 24).map(lambda hours: NOW + hours * HOUR)
EXEMPTIONS = st.builds(
    lambda start, length, **scope: exemption(
        not_before=start, expires_at=start + timedelta(seconds=length), **scope
    ),
    INSTANTS,
    st.integers(1, 10**6),
    gate=st.sampled_from(["telemetry", "xai", "votes"]),
    models=st.sampled_from(["*", "climate-*", "focus-*"]),
    version=st.sampled_from([None, 3, 4]),
)


@given(st.lists(EXEMPTIONS, max_size=6), INSTANTS)
def test_the_first_that_is_active_and_in_scope_counts_and_no_other(listed, now):
    """The decision, said a second time in other words, over the policy's own order."""
    expected = [
        e
        for e in listed
        if e.not_before <= now < e.expires_at
        and e.gate == SUBJECT.gate
        and fnmatchcase(SUBJECT.model_name, e.models)
        and e.version in (None, SUBJECT.version)
    ]
    assert exemption_for(listed, SUBJECT, now) == (expected[0] if expected else None)


@given(st.lists(EXEMPTIONS, max_size=6), INSTANTS)
def test_an_expired_exemption_is_as_if_it_were_not_there(listed, now):
    alive = [e for e in listed if e.state_at(now) != "expired"]
    assert exemption_for(listed, SUBJECT, now) == exemption_for(alive, SUBJECT, now)
