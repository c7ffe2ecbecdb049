"""False aborts and samples to detection: our sequential test beside Flagger's and Kayenta's rules.

All three look at the same streams: every look brings 90 answers of stable and 10 of the canary
(10 % of the traffic), and everybody is asked after every look, because a controller never stops
looking. Two things are measured:

- **A/A**: both arms are bad alike. A run that is aborted is a false abort. Ours declares its rate.
- **harm**: the canary's error ratio is 2, 5 or 10 times stable's. How many answers of the canary
  it takes to abort.

The peers' rules as they document them, with their defaults:

- **Flagger**: ``request-success-rate`` ``thresholdRange.min: 99`` is asked at each interval over
  that interval's requests alone; a check outside the range adds one to a count that never falls,
  and ``threshold: 5`` failed checks abort (docs.flagger.app, "How it works" and "Metrics
  Analysis"; the interval here is one look).
- **Kayenta**: the Mann-Whitney U test of the time series of both arms, one value a look, with the
  settings of its judge (NetflixACA: confidence 0.98, tolerance 0.25): the metric fails when the
  lower end of the confidence interval of the shift lies above a quarter of the estimated shift.
  It is asked from 50 values of each arm on, which its documentation recommends, and then after
  every tenth value.

Rates of false aborts are given with the Clopper-Pearson interval of 95 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import rollout_drift
from report import Row, Spread, spread_of

from kfm_mlflow.rollout.sequential import Block, Sequential, update

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

STABLE_COUNT, CANARY_COUNT = 90, 10
DECLARED_RATIO = 0.05
FLAGGER_MIN_PCT, FLAGGER_THRESHOLD = 99.0, 5
KAYENTA_CONFIDENCE, KAYENTA_TOLERANCE = 0.98, 0.25
KAYENTA_MIN_VALUES, KAYENTA_EVERY = 50, 10
STABLE_RATIO = 0.02
AA_RATIOS = (0.005, 0.02)
TIMES_WORSE = (2, 5, 10)
SEED = 20261121


@dataclass(frozen=True)
class Sizes:
    """How much is simulated."""

    aa_runs: int
    harm_runs: int
    looks: int


SIZES = {"small": Sizes(1000, 200, 200), "full": Sizes(10_000, 1000, 400)}


def sequential(stable_bad: list[int], canary_bad: list[int]) -> int | None:
    """Return the look at which our test aborts; None when it never does."""
    bound = math.log(1 / DECLARED_RATIO)
    state = Sequential()
    for look, (stable, canary) in enumerate(zip(stable_bad, canary_bad, strict=True)):
        state = update(state, Block(STABLE_COUNT, stable, CANARY_COUNT, canary))
        if state.log_e >= bound:
            return look
    return None


def flagger(stable_bad: list[int], canary_bad: list[int]) -> int | None:
    """Return the look at which Flagger aborts; stable plays no part in its rule."""
    del stable_bad
    failed = 0
    for look, bad in enumerate(canary_bad):
        failed += 100 * (CANARY_COUNT - bad) / CANARY_COUNT < FLAGGER_MIN_PCT
        if failed >= FLAGGER_THRESHOLD:
            return look
    return None


def kayenta(stable_bad: list[int], canary_bad: list[int]) -> int | None:
    """Return the look at which Kayenta's classifier says that the canary is higher."""
    # Shares as whole numbers on the common denominator 900: few differ, so they are counted.
    stable = np.asarray(stable_bad) * CANARY_COUNT
    canary = np.asarray(canary_bad) * STABLE_COUNT
    for look in range(KAYENTA_MIN_VALUES - 1, len(stable), KAYENTA_EVERY):
        lower, estimate = shift_interval(stable[: look + 1], canary[: look + 1])
        if lower > KAYENTA_TOLERANCE * abs(estimate):
            return look
    return None


def shift_interval(stable: NDArray[np.integer], canary: NDArray[np.integer]) -> tuple[float, float]:
    """Return the lower end of the interval of the shift, and the Hodges-Lehmann estimate.

    Both are order statistics of all differences; the rank of the end by the normal approximation
    with the variance of U corrected for ties (Hollander and Wolfe, Nonparametric Statistical
    Methods, section 4.3). Without any spread there is no interval: (0, 0).
    """
    from scipy.stats import norm

    ours, our_counts = np.unique(canary, return_counts=True)
    theirs, their_counts = np.unique(stable, return_counts=True)
    _, ties = np.unique(np.concatenate((stable, canary)), return_counts=True)
    m, n = len(canary), len(stable)
    total = m + n
    variance = m * n / 12 * (total + 1 - float(np.sum(ties**3 - ties)) / (total * (total - 1)))
    if variance <= 0:
        return 0.0, 0.0
    differences = np.subtract.outer(ours, theirs).ravel()
    order = np.argsort(differences)
    reached = np.cumsum(np.multiply.outer(our_counts, their_counts).ravel()[order])
    z = float(norm.isf((1 - KAYENTA_CONFIDENCE) / 2))
    ranks = (max(1.0, m * n / 2 - z * math.sqrt(variance)), (m * n + 1) / 2)
    lower, middle = (differences[order][np.searchsorted(reached, rank)] for rank in ranks)
    return float(lower), float(middle)


