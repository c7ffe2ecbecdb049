"""The drift check: do inputs still look like those that a release was made for?

Rules kept here:

1. Order: schema, then missingness, then range, then samples, then tests. A field that fails one
   is not asked the next; a comparison that drops missing values can therefore never hide them.
2. Tests and limits are those of the plan, fixed beforehand; none is chosen by the data.
3. Blocks are compared, not cells, and the false-alarm budget is shared over all tests by Holm's
   procedure (:mod:`kfm_mlflow.monitor.drift_tests`).
4. PASS needs evidence: enough blocks to have seen a drift of the size that the plan names.
   Otherwise the verdict is INCONCLUSIVE.
5. Pure: equal values give equal bytes; the instant is a parameter.

Schema, missingness and range are fixed limits, not tests; the false-alarm budget is not theirs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.errors import InputError
from kfm_mlflow.monitor.drift_checks import (
    Verdict,
    field_checks,
    field_state,
    is_sound,
    judge_distributions,
    samples_check,
)
from kfm_mlflow.monitor.drift_sample import row_statistics, thin_rows
from kfm_mlflow.monitor.drift_tests import (
    Measured,
    block_permutation_ks,
    permutations_needed,
    resolvable_distance,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from kfm_mlflow.monitor.drift_baseline import DriftBaseline
    from kfm_mlflow.monitor.drift_checks import DriftCheck
    from kfm_mlflow.monitor.drift_sample import DriftSample
    from kfm_mlflow.policy.drift import DriftPlan

    Side = tuple[NDArray[np.float64], NDArray[np.int64] | None]
    Measure = Callable[[Sequence["Comparison"], int, int], Sequence[Measured]]

_ORDER: tuple[Verdict, ...] = ("PASS", "INCONCLUSIVE", "FAIL")
_MAX_PERMUTATION_COUNT = 100_000


@dataclass(frozen=True)
class Comparison:
    """Two samples of one statistic, ready to be tested.

    Attributes:
        name: Field and statistic.
        baseline: Values [n]; NaN where a row has none.
        current: Values [m], likewise.
        baseline_blocks: Block number of each value; None when every value is a block.
        current_blocks: The same of the current values.
    """

    name: tuple[str, str]
    baseline: NDArray[np.float64]
    current: NDArray[np.float64]
    baseline_blocks: NDArray[np.int64] | None = None
    current_blocks: NDArray[np.int64] | None = None

    def finite(self) -> tuple[Side, Side]:
        """Return (values, blocks) before and now, without what is not finite."""
        before = _finite(self.baseline, self.baseline_blocks)
        return before, _finite(self.current, self.current_blocks)

    @property
    def block_counts(self) -> tuple[int, int]:
        """Blocks with a finite value, before and now."""
        before, now = (
            len(values) if blocks is None else len(np.unique(blocks))
            for values, blocks in self.finite()
        )
        return before, now


def _finite(values: NDArray[np.float64], blocks: NDArray[np.int64] | None) -> Side:
    present = np.isfinite(values)
    return values[present], None if blocks is None else blocks[present]


@dataclass(frozen=True)
class DriftSummary:
    """What a drift check found; ``to_dict`` is ``drift_summary.json``.

    Attributes:
        checks: In the order in which they were asked.
        plan: The plan that was followed.
        baseline_digest: Of ``drift/baseline.json``; empty when it was not read from a file.
        baseline_block_count: Blocks of the baseline.
        current_block_count: Blocks now; the fewest over the fields.
        resolvable_distance: Distance that this check finds in four cases of five; None without
            tests.
        method: How the p-values were made.
        at: When (aware).
        report_digest: ``sha256:<hex>`` of Evidently's report; empty without one.
    """

    checks: tuple[DriftCheck, ...]
    plan: DriftPlan
    baseline_digest: str
    baseline_block_count: int
    current_block_count: int
    resolvable_distance: float | None
    method: str
    at: datetime
    report_digest: str = ""

    @property
    def verdict(self) -> Verdict:
        """Worst of the checks; without any test of a distribution never PASS."""
        tested = any(check.check == "distribution" for check in self.checks)
        found = [check.verdict for check in self.checks] + ([] if tested else ["INCONCLUSIVE"])
        return max(found, key=_ORDER.index)

    @property
    def reason(self) -> str:
        """What decided, in one sentence."""
        worst = [check for check in self.checks if check.verdict == self.verdict]
        if self.verdict == "PASS":
            return f"{len(self.checks)} checks found no drift"
        return "; ".join(check.reason for check in worst[:3]) or "nothing was tested"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "schema_version": "1",
            "applicable": True,
            "verdict": self.verdict,
            "reason": self.reason,
            "false_alarm_ratio": self.plan.false_alarm_ratio,
            "metrics": [],
            "inputs": {
                "at": self.at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
                "baseline_digest": self.baseline_digest,
                "report_digest": self.report_digest,
                "baseline_block_count": self.baseline_block_count,
                "current_block_count": self.current_block_count,
                "resolvable_distance": self.resolvable_distance,
                "method": self.method,
                "correction": "holm",
                "plan": self.plan.model_dump(mode="json"),
                "checks": [asdict(check) for check in self.checks],
            },
        }


def measure_blocks(
    comparisons: Sequence[Comparison], permutation_count: int, seed: int
) -> list[Measured]:
    """Test every comparison by block permutation."""
    found = []
    for one in comparisons:
        (before, before_blocks), (now, now_blocks) = one.finite()
        found.append(
            block_permutation_ks(
                before,
                now,
                before_blocks,
                now_blocks,
                permutation_count=permutation_count,
                seed=seed,
            )
        )
    return found


def check_drift(
    baseline: DriftBaseline,
    current: DriftSample,
    plan: DriftPlan,
    at: datetime,
    *,
    measure: Measure = measure_blocks,
    method: str = "block-permutation-ks",
) -> DriftSummary:
    """Hold inputs against the baseline of a release.

    Args:
        baseline: What the inputs looked like.
        current: What they look like now; fields that the baseline does not know are left out.
        plan: Tests, limits and budget.
        at: When (aware).
        measure: Makes distances and p-values, given comparisons, permutations and a seed;
            :func:`kfm_mlflow.monitor.drift_report.measure_with_evidently` has Evidently do it.
        method: Name of that.

    Returns:
        Every check, with a verdict; see the module.
    """
    checks: list[DriftCheck] = []
    comparisons: list[Comparison] = []
    for name, field in sorted(baseline.fields.items()):
        now = current.fields.get(name)
        first = field_checks(
            name, field, None if now is None else field_state(field, now, plan), plan
        )
        checks += first
        if now is None or not is_sound(first):
            continue
        kept = thin_rows(len(now.rows), current.blocks)
        blocks = None if current.blocks is None else current.blocks[kept]
        statistics = row_statistics(now.rows[kept])
        for statistic, values in sorted(field.statistics.items()):
            found = Comparison(
                (name, statistic), values, statistics[statistic], baseline.blocks, blocks
            )
            short = samples_check(f"{name} ({statistic})", *found.block_counts, plan)
            checks += short
            comparisons += [] if short else [found]
    measured = measure(comparisons, permutation_count(plan, len(comparisons)), plan.seed)
    return conclude(
        baseline,
        checks,
        [
            (one.name, one.block_counts, found)
            for one, found in zip(comparisons, measured, strict=True)
        ],
        plan,
        at,
        method=method,
    )


def permutation_count(plan: DriftPlan, test_count: int) -> int:
    """Return how many permutations each of a number of tests needs.

    Raises:
        InputError: The budget is spread so thin that no affordable number is enough.
    """
    alpha = plan.false_alarm_ratio / plan.look_count
    needed = permutations_needed(alpha, test_count, plan.permutation_count)
    if needed > _MAX_PERMUTATION_COUNT:
        raise InputError(
            f"{test_count} tests in {plan.look_count} looks need {needed} permutations each",
            where="drift plan",
            remedy="check fewer fields, look less often, or allow more false alarms",
        )
    return needed


def conclude(
    baseline: DriftBaseline,
    checks: Sequence[DriftCheck],
    tests: Sequence[tuple[tuple[str, str], tuple[int, int], Measured]],
    plan: DriftPlan,
    at: datetime,
    *,
    method: str,
) -> DriftSummary:
    """Judge all tests together and sum a check up.

    Args:
        baseline: What was compared with.
        checks: What came before the tests.
        tests: Field and statistic, blocks before and now, and what was measured, of each test.
        plan: The budget.
        at: When (aware).
        method: How the p-values were made.
    """
    counts, resolvable = (0, 0), None
    if tests:
        before, now = zip(*(blocks for _, blocks, _ in tests), strict=True)
        counts = (min(before), min(now))
        alpha = plan.false_alarm_ratio / plan.look_count
        resolvable = resolvable_distance(*counts, alpha, len(tests))
        names, measured = [name for name, _, _ in tests], [found for _, _, found in tests]
        checks = [*checks, *judge_distributions(names, measured, counts, plan)]
    return DriftSummary(
        checks=tuple(checks),
        plan=plan,
        baseline_digest=baseline.digest,
        baseline_block_count=counts[0],
        current_block_count=counts[1],
        resolvable_distance=resolvable,
        method=method,
        at=at,
    )
