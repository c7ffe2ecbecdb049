"""The plan of a rollout: the policy's ``rollout`` section under the name that this room uses.

The models stand on a lower floor (:mod:`kfm_mlflow.policy.rollout` and
:mod:`kfm_mlflow.policy.steps`), because a policy is read whole.
"""

from kfm_mlflow.policy.rollout import AnalysisPolicy, Limits, RolloutPolicy
from kfm_mlflow.policy.steps import (
    AnalysisRun,
    AnalysisStep,
    MirrorRoute,
    Pause,
    PauseStep,
    SetMirrorRoute,
    SetWeight,
)

__all__ = [
    "AnalysisPolicy",
    "AnalysisRun",
    "AnalysisStep",
    "Limits",
    "MirrorRoute",
    "Pause",
    "PauseStep",
    "RolloutPolicy",
    "SetMirrorRoute",
    "SetWeight",
]
