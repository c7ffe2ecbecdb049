"""What a newer validation finds bad gives way to a former version, over real HTTP.

Registry, API, remote client and controller are the real ones; the traffic plane is in memory.
"""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import timedelta

import pytest
from click.testing import CliRunner
from registry.governed_world import levels, promote, under_control
from registry.world import NAME

from kfm_mlflow.cli.main import cli
from kfm_mlflow.errors import InputError
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.load import PolicySet
from kfm_mlflow.policy.models import XaiPolicy
from kfm_mlflow.rollout.state import Phase, Trigger
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

BAD = {"nrmse": 0.5}
UNSTABLE = {"measured": True, "convergence_delta": 0.001, "min_correlation": 0.1}
STABLE = {**UNSTABLE, "min_correlation": 0.99}


@pytest.fixture
def governed(two, monkeypatch, tmp_path):
    """Return v1 at Production and v2 at canary behind HTTP, and a controller of both."""
    with under_control(two, tmp_path, monkeypatch) as made:
        yield made


def validation(registry, version, *, metrics=None, at=None, key="validator", **changed):
    """Sign what a validator measures of a version now."""
    release = registry.store.snapshot(NAME, version).release
    at = at or registry.now
    document = deepcopy(next(iter(registry.world.documents.values()))) | changed
    document["metrics"] |= metrics or {}
    document["release_id"] = release.release_id
    binding = Binding(NAME, release.release_version, release.release_id)
    statement = build_statement("validation", binding, document, at, at + timedelta(days=60))
    return sign_statement(statement, registry.world.signer(key))


def post(governed, version, **said):
    return governed.remote.attest(NAME, version, validation(governed.registry, version, **said))


def report(governed, version):
    (folder,) = governed.reports.rglob(f"rollback/v{version}")
    found = {path.name: json.loads(path.read_text()) for path in folder.iterdir()}
    assert set(found) == {"rollback_report.json", "drift_summary.json", "sovereignty_conflict.json"}
    for name, document in found.items():
        assert schema_problems(name.removesuffix(".json"), document) == []
    assert found["sovereignty_conflict.json"]["applicable"] is False
    return found["rollback_report.json"]


def with_gate(registry, **gates):
    """Put a policy with other gates in force, without the row that a restart writes."""
    policies = registry.store.admission.policies.policies
    policy = policies["climate"]
    changed = policy.model_copy(update={"gates": policy.gates.model_copy(update=gates)})
    registry.store.admission.policies = PolicySet({**policies, "climate": changed})


@pytest.mark.parametrize(
    ("said", "trigger", "words"),
    [
        ({"metrics": BAD}, Trigger.VALIDATION, "nrmse is 0.5, asked is <= 0.2"),
        ({"metrics": {"nrmse": "NaN"}}, Trigger.VALIDATION, "nrmse is nan"),
        ({"determinism": {"identical": False}}, Trigger.VALIDATION, "answers differ"),
        ({"xai": UNSTABLE}, Trigger.XAI, "explanations agree to 0.1"),
        ({"xai": {**STABLE, "convergence_delta": "NaN"}}, Trigger.XAI, "delta is nan"),
    ],
    ids=["metric", "metric-nan", "determinism", "xai-stability", "xai-delta"],
)
def test_production_that_a_newer_validation_finds_bad_gives_way_within_one_pass(
    governed, said, trigger, words
):
    promote(governed)
    digest = post(governed, 2, **said)
    found = governed.remote._call("GET", f"models/{NAME}/standing")
    assert found["production"]["standing"] == "regressed"
    assert found["production"]["statement"] == digest
    assert found["fallback"] == 1
    state = governed.controller.reconcile_once()
    assert (state.phase, state.trigger) == (Phase.ROLLED_BACK, trigger)
    assert (governed.plane.split.stable, levels(governed)) == (1, (1, None))
    written = report(governed, 2)
    assert (written["trigger"], written["restored_version"]) == (str(trigger), 1)
    assert words in written["reason"]


def test_a_canary_that_a_newer_validation_finds_bad_loses_traffic_and_level_in_one_pass(governed):
    governed.controller.reconcile_once()
    assert governed.plane.split.canary == 2
    post(governed, 2, metrics=BAD)
    state = governed.controller.reconcile_once()
    assert state.trigger is Trigger.VALIDATION
    assert (governed.plane.split.stable, governed.plane.split.canary) == (1, None)
    assert levels(governed) == (1, None)
    assert report(governed, 2)["trigger"] == "validation"


def test_what_is_no_regression_changes_nothing(governed):
    promote(governed)
    registry = governed.registry
    before = registry.now
    seen = []

    def judged():
        governed.controller.reconcile_once()
        seen.append((levels(governed), governed.plane.split.stable))

    judged()
    post(governed, 2, xai=STABLE)
    judged()
    # Made before the validation that the admission read: a replay.
    post(governed, 2, metrics=BAD, at=before - timedelta(hours=2))
    judged()
    # Not measured is not bad.
    registry.now += timedelta(minutes=1)
    post(governed, 2, xai={"measured": False, "reason": "no way to load"})
    judged()
    # A validation that has become old is a question of the next move.
    registry.now += timedelta(days=40)
    judged()
    assert seen == [((2, None), 2)] * 5


