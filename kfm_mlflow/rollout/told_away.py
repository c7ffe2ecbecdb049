"""What people are told of a rollout while the traffic plane does not answer. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kfm_mlflow.rollout.narrative import Narrative
    from kfm_mlflow.rollout.state import RolloutState


def tell_away(told: Narrative, state: RolloutState) -> Narrative:
    """Return a narrative that says so when the plane is away, else the same."""
    if not state.plane_problem:
        return told
    return replace(
        told,
        happening=f"{told.happening} The traffic plane does not answer.",
        reason=state.plane_problem,
        next="Nothing is promoted or taken back meanwhile. When the plane is back, what the "
        "registry names is deployed anew, and the rollout goes on where it stands.",
        next_at=None,
        is_loud=True,
        to_do=told.to_do or "Bring the traffic plane back.",
    )
