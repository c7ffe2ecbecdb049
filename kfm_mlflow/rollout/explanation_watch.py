"""Do a served release's explanations still stay alike under a small change of what is asked?

Replicas explain a few of the rows that they answer, and count (``explained_count`` and the like of
:class:`~kfm_mlflow.rollout.plane.ArmCounts`); this holds the candidate's mean against a floor. Rows
are few, so they are collected over the steps of a rollout, in windows of ``minSamples``: a window
is judged when it is full, and the next one begins, so that a good month does not hide a bad hour.

Before promotion, ``minSamples`` rows are asked for, and fewer pass nothing. Afterwards a version
that nobody asks is held up by nothing here; it is only watched.

The floor is no test and spends no false-alarm budget: choose it well below what is usual.

Pure: what was counted before is a value that is passed in and handed back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.rollout.counts import FULL_PPM

if TYPE_CHECKING:
    from kfm_mlflow.policy.rollout import ExplanationWatch
    from kfm_mlflow.rollout.plane import ArmCounts


@dataclass(frozen=True)
class ExplanationWindow:
    """What was explained of the candidate since its canary began.

    Attributes:
        row_count: Rows in the present window.
        instability_ppm: Sum of 1 - stability over these, in millionths.
        full_row_count: Rows of the last window that was full; 0 before any.
        full_instability_ppm: The same sum over those.
        unexplained_count: Rows of which nothing could be said, over all windows.
    """

    row_count: int = 0
    instability_ppm: int = 0
    full_row_count: int = 0
    full_instability_ppm: int = 0
    unexplained_count: int = 0


@dataclass(frozen=True)
class ExplanationFindings:
    """What the watch says about a candidate at one look.

    Attributes:
        verdict: None where the rows are too few, and nothing is asked for any more.
        mean_stability: Over the last full window, or the present one before any, -1..1; None
            without a row.
        lowest_stability: Of any row since the version was deployed; None without a row.
        row_count: Rows that the mean is over.
        unexplained_count: Rows of which nothing could be said.
    """

    verdict: Verdict | None
    reason: str
    mode: Literal["enforce", "audit"]
    min_stability: float
    min_samples: int
    mean_stability: float | None
    lowest_stability: float | None
    row_count: int
    unexplained_count: int


def watch_explanations(
    policy: ExplanationWatch, window: ExplanationWindow, new: ArmCounts, *, is_promoted: bool
) -> tuple[ExplanationFindings, ExplanationWindow]:
    """Take in what was explained since the last look, and judge the candidate.

    Args:
        policy: How to judge.
        window: What the last call handed back.
        new: What the candidate counted since then.
        is_promoted: It is at production.

    Returns:
        The findings, and the window for the next call.
    """
    window = replace(
        window,
        row_count=window.row_count + new.explained_count,
        instability_ppm=window.instability_ppm + new.instability_ppm,
        unexplained_count=window.unexplained_count + new.unexplained_count,
    )
    if window.row_count >= policy.min_samples:
        window = ExplanationWindow(
            full_row_count=window.row_count,
            full_instability_ppm=window.instability_ppm,
            unexplained_count=window.unexplained_count,
        )
    row_count, instability_ppm = window.row_count, window.instability_ppm
    if window.full_row_count:
        row_count, instability_ppm = window.full_row_count, window.full_instability_ppm
    mean = 1 - instability_ppm / row_count / FULL_PPM if row_count else None
    verdict, reason = _judge(policy, window, mean, is_promoted=is_promoted)
    findings = ExplanationFindings(
        verdict=verdict,
        reason=reason,
        mode=policy.mode,
        min_stability=policy.min_stability,
        min_samples=policy.min_samples,
        mean_stability=mean,
        lowest_stability=None if mean is None else 1 - new.worst_instability_ppm / FULL_PPM,
        row_count=row_count,
        unexplained_count=window.unexplained_count,
    )
    return findings, window


def _judge(
    policy: ExplanationWatch, window: ExplanationWindow, mean: float | None, *, is_promoted: bool
) -> tuple[Verdict | None, str]:
    if mean is None or not window.full_row_count:
        lost = f", {window.unexplained_count} gave no explanation"
        told = f"{window.row_count} of {policy.min_samples} rows explained"
        told += lost if window.unexplained_count else ""
        return (None, f"{told}; not asked for") if is_promoted else (Verdict.INCONCLUSIVE, told)
    agree = f"explanations of {window.full_row_count} rows agree to {mean:.2f} on average"
    verdict = Verdict.FAIL if mean < policy.min_stability else Verdict.PASS
    return verdict, f"{agree}, at least {policy.min_stability:g} is asked"
