"""What is told while a candidate is taken back, and when that fails. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfm_mlflow.rollout.orders import wants_restore_check
from kfm_mlflow.rollout.state import Trigger
from kfm_mlflow.rollout.told import Told, after, command, named
from kfm_mlflow.rollout.traffic_lines import is_kept

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.policy.rollout import RolloutPolicy
    from kfm_mlflow.rollout.state import RolloutState


def aborting(plan: RolloutPolicy, state: RolloutState, now: datetime) -> Told:
    """Tell of a rollback under way."""
    del now
    return Told(
        f"{named(state.candidate)} is being taken back.",
        why_given_up(state),
        _left_to_do(state),
        deadline_at=after(state.entered_at, plan.canary_ready_s),
        on_deadline="the rollback is called failed, and goes on",
    )


def rollback_failed(plan: RolloutPolicy, state: RolloutState, now: datetime) -> Told:
    """Tell of a rollback that failed so far, or that has nothing to go back to."""
    del plan, now
    own = named(state.candidate)
    if is_kept(state):
        return Told(
            f"{own} IS GIVEN UP, AND THERE IS NOTHING TO GO BACK TO. It stays at production in the "
            "registry until somebody decides.",
            why_given_up(state),
            "A decision of a person; nothing moves by itself.",
            is_loud=True,
            to_do=_to_do_when_kept(state),
        )
    return Told(
        f"THE ROLLBACK OF {own} HAS FAILED so far, and is still being tried.",
        why_given_up(state),
        _left_to_do(state),
        is_loud=True,
        to_do=_to_do_after_failure(state),
    )


def why_given_up(state: RolloutState) -> str:
    """Return why the candidate was given up, and by what trigger."""
    trigger = "unknown" if state.trigger is None else str(state.trigger)
    return f"{state.reason or 'it was given up'} (trigger: {trigger})"


def _left_to_do(state: RolloutState) -> str:
    own, back = named(state.candidate), state.stable
    to = f"every request to v{back}" if back else "no request to anybody"
    parts = [
        (state.traffic_restored_at is not None, to),
        (state.registry_restored_at is not None, f"{own} off its level in the registry"),
        (state.reports_written, "the three reports"),
    ]
    left = [text for done, text in parts if not done]
    if wants_restore_check(state):
        left.insert(0, f"v{back} verified, and admitted by the registry")
    return f"Still to do, in this order: {', '.join(left)}." if left else "Nothing is left to do."


def _to_do_after_failure(state: RolloutState) -> str:
    own, back = named(state.candidate), state.stable
    log = "The log of kfm rollout run says what fails."
    if state.traffic_restored_at is None:
        way = f"Bring v{back} and the routers up" if back else "Bring the routers up"
        return (
            f"{way}: traffic is not where it should be. {log} Nobody may rely on {own} meanwhile."
        )
    if state.registry_restored_at is None:
        return (
            f"Traffic is back, but the registry may still hold {own} at its level. See the ledger "
            f"for a refusal, and take {own} off its level. {log}"
        )
    return f"Traffic and registry are back; the three reports are not kept yet. {log}"


def _to_do_when_kept(state: RolloutState) -> str:
    name = state.model_name
    ways = [
        f"go back to a former version (kfm rollback {name} --to VERSION --reason WHY)",
        f"or keep {named(state.candidate)} as it is ({command(state, 'resume')})",
    ]
    # A candidate that does harm is no stable release to measure a canary against.
    if state.trigger not in {Trigger.VETO, Trigger.SOVEREIGNTY}:
        ways.insert(0, "move a repaired version to canary")
    text = ", ".join(ways)
    return f"{text[0].upper()}{text[1:]}."
