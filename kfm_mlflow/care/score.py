"""The FAIR+CARE score: 0.7 FAIR + 0.3 CARE, each from named checks that anybody can run again.

FAIR is the mean of Findable, Accessible, Interoperable, Reusable; CARE of Collective benefit,
Authority to control, Responsibility, Ethics. A part is the share of its checks that hold. The
standard (faircare, section 10) gives the weights and the bands and no way to compute the parts;
the named checks below are this package's own reading. A perfect FAIR with no CARE at all scores 70,
so CARE has a floor of its own, below which nothing is published whatever the score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kfm_mlflow.release.bundle import ITEM_PATHS

FAIR_WEIGHT, CARE_WEIGHT = 0.7, 0.3
BANDS = ((95.0, "Excellent"), (80.0, "Strong"), (65.0, "Review Needed"), (0.0, "Blocked"))
"""Least score in per cent -> its name, best first."""

FAIR_PARTS: Mapping[str, tuple[str, ...]] = {
    "findable": ("identified", "described", "item-present"),
    "accessible": ("assets-listed", "open-formats"),
    "interoperable": ("item-valid", "lineage-valid", "vocabulary-shared"),
    "reusable": ("licence-named", "lineage-present", "bill-of-materials-valid", "card-present"),
}
"""Part -> the checks that it is the share of."""
CARE_PARTS: Mapping[str, tuple[str, ...]] = {
    "collective-benefit": ("care-block", "labels", "telemetry-present"),
    "authority-to-control": ("consent", "standing", "licence-scope", "lineage"),
    "responsibility": ("masking", "declared-resolution", "output-grid", "disclosure"),
    "ethics": ("restricted-names", "coordinates", "hazard-statements", "gradients"),
}


@dataclass(frozen=True)
class FairCareScore:
    """A score and all that it is made of.

    Attributes:
        fair_pct: 0 to 100.
        care_pct: 0 to 100.
        parts_pct: Part -> 0 to 100.
        failed: Checks that do not hold, or that nobody made.
    """

    fair_pct: float
    care_pct: float
    parts_pct: Mapping[str, float]
    failed: tuple[str, ...]

    @property
    def score_pct(self) -> float:
        """``0.7 FAIR + 0.3 CARE``, 0 to 100."""
        return FAIR_WEIGHT * self.fair_pct + CARE_WEIGHT * self.care_pct

    @property
    def band(self) -> str:
        """The band's name; a score between two belongs to the lower."""
        return next(name for least, name in BANDS if self.score_pct >= least)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, rounded to hundredths."""
        return {
            "score_pct": round(self.score_pct, 2),
            "band": self.band,
            "fair_pct": round(self.fair_pct, 2),
            "care_pct": round(self.care_pct, 2),
            "parts_pct": {name: round(value, 2) for name, value in self.parts_pct.items()},
            "failed": list(self.failed),
        }


def score(
    held: Mapping[str, bool],
    *,
    fair_parts: Mapping[str, tuple[str, ...]] = FAIR_PARTS,
    care_parts: Mapping[str, tuple[str, ...]] = CARE_PARTS,
) -> FairCareScore:
    """Compute a score.

    Args:
        held: Check -> whether it holds; one that is not there does not.
        fair_parts: Part of FAIR -> its checks; a release's unless told otherwise.
        care_parts: The same of CARE.
    """

    def parts(of: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
        return {
            part: 100.0 * sum(held.get(name, False) for name in names) / len(names)
            for part, names in of.items()
        }

    fair, care = parts(fair_parts), parts(care_parts)
    names = [n for part in (*fair_parts.values(), *care_parts.values()) for n in part]
    return FairCareScore(
        sum(fair.values()) / len(fair),
        sum(care.values()) / len(care),
        {**fair, **care},
        tuple(name for name in names if not held.get(name, False)),
    )


def fair_checks(
    documents: Mapping[str, Any], problems: Mapping[str, tuple[str, ...]]
) -> dict[str, bool]:
    """Return the checks of FAIR, and those of CARE that a screening does not make.

    Args:
        documents: Path -> parsed JSON of the release.
        problems: Judge and path (``stac:…``, ``prov:…``, ``sbom:…``) -> what it found wrong.
    """

    def part(path: str) -> Mapping[str, Any]:
        value = documents.get(path)
        return value if isinstance(value, Mapping) else {}

    def judged(kind: str) -> bool:
        found = [said for name, said in problems.items() if name.startswith(f"{kind}:")]
        return bool(found) and not any(found)

    metadata = part("model_metadata.json")
    item = next((found for path in ITEM_PATHS if (found := part(path))), {})
    properties = item.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    assets = item.get("assets")
    paths = [str(a.get("href", "")) for a in assets.values()] if isinstance(assets, Mapping) else []
    return {
        "identified": bool(metadata.get("model_name")) and bool(metadata.get("release_version")),
        "described": bool(part("model_summary.json")) and bool(metadata),
        "item-present": bool(item.get("id")),
        "assets-listed": bool(paths),
        "open-formats": any(path.endswith(".onnx") for path in paths),
        "item-valid": judged("stac"),
        "lineage-valid": judged("prov"),
        "vocabulary-shared": any("mlm" in str(uri) for uri in item.get("stac_extensions") or ()),
        "licence-named": bool(properties.get("license")),
        "lineage-present": bool(part("provenance/provenance.json").get("entity")),
        "bill-of-materials-valid": judged("sbom"),
        "card-present": bool(part("model-card.json")),
        "telemetry-present": bool(part("telemetry/training.json")),
    }
