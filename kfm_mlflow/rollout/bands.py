"""Reading the bands of response statistics that a release brings with it.

``drift/baseline.json`` holds, for each statistic of the answers, the interval that it kept to on
the release's own validation data.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import load_json
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.rollout.plane import Band

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BASELINE_PATH = "drift/baseline.json"


def _parse_band(name: str, limits: Any) -> Band:
    found = [limits.get(end) if isinstance(limits, dict) else None for end in ("low", "high")]
    numbers = [
        float(value)
        for value in found
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ]
    if len(numbers) != len(found) or numbers != sorted(numbers):
        raise EvidenceError(
            "low and high must be finite numbers, low <= high",
            where=f"{BASELINE_PATH}: statistics.{name}",
        )
    return Band(*numbers)


def load_bands(release_dir: Path) -> Mapping[str, Band]:
    """Return statistic -> band; empty when the release has no drift baseline.

    Args:
        release_dir: A verified release.

    Raises:
        EvidenceError: The baseline is malformed, or a band is not an interval of finite numbers.
    """
    path = release_dir / BASELINE_PATH
    if not path.exists():
        return {}
    document = load_json(path, where=BASELINE_PATH)
    statistics = document.get("statistics") if isinstance(document, dict) else None
    if not isinstance(statistics, dict):
        raise EvidenceError("has no mapping 'statistics'", where=BASELINE_PATH)
    return {name: _parse_band(name, limits) for name, limits in statistics.items()}
