"""One valid document for every schema of provider manifests, fusion and merging."""

from __future__ import annotations

from typing import Any

_DIGEST = "sha256:" + "ab" * 32
_METRICS = {"quality": 0.82, "safety": 0.97, "latency_ms_p95": 140, "cost_per_1k_tokens": 0.9}
_ENTRY: dict[str, Any] = {
    "id": "spiralverse/textgen-lora-v1",
    "role": "textgen",
    "type": "lora-adapter",
    "uri": "hf://spiralverse/textgen-lora-v1@main/adapter",
    "digest": _DIGEST,
    "metrics": _METRICS,
    "license": "MIT",
    "base": {"id": "spiralverse/base", "digest": _DIGEST},
    "labels": ["tk_attribution"],
    "signature": "hf://spiralverse/textgen-lora-v1@main/adapter.sig",
}
_GATES = {
    "min_quality": 0.8,
    "min_safety": 0.95,
    "max_latency_ms_p95": 200,
    "max_cost_per_1k_tokens": 1,
}


def _unit(**changed: Any) -> dict[str, Any]:
    kept = {name: _ENTRY[name] for name in ("id", "role", "type", "uri", "digest", "metrics")}
    return {**kept, "score": 0.6455, **changed}


DOCUMENTS: dict[str, dict[str, Any]] = {
    "fleet-manifest": {
        "schema_version": "1",
        "provider": "hf",
        "region": "global",
        "artifacts": [_ENTRY],
    },
    "fleet-units": {
        "schema_version": "1",
        "units": [
            {
                "role": "textgen",
                "format": "text-writer",
                "parameter_count": 4,
                "parents": [_DIGEST],
                "files": [{"path": "units/textgen/unit.json", "size_bytes": 45, "digest": _DIGEST}],
            }
        ],
    },
    "fleet-artifact": {"schema_version": "1", "provider": "hf", "region": "global", **_ENTRY},
    "fused_release": {
        "schema_version": "1",
        "fused_model_id": "fleet-federated-v1.0.0-f0123456789ab",
        "version": "v1.0.0-f0123456789ab",
        "content_digest": _DIGEST,
        "providers": ["aws", "gcp", "hf"],
        "gates": _GATES,
        "units": {
            "aws": _unit(id="runtime", role="runtime", type="runtime-model"),
            "gcp": _unit(id="embed", role="embed", type="embedding-model", claimed=_METRICS),
            "hf": _unit(license="MIT", labels=["tk_attribution"]),
        },
    },
    "fused_rejections": {
        "schema_version": "1",
        "fused_model_id": None,
        "gates": _GATES,
        "rejected": [
            {
                "provider": "hf",
                "id": "spiralverse/textgen-lora-v0",
                "role": "textgen",
                "uri": _ENTRY["uri"],
                "digest": _DIGEST,
                "reason": "outscored",
                "score": 0.6,
                "gates": [
                    {
                        "gate": "min_quality",
                        "observed": 0.82,
                        "limit": 0.8,
                        "margin": 0.02,
                        "passed": True,
                    }
                ],
                "lost_to": {"id": _ENTRY["id"], "score": 0.6455, "by": 0.0455},
            }
        ],
        "findings": [
            {
                "manifest": "hf_manifest.json",
                "artifact": "artifacts[1]",
                "code": "FIELD",
                "detail": "metrics.quality: must be number",
                "remedy": "correct the field",
            }
        ],
        "gaps": [
            {
                "provider": "hf",
                "id": _ENTRY["id"],
                "metric": "quality",
                "claimed": 0.82,
                "measured": 0.81,
                "gap": 0.01,
            }
        ],
    },
    "fleet-measured": {
        "schema_version": "1",
        "measured": [{"digest": _DIGEST, "metrics": _METRICS}],
    },
    "fleet-collected": {
        "schema_version": "1",
        "collected": [
            {
                "provider": "hf",
                "id": _ENTRY["id"],
                "role": "textgen",
                "uri": _ENTRY["uri"],
                "digest": _DIGEST,
                "signer": None,
                "unsafe_unsigned": True,
            }
        ],
    },
    "lora-merge": {
        "schema_version": "1",
        "license": "MIT",
        "base": {"digest": _DIGEST},
        "adapters": [
            {
                "name": "polite",
                "digest": _DIGEST,
                "weight": 0.5,
                "rank": 4,
                "lora_alpha": 8,
                "target_modules": ["hidden"],
                "license": "MIT",
            }
        ],
        "combination": "cat",
        "library": {"name": "peft", "version": "0.21.2"},
        "result_digest": _DIGEST,
        "checks": [{"name": "identity", "max_difference": 0, "limit": 0.00001}],
    },
}
