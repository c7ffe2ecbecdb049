"""A valid journal of a fleet."""

from __future__ import annotations

from typing import Any

from metadata import made_documents

_ROLLOUT: dict[str, Any] = made_documents.DOCUMENTS["rollout_journal"]
_AGENT: dict[str, Any] = {
    "name": "doc-1",
    "specialty": "doc_plan",
    "version": 1,
    "canary": 2,
    "node": "n0",
    "state": "canary",
    "coherence": 0.98,
    "error_ratio": 0.0,
    "p95_ms": 8.5,
    "task_count": 41,
}
DOCUMENTS: dict[str, dict[str, Any]] = {
    "fleet_journal": {
        "schema_version": "1",
        "model_name": "fleet",
        "phase": "Watching",
        "candidate": 2,
        "stable": 1,
        "generation": 9,
        "batch_index": 0,
        "batch": ["doc-1"],
        "moved": [],
        "entered_at": _ROLLOUT["entered_at"],
        "routes": {"generation": 3, "routes": []},
        "promoted": False,
        "assessment": None,
        "trigger": None,
        "reason": "",
        "reports_written": False,
        "instances": {},
        "narrative": {
            **_ROLLOUT["narrative"],
            "phase": "Watching",
            "metrics": [],
            "arms": [],
            "stage": "AV Avali (monitor): listening, watching",
            "agents": [_AGENT],
            "fleet": {
                "consensus_rate": 1.0,
                "safety_score": 1.0,
                "tasks_per_min": 310.0,
                "min_coherence": 0.98,
                "error_ratio": 0.0,
                "p95_ms": 8.5,
                "agent_count": 1,
            },
        },
    },
}
