"""Pages under ``/kfm``: what a refusal points to. Plain HTML, no script, no external request."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, redirect, render_template
from mlflow.exceptions import MlflowException

from kfm_mlflow.errors import KfmError
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry import records
from kfm_mlflow.registry.api import registry
from kfm_mlflow.registry.translate import answer_to

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as BaseResponse

    from kfm_mlflow.gates.findings import GateReport
    from kfm_mlflow.registry.records import LedgerRow

pages = Blueprint("kfm_pages", __name__, url_prefix="/kfm", template_folder="templates")


def _page(template: str, **values: Any) -> Response:
    return Response(render_template(f"kfm/{template}", **values), mimetype="text/html")


@pages.errorhandler(MlflowException)
@pages.errorhandler(KfmError)
def _problem(exc: Exception) -> Response:
    told = answer_to(exc)
    return Response(told.message, told.get_http_status_code(), mimetype="text/plain")


@pages.get("/")
def home() -> Response:
    """List governed versions of every model."""
    store = registry()
    models = [
        {"name": found.name, "levels": store.levels(found.name)}
        for found in store.search_registered_models(max_results=100)
    ]
    return _page("home.html", models=models)


@pages.get("/models/<name>")
def model(name: str) -> BaseResponse:
    """Lead from a model to the list."""
    del name
    return redirect("/kfm/")


def _history(rows: list[LedgerRow]) -> list[dict[str, Any]]:
    history = []
    for row in reversed(rows):
        claims = json.loads(base64.b64decode(json.loads(row.body)["payload"]))["predicate"][
            "claims"
        ]
        history.append(
            {
                "row": row,
                "report": claims["report"],
                "actor": claims["actor"],
                "reason": claims["reason"],
            }
        )
    return history


def _next_report(name: str, version: int, level: Level) -> tuple[Level, GateReport | None, str]:
    following = list(Level)[min(level.rank + 1, len(Level) - 1)]
    try:
        return following, registry().check(name, version, following).report, ""
    except (MlflowException, KfmError) as exc:
        return following, None, str(exc)


@pages.get("/models/<name>/<int:version>")
def model_version(name: str, version: int) -> Response:
    """Show a version: level, gates on the way to the next one, votes, history."""
    store = registry()
    snapshot = store.snapshot(name, version)
    with store.ManagedSessionMaker(read_only=True) as session:
        rows = records.read_ledger(session, model=name, version=version)
    following, report, problem = _next_report(name, version, snapshot.level)
    return _page(
        "version.html",
        snapshot=snapshot,
        following=following,
        at_top=snapshot.level is Level.PRODUCTION,
        report=report,
        problem=problem,
        history=_history(rows),
    )
