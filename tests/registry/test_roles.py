"""Who may do what in a registry: roles, logins, separation of duties."""

from __future__ import annotations

import pytest
from registry.asking import FAR, repolicy, request_of, with_roles
from registry.world import COUNCIL, NAME, claims_of, only_refused, told

from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry.journal import write_journal


def registered_by(registry, user, index=0):
    with request_of(user):
        return registry.register(registry.world.releases[index])


def last_claims(registry):
    return claims_of(registry.query("SELECT body FROM kfm_ledger ORDER BY seq")[-1][0])


def keep_journal(registry, name=NAME):
    return write_journal(registry.store, name, {"phase": "steady"}, expected=0)


# -- nobody in particular --------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "127.8.9.1"])
def test_without_logins_a_request_from_this_machine_may_move(registry, world, address):
    registry.register(world.releases[0])
    with request_of(address=address):
        registry.store.move(NAME, 1, Level.STAGING)
    claims = last_claims(registry)
    assert (claims["actor"], claims["authenticated"]) == ("unauthenticated", False)


@pytest.mark.parametrize("address", [FAR, "10.0.0.1", "::2", "nonsense"])
def test_without_logins_a_request_from_elsewhere_may_not_and_the_refusal_is_recorded(
    registry, world, address
):
    registry.register(world.releases[0])
    before = registry.state()
    with request_of(address=address), told(403, "nobody is logged in"):
        registry.store.move(NAME, 1, Level.STAGING)
    assert claims_of(only_refused(before, registry.state())["body"])["outcome"] == "refused"


def test_where_the_policy_says_never_not_even_this_machine_may(registry, world):
    registry.register(world.releases[0])
    repolicy(registry, access={"unauthenticated": "never"})
    before = registry.state()
    with told(403, "nobody is logged in"):
        registry.store.move(NAME, 1, Level.STAGING)
    only_refused(before, registry.state())


def test_the_rollouts_journal_is_written_by_whoever_may_start_a_rollout(registry, world):
    """Traffic follows it: who writes it carries releases as who moves them does."""
    registry.register(world.releases[0])
    before = registry.state()
    with request_of(), told(403, "rollout of", "nobody is logged in"):
        keep_journal(registry)
    with request_of(address="127.0.0.1"), told(400, "no registered model"):
        keep_journal(registry, "no-such-model")
    with_roles(registry)
    with request_of("tom"), told(403, "roles that may carry a rollout: operator"):
        keep_journal(registry)
    assert registry.state() == before
    with request_of("olga"):
        assert keep_journal(registry) == 1


def test_taking_down_and_voting_from_elsewhere_need_a_login_too(canary):
    before = canary.state()
    with request_of(), told(403, "nobody is logged in"):
        canary.store.delete_registered_model_alias(NAME, "canary")
    only_refused(before, canary.state())
    before = canary.state()
    with request_of(), told(403, "nobody is logged in"):
        canary.vote(1, COUNCIL[0])
    assert canary.state() == before


# -- roles -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["val", "cora", "aki", "nobody"])
def test_staging_needs_a_role_that_may(registry, user):
    with_roles(registry)
    registered_by(registry, "tom")
    before = registry.state()
    with request_of(user), told(403, "no role that may move to staging"):
        registry.store.move(NAME, 1, Level.STAGING)
    claims = claims_of(only_refused(before, registry.state())["body"])
    assert claims["actor"] == user
    with request_of("tom"):
        registry.store.move(NAME, 1, Level.STAGING)
    claims = last_claims(registry)
    assert (claims["actor"], claims["roles"]) == ("tom", ["trainer"])


def test_an_authority_takes_down_what_it_may_not_move_up(registry):
    with_roles(registry)
    registered_by(registry, "tom")
    with request_of("olga"):
        registry.to_canary(1)
    with request_of("tom"), told(403, "no role that may take down"):
        registry.store.move(NAME, 1, Level.STAGING)
    with request_of("aki"):
        registry.store.move(NAME, 1, Level.CANDIDATE)
    assert registry.level(1) == "candidate"


def test_a_dry_run_of_the_same_roles_has_the_digest_of_the_decision(registry):
    with_roles(registry)
    registered_by(registry, "tom")
    digests = set()
    for user in ("olga", "otto"):
        with request_of(user):
            digests.add(registry.store.check(NAME, 1, Level.STAGING).report.digest)
    with request_of("tom"):
        assert registry.store.check(NAME, 1, Level.STAGING).report.digest not in digests
    with request_of("olga"):
        result = registry.store.move(NAME, 1, Level.STAGING)
    assert digests == {result.decision_digest}


