"""False alarms and samples to detection of the drift watch, beside two rules in common use.

Every run has a baseline of its own, 500 answers, and answers that come ten at a time; everybody is
asked after every ten, because a controller never stops looking. **A/A**: both are drawn from the
standard normal distribution. **Drift**: the answers are shifted by half or one standard deviation.

The peers, with Evidently's documented defaults for a numerical column (docs.evidentlyai.com, "Data
drift"), both asked of all answers so far, from 50 on:

- **KS**: the two-sample Kolmogorov-Smirnov test (its choice for up to 1000 rows), p < 0.05; p by
  the asymptotic distribution.
- **PSI**: the population stability index over the baseline's deciles, at least 0.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from report import Row, Spread, spread_of

from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.monitor.drift_bins import Column, Columns
from kfm_mlflow.policy.rollout import DriftWatch
from kfm_mlflow.rollout.drift_watch import watch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kfm_mlflow.rollout.drift_watch import DriftWindow

BASELINE_COUNT, PER_LOOK, MIN_COUNT = 500, 10, 50
LEVELS = (0.005, 0.05, 0.25, 0.5, 0.75, 0.95, 0.995)
"""Quantiles that a release keeps of its answers."""
POLICY = DriftWatch()
STRICT = DriftWatch(minDistance=0.0)
"""Calls every distance drift, so that the budget alone holds false alarms down."""
NAME = "outputs.statistic"
PSI_LIMIT, KS_LIMIT = 0.1, 0.05
SHIFTS = (0.5, 1.0)
SEED = 20261121


@dataclass(frozen=True)
class Sizes:
    """How much is simulated."""

    aa_runs: int
    drift_runs: int
    looks: int


SIZES = {"small": Sizes(200, 50, 60), "full": Sizes(3000, 300, 100)}


def ours(policy: DriftWatch, baseline: NDArray[np.float64], answers: NDArray[np.float64]) -> float:
    """Return after how many answers the watch calls drift; infinite when it never does."""
    edges = np.quantile(baseline, LEVELS)
    known = {"canary": Columns("", {NAME: Column(LEVELS, LEVELS, len(baseline))})}
    windows: dict[str, DriftWindow] = {}
    for begin in range(0, len(answers), PER_LOOK):
        places = 2 * np.searchsorted(edges, answers[begin : begin + PER_LOOK])
        counts = tuple(np.bincount(places, minlength=2 * len(LEVELS) + 1).tolist())
        found, windows = watch(policy, windows, {"canary": {NAME: counts}}, known)
        if found.verdict is Verdict.FAIL:
            return begin + PER_LOOK
    return math.inf


def by_ks(baseline: NDArray[np.float64], answers: NDArray[np.float64]) -> float:
    """Return after how many answers the Kolmogorov-Smirnov test rejects."""
    from scipy.special import kolmogorov

    ordered = np.sort(baseline)
    for count in range(MIN_COUNT, len(answers) + 1, PER_LOOK):
        now = np.sort(answers[:count])
        both = np.concatenate((ordered, now))
        shares = (
            np.searchsorted(values, both, side="right") / len(values) for values in (ordered, now)
        )
        distance = np.abs(np.subtract(*shares)).max()
        scale = math.sqrt(len(ordered) * count / (len(ordered) + count))
        if kolmogorov(scale * distance) < KS_LIMIT:
            return count
    return math.inf


def by_psi(baseline: NDArray[np.float64], answers: NDArray[np.float64]) -> float:
    """Return after how many answers the population stability index reaches its limit."""
    edges = np.quantile(baseline, np.arange(1, 10) / 10)
    places = np.searchsorted(edges, answers)
    for count in range(MIN_COUNT, len(answers) + 1, PER_LOOK):
        share = np.maximum(np.bincount(places[:count], minlength=10) / count, 1e-4)
        if float(np.sum((share - 0.1) * np.log(share / 0.1))) >= PSI_LIMIT:
            return count
    return math.inf


def simulate(shift: float, *, runs: int, looks: int) -> dict[str, list[float]]:
    """Show the same streams to all rules; return answers until each called drift."""
    rng = np.random.default_rng([SEED, round(1000 * shift)])
    found: dict[str, list[float]] = {"ours": [], "strict": [], "KS": [], "PSI": []}
    for _ in range(runs):
        baseline = rng.normal(size=BASELINE_COUNT)
        answers = rng.normal(size=looks * PER_LOOK) + shift
        found["ours"].append(ours(POLICY, baseline, answers))
        found["strict"].append(ours(STRICT, baseline, answers))
        found["KS"].append(by_ks(baseline, answers))
        found["PSI"].append(by_psi(baseline, answers))
    return found


def _rate(counts: list[float]) -> tuple[float, float, float, str]:
    """Return the share of runs that called drift, with its Clopper-Pearson interval of 95 %."""
    from scipy.stats import binomtest

    alarms = sum(map(math.isfinite, counts))
    interval = binomtest(alarms, len(counts)).proportion_ci(0.95, method="exact")
    share, low, high = alarms / len(counts), float(interval.low), float(interval.high)
    return share, low, high, f"{100 * share:.2f} % (95 %: {100 * low:.2f} to {100 * high:.2f})"


def measure(size: str) -> list[Row]:
    """Return the rows of false alarms and of answers to detection."""
    sizes = SIZES[size]
    declared = POLICY.false_alarm_ratio
    rows: list[Row] = []
    found = simulate(0.0, runs=sizes.aa_runs, looks=sizes.looks)
    for rule, words in (("ours", "minDistance 0.1"), ("strict", "minDistance 0")):
        share, low, high, text = _rate(found[rule])
        peers = "; ".join(f"{name} {_rate(found[name])[3]}" for name in ("KS", "PSI"))
        ends = (low / declared, high / declared)
        rows.append(
            Row(
                what=f"false alarms of the drift watch, {words}",
                ours=text,
                peer_name="the declared rate",
                peer=f"{100 * declared:g} %",
                ratio=Spread(ends[0], share / declared, ends[1], ends, sizes.aa_runs),
                goal=1.0,
                note=f"A/A, simulated: baseline of {BASELINE_COUNT}, {sizes.looks} looks, one after "
                f"every {PER_LOOK} answers; interval of the rate, not quartiles. "
                f"Same streams: {peers}",
            )
        )
    longest = (sizes.looks + 1.0) * PER_LOOK
    for shift in SHIFTS:
        found = simulate(shift, runs=sizes.drift_runs, looks=sizes.looks)
        for peer in ("KS", "PSI"):
            pairs = zip(found["ours"], found[peer], strict=True)
            rows.append(
                Row(
                    what=f"answers until a drift by {shift:g} standard deviations is caught",
                    ours=_until(found["ours"]),
                    peer_name=f"{peer}, asked at every look",
                    peer=_until(found[peer]),
                    ratio=spread_of([min(a, longest) / min(b, longest) for a, b in pairs]),
                    note=f"simulated; a run that is not caught counts {longest:.0f} answers. The "
                    "peer's false alarms are in the rows above",
                )
            )
    return rows


def _until(counts: list[float]) -> str:
    median = float(np.median(counts))
    caught = f"{100 * sum(map(math.isfinite, counts)) / len(counts):.3g} % caught"
    return f"{median:.0f} answers, {caught}" if math.isfinite(median) else f"never, {caught}"
