"""One valid document for every schema but the model card, which has a builder."""

from __future__ import annotations

from typing import Any

_DIGEST = "sha256:" + "ab" * 32
_AT = "2026-01-31T12:00:00Z"
_TENSOR = {"name": "input", "dtype": "float32", "shape": [-1, 1, 16, 16]}
_METRICS = {"rmse": 1.07, "mae": 0.71}

DOCUMENTS: dict[str, dict[str, Any]] = {
    "regions_public": {
        "schema_version": "1",
        "regions_digest": _DIGEST,
        "regions": [
            {
                "id": "reservation-1",
                "authority": "Example Nation",
                "consent": {
                    "status": "granted",
                    "scope": "public-generalized",
                    "expires_at": "2031-01-01T00:00:00Z",
                },
                "h3_max_resolution": 5,
                "k_min": 5,
                "labels": ["tk_attribution"],
                "restricted_names": ["0123456789abcdef"],
                "cells": ["852658affffffff"],
            }
        ],
    },
    "regions": {
        "schema_version": "1",
        "type": "FeatureCollection",
        "salt": "7f",
        "source": {"document": "project.json", "digest": _DIGEST},
        "features": [
            {
                "type": "Feature",
                "properties": {"id": "a"},
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]],
                },
            }
        ],
    },
    "model_metadata": {
        "schema_version": "1",
        "model_name": "climate-downscaler",
        "release_version": "v1.2.0",
        "family": "climate",
        "task": "super-resolution",
        "architecture": "residual-cnn",
        "framework": {"name": "PyTorch", "version": "2.13.0"},
        "hyperparameters": {"lr": 0.0003},
        "seed": 42,
        "inputs": [_TENSOR],
        "outputs": [_TENSOR],
        "data": [
            {
                "name": "era",
                "role": "training",
                "uri": "https://example.org/era.nc",
                "digest": _DIGEST,
                "license": "other",
                "selection": "west of -98",
            }
        ],
        "code": {"git_commit": None, "git_url": None, "entry_point": "release"},
        "run_id": None,
        "created_at": _AT,
        "weights": {"path": "model.pt", "digest": _DIGEST, "multihash": "1220" + "ab" * 32},
    },
    "model_summary": {
        "schema_version": "1",
        "parameter_count": 50_000,
        "layers": [{"name": "head", "kind": "Conv2d", "parameter_count": 320}],
        "metrics": dict(_METRICS),
        "formats": [{"path": "model.pt", "kind": "torch"}, {"path": "model.onnx", "kind": "onnx"}],
        "onnx_max_relative_difference": 1e-7,
    },
    "xai-summary": {
        "schema_version": "1",
        "method": "integrated-gradients",
        "library": "captum 0.9.0",
        "baseline": "mean field",
        "step_count": 50,
        "sample_count": 8,
        "seed": 42,
        "convergence_delta": -0.001,
        "features": [{"name": "coarse", "importance_ratio": 1.0}],
        "stability": {"seed_count": 3, "min_correlation": 0.97},
        "notes": [],
    },
    "telemetry-training": {
        "schema_version": "1",
        "duration_s": 61.2,
        "energy_wh": 3.5,
        "carbon_gco2e": 1.4,
        "method": "estimated",
        "energy": {"cpu_wh": 3.0, "gpu_wh": 0, "ram_wh": 0.5, "pue": 1.0},
        "carbon": {
            "intensity_g_per_kwh": 400.0,
            "intensity_source": "codecarbon",
            "region": "USA/kansas",
        },
        "tool": {"name": "codecarbon", "version": "3.3.2"},
        "hardware": {"cpu": "some CPU", "gpu": None, "ram_gb": 16.0},
        "metrics": {"loss": 0.1},
        "otel": {"trace_id": None, "span_name": "train", "latency_ms": 61_200.0},
    },
    "care": {
        "schema_version": "1",
        "care": {
            "masking": "h3-climate-generalized",
            "scope": "public-generalized",
            "notes": ["Deployment generalized"],
            "authority": None,
            "labels": [],
            "h3_max_resolution": 6,
        },
        "screening": {
            "status": "no-known-conflict",
            "checks": [
                {"id": "resolution", "status": "no-known-conflict", "findings": [], "remedy": ""}
            ],
            "regions_digest": _DIGEST,
        },
    },
    "drift-baseline": {
        "schema_version": "1",
        "sample_count": 64,
        "statistics": {
            "amplification_ratio": {
                "low": 0.9,
                "high": 1.1,
                "mean": 1.0,
                "std": 0.03,
                "quantiles": {"0.5": 1.0},
            }
        },
        "inputs": {},
    },
    "deployment_validation": {
        "schema_version": "1",
        "release_id": _DIGEST,
        "metrics": dict(_METRICS),
        "determinism": {"identical": True, "digest": _DIGEST},
        "validator": "validator@example.org",
        "data": {"digest": _DIGEST},
        "at": _AT,
    },
    "serving-energy": {
        "schema_version": "1",
        "model_name": "climate-downscaler",
        "began_at": _AT,
        "ended_at": _AT,
        "ended_by": "Succeeded",
        "scope": "machine",
        "duration_s": 600.0,
        "energy_wh": 2.0,
        "carbon_gco2e": 0.8,
        "method": "estimated",
        "energy": {"cpu_wh": 1.5, "gpu_wh": 0, "ram_wh": 0.5, "pue": 1.0},
        "carbon": {
            "intensity_g_per_kwh": 400.0,
            "intensity_source": "codecarbon",
            "region": "USA/kansas",
        },
        "tool": {"name": "codecarbon", "version": "3.3.2"},
        "hardware": {"cpu": "some CPU", "gpu": None, "ram_gb": 16.0},
        "releases": [
            {
                "version": 2,
                "release_id": _DIGEST,
                "request_count": 1000,
                "busy_s": 12.5,
                "share_ratio": 1.0,
                "energy_wh": 2.0,
                "carbon_gco2e": 0.8,
                "energy_wh_per_1k_requests": 2.0,
                "carbon_gco2e_per_1k_requests": 0.8,
            }
        ],
    },
    "rollout_order": {
        "schema_version": "1",
        "order_id": 12,
        "at": _AT,
        "order": "rollback",
        "version": 2,
        "to_version": 1,
        "actor": "olga",
        "reason": "wrong units",
    },
    "ledger_head": {
        "schema_version": "1",
        "seq": 1,
        "hash": _DIGEST,
        "at": _AT,
        "signature": {"keyid": "ab" * 32, "sig": "30"},
    },
    "ledger_snapshot": {
        "schema_version": "1",
        "ledger_id": "ledger_2025q4_focus_transformer_v2_checkpoints",
        "auditor": "@kfm-governance",
        "reviewed_by": "@faircare-council",
        "status": "approved",
        "timestamp": "2025-11-08T22:20:00Z",
        "name": "focus-transformer",
        "records": [
            {
                "ledger_id": "ledger_2025q4_focus_transformer_v3",
                "auditor": "@kfm-governance",
                "reviewed_by": "@faircare-council",
                "status": "approved",
                "timestamp": "2025-11-08T22:20:00Z",
                "model": "focus-transformer",
                "version": 3,
                "release_version": "v10.0.0",
                "release_id": _DIGEST,
                "level": "production",
                "row": 1,
            }
        ],
        "registry_key": {"key_id": "ab" * 32, "public_key": "-----BEGIN PUBLIC KEY-----"},
        "head": {"schema_version": "1", "seq": 1, "hash": _DIGEST, "at": _AT},
        "rows": [
            {
                "seq": 1,
                "at": _AT,
                "kind": "moved",
                "model": "focus-transformer",
                "version": 3,
                "body": "{}",
                "prev_hash": _DIGEST,
                "hash": _DIGEST,
            }
        ],
    },
    "export": {
        "schema_version": "1",
        "model_name": "climate-downscaler",
        "version": 3,
        "family": "climate",
        "level": "production",
        "release_version": "v1.2.0",
        "release_id": _DIGEST,
        "policy_digest": _DIGEST,
        "exported_at": _AT,
        "release_path": "climate/models/v1.2.0",
        "signer": {
            "kind": "key",
            "holder": "trainer",
            "path": "keys/signers/trainer-abababababababab.pem",
        },
        "integrity": {
            "hash": _DIGEST,
            "signature": "climate/models/v1.2.0.evidence/release.sig",
            "immutable": True,
        },
        "documents": {"model.pt": "climate/models/v1.2.0/model.pt"},
        "ledger_head": {"schema_version": "1", "seq": 7, "hash": _DIGEST, "at": _AT},
        "ledger_rows": [3, 7],
        "keys": [
            {
                "path": "keys/signers/trainer-abababababababab.pem",
                "duty": "signers",
                "holder": "trainer",
                "key_id": "ab" * 32,
                "public_key": "-----BEGIN PUBLIC KEY-----",
            }
        ],
        "files": [{"path": "README.md", "size": 1, "sha256": "ab" * 32}],
    },
    "promotion_decision": {
        "schema_version": "1",
        "model_name": "climate-downscaler",
        "version": 3,
        "from_level": "staging",
        "to_level": "canary",
        "family": "climate",
        "policy_digest": _DIGEST,
        "release_id": _DIGEST,
        "release_version": "v1.2.0",
        "verdict": "FAIL",
        "evidence": [_DIGEST],
        "rollback_target": "",
        "votes": {},
        "gates": [
            {
                "gate": "stac",
                "mode": "enforce",
                "verdict": "FAIL",
                "findings": [
                    {"code": "STAC_INVALID", "verdict": "FAIL", "summary": "s", "detail": "d"}
                ],
            }
        ],
    },
    "rollback_report": {
        "schema_version": "1",
        "model_name": "climate-downscaler",
        "rolled_back_version": 2,
        "restored_version": 1,
        "trigger": "analysis",
        "reason": "amplification_ratio is worse than stable",
        "detected_at": _AT,
        "traffic_restored_at": _AT,
        "registry_restored_at": None,
        "observations": {"canary_request_count": 200},
    },
    "drift_summary": {
        "schema_version": "1",
        "applicable": True,
        "verdict": "FAIL",
        "false_alarm_ratio": 0.05,
        "metrics": [
            {
                "name": "amplification_ratio",
                "canary_ratio": 0.4,
                "stable_ratio": 0.01,
                "e_value": 120.0,
                "threshold": 20.0,
                "sample_count": 200,
            }
        ],
    },
    "sovereignty_conflict": {
        "schema_version": "1",
        "applicable": False,
        "reason": "no veto took part in this rollback",
        "conflicts": [],
    },
    "rollout_journal": {
        "schema_version": "1",
        "model_name": "climate-downscaler",
        "phase": "Canary",
        "candidate": 2,
        "stable": 1,
        "generation": 7,
        "plan_digest": _DIGEST,
        "step_index": 0,
        "entered_at": _AT,
        "step_entered_at": _AT,
        "split": {"stable": 1, "canary": 2, "ratio": 0.1},
        "promoted": False,
        "memory": {},
        "analysis": None,
        "trigger": None,
        "reason": "",
        "reports_written": False,
        "narrative": {
            "phase": "Canary",
            "candidate": 2,
            "stable": 1,
            "described_at": _AT,
            "since": _AT,
            "happening": "v2 answers 10 % of the requests and is measured beside v1.",
            "traffic": "v2 answers 10 % of the requests; v1 answers the other 90 %.",
            "reason": "the plan asks for it",
            "next": "Promotion to production.",
            "next_at": None,
            "deadline_at": _AT,
            "on_deadline": "v2 is given up",
            "ends": ["a metric that fails"],
            "is_loud": False,
            "to_do": "",
            "canary_pct": 10.0,
            "mirror_pct": 0.0,
            "step_number": 1,
            "step_count": 1,
            "step": "analysis of 200 answers within 10 min",
            "verdict": "INCONCLUSIVE",
            "measured": "error_ratio: 12 of 200 samples",
            "steps": [
                {
                    "number": 1,
                    "words": "analysis of 200 answers within 10 min",
                    "canary_pct": 10,
                    "mirror_pct": 0,
                    "status": "present",
                }
            ],
            "metrics": [
                {
                    "name": "error_ratio",
                    "kind": "compare",
                    "verdict": "INCONCLUSIVE",
                    "unit": "ratio",
                    "canary_value": 0.0,
                    "stable_value": 0.0,
                    "limit": None,
                    "sample_count": 12,
                    "needed_count": 200,
                    "e_value": 0.9,
                    "threshold": 60.0,
                    "reason": "12 of 200 samples",
                }
            ],
            "arms": [
                {
                    "arm": "canary",
                    "version": 2,
                    "share_pct": 10.0,
                    "request_count": 12,
                    "error_count": 0,
                    "error_ratio": 0.0,
                    "p50_ms": 11.0,
                    "p95_ms": 20.0,
                    "p99_ms": None,
                    "masked_count": 0,
                    "withheld_count": 0,
                }
            ],
        },
    },
}
