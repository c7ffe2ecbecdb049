"""What a fleet's loop does, as OpenTelemetry spans: each action, and each change of phase.

Every span is labelled with its stage (:mod:`kfm_mlflow.fleet.stages`). They hold what the journal
and the ledger show anyhow, and no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kfm_mlflow.fleet.stages import stage_of, stage_of_span
from kfm_mlflow.fleet.state import FleetPhase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kfm_mlflow.monitor.spans import SpanLog
    from kfm_mlflow.rollout.watched import Call

PREFIX = "kfm."
PHASE = "fleet.phase"
STAGE = "kfm.fleet.stage"
_MAX_TEXT = 300
_PRODUCTION = "production"


class FleetSpans:
    """Notes a loop's actions and phases in a span log."""

    def __init__(self, log: SpanLog, model_name: str) -> None:
        """Watch the loop of one registered model."""
        self._log, self._model_name = log, model_name
        self._phase: str | None = None

    def saw(self, call: Call) -> None:
        """Note an action, or a journal that holds another phase than the last one."""
        if call.name == "save_journal":
            if not call.error:
                self._note_state(call.args[1])
            return
        name, about = _about(call)
        stage = stage_of_span(name)
        if stage is None:
            return
        attributes = {
            "kfm.model.name": self._model_name,
            STAGE: stage.name,
            **about,
            "kfm.error": call.error or None,
        }
        self._log.event(
            f"{PREFIX}{name}", attributes, duration_ms=call.duration_ms, is_fault=bool(call.error)
        )

    def _note_state(self, journal: Mapping[str, Any]) -> None:
        before, self._phase = self._phase, str(journal["phase"])
        if before == self._phase:
            return
        batch_index = int(journal.get("batch_index") or 0)
        stage = stage_of(FleetPhase(self._phase), batch_index=batch_index)
        self._log.event(
            f"{PREFIX}{PHASE}",
            {
                "kfm.model.name": self._model_name,
                STAGE: stage.name,
                "kfm.phase": self._phase,
                "kfm.phase.before": before,
                "kfm.candidate": journal.get("candidate"),
                "kfm.stable": journal.get("stable"),
                "kfm.batch": batch_index,
                "kfm.trigger": journal.get("trigger"),
                "kfm.reason": str(journal.get("reason") or "")[:_MAX_TEXT] or None,
                "kfm.journal.generation": journal.get("generation"),
            },
            duration_ms=0.0,
            is_fault=self._phase == FleetPhase.ROLLBACK_FAILED,
        )


def _about(call: Call) -> tuple[str, dict[str, Any]]:
    """Return the name of an action's span and what it was about; no stage knows other names."""
    args = call.args
    if call.name == "fetch":
        return "fleet.fetch", {"kfm.model.version": args[1]}
    if call.name == "start":
        agent, release = args
        about = {"kfm.model.version": release.version, "kfm.release.id": release.release_id}
        return "fleet.start", {"kfm.agent": agent.name, **about}
    if call.name == "stop":
        return "fleet.stop", {"kfm.agent": args[0], "kfm.model.version": args[1]}
    if call.name == "route":
        return "fleet.route", {"kfm.generation": args[0].generation}
    if call.name == "move":
        return _move(call)
    return call.name, {}


def _move(call: Call) -> tuple[str, dict[str, Any]]:
    _, version, level = call.args
    about = {"kfm.model.version": version, "kfm.to_level": level}
    if level != _PRODUCTION:
        return "fleet.demote", about
    is_promotion = version == call.kwargs.get("expect_canary")
    return "fleet.promote" if is_promotion else "fleet.restore", about
