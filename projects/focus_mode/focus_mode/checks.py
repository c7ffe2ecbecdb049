"""What a validator finds in a Focus Mode release: the eight points of the specification, measured.

Limits stand in the policy; here are the numbers, from the release's own files and its inference on
places that it was not trained on. Stories are judged by the thresholds of the world, not by those
that the release gives itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from focus_mode.evaluate import evaluate
from focus_mode.reserved import masking_metrics
from focus_mode.storynode import targets
from kfm_mlflow import Inspected
from kfm_mlflow.authoring.focus_explained import (
    DOMAINS_PATH,
    MASKING_MODE,
    OVERLAY_PATH,
    explain_focus,
    restricted_ratio,
)
from kfm_mlflow.canonical import load_json
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.focus.answers import split_answers
from kfm_mlflow.focus.fusion import FusionBaseline, sample_rows
from kfm_mlflow.focus.lexicon import build_lexicon, parse_lexicon
from kfm_mlflow.focus.narrative import narrative_metrics
from kfm_mlflow.metadata.schemas import schema_problems

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from focus_mode.world import World
    from kfm_mlflow import OpenedRelease
    from kfm_mlflow.care.regions import RegionSet

_TELEMETRY = "telemetry/training.json"
_STORY_COUNT, _EXPLAINED_COUNT = 512, 24

POINTS: Mapping[str, tuple[str, ...]] = {
    "fusion-vector-stability": (
        "metrics.fusion_centroid_shift",
        "metrics.fusion_norm_shift",
        "metrics.fusion_variance_shift",
        "metrics.share_shift_max",
        "metrics.contamination_max",
        "metrics.separation",
        "metrics.effective_rank",
        "determinism.identical",
    ),
    "story-node-reasoning": (
        "metrics.supported_ratio",
        "metrics.hallucination_ratio",
        "metrics.unsafe_ratio",
        "metrics.relevance_agreement",
    ),
    "hazard-hydro-climate-routing": (
        "metrics.routing_accuracy",
        "metrics.routing_baseline",
        "metrics.weight_sum_error",
        "metrics.climate_skill",
        "metrics.hydrology_skill",
        "metrics.hazard_skill",
    ),
    "geo-awareness-fidelity": (
        "metrics.geo_region_accuracy",
        "metrics.geo_terrain_accuracy",
        "metrics.geo_watershed_accuracy",
        "metrics.geo_gain",
    ),
    "sovereignty-masking-integrity": (
        "care.training_rows",
        "care.invariance.max_change_ratio",
        "metrics.masking_story_count",
        "metrics.masking_leak_count",
        "metrics.listed_reserved_cell_count",
        "metrics.sovereignty_attribution_ratio",
    ),
    "xai-correctness": (
        "xai.convergence_delta",
        "xai.min_correlation",
        "metrics.attribution_share_movement",
        "metrics.attribution_agreement",
    ),
    "telemetry-presence": ("metrics.telemetry_problem_count",),
    "drift-baseline-alignment": ("drift.verdict", "drift.inputs.baseline_digest"),
}
"""The questions of the specification's section 2 -> the parts of the result that answer them."""


def inspect_release(
    opened: OpenedRelease,
    world: World,
    regions: RegionSet,
    now: datetime,
    *,
    seed: int,
) -> Inspected:
    """Measure what the files of a release tell.

    Args:
        opened: The release, with its torch model.
        world: What it was trained on, reserved cells left out.
        regions: The policy's.
        now: Decides season, embargo and consent (aware).
        seed: Of the validator's own noise.

    Raises:
        EvidenceError: The release has no model, or a document of it is none.
    """
    if opened.model is None:
        raise EvidenceError("has no torch model to explain", where="validation")
    explained = _explained(opened, world, regions, now, seed)
    document = explained[0][DOMAINS_PATH]
    return Inspected(
        metrics={
            **evaluate(opened.predict, world, baseline=_baseline(opened.release_dir)),
            **_stories(opened, world, regions, now),
            **explained[1],
            "telemetry_problem_count": float(len(_telemetry_problems(opened.release_dir))),
        },
        xai={
            "measured": True,
            "convergence_delta": document["completeness_error"],
            "min_correlation": document["stability"]["min_correlation"],
            "sample_count": document["sample_count"],
            "seed": document["seed"],
            "seed_count": document["stability"]["seed_count"],
        },
        points=POINTS,
    )


def _explained(
    opened: OpenedRelease, world: World, regions: RegionSet, now: datetime, seed: int
) -> tuple[Mapping[str, Any], Mapping[str, float]]:
    assert opened.model is not None
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    chosen = rng.permutation(np.flatnonzero(world.is_held_out))[:_EXPLAINED_COUNT]
    found = explain_focus(
        opened.model,
        world.rows[chosen],
        [world.cells[k] for k in chosen],
        regions=regions,
        now=now,
        seed=seed,
    )
    # What was made just now keeps the rules; the question is whether the release's own map does.
    shown = restricted_ratio(
        _mapping(opened.release_dir / OVERLAY_PATH), regions.coverage(now, mode=MASKING_MODE)
    )
    return found.documents, {**found.metrics, "sovereignty_attribution_ratio": shown}


def _baseline(release_dir: Path) -> FusionBaseline:
    document = load_json(release_dir / "fusion_weights.json")
    return FusionBaseline.from_dict(document.get("baseline") if isinstance(document, dict) else {})


def _stories(
    opened: OpenedRelease, world: World, regions: RegionSet, now: datetime
) -> dict[str, float]:
    """Tell stories with the release's words, and judge them by the world's thresholds."""
    told = parse_lexicon(load_json(opened.release_dir / "storynode_lexicon.json"))
    block = _mapping(opened.release_dir / "care.json").get("care")
    block = block if isinstance(block, dict) else {}
    listed = _mapping(opened.release_dir / "context_cells.json").get("cells")
    names = list(listed) if isinstance(listed, dict) else []
    held = np.flatnonzero(world.is_held_out)
    chosen = held[sample_rows(len(held), _STORY_COUNT)]
    narrative = narrative_metrics(
        split_answers(opened.predict(world.rows[chosen])),
        world.rows[chosen],
        cells=[world.cells[k] for k in chosen],
        times=[world.times[k] for k in chosen],
        lexicon=told.model_copy(update={"thresholds": build_lexicon(world.thresholds).thresholds}),
        max_resolution=int(block.get("h3_max_resolution") or 0),
        relevant=targets(world).relevance[chosen],
    )
    return {
        **narrative,
        **masking_metrics(opened.predict, world, told, block=block, regions=regions, now=now),
        "listed_reserved_cell_count": float(
            sum(any(region.touches(name) for region in regions.regions) for name in names)
        ),
    }


def _telemetry_problems(release_dir: Path) -> list[str]:
    if not (release_dir / _TELEMETRY).is_file():
        return ["missing"]
    return schema_problems("telemetry-training", load_json(release_dir / _TELEMETRY))


def _mapping(path: Path) -> dict[str, Any]:
    value = load_json(path)
    return value if isinstance(value, dict) else {}
