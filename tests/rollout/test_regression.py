"""What a step makes of a validation that came after a version's admission."""

from dataclasses import replace

import pytest
from rollout.step_cases import NOW, PLAN_, after, found, in_canary, see

from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.rollout.actions import Demote, Restore, SetSplit
from kfm_mlflow.rollout.inputs import Levels, Orders, Regression, Standing
from kfm_mlflow.rollout.state import AskedSplit, Phase, RolloutState, Trigger
from kfm_mlflow.rollout.step import step

WORSE = Regression("validation", "nrmse is 0.5, asked is <= 0.2", "sha256:aa")
UNCLEAR = Regression("xai", "explanations agree to 0.1", "sha256:bb")
FOUND = {"validation": WORSE, "xai": UNCLEAR}


def standing(fallback=None, **regressed):
    return Standing(
        fallback=fallback,
        regressions={int(v.removeprefix("v")): FOUND[cause] for v, cause in regressed.items()},
    )


def at_rest(**changes):
    """Return v2 at Production with all traffic, and v1 as warm as it was."""
    state = in_canary(
        phase=Phase.SUCCEEDED, step_index=3, promoted=True, split=AskedSplit(2, None, 0.0, 5)
    )
    return replace(state, **changes)


def one(actions, kind):
    (action,) = (action for action in actions if isinstance(action, kind))
    return action


@pytest.mark.parametrize("cause", ["validation", "xai"])
@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.INCONCLUSIVE])
def test_a_canary_that_regressed_is_given_up_whatever_its_traffic_says(cause, verdict):
    seen = see(standing=standing(v2=cause), analysis=found(verdict))
    state, actions = step(PLAN_, in_canary(), seen, NOW)
    assert (state.phase, state.trigger) == (Phase.ABORTING, Trigger(cause))
    assert FOUND[cause].reason in state.reason
    assert (one(actions, SetSplit).stable, one(actions, SetSplit).canary) == (1, None)
    assert one(actions, Demote).version == 2


@pytest.mark.parametrize("phase", [Phase.SUCCEEDED, Phase.SOAKING])
def test_production_that_regressed_gives_way_to_the_former_version(phase):
    seen = see(levels=Levels(2, None, 9), standing=standing(1, v2="validation"))
    state, actions = step(PLAN_, at_rest(phase=phase), seen, NOW)
    assert (state.candidate, state.stable, state.trigger) == (2, 1, Trigger.VALIDATION)
    assert one(actions, SetSplit).stable == 1
    assert one(actions, Restore).version == 1


def test_production_that_regressed_keeps_traffic_until_the_former_version_is_up():
    seen = see(
        levels=Levels(2, None, 9),
        standing=standing(1, v2="validation"),
        deployed=frozenset({2}),
    )
    _, actions = step(PLAN_, at_rest(), seen, NOW)
    assert not any(isinstance(action, SetSplit) for action in actions)


def test_without_a_former_version_it_stays_loudly_and_an_operator_may_take_it_as_it_is():
    levels = Levels(2, None, 9)
    seen = see(levels=levels, standing=standing(v2="validation"))
    state, actions = step(PLAN_, at_rest(), seen, NOW)
    assert state.phase is Phase.ROLLBACK_FAILED
    assert not any(isinstance(action, SetSplit | Demote | Restore) for action in actions)
    resume = Orders(operator="resume", order_id=1, operator_name="ann", version=2)
    state, _ = step(PLAN_, state, replace(seen, orders=resume), after(1))
    assert (state.phase, state.excused) == (Phase.IDLE, WORSE.statement)
    assert RolloutState.from_dict(state.to_dict()) == state
    state, actions = step(PLAN_, state, seen, after(2))
    assert (state.phase, actions) == (Phase.IDLE, ())
    worse = replace(WORSE, statement="sha256:cc")
    again = see(levels=levels, standing=Standing(regressions={2: worse}))
    assert step(PLAN_, state, again, after(3))[0].phase is Phase.ROLLBACK_FAILED


def test_production_that_regressed_beside_a_canary_gives_way_when_there_is_a_former_version():
    seen = see(
        levels=Levels(2, 3, 9), standing=standing(1, v2="xai"), deployed=frozenset({1, 2, 3})
    )
    begun = in_canary(candidate=3, stable=2, split=AskedSplit(2, 3, 0.1, 5))
    state, actions = step(PLAN_, begun, seen, NOW)
    assert (state.candidate, state.stable, state.trigger) == (2, 1, Trigger.XAI)
    assert one(actions, Restore) == Restore(1, 2, 3, state.reason)
    without = replace(seen, standing=standing(v2="xai"))
    assert step(PLAN_, begun, without, NOW)[0].candidate == 3


def test_a_veto_comes_before_a_regression():
    seen = see(standing=Standing({2: "vetoed"}, frozenset({2}), None, {2: WORSE}))
    assert step(PLAN_, in_canary(), seen, NOW)[0].trigger is Trigger.VETO
