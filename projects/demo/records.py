"""What is left to check afterwards: reports, ledger, release, and the release made once more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np

if TYPE_CHECKING:
    from demo import Demo

REPORTS = ("rollback_report.json", "drift_summary.json", "sovereignty_conflict.json")


def observe_reports(demo: Demo, run_id: str | None) -> None:
    """Check that the three documents of the rollback are there and valid."""
    from kfm_mlflow.metadata.schemas import schema_problems

    problems: list[str] = []
    documents: dict[str, Any] = {}
    for name in REPORTS:
        text = mlflow.artifacts.load_text(f"runs:/{run_id}/rollback/v2/{name}")
        documents[name] = json.loads(text)
        problems += schema_problems(name.removesuffix(".json"), documents[name])
    report = documents["rollback_report.json"]
    detected, restored = (
        np.datetime64(report[key].rstrip("Z")) for key in ("detected_at", "traffic_restored_at")
    )
    took_ms = float((restored - detected) / np.timedelta64(1, "us")) / 1000
    demo.board.observe(
        "rollback_report, drift_summary and sovereignty_conflict are valid",
        "; ".join(problems)
        or f"restored v{report['restored_version']}, traffic {took_ms:.0f} ms after the verdict",
        holds=not problems and report["restored_version"] == 1 and took_ms < 5000,  # noqa: PLR2004 - "at once"
    )


def observe_records(demo: Demo) -> None:
    """Check the ledger's chain and the release in production, by the command line."""
    ledger = demo.processes.run("ledger", ["kfm", "ledger", "verify"]).strip()
    demo.board.observe("the ledger's hash chain is intact", ledger, holds="chain intact" in ledger)
    text = demo.processes.run(
        "verify", ["kfm", "verify", f"models:/{demo.model}/1", "--policy-dir", "policies"]
    )
    last = text.strip().splitlines()[-1]
    demo.board.observe(
        "kfm verify accepts what is in production", last, holds=last.startswith("PASS")
    )


def observe_rebuild(demo: Demo) -> None:
    """Check that a second run from the recorded commit gives the same release id."""
    arguments = ["kfm", "rebuild", f"models:/{demo.model}/1", "--source", str(demo.project)]
    if demo.data != "generated":
        arguments += ["-P", f"data={demo.data}"]
    text = demo.processes.run("rebuild", [*arguments, "--env-manager", "local"], accepted=(0, 1))
    recorded = demo.kfm_api(f"models/{demo.model}/versions/1")["release"]["id"]
    (rebuilt,) = (line.split()[1] for line in text.splitlines() if line.startswith("rebuilt "))
    demo.board.observe(
        "trained again from its commit, v1 is the same release",
        f"{rebuilt[:23]}…; {text.strip().splitlines()[-1]}",
        holds=rebuilt == recorded,
    )
