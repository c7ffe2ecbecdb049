"""Evidence that only running the model gives, and the checks that read it.

The validator's process measures, signs the numbers, and the gate reads them; the trainer's word
counts for nothing. Two things are measured:

* **Invariance.** Values of the inputs that lie in restricted cells are permuted among the samples;
  what is published must stay as it was. The largest change is the evidence; the share of integrated
  gradients' mass on those inputs, beside their share of all inputs, explains it.
* **Training rows.** How many rows of the training data lie in each region.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.care.screening import CareFinding, Status
from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from kfm_mlflow.care.regions import RegionSet
    from kfm_mlflow.care.screen_subject import Subject

Predict = Callable[["NDArray[np.float32]"], "NDArray[np.float32]"]
_CLAIM = "validation: $.care"


def measure_invariance(
    predict: Predict,
    inputs: NDArray[np.float32],
    is_restricted: NDArray[np.bool_],
    is_public: NDArray[np.bool_] | None = None,
    *,
    seed: int,
    round_count: int = 4,
) -> dict[str, Any]:
    """Permute restricted inputs among the samples and measure how far public outputs move.

    Args:
        predict: The model: float32 [n, …] to float32 [n, …].
        inputs: float32 [n, …], n >= 2.
        is_restricted: Of the shape of one sample: which of its values lie in restricted cells.
        is_public: Of the shape of one output: which of its values are published; None takes all.
        seed: Of the permutations.
        round_count: How many permutations are tried.

    Returns:
        ``max_change`` in the output's unit and ``max_change_ratio`` of the outputs' range, with
        the counts that say what they were measured on.

    Raises:
        InputError: Fewer than two samples, or a mask of another shape.
    """
    if len(inputs) < 2 or is_restricted.shape != inputs.shape[1:]:  # noqa: PLR2004 - to permute
        raise InputError("needs two samples and a mask of one sample's shape", where="invariance")
    before = np.asarray(predict(inputs), dtype=np.float64)
    shown = np.ones(before.shape[1:], bool) if is_public is None else is_public
    generator = np.random.default_rng(seed)
    largest = 0.0
    for _ in range(round_count):
        # A shift by a random step moves every sample; a permutation might leave some where it was.
        order = np.roll(np.arange(len(inputs)), int(generator.integers(1, len(inputs))))
        changed = inputs.copy()
        changed[:, is_restricted] = inputs[order][:, is_restricted]
        difference = np.abs(np.asarray(predict(changed), dtype=np.float64) - before)[:, shown]
        if difference.size:
            largest = max(largest, float(np.max(np.nan_to_num(difference, nan=math.inf))))
    spread = float(np.ptp(before[:, shown])) if before[:, shown].size else 0.0
    ratio = largest / spread if spread > 0 else (0.0 if largest == 0 else math.inf)
    return {
        "max_change": _said(largest),
        "max_change_ratio": _said(ratio),
        "restricted_input_count": int(is_restricted.sum()),
        "public_output_count": int(shown.sum()),
        "sample_count": len(inputs),
        "round_count": round_count,
        "seed": seed,
    }


def _said(value: float) -> float | str:
    return value if math.isfinite(value) else "Infinity"


def attribution_share(
    attributions: NDArray[np.float64], is_restricted: NDArray[np.bool_]
) -> dict[str, float]:
    """Return how much of the attribution's mass lies on restricted inputs, beside their share.

    Args:
        attributions: [n, …] as integrated gradients gives them.
        is_restricted: Of the shape of one sample.
    """
    mass = np.abs(attributions).sum(axis=0)
    total = float(mass.sum())
    return {
        "restricted_share_ratio": float(mass[is_restricted].sum()) / total if total else 0.0,
        "restricted_input_ratio": float(is_restricted.mean()),
    }


def count_training_rows(
    lat_deg: NDArray[np.float64], lon_deg: NDArray[np.float64], regions: RegionSet
) -> dict[str, int]:
    """Return region id -> number of training rows in it; regions without any are left out.

    Args:
        lat_deg: Latitude of every row, [n]; or of every value of every row, [n, …], where a row
            lies in a region when any of its values does.
        lon_deg: Longitudes of the same, -180 to 360.
        regions: Whose areas count.
    """
    import shapely

    shapes = [region.shape for region in regions.regions]
    west, south, east, north = shapely.total_bounds(shapes)
    lon_deg = np.where(lon_deg > 180.0, lon_deg - 360.0, lon_deg)  # noqa: PLR2004 - degrees
    # Most values are far from every region: a comparison is cheaper than a point.
    is_near = (lat_deg >= south) & (lat_deg <= north) & (lon_deg >= west) & (lon_deg <= east)
    row = np.nonzero(is_near)[0]
    points = shapely.points(lon_deg[is_near], lat_deg[is_near])
    point, region_at = shapely.STRtree(shapes).query(points, predicate="intersects")
    once = np.unique(np.stack([region_at, row[point]]), axis=1)
    counts = np.bincount(once[0], minlength=len(shapes))
    return {
        region.id: int(count)
        for region, count in zip(regions.regions, counts, strict=True)
        if count
    }


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.inf
    return float(value) if math.isfinite(value) else math.inf


def is_measured(claims: Mapping[str, Any] | None, part: str) -> bool:
    """Return whether a validator's claims hold a part of the CARE evidence."""
    care = (claims or {}).get("care")
    return isinstance(care, Mapping) and isinstance(care.get(part), Mapping)