def test_an_authority_rolls_production_back_and_who_may_not_take_down_does_not(two):
    two.store.move(NAME, 2, Level.PRODUCTION)
    with_roles(two)
    before = two.state()
    with request_of("tom"), told(403, "no role that may take down"):
        two.store.move(NAME, 2, Level.CANDIDATE, restore=1)
    only_refused(before, two.state())
    with request_of("aki"):
        two.store.move(NAME, 2, Level.CANDIDATE, restore=1)
    assert two.level(1) == "production"


# -- nobody approves their own ---------------------------------------------------------------------


def endorsed(registry):
    """Bring v1 to canary, with the verdict and votes that it needs."""
    with request_of("otto"):
        registry.to_canary(1)
        registry.verdict(1)
    for member in COUNCIL:
        with request_of("cora"):
            registry.vote(1, member)


def test_who_registered_a_version_may_not_move_it_to_production(registry):
    with_roles(registry)
    registered_by(registry, "olga")
    endorsed(registry)
    before = registry.state()
    with request_of("olga"), told(403, "own release"):
        registry.store.move(NAME, 1, Level.PRODUCTION)
    only_refused(before, registry.state())
    with request_of("otto"):
        registry.store.move(NAME, 1, Level.PRODUCTION)
    assert registry.level(1) == "production"


def test_what_nobody_registered_can_not_be_told_from_ones_own(registry, world):
    registry.register(world.releases[0])
    with_roles(registry)
    endorsed(registry)
    with request_of("olga"), told(403, "nobody knows who registered it"):
        registry.store.move(NAME, 1, Level.PRODUCTION)


def test_a_user_who_is_called_unauthenticated_is_nobody_in_particular_as_a_registrar(registry):
    with_roles(registry, roles={"operator": ["unauthenticated"], "council": ["cora"]})
    registered_by(registry, "unauthenticated")
    with request_of("unauthenticated"):
        registry.to_canary(1)
        with told(403, "nobody knows who registered it"):
            registry.store.move(NAME, 1, Level.PRODUCTION)


def test_who_registered_a_version_may_deny_it_and_not_approve_it(registry):
    with_roles(registry, roles={"operator": ["otto"], "council": ["cora", "tom"]})
    registered_by(registry, "tom")
    with request_of("otto"):
        registry.to_canary(1)
    before = registry.state()
    with request_of("tom"), told(403, "in its favour"):
        registry.vote(1, COUNCIL[0])
    assert registry.state() == before
    with request_of("tom"):
        registry.vote(1, COUNCIL[0], "deny")


def test_a_statement_needs_the_role_of_its_kind(registry):
    with_roles(registry)
    registered_by(registry, "tom")
    with request_of("olga"):
        registry.to_canary(1)
        with told(403, "roles that may send a vote"):
            registry.vote(1, COUNCIL[0])
    with request_of("cora"), told(403, "roles that may send a canary-verdict"):
        registry.verdict(1)


# -- who registered --------------------------------------------------------------------------------


def registrations(registry):
    return registry.query("SELECT model, version, actor FROM kfm_registration ORDER BY 1, 2")


def test_a_registration_is_kept_with_its_version_renamed_and_forgotten_with_its_model(registry):
    registered_by(registry, "tom")
    registered_by(registry, "olga", 1)
    assert registrations(registry) == [(NAME, 1, "tom"), (NAME, 2, "olga")]
    registry.store.rename_registered_model(NAME, "climate-small")
    assert registrations(registry) == [("climate-small", 1, "tom"), ("climate-small", 2, "olga")]
    registry.store.delete_registered_model("climate-small")
    assert registrations(registry) == []
    registered_by(registry, "tom")
    assert registrations(registry) == [(NAME, 1, "tom")]


def test_a_row_that_plain_mlflow_left_behind_is_replaced(registry):
    registry.store.create_registered_model(NAME)
    with registry.store.unit_of_work("test") as session:
        from kfm_mlflow.registry.actor import Actor
        from kfm_mlflow.registry.registrations import record_registration

        ghost = Actor("ghost", authenticated=True, remote_address=FAR)
        record_registration(session, NAME, 1, ghost, registry.now)
    registered_by(registry, "tom")
    assert registrations(registry) == [(NAME, 1, "tom")]


def test_a_version_that_could_not_be_made_has_no_registration(registry, monkeypatch):
    registry.store.create_registered_model(NAME)
    monkeypatch.setattr(registry.store, "CREATE_MODEL_VERSION_RETRIES", 0)
    with told(403):
        registered_by(registry, "tom")
    assert registrations(registry) == []


def test_prompts_have_no_registrar(registry):
    from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
    from mlflow.entities.model_registry.prompt_version import IS_PROMPT_TAG_KEY

    registry.store.create_registered_model("ask", [RegisteredModelTag(IS_PROMPT_TAG_KEY, "true")])
    registry.store.create_model_version(
        "ask", "prompt", tags=[ModelVersionTag(IS_PROMPT_TAG_KEY, "true")]
    )
    assert registrations(registry) == []
