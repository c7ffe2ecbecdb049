"""Explaining a Focus Mode model, and where its attribution may be shown: ``xai/`` of a release.

``xai/domains.json`` says which domains and columns the likeliest situation comes from
(:mod:`kfm_mlflow.monitor.domain_attribution`). ``xai/overlay.geojson`` puts that on the map: rows
are put together into H3 cells that keep every rule of the policy's regions, and of what may not be
published nothing is shown. No row's own cell stands in it where the rules ask for a coarser one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.care.cells import WITHHELD, format_cells, parse_cells, resolutions
from kfm_mlflow.care.partition import finest_partition
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.focus.answers import PART_SLICES
from kfm_mlflow.focus.columns import COLUMN_NAMES, DOMAINS, domain_slice
from kfm_mlflow.monitor.domain_attribution import (
    AnswerParts,
    attribute_domains,
    attribution_metrics,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import torch
    from numpy.typing import NDArray

    from kfm_mlflow.care.coverage import Coverage
    from kfm_mlflow.care.regions import RegionSet

DOMAINS_PATH = "xai/domains.json"
OVERLAY_PATH = "xai/overlay.geojson"
MASKING_MODE = "h3-focus-generalized"
_STEP_COUNT = 16
"""Gauss-Legendre points; these models are smooth, and every answer fuses six times."""
_DECIMALS = 5
_SHARE_DECIMALS = 6


@dataclass(frozen=True)
class FocusExplained:
    """How a Focus Mode model explains itself.

    Attributes:
        documents: Path in the release -> JSON value: ``xai/domains.json`` and
            ``xai/overlay.geojson``.
        metrics: Name -> value: those of :func:`~kfm_mlflow.monitor.domain_attribution.
            attribution_metrics`, and ``sovereignty_attribution_ratio``.
    """

    documents: Mapping[str, dict[str, Any]]
    metrics: Mapping[str, float]


def focus_parts() -> AnswerParts:
    """Return how the tensor of :mod:`kfm_mlflow.focus.answers` is read."""
    entropy = PART_SLICES["attention_entropy"].start

    def probabilities(outputs: torch.Tensor) -> torch.Tensor:
        return outputs[:, PART_SLICES["situation"]]

    def told_shares(outputs: torch.Tensor) -> torch.Tensor:
        return outputs[:, PART_SLICES["attribution"]]

    def attention_entropy(outputs: torch.Tensor) -> torch.Tensor:
        return outputs[:, entropy]

    return AnswerParts(probabilities, told_shares, attention_entropy)


def explain_focus(
    model: torch.nn.Module,
    rows: NDArray[np.float32],
    cells: Sequence[str],
    *,
    regions: RegionSet,
    now: datetime,
    seed: int,
    mode: str = MASKING_MODE,
) -> FocusExplained:
    """Explain a Focus Mode model on rows.

    Args:
        model: float32 [n, 36] to [n, 2121]; it is not changed.
        rows: float32 [n, 36], in their units.
        cells: H3 cell of each row.
        regions: Whose rules the overlay keeps.
        now: The instant whose rules hold (aware).
        seed: Of the noise that judges stability.
        mode: Masking mode of the release.

    Raises:
        InputError: Rows and cells do not fit, or a cell is none.
        EvidenceError: The model does not answer to its input.
    """
    if len(cells) != len(rows):
        raise InputError(f"there are {len(cells)} for {len(rows)} rows", where="cells")
    found = attribute_domains(
        model,
        rows,
        focus_parts(),
        columns=COLUMN_NAMES,
        domains={domain: domain_slice(domain) for domain in DOMAINS},
        seed=seed,
        step_count=_STEP_COUNT,
    )
    coverage = regions.coverage(now, mode=mode)
    overlay = attribution_overlay(found.shares, found.mass, cells, coverage)
    metrics = {
        **attribution_metrics(found.document),
        "sovereignty_attribution_ratio": restricted_ratio(overlay, coverage),
    }
    return FocusExplained({DOMAINS_PATH: found.document, OVERLAY_PATH: overlay}, metrics)


def attribution_overlay(
    shares: NDArray[np.float64],
    mass: NDArray[np.float64],
    cells: Sequence[str],
    coverage: Coverage,
) -> dict[str, Any]:
    """Put attributions on the map, under the cells in which they may be published.

    Args:
        shares: Share of each domain in each row's attribution [n, 5].
        mass: Absolute attribution of each row [n].
        cells: H3 cell of each row, of any resolutions.
        coverage: Whose ceilings and smallest counts hold.

    Returns:
        GeoJSON (RFC 7946): a feature per published cell, sorted, with ``row_count``,
        ``attribution_ratio`` (of all that is attributed, shown or not), ``leading_domain`` and
        each domain's share. What is withheld has no feature.

    Raises:
        InputError: Something is not an H3 cell.
    """
    given, row_cell = np.unique(parse_cells(list(cells)), return_inverse=True)
    counts = np.bincount(row_cell, minlength=given.size)
    published = finest_partition(given, counts.astype(np.int64), coverage)[row_cell]
    total = float(mass.sum())
    features = [
        _feature(format_cells(np.array([cell]))[0], shares[here], mass[here], total)
        for cell in np.unique(published[published != WITHHELD])
        for here in [published == cell]
    ]
    return {
        "type": "FeatureCollection",
        "schema_version": "1",
        "domains": list(DOMAINS),
        "features": features,
    }


def restricted_ratio(overlay: Mapping[str, Any], coverage: Coverage) -> float:
    """Return how much of the attribution an overlay shows more finely than its place allows.

    Args:
        overlay: ``xai/overlay.geojson``, whoever wrote it.
        coverage: Whose ceilings and smallest counts hold.

    Returns:
        0 for an overlay that keeps every rule, up to 1.

    Raises:
        EvidenceError: It is no such overlay.
    """
    try:
        said = [feature["properties"] for feature in overlay["features"]]
        cells = parse_cells([str(item["h3_cell"]) for item in said])
        ratios = np.array([float(item["attribution_ratio"]) for item in said])
        counts = np.array([int(item["row_count"]) for item in said], dtype=np.int64)
    except (KeyError, TypeError, ValueError, InputError) as exc:
        raise EvidenceError(f"is no overlay ({type(exc).__name__})", where=OVERLAY_PATH) from exc
    if not cells.size:
        return 0.0
    ceilings, k_mins = coverage.lookup(cells)
    restricted = (resolutions(cells) > ceilings) | (counts < k_mins)
    return float(ratios[restricted].sum())


def _feature(
    cell: str, shares: NDArray[np.float64], mass: NDArray[np.float64], total: float
) -> dict[str, Any]:
    import h3  # type: ignore[import-untyped]  # it ships no stubs

    weight = mass.sum()
    mean = (shares * mass[:, None]).sum(axis=0) / weight if weight else np.zeros(len(DOMAINS))
    ring = [
        [round(lon, _DECIMALS), round(lat, _DECIMALS)] for lat, lon in h3.cell_to_boundary(cell)
    ]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        "properties": {
            "h3_cell": cell,
            "row_count": len(mass),
            "attribution_ratio": round(float(weight / total), _SHARE_DECIMALS) if total else 0.0,
            "leading_domain": DOMAINS[int(mean.argmax())],
            **{
                domain: round(float(share), _SHARE_DECIMALS)
                for domain, share in zip(DOMAINS, mean, strict=True)
            },
        },
    }
