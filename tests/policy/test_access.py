"""The access section: what is not written is not allowed."""

from datetime import UTC, datetime, timedelta

import pytest
import yaml
from pydantic import ValidationError

from kfm_mlflow.errors import PolicyError
from kfm_mlflow.policy.access import AccessPolicy
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.lint import lint_policy
from kfm_mlflow.policy.load import load_policies, packaged_families, parse_policy

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def overlay(tmp_path, **sections):
    text = yaml.safe_dump({"schema_version": "1", "extends": "climate", **sections})
    return parse_policy(text, where="p.yaml", folder=tmp_path)


def test_without_the_section_nobody_may_do_anything():
    access = AccessPolicy()
    assert access.unauthenticated == "never"
    for start in Level:
        for end in Level:
            assert access.movers(start, end) == ()
    assert access.senders("vote") == ()
    assert access.break_glass.roles == ()


@pytest.mark.parametrize("family", packaged_families())
def test_packaged_policies_answer_nobody_in_particular_on_this_machine_only(family):
    access = load_policies(None).policy(family).access
    assert access.unauthenticated == "loopback"
    assert not any(access.roles.values())
    assert access.break_glass.roles == ()


def test_a_move_down_asks_for_the_roles_of_down_wherever_it_leads():
    access = load_policies(None).policy("climate").access
    assert access.movers(Level.CANARY, Level.STAGING) == access.may_move.down
    assert access.movers(Level.PRODUCTION, Level.CANDIDATE) == access.may_move.down
    assert access.movers(Level.CANDIDATE, Level.STAGING) == ("trainer", "operator")


def test_a_user_holds_every_role_that_names_them(tmp_path):
    access = overlay(tmp_path, access={"roles": {"trainer": ["ann"], "operator": ["ann", "bo"]}})
    assert access.access.roles_of("ann") == ("operator", "trainer")
    assert access.access.roles_of("Ann") == ()


@pytest.mark.parametrize(
    ("access", "field"),
    [
        ({"roles": {"boss": ["ann"]}}, "access.roles"),
        ({"roles": {"trainer": ["ann", "ann"]}}, "appears twice"),
        ({"may_move": {"staging": ["boss"]}}, "access.may_move.staging"),
        ({"may_move": {"candidate": ["operator"]}}, "access.may_move.candidate"),
        ({"unauthenticated": "always"}, "access.unauthenticated"),
        ({"break_glass": {"max_hours": 0}}, "access.break_glass.max_hours"),
        ({"break_glass": {"max_hours": 10**6}}, "access.break_glass.max_hours"),
        ({"break_glass": {"keep": ["moon"]}}, "'moon' is no gate"),
    ],
)
def test_a_wrong_access_section_is_refused_by_its_field(tmp_path, access, field):
    with pytest.raises(PolicyError) as caught:
        overlay(tmp_path, access=access)
    assert field in str(caught.value)


def test_an_exemption_of_an_unknown_gate_is_refused_at_load(tmp_path):
    listed = [
        {"gate": "moon", "models": "*", "owner": "a", "reason": "b", "expires_at": NOW.isoformat()}
    ]
    with pytest.raises(PolicyError, match=r"exemptions\.0: 'moon' is no gate"):
        overlay(tmp_path, exemptions=listed)


def test_roles_are_no_words_that_anybody_makes_up():
    with pytest.raises(ValidationError):
        AccessPolicy.model_validate({"roles": {"root": ["ann"]}})


def _exempt(**changes):
    fields = {"gate": "telemetry", "models": "*", "owner": "ada", "reason": "why"}
    return {**fields, "expires_at": (NOW + timedelta(days=90)).isoformat(), **changes}


@pytest.mark.parametrize(
    ("listed", "note"),
    [
        (_exempt(expires_at=NOW.isoformat()), "expired at 2026-06-01T12:00:00+00:00"),
        (_exempt(expires_at=(NOW + timedelta(days=14)).isoformat()), "expires soon"),
        (_exempt(not_before=(NOW + timedelta(days=1)).isoformat()), "has no effect before"),
        (_exempt(gate="votes"), "without the council's quorum"),
    ],
)
def test_lint_tells_what_an_exemption_does_or_no_longer_does(tmp_path, listed, note):
    notes = lint_policy(overlay(tmp_path, exemptions=[listed]), NOW)
    assert [n for n in notes if n.startswith("exemptions.0 (gate ") and note in n]


def test_lint_has_nothing_to_say_of_a_quiet_exemption(tmp_path):
    notes = lint_policy(overlay(tmp_path, exemptions=[_exempt()]), NOW)
    assert not [note for note in notes if "exemptions" in note]


def test_lint_tells_of_levels_that_nobody_can_reach(tmp_path):
    notes = lint_policy(overlay(tmp_path, access={"roles": {"trainer": ["ann"]}}), NOW)
    assert "access.may_move.production: no user has a role that may" in notes
    assert not [note for note in notes if "access.may_move.staging" in note]
    locked = overlay(tmp_path, access={"unauthenticated": "never"})
    assert [note for note in lint_policy(locked, NOW) if "nobody can move" in note]


def test_a_copy_of_a_policy_with_another_field_has_another_digest():
    policy = load_policies(None).policy("climate")
    before = policy.digest
    assert policy.model_copy(update={"description": "x"}).digest != before
    assert policy.model_copy().digest == before
