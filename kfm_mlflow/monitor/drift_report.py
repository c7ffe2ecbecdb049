"""Evidently's part in a drift check: it runs our test, and writes the HTML report.

Evidently chooses its test by the number of rows, drops missing values, and calls a data set
unchanged while fewer than half of its columns drift. None of that happens here: each column is
tested by one registered test, the block permutation of :mod:`kfm_mlflow.monitor.drift_tests`, and
the verdict is made of its p-values by the plan. Block numbers travel as the index of the columns,
which Evidently leaves in place.

The report is one file. It is refused if it names anything to load from elsewhere, and it carries
a content security policy under which a browser loads nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.canonical import digest_bytes
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.monitor.drift import check_drift
from kfm_mlflow.monitor.drift_tests import Measured, block_index, block_permutation_ks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import pandas as pd
    from numpy.typing import NDArray

    from kfm_mlflow.monitor.drift import Comparison, DriftSummary
    from kfm_mlflow.monitor.drift_baseline import DriftBaseline
    from kfm_mlflow.monitor.drift_sample import DriftSample
    from kfm_mlflow.policy.drift import DriftPlan

METHOD = "block-permutation-ks by evidently"
_PREFIX = "kfm_block_permutation_ks"
_HEAD = b"<head>"
# Libraries inside the page know addresses (of maps, say); a browser may follow none of them.
_LOADS_NOTHING = (
    b'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    b"script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    b'img-src data: blob:; font-src data:">'
)
_REMOTE = re.compile(
    rb"""<(?:script|img|iframe|link|object|embed)\b[^>]{0,2000}?\b(?:src|href|data)\s*=\s*"""
    rb"""["']?((?:https?:)?//[^"'\s>]+)|@import\s+(?:url\()?["']?((?:https?:)?//[^"'\s)]+)""",
    re.IGNORECASE,
)


def remote_references(html: bytes) -> list[str]:
    """Return what an HTML page would load from elsewhere: scripts, styles, images, frames."""
    return [(first or second).decode("utf-8", "replace") for first, second in _REMOTE.findall(html)]


@dataclass
class EvidentlyRun:
    """Has Evidently make the p-values of one check; afterwards its report can be written.

    Pass :meth:`measure` to :func:`kfm_mlflow.monitor.drift.check_drift`.
    """

    _snapshots: list[Any] = field(default_factory=list)

    def measure(
        self, comparisons: Sequence[Comparison], permutation_count: int, seed: int
    ) -> list[Measured]:
        """Test every comparison through Evidently, with a fixed test.

        Raises:
            EvidenceError: Evidently did not answer for every column.
        """
        if not comparisons:
            return []
        from evidently import DataDefinition, Dataset, Report
        from evidently.metrics import ValueDrift

        method = _register(permutation_count, seed)
        names = [" ".join(one.name) for one in comparisons]
        definition = DataDefinition(numerical_columns=names)
        before, now = (
            Dataset.from_pandas(_frame(names, parts), data_definition=definition)
            for parts in (
                [(one.baseline, one.baseline_blocks) for one in comparisons],
                [(one.current, one.current_blocks) for one in comparisons],
            )
        )
        # The threshold decides the colour of a column in the report, before any correction.
        metrics = [ValueDrift(column=name, method=method, threshold=0.05) for name in names]
        snapshot = Report(metrics, include_tests=True).run(now, before)
        self._snapshots.append(snapshot)
        found = {
            metric["config"]["column"]: float(metric["value"])
            for metric in snapshot.dict()["metrics"]
        }
        if set(found) != set(names):
            raise EvidenceError("Evidently did not answer for every column", where="drift report")
        return [
            Measured(_distance(one), found[name])
            for one, name in zip(comparisons, names, strict=True)
        ]

    def html(self) -> bytes:
        """Return the report as one HTML page that loads nothing.

        Raises:
            EvidenceError: Nothing was tested, or the page would load something.
        """
        if not self._snapshots:
            raise EvidenceError(
                "nothing was tested, so there is nothing to draw",
                where="drift report",
                remedy="read drift_summary.json, which says why",
            )
        html: bytes = self._snapshots[-1].get_html_str(as_iframe=False).encode()
        if html.count(_HEAD) != 1:
            raise EvidenceError("Evidently wrote a page without a head", where="drift report")
        html = html.replace(_HEAD, _HEAD + _LOADS_NOTHING)
        remote = remote_references(html)
        if remote:
            raise EvidenceError(f"would load {remote[0]}", where="drift report")
        return html


def check_with_evidently(
    baseline: DriftBaseline, current: DriftSample, plan: DriftPlan, at: datetime
) -> tuple[DriftSummary, bytes | None]:
    """Check as :func:`kfm_mlflow.monitor.drift.check_drift` does, with Evidently's p-values.

    Args:
        baseline: What the inputs looked like.
        current: What they look like now.
        plan: Tests, limits and budget.
        at: When (aware).

    Returns:
        The summary, with the report's digest, and the report as HTML; None when nothing came to
        be tested.
    """
    run = EvidentlyRun()
    summary = check_drift(baseline, current, plan, at, measure=run.measure, method=METHOD)
    if summary.resolvable_distance is None:
        return summary, None
    html = run.html()
    return replace(summary, report_digest=digest_bytes(html)), html


def _register(permutation_count: int, seed: int) -> str:
    """Register the test under a name that says its parameters, once; return the name."""
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    name = f"{_PREFIX}_{permutation_count}_{seed}"

    def test(
        reference: pd.Series[float], current: pd.Series[float], kind: Any, threshold: float
    ) -> tuple[float, bool]:
        del kind
        found = block_permutation_ks(
            reference.to_numpy(),
            current.to_numpy(),
            reference.index.to_numpy(),
            current.index.to_numpy(),
            permutation_count=permutation_count,
            seed=seed,
        )
        return found.p_value, found.p_value <= threshold

    shown = f"Kolmogorov-Smirnov, {permutation_count} block permutations, seed {seed}"
    register_stattest(StatTest(name, shown, [ColumnType.Numerical]), test)
    return name


def _frame(
    names: Sequence[str],
    parts: Sequence[tuple[NDArray[np.float64], NDArray[np.int64] | None]],
) -> pd.DataFrame:
    """Return the columns, indexed by block; what a column lacks is NaN, which Evidently drops.

    Columns differ in length only where every row is a block.
    """
    import pandas as pd

    longest = max(len(values) for values, _ in parts)
    columns = {
        name: np.append(values, np.full(longest - len(values), np.nan))
        for name, (values, _) in zip(names, parts, strict=True)
    }
    return pd.DataFrame(columns, index=pd.Index(block_index(parts[0][1], longest)))


def _distance(one: Comparison) -> float:
    (before, before_blocks), (now, now_blocks) = one.finite()
    return block_permutation_ks(
        before, now, before_blocks, now_blocks, permutation_count=0, seed=0
    ).distance
