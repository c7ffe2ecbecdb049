"""The source document's three provider manifests (notes of its orchestrator), with digests."""

from __future__ import annotations

from typing import Any

SAMPLES = {
    "hf": ("spiralverse/textgen-lora-v1", "textgen", "lora-adapter", (0.82, 0.97, 140, 0.9)),
    "gcp": ("spiralverse/embedder-v2", "embed", "embedding-model", (0.86, 0.99, 90, 0.6)),
    "aws": ("spiralverse/runtime-distilled-v3", "runtime", "runtime-model", (0.80, 0.98, 70, 0.5)),
}
SCHEMES = {"hf": "hf", "gcp": "gs", "aws": "s3"}
METRICS = ("quality", "safety", "latency_ms_p95", "cost_per_1k_tokens")


def entry(provider: str, **changed: Any) -> dict[str, Any]:
    """Return the sample artifact of a provider, fields changed."""
    name, role, kind, values = SAMPLES[provider]
    made: dict[str, Any] = {
        "id": name,
        "role": role,
        "type": kind,
        "uri": f"{SCHEMES[provider]}://{name}",
        "digest": "sha256:" + f"{len(name):02x}" * 32,
        "metrics": dict(zip(METRICS, values, strict=True)),
    }
    if kind == "lora-adapter":
        made["base"] = {"id": "spiralverse/base", "digest": "sha256:" + "00" * 32}
    return {**made, **changed}


def manifest(provider: str, *entries: Any) -> dict[str, Any]:
    """Return a manifest of a provider; the sample artifact without entries."""
    artifacts = list(entries) or [entry(provider)]
    return {"schema_version": "1", "provider": provider, "artifacts": artifacts}
