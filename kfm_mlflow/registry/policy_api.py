"""JSON about policies in force under ``/kfm/api/v1``, on :data:`kfm_mlflow.registry.api.api`."""

from __future__ import annotations

from typing import Any

from flask import request

from kfm_mlflow.registry.api import answers, api, registry
from kfm_mlflow.registry.recheck import recheck

RECALL = "recall"


@api.get("/recheck")
@answers
def recheck_promoted() -> Any:
    """Judge again what is promoted now: ``?family=&model=``; nothing is written."""
    store = registry()
    found = recheck(store, family=request.args.get("family"), name=request.args.get("model"))
    return {
        "schema_version": "1",
        "versions": [entry.to_dict() for entry in found],
        "recall_count": sum(entry.status == RECALL for entry in found),
    }


@api.get("/policies/<family>/exemptions")
@answers
def exemptions(family: str) -> Any:
    """Return a family's exemptions and whether each holds now."""
    admission = registry().admission
    policy, now = admission.policy(family), admission.clock()
    return {
        "policy_digest": policy.digest,
        "exemptions": [
            {**item.model_dump(mode="json"), "state": item.state_at(now)}
            for item in policy.exemptions
        ],
    }
