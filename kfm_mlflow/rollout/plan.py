"""The plan of a rollout: the policy's ``rollout`` section under the name that this room uses.

The models stand on a lower floor (:mod:`kfm_mlflow.policy.rollout`), because a policy is read
whole.
"""

from kfm_mlflow.policy.rollout import (
    AnalysisPolicy,
    AnalysisRun,
    AnalysisStep,
    Limits,
    Pause,
    PauseStep,
    RolloutPolicy,
    SetWeight,
)

__all__ = [
    "AnalysisPolicy",
    "AnalysisRun",
    "AnalysisStep",
    "Limits",
    "Pause",
    "PauseStep",
    "RolloutPolicy",
    "SetWeight",
]
