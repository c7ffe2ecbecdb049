"""Why a version was taken down, in fixed words and numbers: fit for the ledger and for the public.

What people or a controller say about it in their own words is the reason, and stays in the ledger.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kfm_mlflow.errors import InputError

TriggerWord = Literal[
    "analysis",
    "deadline",
    "veto",
    "sovereignty",
    "operator",
    "integrity",
    "not-ready",
    "no-rollback-target",
    "registry",
    "telemetry-gap",
    "drift",
    "validation",
    "xai",
    "narrative-safety",
    "fusion-collapse",
]
_Count = Annotated[int, Field(ge=0)]


class DriftContext(BaseModel):
    """How live traffic stood to the release's own baseline when it was taken down.

    Attributes:
        verdict: Of the watch.
        mode: ``audit``: what was found did not count.
        false_alarm_ratio: Chance of a false alarm over the whole watch, 0..1.
        column_count: Columns that were compared.
        drifting_count: Of these, columns that had left the baseline.
        baseline_digest: Of ``drift/baseline.json``; empty when nothing could be compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    verdict: Literal["PASS", "INCONCLUSIVE", "ERROR", "FAIL"]
    mode: Literal["enforce", "audit"]
    false_alarm_ratio: float = Field(ge=0, le=1)
    column_count: _Count
    drifting_count: _Count
    baseline_digest: str = Field(default="", pattern=r"^(sha256:[0-9a-f]{64})?$")


class Cause(BaseModel):
    """Why a version was taken down.

    Attributes:
        trigger: What set it off.
        drift: What the drift watch said; None when nothing was watched.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    trigger: TriggerWord
    drift: DriftContext | None = None


def parse_cause(value: object, *, where: str) -> Cause | None:
    """Read a cause from JSON; None stands for none.

    Raises:
        InputError: It is no cause.
    """
    if value is None:
        return None
    try:
        return Cause.model_validate_json(json.dumps(value))
    except (ValidationError, TypeError, ValueError) as exc:
        problem = exc.errors()[0]["msg"] if isinstance(exc, ValidationError) else str(exc)
        raise InputError(
            f"is no cause ({problem})", where=where, remedy="leave it out, or name a trigger"
        ) from exc
