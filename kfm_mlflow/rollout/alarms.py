"""Alarms that answers raise themselves, held against the policy's limits. Pure.

Rules kept here:

1. An alarm is counted with the answer that raised it, so a limit that is exceeded once stays so:
   that is a ``FAIL`` before there are ``minSamples``, too.
2. That none was raised says nothing while too little was answered: that is ``INCONCLUSIVE``.
3. In mode ``audit`` it is told, and decides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.rollout.measured import MetricAnalysis

if TYPE_CHECKING:
    from kfm_mlflow.policy.rollout import AlarmLimit, AnalysisPolicy
    from kfm_mlflow.rollout.plane import ArmCounts


def alarm_metrics(
    policy: AnalysisPolicy, canary: ArmCounts, min_samples: int
) -> list[MetricAnalysis]:
    """Hold the alarms of the present window against every limit of the policy.

    Args:
        policy: What may be raised how often.
        canary: What the canary answered in this window.
        min_samples: Requests before anything can pass.
    """
    return [
        _judge(name, limit, canary, min_samples) for name, limit in sorted(policy.alarms.items())
    ]


def _judge(name: str, limit: AlarmLimit, canary: ArmCounts, min_samples: int) -> MetricAnalysis:
    count, asked = canary.alarm_count.get(name, 0), canary.request_count
    text = f"{count} of {asked} answers, limit {limit.max_count}"
    if count > limit.max_count:
        verdict = Verdict.FAIL
    elif asked < min_samples:
        verdict, text = Verdict.INCONCLUSIVE, f"{text} ({asked} of {min_samples} samples)"
    else:
        verdict = Verdict.PASS
    return MetricAnalysis(
        name,
        "alarm",
        verdict if limit.mode == "enforce" else None,
        asked,
        value=count,
        limit=limit.max_count,
        reason=text,
    )
