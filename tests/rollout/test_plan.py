"""The policy's rollout section: what is refused, and that the message names the field."""

import pytest
from pydantic import ValidationError
from rollout.simulator import PLAN, build_plan

from kfm_mlflow.policy.rollout import RolloutPolicy

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


def test_digest_changes_with_the_plan():
    assert build_plan().digest == build_plan().digest
    assert build_plan().digest != build_plan(scaleDownDelay_s=4).digest


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": []}, "steps"),
        ({"steps": [{"setWeight": 50}, {"setWeight": 10}, SAMPLES]}, "[1].setWeight"),
        ({"steps": [{"setWeight": 0}, SAMPLES]}, "setWeight"),
        ({"steps": [{"setWeight": 101}, SAMPLES]}, "setWeight"),
        ({"steps": [{"setWeight": True}, SAMPLES]}, "setWeight"),
        ({"steps": [{"setWeight": 10}]}, "analysis step"),
        ({"steps": [SAMPLES, {"setWeight": 10}]}, "[0].analysis"),
        ({"steps": [{"setWeight": 100}, SAMPLES]}, "steps[1].analysis"),
        (
            {"steps": [{"setWeight": 1}, {"analysis": {"minSamples": 0, "deadline_s": 1}}]},
            "minSamples",
        ),
        ({"steps": [{"setWeight": 1}, {"analysis": {"minSamples": 1}}]}, "deadline_s"),
        ({"steps": [{"setWeight": 1}, SAMPLES, {"pause": {"gate": "votes"}}]}, "deadline_s"),
        ({"steps": [{"setWeight": 1}, SAMPLES, {"pause": {}}]}, "pause"),
        ({"steps": [{"setWeight": 1}, SAMPLES, {"pauze": {}}]}, "steps.2"),
        ({"analysis": {"compare": ["errors"]}}, "compare.0"),
        ({"analysis": {"compare": ["error_ratio", "error_ratio"]}}, "compare"),
        ({"analysis": {"limits": {"errors": 1}}}, "limits.errors"),
        ({"analysis": {"limits": {"error_ratio": float("nan")}}}, "limits.error_ratio"),
        ({"analysis": {}}, "analysis"),
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
