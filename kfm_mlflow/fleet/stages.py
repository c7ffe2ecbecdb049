"""The stages of a fleet's release and their names: the one table that labels come from."""

from __future__ import annotations

from dataclasses import dataclass

from kfm_mlflow.fleet.state import FleetPhase


@dataclass(frozen=True)
class Stage:
    """One stage of a release.

    Attributes:
        name: What is done, in lower case; the value of the span attribute ``kfm.fleet.stage``.
        code: Two letters of the tongue.
        tongue: Its name.
        meaning: What the stage means.
        phases: Phases of a fleet that belong to it; none where the work ends before a fleet's does.
        spans: Names of the spans that are labelled with it.
        reports: Documents that are labelled with it.
    """

    name: str
    code: str
    tongue: str
    meaning: str
    phases: tuple[FleetPhase, ...] = ()
    spans: tuple[str, ...] = ()
    reports: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return what a page shows: ``KO Kor'aelin (deploy): asserting into production``."""
        return f"{self.code} {self.tongue} ({self.name}): {self.meaning}"


BUILD = Stage(
    "build",
    "CA",
    "Cascade",
    "breaking down, compiling",
    spans=("fleet.collect", "fleet.fuse"),
    reports=("fused_release.json",),
)
TEST = Stage(
    "test",
    "RU",
    "Runethic",
    "binding, validating rules",
    spans=("fleet.measure",),
    reports=("fused_rejections.json",),
)
STAGE = Stage(
    "stage",
    "UM",
    "Umbroth",
    "hidden, not yet revealed",
    phases=(FleetPhase.STARTING, FleetPhase.AWAITING_ADMISSION),
    spans=("fleet.fetch", "fleet.start"),
)
DEPLOY = Stage(
    "deploy",
    "KO",
    "Kor'aelin",
    "asserting into production",
    phases=(FleetPhase.PROMOTING,),
    spans=("fleet.route", "fleet.promote", "fleet.stop"),
)
MONITOR = Stage(
    "monitor",
    "AV",
    "Avali",
    "listening, watching",
    phases=(FleetPhase.IDLE, FleetPhase.WATCHING, FleetPhase.SOAKING, FleetPhase.SUCCEEDED),
    spans=("fleet.observe", "fleet.probe"),
    reports=("canary_verdict.json",),
)
ROLLBACK = Stage(
    "rollback",
    "DR",
    "Draumric",
    "structured retreat",
    phases=(FleetPhase.ABORTING, FleetPhase.ROLLED_BACK, FleetPhase.ROLLBACK_FAILED),
    spans=("fleet.restore", "fleet.demote"),
    reports=("rollback_report.json", "drift_summary.json", "sovereignty_conflict.json"),
)

STAGES = (BUILD, TEST, STAGE, DEPLOY, MONITOR, ROLLBACK)

_OF_PHASE = {phase: stage for stage in STAGES for phase in stage.phases}
_OF_SPAN = {span: stage for stage in STAGES for span in stage.spans}
_OF_REPORT = {report: stage for stage in STAGES for report in stage.reports}


def stage_of(phase: FleetPhase, *, batch_index: int = 0) -> Stage:
    """Return the stage of a phase; starting a batch after promotion is deploying."""
    if phase is FleetPhase.STARTING and batch_index:
        return DEPLOY
    return _OF_PHASE[phase]


def stage_of_span(name: str) -> Stage | None:
    """Return the stage that labels a span; None for one of no stage."""
    return _OF_SPAN.get(name)


def stage_of_report(name: str) -> Stage | None:
    """Return the stage that labels a document; None for one of no stage."""
    return _OF_REPORT.get(name)
