"""The bins of a release's drift baseline: what a served release counts of inputs and answers.

``drift/baseline.json`` of the release gives the cuts; a request then becomes one small number per
column, and only how often each was seen is kept. No input, no answer, no place and no order is in
it, and counts of processes and moments add up exactly.

Columns are named ``inputs.<field>.<statistic>``, as the drift check before promotion has them
(:mod:`kfm_mlflow.monitor.drift_sample`), and ``outputs.<statistic>``, the response statistics
(:mod:`kfm_mlflow.monitor.statistics`). Of each request the first row is counted: a request is the
block, whatever it holds, and the baseline is of single rows.

An edge is a *cut*, an interval a little wider than a number: what two runtimes compute differently
in the last digits lies on the cut and on neither side of it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping  # noqa: TC003 - what carries counts reads the types at run time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.canonical import digest_file, load_json
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.monitor.drift_baseline import BASELINE_PATH, parse_baseline
from kfm_mlflow.monitor.drift_sample import MAX_FIELD_COUNT, row_statistics, splits_into_fields
from kfm_mlflow.monitor.statistics import response_statistics

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

INPUTS, OUTPUTS = "inputs", "outputs"
_FIELD_NAME = "input"
"""What a baseline calls the first tensor of a model, whatever the model calls it."""
_LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_SAME_RATIO = 1e-5


@dataclass(frozen=True)
class Column:
    """What a baseline says about one column, by cut; all that a judge of counts needs.

    Bin ``2k`` lies between cut ``k - 1`` and cut ``k``, bin ``2k + 1`` is cut ``k``.

    Attributes:
        below: Of each cut, the share of the baseline below it, or a bound above that share.
        upto: Of each cut, the share below or on it, or a bound below that share.
        sample_count: Samples that the shares come from.
    """

    below: tuple[float, ...]
    upto: tuple[float, ...]
    sample_count: int


@dataclass(frozen=True)
class Columns:
    """The columns of a release, by name, and the digest of the baseline that they come from."""

    digest: str
    columns: Mapping[str, Column]


@dataclass(frozen=True)
class DriftBins:
    """Sorts requests of one release into the bins of its baseline.

    Attributes:
        known: What the baseline says.
        cuts: Column -> lower and upper ends of its cuts, ascending.
    """

    known: Columns
    cuts: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]

    def place(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> dict[str, int]:
        """Return column -> bin of a request's first row; a column without a value is left out.

        Args:
            inputs: Input name -> array, batch first; the first input is what is watched.
            outputs: Output name -> array, batch first; likewise.
        """
        found: dict[str, int] = {}
        for name, value in _first_row(inputs, outputs).items():
            if name in self.cuts and math.isfinite(value):
                lows, highs = self.cuts[name]
                found[name] = bisect_right(lows, value) + bisect_left(highs, value)
        return found


def load_bins(release_dir: Path) -> DriftBins | None:
    """Read the bins of a release; None when it brings no drift baseline.

    Inputs of a baseline with blocks of several rows are not watched: requests have no blocks.

    Raises:
        EvidenceError: The baseline is malformed.
    """
    path = release_dir / BASELINE_PATH
    if not path.exists():
        return None
    document = load_json(path, where=BASELINE_PATH)
    digest = digest_file(path)
    made: dict[str, tuple[Column, tuple[float, ...], tuple[float, ...]]] = {}
    statistics = document.get("statistics") if isinstance(document, dict) else None
    for name, described in sorted((statistics or {}).items()):
        table = described.get("quantiles") if isinstance(described, dict) else None
        if table:
            made[f"{OUTPUTS}.{name}"] = _of_quantiles(name, table, document.get("sample_count"))
    if _has_fields(document):
        baseline = parse_baseline(document, digest=digest)
        for field, described in baseline.fields.items() if baseline.blocks is None else ():
            for name, values in described.statistics.items():
                kept = values[np.isfinite(values)]
                if kept.size:
                    made[f"{INPUTS}.{field}.{name}"] = _of_values(kept)
    columns = {name: column for name, (column, _, _) in made.items()}
    cuts = {name: (lows, highs) for name, (_, lows, highs) in made.items()}
    return DriftBins(Columns(digest, columns), cuts)


def _has_fields(document: Any) -> bool:
    inputs = document.get("inputs") if isinstance(document, dict) else None
    return isinstance(inputs, dict) and bool(inputs.get("fields"))


def _first_row(
    inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
) -> dict[str, float]:
    first = {name: array[:1] for name, array in inputs.items()}
    answer = {name: array[:1] for name, array in outputs.items()}
    found = {f"{OUTPUTS}.{k}": v for k, v in response_statistics(first, answer).items()}
    asked = next(iter(first.values()), None)
    if asked is None or not asked.size or asked.dtype.kind not in "iuf":
        return found
    row = np.asarray(asked, dtype=np.float64)
    # One call for all fields: the parts of a row are reduced as rows of their own.
    parts = row[0] if splits_into_fields(row) else row
    named = (
        [_FIELD_NAME]
        if len(parts) == 1
        else [f"{_FIELD_NAME}.{k}" for k in range(min(len(parts), MAX_FIELD_COUNT))]
    )
    for statistic, values in row_statistics(parts).items():
        found |= {
            f"{INPUTS}.{field}.{statistic}": float(value)
            for field, value in zip(named, values, strict=False)
        }
    return found


def _cuts(edges: Sequence[float]) -> list[tuple[float, float, list[int]]]:
    """Return lower end, upper end and the numbers of the edges of each cut."""
    margin = _SAME_RATIO * max(abs(edge) for edge in edges)
    found: list[tuple[float, float, list[int]]] = []
    for number, edge in enumerate(edges):
        if found and edge - margin <= found[-1][1]:
            low, _, numbers = found[-1]
            found[-1] = (low, edge + margin, [*numbers, number])
        else:
            found.append((edge - margin, edge + margin, [number]))
    return found


def _of_values(
    values: NDArray[np.float64],
) -> tuple[Column, tuple[float, ...], tuple[float, ...]]:
    edges = np.quantile(values, _LEVELS, method="inverted_cdf")
    found = _cuts([float(edge) for edge in edges])
    lows, highs = tuple(low for low, _, _ in found), tuple(high for _, high, _ in found)
    below = tuple(float((values < low).mean()) for low in lows)
    upto = tuple(float((values <= high).mean()) for high in highs)
    return Column(below, upto, len(values)), lows, highs


def _of_quantiles(
    name: str, table: Mapping[str, Any], sample_count: Any
) -> tuple[Column, tuple[float, ...], tuple[float, ...]]:
    """Make a column of a table level -> quantile; where quantiles tie, only bounds are known."""
    where = f"{BASELINE_PATH}: statistics.{name}.quantiles"
    try:
        pairs = sorted((float(level), float(value)) for level, value in table.items())
        levels, edges = zip(*pairs, strict=True)
        count = int(sample_count)
        sound = all(map(math.isfinite, edges)) and list(edges) == sorted(edges) and count > 0
    except (TypeError, ValueError) as exc:
        raise EvidenceError(f"is malformed ({exc})", where=where) from exc
    if not sound or not 0 <= levels[0] <= levels[-1] <= 1:
        raise EvidenceError("must be finite and rise with their levels", where=where)
    found = _cuts(edges)
    below = tuple(levels[numbers[0]] for _, _, numbers in found)
    upto = tuple(levels[numbers[-1]] for _, _, numbers in found)
    lows, highs = tuple(low for low, _, _ in found), tuple(high for _, high, _ in found)
    return Column(below, upto, count), lows, highs
