"""Does a release still answer, and is it still asked, as its own drift baseline says?

The check before promotion holds inputs against ``drift/baseline.json``; this one holds what is
counted of live traffic against the same document, by the same distance and the same smallest
distance that is drift, in canary and for as long as the release is watched afterwards.

The controller looks again and again, so the test is one that holds at any time
(:mod:`kfm_mlflow.rollout.drift_evidence`).

How the budget ``falseAlarmRatio`` is spent, over ``m`` columns:

* half on the baseline, which is itself a sample: with chance ``1 - a / 2m`` none of its shares is
  farther from the truth than ``sqrt(ln(4m / a) / 2n)`` (Dvoretzky, Kiefer and Wolfowitz; Massart
  1990). The tolerance is the larger of that and ``minDistance``.
* half on the test. Evidence is collected in windows of ``20 minSamples`` requests, so that a month
  of good answers does not hide a bad hour; window ``k`` spends ``1 / k(k+1)`` of it, and the sum of
  all these is 1.

Requests are taken as independent of each other. They carry no place, so there are no spatial blocks
to count in; instead each distinct request counts once, and one row of it (see
:mod:`kfm_mlflow.monitor.drift_bins`).

Whose fault it is: answers that leave the candidate's own baseline are the candidate's, unless those
of stable left stable's, too, or, where no other release has traffic, the inputs left theirs: then
the world has changed and going back would not help.

Pure: what was counted before is a value that is passed in and handed back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping  # noqa: TC003 - the journal reads the types at run time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from kfm_mlflow.gates.verdict import Verdict, worst
from kfm_mlflow.rollout.counts import add_bins
from kfm_mlflow.rollout.drift_evidence import compare_counts

if TYPE_CHECKING:
    from kfm_mlflow.monitor.drift_bins import Column, Columns
    from kfm_mlflow.policy.rollout import DriftWatch

WINDOWS_OF_MIN_SAMPLES = 20
_OUTPUTS = "outputs"


@dataclass(frozen=True)
class DriftWindow:
    """What one arm counted in the present window.

    Attributes:
        number: Of the window, from 1.
        counts: Column -> requests per bin.
        found: Columns that were found drifting in this window or an earlier one.
    """

    number: int = 1
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    found: tuple[str, ...] = ()


@dataclass(frozen=True)
class ColumnFinding:
    """One column of a release's baseline, and what its traffic says.

    Attributes:
        kind: ``inputs`` or ``outputs``.
        distance: Largest difference from the baseline's shares, over its cuts.
        tolerance: Distance that is no drift.
        e_value: Evidence in the present window.
        threshold: e-value from which it is drift.
        sample_count: Requests in the present window.
        baseline_count: Samples of the baseline.
    """

    name: str
    kind: Literal["inputs", "outputs"]
    verdict: Verdict
    distance: float
    tolerance: float
    e_value: float
    threshold: float
    sample_count: int
    baseline_count: int
    reason: str


@dataclass(frozen=True)
class DriftFindings:
    """What the watch says about a candidate at one look.

    Attributes:
        verdict: Of what counts against the candidate.
        reason: Why, in one sentence.
        baseline_digest: Of its ``drift/baseline.json``; empty when nothing could be compared.
        is_shared: Answers drift, and not by the candidate's fault.
        window_number: Of the present window.
        columns: Each of the baseline's columns.
    """

    verdict: Verdict
    reason: str
    mode: Literal["enforce", "audit"]
    false_alarm_ratio: float
    min_samples: int
    min_distance: float
    baseline_digest: str = ""
    is_shared: bool = False
    window_number: int = 1
    columns: tuple[ColumnFinding, ...] = ()


def watch(
    policy: DriftWatch,
    windows: Mapping[str, DriftWindow],
    new: Mapping[str, Mapping[str, tuple[int, ...]]],
    known: Mapping[str, Columns],
) -> tuple[DriftFindings, dict[str, DriftWindow]]:
    """Take in what was counted since the last look, and judge the canary.

    Args:
        policy: How to judge.
        windows: Arm (``canary``, ``stable``) -> what the last call handed back.
        new: Arm -> column -> requests per bin since then; only arms that have traffic.
        known: Arm -> the baseline that it is counted by; an arm without one is not judged.

    Returns:
        The findings, and the windows for the next call.
    """
    judged: dict[str, tuple[DriftWindow, tuple[ColumnFinding, ...]]] = {}
    for arm in sorted(new.keys() & known.keys()):
        window = windows.get(arm, DriftWindow())
        window = DriftWindow(window.number, add_bins(window.counts, new[arm]), window.found)
        findings = judge_columns(policy, known[arm], window)
        found = tuple(f.name for f in findings if f.verdict is Verdict.FAIL)
        judged[arm] = (DriftWindow(window.number, window.counts, found), findings)
    size = WINDOWS_OF_MIN_SAMPLES * policy.min_samples
    after = {**windows, **{arm: _next_window(window, size) for arm, (window, _) in judged.items()}}
    window, columns = judged.get("canary", (DriftWindow(), ()))
    is_shared = _is_shared(
        after.get("stable", DriftWindow()), columns, stable_answers="stable" in judged
    )
    digest = known["canary"].digest if columns else ""
    return _tell(policy, columns, digest, window.number, is_shared=is_shared), after


def _next_window(window: DriftWindow, size: int) -> DriftWindow:
    if max((sum(counts) for counts in window.counts.values()), default=0) < size:
        return window
    return DriftWindow(window.number + 1, {}, window.found)


def judge_columns(
    policy: DriftWatch, known: Columns, window: DriftWindow
) -> tuple[ColumnFinding, ...]:
    """Judge every column of a baseline by the counts of one window."""
    share = policy.false_alarm_ratio / max(1, len(known.columns))
    return tuple(
        _judge(policy, name, column, window, share)
        for name, column in sorted(known.columns.items())
    )


def _judge(
    policy: DriftWatch,
    name: str,
    column: Column,
    window: DriftWindow,
    alarm_ratio: float,
) -> ColumnFinding:
    """Judge one column, whose part of the budget is given."""
    bin_count = 2 * len(column.below) + 1
    counts = window.counts.get(name, ())
    counts += (0,) * (bin_count - len(counts))
    own_ratio = math.sqrt(math.log(4 / alarm_ratio) / (2 * column.sample_count))
    log_threshold = math.log(2 * window.number * (window.number + 1) / alarm_ratio)
    # A share of n samples is known to one sample only, where quantiles are all that is kept.
    tolerance = max(policy.min_distance, own_ratio + 1 / column.sample_count)
    count = sum(counts)
    fits = len(counts) == bin_count
    distance, log_e = compare_counts(column, counts, tolerance) if fits else (0.0, 0.0)
    subject = f"{distance:.2f} from its baseline in {count} requests"
    if not fits:
        verdict, reason = Verdict.ERROR, "was counted by other bins than its baseline's"
    elif log_e >= log_threshold or name in window.found:
        verdict, reason = Verdict.FAIL, f"{subject}, {tolerance:.2f} may be"
    elif count < policy.min_samples and window.number == 1:
        verdict, reason = Verdict.INCONCLUSIVE, f"{count} of {policy.min_samples} samples"
    else:
        verdict, reason = Verdict.PASS, subject
    return ColumnFinding(
        name=name,
        kind="outputs" if _is_output(name) else "inputs",
        verdict=verdict,
        distance=distance,
        tolerance=tolerance,
        e_value=math.exp(min(log_e, 700.0)),
        threshold=math.exp(min(log_threshold, 700.0)),
        sample_count=count,
        baseline_count=column.sample_count,
        reason=reason,
    )


def _is_shared(
    stable: DriftWindow, columns: tuple[ColumnFinding, ...], *, stable_answers: bool
) -> bool:
    """Whether answers that drift are the world's fault; what stable showed before still counts."""
    if any(_is_output(name) for name in stable.found):
        return True
    asked = () if stable_answers else columns
    return any(c.kind == "inputs" and c.verdict is Verdict.FAIL for c in asked)