RULES: dict[str, Callable[[list[int], list[int]], int | None]] = {
    "ours": sequential,
    "Flagger": flagger,
    "Kayenta": kayenta,
}


@dataclass(frozen=True)
class Found:
    """What a rule did on many runs: the look of each abort; None where there was none."""

    looks: tuple[int | None, ...]

    @property
    def abort_count(self) -> int:
        """Runs that were aborted."""
        return sum(look is not None for look in self.looks)

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper-Pearson interval, 95 %, of the share of aborted runs."""
        from scipy.stats import binomtest

        found = binomtest(self.abort_count, len(self.looks)).proportion_ci(0.95, method="exact")
        return float(found.low), float(found.high)

    @property
    def samples(self) -> list[float]:
        """The canary's answers until the abort; infinite where there was none."""
        return [math.inf if look is None else (look + 1.0) * CANARY_COUNT for look in self.looks]

    def rate_text(self) -> str:
        """Return the share of aborted runs with its interval."""
        low, high = self.interval
        share = 100 * self.abort_count / len(self.looks)
        return f"{share:.2f} % (95 %: {100 * low:.2f} to {100 * high:.2f})"

    def samples_text(self) -> str:
        """Return the median number of the canary's answers, and how many runs were caught."""
        median = float(np.median(self.samples))
        caught = f"{100 * self.abort_count / len(self.looks):.3g} % caught"
        return f"{median:.0f} answers, {caught}" if math.isfinite(median) else f"never, {caught}"


def simulate(
    stable_ratio: float, canary_ratio: float, *, runs: int, looks: int
) -> dict[str, Found]:
    """Show the same streams to all rules.

    Args:
        stable_ratio: Stable's error ratio.
        canary_ratio: The canary's.
        runs: Streams.
        looks: Looks in each.
    """
    rng = np.random.default_rng([SEED, round(1e6 * stable_ratio), round(1e6 * canary_ratio)])
    stable = rng.binomial(STABLE_COUNT, stable_ratio, (runs, looks)).tolist()
    canary = rng.binomial(CANARY_COUNT, canary_ratio, (runs, looks)).tolist()
    streams = list(zip(stable, canary, strict=True))
    return {name: Found(tuple(rule(*stream) for stream in streams)) for name, rule in RULES.items()}


def measure(size: str) -> list[Row]:
    """Return the rows of false aborts and of samples to detection."""
    sizes = SIZES[size]
    rows: list[Row] = []
    for ratio in AA_RATIOS:
        found = simulate(ratio, ratio, runs=sizes.aa_runs, looks=sizes.looks)
        rows += _false_aborts(ratio, found, sizes)
    for times in TIMES_WORSE:
        found = simulate(
            STABLE_RATIO, times * STABLE_RATIO, runs=sizes.harm_runs, looks=sizes.looks
        )
        rows += _detection(times, found, sizes)
    return rows + rollout_drift.measure(size)


def _false_aborts(ratio: float, found: dict[str, Found], sizes: Sizes) -> list[Row]:
    ours = found["ours"]
    declared = f"{100 * DECLARED_RATIO:g} %"
    low, high = (end / DECLARED_RATIO for end in ours.interval)
    share = ours.abort_count / len(ours.looks) / DECLARED_RATIO
    peers = "; ".join(f"{name} {found[name].rate_text()}" for name in ("Flagger", "Kayenta"))
    return [
        Row(
            what=f"false aborts, both arms {100 * ratio:g} % errors",
            ours=ours.rate_text(),
            peer_name="the declared rate",
            peer=declared,
            ratio=Spread(low, share, high, (low, high), sizes.aa_runs),
            goal=1.0,
            note=f"A/A, simulated: {sizes.looks} looks, one after every {CANARY_COUNT} of the "
            f"canary's answers; interval of the rate, not quartiles. Same streams: {peers}",
        )
    ]


def _detection(times: int, found: dict[str, Found], sizes: Sizes) -> list[Row]:
    ours, rows = found["ours"], []
    longest = (sizes.looks + 1.0) * CANARY_COUNT
    for name in ("Flagger", "Kayenta"):
        peer = found[name]
        ratios = [
            min(a, longest) / min(b, longest)
            for a, b in zip(ours.samples, peer.samples, strict=True)
        ]
        rows.append(
            Row(
                what=f"canary's answers until {times}x the error ratio of {100 * STABLE_RATIO:g} % is caught",
                ours=ours.samples_text(),
                peer_name=f"{name}'s rule",
                peer=peer.samples_text(),
                ratio=spread_of(ratios),
                note=f"simulated; a run that is not caught counts {longest:.0f} answers",
            )
        )
    return rows