def _part(subject: Subject, claims: Mapping[str, Any] | None, part: str) -> Any:
    """Return a part of the signed evidence, or the finding that stands for it."""
    if not is_measured(claims, part):
        return CareFinding(Status.NEEDS_AUTHORITY, f"{part} was not measured", "S-F02", _CLAIM)
    care = (claims or {})["care"]
    if care.get("regions_digest") != subject.regions.digest:
        what = f"{part} was measured against another regions file"
        return CareFinding(Status.STALE, what, "C-F05", f"{_CLAIM}.regions_digest")
    return care[part]


def attribution_leakage(
    subject: Subject, claims: Mapping[str, Any] | None
) -> Iterator[CareFinding]:
    """Ask whether restricted inputs show in public outputs, by the validator's signed numbers."""
    measured = _part(subject, claims, "invariance")
    if isinstance(measured, CareFinding):
        yield measured
        return
    if _number(measured.get("restricted_input_count")) == 0:
        return
    change = _number(measured.get("max_change_ratio"))
    limit = subject.policy.max_invariance_change_ratio
    if _number(measured.get("sample_count")) < 2 or "sample_count" not in measured:  # noqa: PLR2004
        what = "invariance was measured on fewer than 2 samples"
        yield CareFinding(Status.NEEDS_AUTHORITY, what, "S-F02", f"{_CLAIM}.invariance")
    if change > limit:
        share = measured.get("restricted_share_ratio")
        explained = f", attribution on them {share:.3f}" if isinstance(share, float) else ""
        yield CareFinding(
            Status.CONFLICT,
            f"permuting restricted inputs changes public outputs{explained}",
            "S-F05",
            f"{_CLAIM}.invariance.max_change_ratio",
            f"{change:.3g}",
            f"{limit:.3g}",
            "of the outputs' range",
        )


def training_consent(
    subject: Subject, claims: Mapping[str, Any] | None, now: datetime
) -> Iterator[CareFinding]:
    """Ask whether training rows lie in a region that gave no consent for it."""
    from kfm_mlflow.care.rules import has_consent

    measured = _part(subject, claims, "training_rows")
    if isinstance(measured, CareFinding):
        yield measured
        return
    regions = {region.id: region for region in subject.regions.regions}
    for name, count in sorted(measured.items()):
        region = regions.get(name)
        if region is None:
            what = "training rows of a region that the file does not hold"
            yield CareFinding(Status.NEEDS_AUTHORITY, what, "C-F03", f"{_CLAIM}.training_rows")
        elif _number(count) > 0 and not has_consent(region.consent, now, subject.scope):
            ended = region.consent.status == "granted"
            yield CareFinding(
                Status.STALE if ended else Status.CONFLICT,
                f"trained on rows of a region whose consent is {region.consent.status}",
                "C-F05",
                f"{_CLAIM}.training_rows",
                f"{_number(count):g}",
                "0",
                "rows",
                subject.called(region),
            )