@pytest.mark.parametrize("mode", ["audit", "warn"])
def test_a_gate_that_only_tells_recalls_nothing(governed, mode):
    registry = governed.registry
    gates = registry.store.admission.policy("climate").gates
    with_gate(
        registry,
        metrics=gates.metrics.model_copy(update={"mode": mode}),
        xai=XaiPolicy(mode=mode),
    )
    post(governed, 1, metrics=BAD, xai=UNSTABLE)
    assert governed.remote.standing(NAME).regressions == {}


def test_a_policy_that_became_stricter_recalls_nothing_until_somebody_measures_again(governed):
    registry = governed.registry
    gates = registry.store.admission.policy("climate").gates
    stricter = tuple(
        limit.model_copy(update={"max": 0.01}) if limit.metric == "nrmse" else limit
        for limit in gates.metrics.limits
    )
    with_gate(registry, metrics=gates.metrics.model_copy(update={"limits": stricter}))
    assert governed.remote.standing(NAME).regressions == {}
    post(governed, 1)
    assert set(governed.remote.standing(NAME).regressions) == {1}


def test_a_validation_that_an_admission_had_read_is_no_regression_later(governed):
    registry = governed.registry
    gates = registry.store.admission.policy("climate").gates
    with_gate(registry, metrics=gates.metrics.model_copy(update={"mode": "audit"}))
    post(governed, 2, metrics=BAD)
    registry.endorse(2)
    registry.store.move(NAME, 2, Level.PRODUCTION)
    with_gate(registry, metrics=gates.metrics)
    assert governed.remote.standing(NAME).regressions == {}


def test_a_better_validation_after_the_bad_one_settles_it(governed):
    promote(governed)
    post(governed, 2, metrics=BAD)
    governed.registry.now += timedelta(seconds=5)
    post(governed, 2)
    assert governed.remote.standing(NAME).regressions == {}


def test_only_a_validator_is_heard(governed):
    with pytest.raises(Exception, match="may not make"):
        post(governed, 1, metrics=BAD, key="controller")
    with pytest.raises(Exception, match="attestation"):
        post(governed, 1, metrics=BAD, key="foreign")
    assert governed.remote.standing(NAME).regressions == {}


def test_without_a_former_version_production_stays_loudly_until_an_operator_takes_it_as_it_is(
    governed,
):
    governed.remote.move(
        NAME, 2, "candidate", expect_production=1, expect_canary=2, reason="not today"
    )
    governed.controller.reconcile_once()
    post(governed, 1, metrics=BAD)
    state = governed.controller.reconcile_once()
    assert (state.phase, state.trigger) == (Phase.ROLLBACK_FAILED, Trigger.VALIDATION)
    assert (governed.plane.split.stable, levels(governed)) == (1, (1, None))
    governed.remote.give_order(NAME, "resume", reason="the data were wrong")
    for _ in range(3):
        state = governed.controller.reconcile_once()
    assert state.phase is Phase.IDLE
    governed.registry.now += timedelta(seconds=5)
    post(governed, 1, metrics={"nrmse": 0.6})
    assert governed.controller.reconcile_once().phase is Phase.ROLLBACK_FAILED


def test_a_former_version_that_regressed_is_none_to_go_back_to(governed):
    promote(governed)
    post(governed, 1, metrics=BAD)
    post(governed, 2, metrics=BAD)
    found = governed.remote.standing(NAME)
    assert (set(found.regressions), found.fallback) == ({2}, None)


def test_a_version_without_a_level_is_judged_when_it_is_asked_about(governed):
    promote(governed)
    path = f"models/{NAME}/standing"
    asked = governed.remote._call("GET", path, params={"version": ["1", "2", "1"]})
    assert [(item["version"], item["standing"]) for item in asked["others"]] == [
        (1, "ok"), (2, "ok"),
    ]  # fmt: skip
    post(governed, 1, metrics=BAD)
    asked = governed.remote._call("GET", path, params={"version": ["1"]})
    assert [item["standing"] for item in asked["others"]] == ["regressed"]
    assert governed.remote._call("GET", path)["others"] == []
    assert governed.remote.standing(NAME, [1]).regressions == {}, "it serves nobody"
    with pytest.raises(InputError, match="at most 5"):
        governed.remote._call("GET", path, params={"version": [str(v) for v in range(1, 7)]})


def test_the_command_sends_a_validation_from_a_file(governed, tmp_path):
    path = tmp_path / "validation.intoto.json"
    path.write_bytes(validation(governed.registry, 1, metrics=BAD))
    sent = CliRunner().invoke(
        cli, ["attest", f"models:/{NAME}/1", str(path), "--server", governed.url]
    )
    assert sent.exit_code == 0, sent.output
    assert "sha256:" in sent.output
    assert set(governed.remote.standing(NAME).regressions) == {1}
