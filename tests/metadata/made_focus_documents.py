"""One valid document for every schema of the Focus families: fusion, stories, checkpoints."""

from __future__ import annotations

from typing import Any

_DIGEST = "sha256:" + "ab" * 32
_AT = "2026-01-31T12:00:00Z"
_CHECKPOINT = {"faircare_score": 99.2, "energy_wh": 1.5}
_AUDITED = {**_CHECKPOINT, "bias_index": 0.01, "carbon_gco2e": 0.6, "timestamp": _AT}
_TRAINED = {"schema_version": "1", "model_id": "focus_transformer_v2", "version": "v10.0.0"}
_REF = "focus-telemetry.json"
_SHARES = {"spatial": 0.2, "climate": 0.2, "hydrology": 0.2, "hazards": 0.2, "narrative": 0.2}

DOCUMENTS: dict[str, dict[str, Any]] = {
    "checkpoints_manifest": {
        **_TRAINED,
        "planned_epochs": 1,
        "checkpoints": [
            {
                "id": "checkpoint_001_pretrain",
                "file": "checkpoint_001_pretrain.pt",
                "phase": "pretrain",
                "epoch": 1,
                "auc": 0.71,
                "validation_accuracy": None,
                **_CHECKPOINT,
                "checksum_sha256": _DIGEST,
            }
        ],
        "reviewed_by": None,
        "auditor": None,
        "approved": False,
        "telemetry_ref": _REF,
    },
    "checkpoint_metrics": {
        **_TRAINED,
        "checkpoints": [
            {
                "id": "checkpoint_001_pretrain",
                "training_epoch": 1,
                "auc": 0.71,
                "loss": 0.9,
                **_AUDITED,
                "checksum_verified": True,
            }
        ],
    },
    "checksum_registry": {
        "schema_version": "1",
        "model_id": "focus_transformer_v2",
        "files": [
            {
                "file": "checkpoint_001_pretrain.pt",
                "checksum_sha256": _DIGEST,
                "size_bytes": 1961,
                "verified": True,
                "timestamp": _AT,
            }
        ],
    },
    "focus-telemetry": {
        **_TRAINED,
        **_AUDITED,
        "training_time_min": 0.1,
        "carbon_intensity_g_per_kwh": 410.0,
        "carbon_intensity_source": "codecarbon",
        "energy_method": "estimated",
        "metrics_logged": ["auc"],
        "governance_ref": "governance_validation.json",
    },
    "governance_validation": {
        "schema_version": "1",
        "governance_id": "focus_transformer_v2-v10.0.0-checkpoints",
        "workflow": "save, measure, audit, review, certify",
        "datasets_reviewed": {"training": _DIGEST},
        "models_certified": [],
        **_AUDITED,
        "ethics_status": "no-violation-found",
        "violations": [],
        "limits": {"max_energy_wh": 4500.0},
        "reviewed_by": None,
        "auditor": None,
        "telemetry_ref": _REF,
        "care_tag": "restricted",
    },
    "explainability_summary": {
        "schema_version": "1",
        "model": "focus_transformer_v2",
        "version": "v10.0.0",
        **_AUDITED,
        "methods": ["gradient-times-input"],
        "top_features": ["soil"],
        "attention_stability": 0.95,
        "explainability_stability": 0.92,
        "reviewed_by": None,
        "status": "computed",
        "telemetry_ref": _REF,
    },
    "quorum_certificate": {
        **_TRAINED,
        "checkpoint_id": "checkpoint_003_final",
        "checksum_sha256": _DIGEST,
        "terms_digest": _DIGEST,
        "tally": {
            "outcome": "reached",
            "approving": ["council-ann"],
            "needed": 1,
            "proposal_digest": _DIGEST,
        },
        "votes": [
            {"payload": "e30=", "payloadType": "x", "signatures": [{"keyid": "a", "sig": "b"}]}
        ],
        "record": {
            "ledger_id": "ledger_2026q1_focus_transformer_v2_checkpoints",
            "auditor": "@kfm-governance",
            "reviewed_by": "council-ann",
            "status": "approved",
            "timestamp": _AT,
        },
    },
    "xai-domains": {
        "schema_version": "1",
        "method": "integrated-gradients",
        "library": "captum 0.9.0",
        "target": "log-odds of the likeliest class",
        "baseline": "sample-mean",
        "step_count": 32,
        "sample_count": 64,
        "seed": 42,
        "completeness_error": 0.004,
        "stability": {
            "seed_count": 5,
            "noise_ratio": 0.05,
            "min_correlation": 0.98,
            "max_share_movement": 0.03,
        },
        "told_agreement": 0.8,
        "attention_entropy": {"mean": 0.9, "min": 0.8, "max": 0.95},
        "domains": [
            {
                "name": "hazards",
                "importance_ratio": 1.0,
                "columns": [{"name": "drought_index", "importance_ratio": 1.0}],
            }
        ],
    },
    "xai-overlay": {
        "type": "FeatureCollection",
        "schema_version": "1",
        "domains": ["spatial", "climate"],
        "features": [
            {
                "type": "Feature",
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[[-99.0, 38.0], [-98.9, 38.0], [-98.9, 38.1], [-99.0, 38.0]]],
                },
                "properties": {
                    "h3_cell": "8526ad03fffffff",
                    "row_count": 3,
                    "attribution_ratio": 0.5,
                    "leading_domain": "climate",
                    "spatial": 0.25,
                    "climate": 0.75,
                },
            }
        ],
    },
    "fusion_weights": {
        "schema_version": "1",
        "seed": 42,
        "dimension": 2048,
        "weights": dict(_SHARES),
        "baseline": {
            "centroid": [0.5] * 2048,
            "norm": 45.25,
            "variance": 12.5,
            "shares": dict(_SHARES),
            "separation": 0.75,
            "effective_rank": 9.5,
            "column_mean": [0.5] * 36,
            "column_std": [0.25] * 36,
        },
    },
    "context_cells": {
        "schema_version": "1",
        "time": "2024-12",
        "resolution": 5,
        "bbox": [-102.05, 37.0, -94.6, 40.0],
        "withheld_cell_count": 2,
        "columns": [f"column_{k}" for k in range(36)],
        "cells": {"85264cc3fffffff": [0.5] * 36},
    },
    "storynode": {
        "schema_version": "1",
        "title": "Signs of drought, July 2024",
        "summary": "In July 2024, soil moisture stood at 0.11 (usually 0.18 to 0.34), "
        "precipitation at 12 mm (usually 20 to 110 mm) and streamflow at the 9th "
        "percentile (usually the 20th to the 80th percentile), all below their usual "
        "range. The mean temperature stood at 24.1 °C (usually 0.0 to 26.0 °C), "
        "within its usual range. Dry conditions like these can persist, or may ease "
        "with rain.",
        "geospatial_context": "H3-8526e297fffffff",
        "time": "2024-07",
        "situation": "drought",
        "climate_drivers": [
            "soil moisture below its usual range",
            "precipitation below its usual range",
            "streamflow below its usual range",
        ],
        "hazard_context": "Taken together, these readings likely reflect a drought.",
        "claims": [
            {
                "subject": "soil_moisture_ratio",
                "quantity": "soil moisture",
                "value": 0.11,
                "unit": "1",
                "time": "2024-07",
                "band": "low",
            },
            {
                "subject": "precipitation_mm",
                "quantity": "precipitation",
                "value": 12.0,
                "unit": "mm",
                "time": "2024-07",
                "band": "low",
            },
            {
                "subject": "streamflow_percentile",
                "quantity": "streamflow",
                "value": 9.0,
                "unit": "percentile",
                "time": "2024-07",
                "band": "low",
            },
            {
                "subject": "temperature_c",
                "quantity": "mean temperature",
                "value": 24.1,
                "unit": "degC",
                "time": "2024-07",
                "band": "moderate",
            },
        ],
        "sovereignty_masked": False,
    },
    "storynode_lexicon": {
        "schema_version": "1",
        "constrained": True,
        "max_claim_count": 4,
        "thresholds": {
            "temperature_c": [0.0, 26.0],
            "precipitation_mm": [20.0, 110.0],
            "soil_moisture_ratio": [0.18, 0.34],
            "streamflow_percentile": [20.0, 80.0],
            "runoff_mm": [2.0, 25.0],
            "evapotranspiration_mm": [20.0, 130.0],
            "snow_water_mm": [0.0, 8.0],
            "groundwater_depth_m": [8.0, 40.0],
            "drought_index": [-1.5, 1.5],
            "heat_day_count": [0.0, 6.0],
            "storm_day_count": [0.0, 3.0],
            "flood_stage_ratio": [0.2, 0.8],
            "fire_danger_index": [15.0, 50.0],
            "cape_j_kg": [300.0, 1800.0],
        },
        "decimals": {
            "temperature_c": 1,
            "precipitation_mm": 0,
            "soil_moisture_ratio": 2,
            "streamflow_percentile": 0,
            "runoff_mm": 0,
            "evapotranspiration_mm": 0,
            "snow_water_mm": 0,
            "groundwater_depth_m": 1,
            "drought_index": 1,
            "heat_day_count": 0,
            "storm_day_count": 0,
            "flood_stage_ratio": 2,
            "fire_danger_index": 0,
            "cape_j_kg": -1,
        },
        "titles": {
            "calm": "An ordinary month, {month}",
            "drought": "Signs of drought, {month}",
            "flood": "Signs of flooding, {month}",
            "storm": "Signs of stormy weather, {month}",
            "heat": "Signs of unusual heat, {month}",
            "fire": "Signs of fire danger, {month}",
            "unclear": "No hazard stands out, {month}",
        },
        "contexts": {
            "calm": "Taken together, these readings {likelihood} reflect an ordinary month.",
            "drought": "Taken together, these readings {likelihood} reflect a drought.",
            "flood": "Taken together, these readings {likelihood} reflect a flood.",
            "storm": "Taken together, these readings {likelihood} reflect stormy weather.",
            "heat": "Taken together, these readings {likelihood} reflect a spell of heat.",
            "fire": "Taken together, these readings {likelihood} reflect fire weather.",
            "unclear": "Taken together, these readings do not point to one hazard.",
        },
        "outlooks": {
            "calm": "What the following months may bring is not known from this.",
            "drought": "Dry conditions like these can persist, or may ease with rain.",
            "flood": "Wet conditions like these can persist, or may ease with less rain.",
            "storm": "Unsettled weather like this may or may not continue into the "
            "following month.",
            "heat": "Heat like this can last, or may break with rain.",
            "fire": "Fire danger like this may lessen with rain, and can return without it.",
            "unclear": "What the following months may bring is not known from this.",
        },
        "claim_sentence": "{quantities}, {band} usual range.",
    },
}
