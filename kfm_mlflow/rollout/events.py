"""What a controller does, as OpenTelemetry spans: each of its actions, and each change of phase.

They hold what the journal and the ledger show anyhow, and no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kfm_mlflow.monitor.spans import SpanLog
    from kfm_mlflow.rollout.watched import Call

PREFIX = "kfm.rollout."
PHASE = f"{PREFIX}phase"
_MAX_TEXT = 300


class ControllerSpans:
    """Notes a controller's actions and phases in a span log."""

    def __init__(self, log: SpanLog, model_name: str) -> None:
        """Watch the controller of one registered model."""
        self._log, self._model_name = log, model_name
        self._phase: str | None = None

    def saw(self, call: Call) -> None:
        """Note an action, or a journal that holds another phase than the last one."""
        if call.name == "save_journal":
            if not call.error:
                self._note_state(call.args[1])
            return
        about = _about(call)
        if about is None:
            return
        attributes = {"kfm.model.name": self._model_name, **about, "kfm.error": call.error or None}
        self._log.event(
            f"{PREFIX}{call.name}",
            attributes,
            duration_ms=call.duration_ms,
            is_fault=bool(call.error),
        )

    def _note_state(self, journal: Mapping[str, Any]) -> None:
        before, self._phase = self._phase, str(journal["phase"])
        if before == self._phase:
            return
        self._log.event(
            PHASE,
            {
                "kfm.model.name": self._model_name,
                "kfm.phase": self._phase,
                "kfm.phase.before": before,
                "kfm.candidate": journal.get("candidate"),
                "kfm.stable": journal.get("stable"),
                "kfm.step": journal.get("step_index"),
                "kfm.trigger": journal.get("trigger"),
                "kfm.reason": str(journal.get("reason") or "")[:_MAX_TEXT] or None,
                "kfm.journal.generation": journal.get("generation"),
            },
            duration_ms=0.0,
            is_fault=self._phase == "RollbackFailed",
        )


def _about(call: Call) -> dict[str, Any] | None:
    """Return what an action was about; None for calls that only ask."""
    args, kwargs = call.args, call.kwargs
    if call.name == "deploy":
        return {"kfm.model.version": args[0].version, "kfm.release.id": args[0].release_id}
    if call.name == "set_split":
        split = args[0]
        return {
            "kfm.stable": split.stable,
            "kfm.canary": split.canary,
            "kfm.canary_ratio": split.canary_ratio,
            "kfm.mirror_ratio": split.mirror_ratio,
            "kfm.generation": split.generation,
        }
    if call.name == "remove":
        return {"kfm.model.version": args[0]}
    if call.name == "move":
        reason = str(kwargs.get("reason", ""))[:_MAX_TEXT]
        return {"kfm.model.version": args[1], "kfm.to_level": args[2], "kfm.reason": reason}
    if call.name in {"publish_verdict", "publish_reports"}:
        about = {"kfm.model.version": args[1]}
        verdict = args[2].get("verdict") if call.name == "publish_verdict" else None
        return about if verdict is None else {**about, "kfm.verdict": str(verdict)}
    return None
