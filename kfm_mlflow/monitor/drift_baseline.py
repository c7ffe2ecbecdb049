"""The drift baseline of a release: what its inputs looked like, frozen with its bytes.

It is the part ``fields`` of ``inputs`` in ``drift/baseline.json``. Per field: shape, unit, range,
share of missing cells, and the statistics of single rows (:mod:`kfm_mlflow.monitor.drift_sample`).
Where every row is a block the values are sorted, so that nothing says which rows belong together;
the tests need no more than that. No cell and no place is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.canonical import digest_file, load_json
from kfm_mlflow.errors import DataError, EvidenceError
from kfm_mlflow.monitor.drift_sample import DriftSample, row_statistics, thin_rows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

BASELINE_PATH = "drift/baseline.json"
_REMEDY = "release the model again, so that its drift baseline is written"
_NUMBERS = ("missing_ratio", "low", "median", "high")


@dataclass(frozen=True)
class FieldBaseline:
    """One input field at the time of the release.

    Attributes:
        row_shape: Shape of one row; empty for plain numbers.
        unit: As the source wrote it; empty when it did not say.
        dims: Names of the axes; empty when unknown.
        missing_ratio: Share of cells without a finite value.
        low: Smallest finite value.
        median: Median of the finite values.
        high: Largest finite value.
        statistics: Name -> value of each row, float64 [n]; NaN where a row has none.
    """

    row_shape: tuple[int, ...]
    unit: str
    dims: tuple[str, ...]
    missing_ratio: float
    low: float
    median: float
    high: float
    statistics: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class DriftBaseline:
    """What the inputs of a release looked like.

    Attributes:
        fields: Name -> field.
        blocks: Block number of each row; None when every row is a block.
        digest: ``sha256:<hex>`` of the file it was read from; empty when it was not read.
    """

    fields: Mapping[str, FieldBaseline]
    blocks: NDArray[np.int64] | None = None
    digest: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form of the fields and their blocks."""

        def listed(values: NDArray[np.float64]) -> list[float | None]:
            ordered = values if self.blocks is not None else np.sort(values[np.isfinite(values)])
            return [float(v) if math.isfinite(v) else None for v in ordered]

        return {
            "fields": {
                name: {
                    "row_shape": list(field.row_shape),
                    "unit": field.unit,
                    "dims": list(field.dims),
                    **{key: getattr(field, key) for key in _NUMBERS},
                    "statistics": {key: listed(v) for key, v in field.statistics.items()},
                }
                for name, field in self.fields.items()
            },
            "blocks": None if self.blocks is None else [int(b) for b in self.blocks],
        }


def build_baseline(sample: DriftSample) -> DriftBaseline:
    """Describe a sample, so that a later one can be held against it.

    Raises:
        DataError: A field has no finite value at all.
    """
    kept = thin_rows(len(next(iter(sample.fields.values())).rows), sample.blocks)
    fields: dict[str, FieldBaseline] = {}
    for name, field in sample.fields.items():
        present = np.isfinite(field.rows)
        values = field.rows[present]
        if not values.size:
            raise DataError(
                "has no finite value", where=name, remedy="leave the field out or fill it"
            )
        fields[name] = FieldBaseline(
            row_shape=field.rows.shape[1:],
            unit=field.unit,
            dims=field.dims,
            missing_ratio=1.0 - float(present.mean()),
            low=float(values.min()),
            median=float(np.median(values)),
            high=float(values.max()),
            statistics=row_statistics(field.rows[kept]),
        )
    blocks = None if sample.blocks is None else np.asarray(sample.blocks, dtype=np.int64)[kept]
    return DriftBaseline(fields, blocks)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise EvidenceError("is no finite number", where=where, remedy=_REMEDY)
    return float(value)


def _parse_field(name: str, value: Any) -> FieldBaseline:
    where = f"{BASELINE_PATH}: inputs.fields.{name}"
    try:
        statistics = {
            key: np.array(
                [np.nan if v is None else _number(v, f"{where}.{key}") for v in found],
                dtype=np.float64,
            )
            for key, found in value["statistics"].items()
        }
        numbers = {key: _number(value[key], f"{where}.{key}") for key in _NUMBERS}
        shape = tuple(int(size) for size in value["row_shape"])
        return FieldBaseline(
            shape, str(value["unit"]), tuple(value["dims"]), statistics=statistics, **numbers
        )
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        raise EvidenceError(f"is malformed ({exc})", where=where, remedy=_REMEDY) from exc


def parse_baseline(document: Any, *, digest: str = "") -> DriftBaseline:
    """Read the baseline out of ``drift/baseline.json``.

    Args:
        document: Its JSON value.
        digest: Of the file.

    Raises:
        EvidenceError: It holds none, or it is malformed.
    """
    inputs = document.get("inputs") if isinstance(document, dict) else None
    fields = inputs.get("fields") if isinstance(inputs, dict) else None
    if not isinstance(inputs, dict) or not isinstance(fields, dict) or not fields:
        raise EvidenceError(
            "has no inputs.fields to compare with", where=BASELINE_PATH, remedy=_REMEDY
        )
    parsed = {name: _parse_field(name, value) for name, value in sorted(fields.items())}
    labels = inputs.get("blocks")
    if labels is None:
        return DriftBaseline(parsed, None, digest)
    sizes = {len(v) for field in parsed.values() for v in field.statistics.values()}
    whole = isinstance(labels, list) and all(type(label) is int for label in labels)
    if not whole or sizes != {len(labels)}:
        raise EvidenceError(
            "must be one whole number per row", where=f"{BASELINE_PATH}: inputs.blocks"
        )
    return DriftBaseline(parsed, np.array(labels, dtype=np.int64), digest)


def load_baseline(release_dir: Path) -> DriftBaseline:
    """Read the baseline of a release.

    Raises:
        EvidenceError: There is none, or it is malformed.
    """
    path = release_dir / BASELINE_PATH
    document = load_json(path, where=BASELINE_PATH)
    return parse_baseline(document, digest=digest_file(path))
