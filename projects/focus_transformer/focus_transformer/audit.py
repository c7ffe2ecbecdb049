"""The FAIR+CARE audit of a checkpoint: a score from named facts, and violations of ethics.

The score is ``0.7 FAIR + 0.3 CARE`` (:mod:`kfm_mlflow.care.score`); each part is the share of its
checks that hold. What is a fact of the whole training (which data, which factor, which places) is
found out once before it; what is of a checkpoint (bias, energy, a finite loss) at each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kfm_mlflow.care.score import score
from kfm_mlflow.care.screen_measured import count_training_rows
from kfm_mlflow.focus.columns import COLUMN_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from kfm_mlflow.care.regions import RegionSet
    from kfm_mlflow.checkpoints.documents import Measured

FAIR: Mapping[str, tuple[str, ...]] = {
    "findable": ("identified", "measured"),
    "accessible": ("explained",),
    "interoperable": ("factor-named",),
    "reusable": ("data-named", "licence-named", "seeded"),
}
CARE: Mapping[str, tuple[str, ...]] = {
    "collective-benefit": ("energy-within", "carbon-within"),
    "authority-to-control": ("no-restricted-rows", "weights-restricted"),
    "responsibility": ("bias-within",),
    "ethics": ("no-places-kept",),
}
PLACES = frozenset({"cells", "rows", "latitude", "longitude", "places"})
"""Names under which a checkpoint would keep where its rows come from."""


@dataclass(frozen=True)
class Facts:
    """What holds for the whole training.

    Attributes:
        model_id: Of the manifest.
        version: Of the manifest.
        datasets: Name -> digest.
        licences: Of the data.
        intensity_source: Where the carbon factor comes from.
        seed: Of everything; None when it was not fixed.
        weight_roles: Roles that the policy lets download weights; none means that everybody may.
        restricted_row_count: Training rows that lie in a region.
        kept_names: Names of what a checkpoint keeps beside weights.
        max_energy_wh: Limit.
        max_carbon_gco2e: Limit.
        max_bias_index: Limit.
    """

    model_id: str
    version: str
    datasets: Mapping[str, str]
    licences: tuple[str, ...]
    intensity_source: str
    seed: int | None
    weight_roles: tuple[str, ...]
    restricted_row_count: int
    kept_names: tuple[str, ...]
    max_energy_wh: float
    max_carbon_gco2e: float
    max_bias_index: float


def restricted_rows(rows: NDArray[np.float32], regions: RegionSet) -> int:
    """Return how many months of training sequences [n, 6, 36] lie in a region."""
    flat = rows.reshape(-1, rows.shape[-1])
    latitude, longitude = (
        flat[:, COLUMN_NAMES.index(name)].astype(float)
        for name in ("latitude_deg", "longitude_deg")
    )
    return sum(count_training_rows(latitude, longitude, regions).values())


def audit(facts: Facts, measured: Measured) -> tuple[float, tuple[str, ...]]:
    """Return the FAIR+CARE score, 0 to 100, and violations of ethics, one sentence each."""
    numbers = (measured.auc, measured.loss, measured.bias_index)
    held = {
        "identified": bool(facts.model_id and facts.version),
        "measured": all(math.isfinite(number) for number in numbers),
        "explained": bool(measured.explained.get("top_features")),
        "factor-named": bool(facts.intensity_source),
        "data-named": bool(facts.datasets) and all(facts.datasets.values()),
        "licence-named": bool(facts.licences) and "NOASSERTION" not in facts.licences,
        "seeded": facts.seed is not None,
        "energy-within": measured.energy_wh <= facts.max_energy_wh,
        "carbon-within": measured.carbon_gco2e <= facts.max_carbon_gco2e,
        "no-restricted-rows": facts.restricted_row_count == 0,
        "weights-restricted": bool(facts.weight_roles),
        "bias-within": measured.bias_index <= facts.max_bias_index,
        "no-places-kept": not PLACES & set(facts.kept_names),
    }
    violations = []
    if facts.restricted_row_count:
        violations.append(f"{facts.restricted_row_count} training rows lie in a sovereign region")
    return score(held, fair_parts=FAIR, care_parts=CARE).score_pct, tuple(violations)