def _is_output(name: str) -> bool:
    return name.startswith(f"{_OUTPUTS}.")


def _tell(
    policy: DriftWatch,
    columns: tuple[ColumnFinding, ...],
    digest: str,
    window_number: int,
    *,
    is_shared: bool,
) -> DriftFindings:
    outputs = [column for column in columns if column.kind == _OUTPUTS]
    is_shared = is_shared and any(column.verdict is Verdict.FAIL for column in outputs)
    excused = outputs if is_shared else []
    counted = [
        Verdict.PASS if column in excused and column.verdict is Verdict.FAIL else column.verdict
        for column in columns
        if column.kind == _OUTPUTS or policy.inputs == "enforce"
    ]
    verdict = worst(counted) if outputs else Verdict.INCONCLUSIVE
    return DriftFindings(
        verdict=verdict,
        reason=_reason(columns, verdict, is_shared=is_shared),
        mode=policy.mode,
        false_alarm_ratio=policy.false_alarm_ratio,
        min_samples=policy.min_samples,
        min_distance=policy.min_distance,
        baseline_digest=digest,
        is_shared=is_shared,
        window_number=window_number,
        columns=columns,
    )


def _reason(columns: tuple[ColumnFinding, ...], verdict: Verdict, *, is_shared: bool) -> str:
    if not any(column.kind == _OUTPUTS for column in columns):
        return "nothing to compare: the release brings no baseline of its answers"
    drifting = [column for column in columns if column.verdict is Verdict.FAIL]
    if verdict is Verdict.PASS and drifting:
        told = "; ".join(f"{column.name} is {column.reason}" for column in drifting)
        cause = "stable or the inputs drift alike" if is_shared else "answers do not drift"
        return f"{told}: not the release's fault, {cause}"
    if verdict is Verdict.PASS:
        return f"{len(columns)} columns are as the baseline has them"
    deciding = [column for column in columns if column.verdict is verdict]
    link = " is " if verdict is Verdict.FAIL else ": "
    return "; ".join(f"{column.name}{link}{column.reason}" for column in deciding)
