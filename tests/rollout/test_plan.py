"""The policy's rollout section: what is refused, and that the message names the field."""

import pytest
from pydantic import ValidationError
from rollout.simulator import PLAN, build_plan

from kfm_mlflow.canonical import parse_json
from kfm_mlflow.policy.load import load_policies
from kfm_mlflow.policy.rollout import RolloutPolicy, lint_rollout
from kfm_mlflow.policy.steps import PRESETS, PauseStep

SAMPLES = {"analysis": {"minSamples": 5, "deadline_s": 5}}


def test_plan_reads_in_the_words_of_argo():
    plan = build_plan()
    assert [plan.weight_pct_at(index) for index in range(4)] == [10, 10, 10, 10]
    assert plan.min_samples_at(1) == 20
    assert plan.min_samples_at(3) == 20
    assert plan.analysis.threshold == pytest.approx(60)


def test_written_form_is_read_back_as_the_same_plan():
    plan = build_plan()
    assert RolloutPolicy.model_validate(plan.model_dump(mode="json", by_alias=True)) == plan


def test_default_plan_is_ten_percent_and_then_everything():
    plan = build_plan(steps="canary")
    assert [plan.weight_pct_at(index) for index in range(len(plan.steps))] == [10, 10, 10]
    assert plan == build_plan(steps=list(PRESETS["canary"]))
    assert plan.post_promotion_watch_s == PLAN["postPromotionWatch_s"]
    for policy in load_policies(None).policies.values():
        packaged = policy.rollout
        assert packaged.steps == plan.steps
        assert packaged.post_promotion_watch_s == 48 * 3600


def test_second_preset_goes_from_shadow_over_1_5_25_and_50_percent_to_everything():
    plan = build_plan(steps="shadow")
    shares = [(plan.mirror_pct_at(i), plan.weight_pct_at(i)) for i in range(len(plan.steps))]
    assert list(dict.fromkeys(shares)) == [(100, 0), (0, 1), (0, 5), (0, 25), (0, 50)]
    assert plan.steps[-1] == PauseStep.model_validate(PRESETS["shadow"][-1])


def test_plan_of_an_older_policy_reads_as_before_and_gets_the_watch():
    old = {
        key: value
        for key, value in PLAN.items()
        if key not in {"postPromotionWatch_s", "telemetryGap_s"}
    }
    plan = RolloutPolicy.model_validate(old)
    assert (plan.post_promotion_watch_s, plan.telemetry_gap_s) == (172800, 300)


def test_shadow_plan_is_read_back_by_its_field_names_as_exports_hold_it():
    plan = build_plan(steps="shadow")
    value = plan.model_dump_json()
    for step in (written := parse_json(value.encode(), where="plan"))["steps"]:
        if "weight_pct" in step:
            step["setWeight"] = step.pop("weight_pct")
    assert RolloutPolicy.model_validate(written, by_alias=True, by_name=True) == plan


def test_lint_says_when_nothing_watches_a_release_after_promotion():
    assert lint_rollout(build_plan()) == []
    notes = lint_rollout(build_plan(analysis={"compare": ["error_ratio"]}, postPromotionWatch_s=1))
    assert ["limits is empty" in notes[0], "the watch ends before" in notes[1]] == [True, True]


def test_digest_changes_with_the_plan():
    assert build_plan().digest == build_plan().digest
    assert build_plan().digest != build_plan(scaleDownDelay_s=4).digest


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": []}, "steps"),
        (
            {"steps": [{"setWeight": 50}, SAMPLES, {"setWeight": 10}, SAMPLES]},
            "[2].setWeight: 10 is below 50 before it; give weights that only rise",
        ),
        (
            {"steps": [{"setWeight": 50}, {"setWeight": 60}, SAMPLES]},
            "[0].setWeight: the level is skipped",
        ),
        (
            {"steps": [{"setWeight": 5}, SAMPLES, {"setWeight": 60}]},
            "[2].setWeight: the level is skipped",
        ),
        (
            {"steps": [{"setMirrorRoute": {"percentage": 9}}, {"setWeight": 5}, SAMPLES]},
            "[0].setMirrorRoute: the level is skipped",
        ),
        (
            {"steps": [{"setWeight": 5}, SAMPLES, {"setMirrorRoute": {"percentage": 9}}, SAMPLES]},
            "[2].setMirrorRoute: shadow traffic comes before",
        ),
        ({"steps": [{"setMirrorRoute": {"percentage": 9}}, SAMPLES]}, "has no setWeight"),
        ({"steps": "canari"}, "give a list, or canary, shadow"),
        ({"steps": [{"setWeight": 0}, SAMPLES]}, "setWeight"),
        ({"steps": [{"setWeight": 101}, SAMPLES]}, "setWeight"),
        ({"steps": [{"setWeight": True}, SAMPLES]}, "setWeight"),
        ({"steps": [{"setWeight": 10}]}, "analysis step"),
        ({"steps": [SAMPLES, {"setWeight": 10}]}, "[0].analysis"),
        ({"steps": [{"setWeight": 100}, SAMPLES]}, "[0].setWeight: 100 skips the canary"),
        ({"steps": [{"setWeight": 9}, SAMPLES, {"setWeight": 100}, SAMPLES]}, "steps[3].analysis"),
        (
            {"steps": [{"setWeight": 1}, {"analysis": {"minSamples": 0, "deadline_s": 1}}]},
            "minSamples",
        ),
        ({"steps": [{"setWeight": 1}, {"analysis": {"minSamples": 1}}]}, "deadline_s"),
        ({"steps": [{"setWeight": 1}, SAMPLES, {"pause": {"gate": "votes"}}]}, "deadline_s"),
        ({"steps": [{"setWeight": 1}, SAMPLES, {"pause": {}}]}, "never ends; give duration_s"),
        (
            {"steps": [{"setWeight": 1}, SAMPLES, {"pause": {"duration_s": 1, "deadline_s": 1}}]},
            "take deadline_s away",
        ),
        (
            {"steps": [{"setWeight": 1}, SAMPLES, {"pause": {"duration_s": 1, "gate": "votes"}}]},
            "either gate or duration_s",
        ),
        ({"steps": [{"setWeight": 1}, SAMPLES, {"pauze": {}}]}, "steps.2"),
        ({"analysis": {"compare": ["errors"]}}, "compare.0"),
        ({"analysis": {"compare": ["error_ratio", "error_ratio"]}}, "compare"),
        ({"analysis": {"limits": {"errors": 1}}}, "limits.errors"),
        ({"analysis": {"limits": {"error_ratio": float("nan")}}}, "limits.error_ratio"),
        ({"analysis": {}}, "analysis"),
        ({"analysis": {"limits": {"cost_usd_per_1k_requests": 1}}}, "needs replicaUsdPerHour"),
        ({"analysis": {**PLAN["analysis"], "falseAlarmRatio": 0}}, "falseAlarmRatio"),
        ({"stepz": []}, "stepz"),
    ],
)
def test_plan_that_can_not_work_is_refused_by_the_name_of_its_field(changes, named):
    with pytest.raises(ValidationError) as caught:
        build_plan(**changes)
    shown = [
        f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in caught.value.errors()
    ]
    assert any(named in line for line in shown), shown
