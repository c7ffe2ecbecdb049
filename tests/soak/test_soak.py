"""The soak at reduced size, and that it finds what is planted."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rollout.simulated_registry import FakeRegistry
from soak.run import SIZES, soak
from soak.schedules import PLANS, run_schedule

import kfm_mlflow.rollout.step as original
from kfm_mlflow.rollout.inputs import Standing
from kfm_mlflow.rollout.state import Phase


def test_no_schedule_of_the_reduced_soak_finds_a_violation():
    report = soak(range(SIZES["small"]), processes=1)
    assert report.violations == {}
    assert report.schedule_count == SIZES["small"]
    # A soak in which nothing happens finds nothing, either.
    assert {Phase.SOAKING, Phase.SUCCEEDED, Phase.ROLLED_BACK} <= report.phases


def test_one_seed_is_one_schedule():
    assert run_schedule(11) == run_schedule(11)


FOUND_ONCE = {
    "a recalled rollback target, not yet at its level, kept its traffic": 2763,
    "an operator's rollback from a regressed release went to a recalled one": 2998,
    "a canary in the same pass hid what was found against the first release": 3060,
    "after a cluster's restart a split of another controller was taken for one's own": 4057,
    "a canary was taken back for a version that a person had just moved off Production": 4809,
}


@pytest.mark.parametrize("fault", FOUND_ONCE)
def test_schedule_that_once_found_a_fault_finds_none(fault):
    assert run_schedule(FOUND_ONCE[fault]).violations == ()


def copy_of_step(tmp_path, old, new):
    """Return the step function of a copy of its module in which one line is another."""
    source = Path(original.__file__).read_text()
    assert source.count(old) == 1, old
    path = tmp_path / "planted.py"
    path.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location("planted_step", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module.step


PLANTED = {
    "absence of evidence passes": (
        "return inputs.analysis is not None and inputs.analysis.verdict is Verdict.PASS",
        "return inputs.analysis is not None and inputs.analysis.verdict is not Verdict.FAIL",
        "PASS of",
    ),
    "a level is skipped": (
        "ratio = plan.weight_pct_at(state.step_index) / FULL_PCT",
        "ratio = plan.weight_pct_at(state.step_index + 3) / FULL_PCT",
        "skipped a level",
    ),
    "harm is not acted on": (
        "stopped = stop(plan, state, inputs, now)",
        "stopped = None",
        "not at rest",
    ),
    "traffic does not follow the registry": (
        "    if is_routed(state, inputs, version, None, 0.0):\n        return True, (state, ())",
        "    if version:\n        return True, (state, ())",
        "idle at",
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_planted_bug_is_found(planted, tmp_path, monkeypatch):
    old, new, named = PLANTED[planted]
    monkeypatch.setattr("kfm_mlflow.rollout.controller.step", copy_of_step(tmp_path, old, new))
    report = soak(range(40), processes=1, stop_at=named)
    assert any(named in text for texts in report.violations.values() for text in texts)


def test_a_registry_that_gives_its_lease_to_everybody_is_found(monkeypatch):
    honest = FakeRegistry.hold_lease

    def generous(self, model_name, holder, ttl_s):
        return replace(honest(self, model_name, holder, ttl_s), leader=True)

    monkeypatch.setattr(FakeRegistry, "hold_lease", generous)
    report = soak(range(40), processes=1, stop_at="without the lease")
    assert any(
        "without the lease" in text for found in report.violations.values() for text in found
    )


FORGETFUL = {
    "has traffic although": ("rollout.simulated_registry.FakeRegistry.standing", Standing),
    "regressed and is at production": (
        "rollout.simulated_registry.FakeRegistry.standing",
        Standing,
    ),
    "taken down without a report": ("kfm_mlflow.rollout.unwind._papers", list),
}


@pytest.mark.parametrize("named", FORGETFUL)
def test_a_controller_that_is_not_told_or_tells_nobody_is_found(named, monkeypatch):
    place, empty = FORGETFUL[named]
    monkeypatch.setattr(place, lambda *_: empty())
    report = soak(range(40), processes=1, stop_at=named)
    assert any(named in text for found in report.violations.values() for text in found)


def test_soak_uses_more_than_one_plan_and_all_have_an_end():
    assert len({plan.digest for plan in PLANS}) == 4


def test_last_line_says_schedules_and_violations(capsys):
    from soak.run import main

    assert main(["--size", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "soak: 2 schedules run, 0 violations found"
