"""Pages under ``/kfm``: what a refusal points to. Plain HTML, no script, no external request.

Every list is one page long and goes on from a key; no page counts or scans a table.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from flask import Blueprint, Response, render_template, request
from mlflow.exceptions import MlflowException

from kfm_mlflow.errors import InputError, KfmError
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry import listing, records
from kfm_mlflow.registry import openapi as _openapi  # noqa: F401 - puts its route on the API
from kfm_mlflow.registry.actor import may_read
from kfm_mlflow.registry.api import registry
from kfm_mlflow.registry.badge import draw_badge, standing_of
from kfm_mlflow.registry.moves import parse_version
from kfm_mlflow.registry.page_decision import decided
from kfm_mlflow.registry.page_rollout import load_rollout
from kfm_mlflow.registry.page_version import load_version
from kfm_mlflow.registry.reversions import last_reversion
from kfm_mlflow.registry.translate import answer_to
from kfm_mlflow.registry.workspaces import current_workspace
from kfm_mlflow.trust.model_key import split_key

if TYPE_CHECKING:
    from kfm_mlflow.registry.store import KfmStore

pages = Blueprint("kfm_pages", __name__, url_prefix="/kfm", template_folder="templates")
MODELS_PER_PAGE = 25
VERSIONS_PER_PAGE = 50
ROWS_PER_PAGE = 50
_MAX_QUERY = 200

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@pages.after_request
def _secured(response: Response) -> Response:
    response.headers.update(SECURITY_HEADERS)
    return response


@pages.app_template_filter("kfm_instant")
def instant(value: Any) -> str:
    """Write an instant, or milliseconds since 1970, as people read it: to the second, in UTC."""
    if isinstance(value, int):
        found = datetime.fromtimestamp(value / 1000, UTC)
    else:
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError:
            return str(value)
    return found.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@pages.app_template_global("kfm_url")
def page_url(path: str, **query: Any) -> str:
    """Return the address of a page in the workspace that this request is in."""
    asked = {key: value for key, value in query.items() if value not in (None, "")}
    if workspace := current_workspace():
        asked["workspace"] = workspace
    return f"{path}?{urlencode(asked)}" if asked else path


@pages.app_template_global("kfm_model_url")
def model_url(key: str, version: int | None = None, before: int | None = None) -> str:
    """Return the address of the page of a model, by its key, or of one of its versions."""
    workspace, name = split_key(key)
    path = f"/kfm/models/{quote(name, safe='')}"
    path = path if version is None else f"{path}/{version}"
    pairs = {"before": before, "workspace": workspace}
    query = urlencode({name: value for name, value in pairs.items() if value})
    return f"{path}?{query}" if query else path


@pages.app_template_global("kfm_rollout_url")
def rollout_url(key: str, *, live: str = "") -> str:
    """Return the address of the page of a model's rollout, by the model's key."""
    workspace, name = split_key(key)
    pairs = {"live": live, "workspace": workspace}
    query = urlencode({name: value for name, value in pairs.items() if value})
    path = f"/kfm/models/{quote(name, safe='')}/rollout"
    return f"{path}?{query}" if query else path


@pages.app_template_global("kfm_ledger_url")
def ledger_url(key: str, **query: Any) -> str:
    """Return the address of the ledger of one model, by its key."""
    workspace, name = split_key(key)
    pairs = {"model": name, **query, "workspace": workspace}
    return "/kfm/ledger?" + urlencode({name: value for name, value in pairs.items() if value})


def _page(template: str, **values: Any) -> Response:
    return Response(render_template(f"kfm/{template}", **values), mimetype="text/html")


@pages.errorhandler(MlflowException)
@pages.errorhandler(KfmError)
def _problem(exc: Exception) -> Response:
    told = answer_to(exc)
    return Response(told.message, told.get_http_status_code(), mimetype="text/plain")


def _number(key: str) -> int | None:
    text = request.args.get(key)
    return None if text is None else parse_version(text)


@pages.get("/style.css")
def style() -> Response:
    """Return the pages' style."""
    folder = resources.files("kfm_mlflow.registry") / "templates" / "kfm"
    return Response((folder / "style.css").read_bytes(), mimetype="text/css")


@pages.get("/")
def home() -> Response:
    """List registered models with what is at which level."""
    store = registry()
    matching = request.args.get("q", "")[:_MAX_QUERY].strip()
    after = request.args.get("after", "")
    workspace = store._get_active_workspace()  # noqa: SLF001 - MLflow's own name for it
    with store.ManagedSessionMaker(read_only=True) as session:
        names = listing.model_names(
            session, workspace, after=after, matching=matching, limit=MODELS_PER_PAGE + 1
        )
        shown = [name for name in names[:MODELS_PER_PAGE] if may_read(name)]
        models = [_model_line(store, session, name) for name in shown]
    return _page(
        "home.html",
        models=models,
        matching=matching,
        workspace=current_workspace(),
        after=after,
        next_after=names[MODELS_PER_PAGE - 1] if len(names) > MODELS_PER_PAGE else None,
    )


def _model_line(store: KfmStore, session: Any, name: str) -> dict[str, Any]:
    levels = store._levels(session, name)  # noqa: SLF001 - inside the session that is open
    family = records.family(session, store.key_of(name))
    return {
        "name": store.key_of(name),
        "family": family or _family_of(store, name),
        "newest": listing.newest_version(session, store._get_active_workspace(), name),  # noqa: SLF001
        "held": {
            level: sorted((v for v, at in levels.items() if at is level), reverse=True)
            for level in (Level.PRODUCTION, Level.CANARY, Level.STAGING)
        },
    }


def _family_of(store: KfmStore, name: str) -> str:
    try:
        return store.admission.policies.family_of(name)
    except KfmError:
        return ""


@pages.get("/models/<name>")
def model(name: str) -> Response:
    """List the versions of a model, newest first."""
    store = registry()
    levels = store.levels(name)
    before = _number("before")
    workspace = store._get_active_workspace()  # noqa: SLF001 - MLflow's own name for it
    with store.ManagedSessionMaker(read_only=True) as session:
        lines = listing.version_lines(
            session, workspace, name, before=before, limit=VERSIONS_PER_PAGE + 1
        )
        family = records.family(session, store.key_of(name)) or _family_of(store, name)
        head = records.ledger_head(session)
        reversion = last_reversion(store, session, store.key_of(name), head)
    shown = lines[:VERSIONS_PER_PAGE]
    return _page(
        "model.html",
        name=store.key_of(name),
        family=family,
        levels=levels,
        reversion=reversion,
        lines=shown,
        before=before,
        next_before=shown[-1].version if len(lines) > VERSIONS_PER_PAGE else None,
    )


@pages.get("/models/<name>/<int:version>")
def model_version(name: str, version: int) -> Response:
    """Show a version: level, gates on the way to the next one, evidence, votes, history."""
    return _page("version.html", page=load_version(registry(), name, version))


@pages.get("/models/<name>/rollout")
def rollout(name: str) -> Response:
    """Show where a model's rollout stands and what comes next; ``?live=off`` holds it still."""
    live = request.args.get("live", "on") != "off"
    return _page("rollout.html", page=load_rollout(registry(), name, live=live))


@pages.get("/badge/<name>/<int:version>.svg")
def badge(name: str, version: int) -> Response:
    """Draw a version's level and the verdict of the last decision about it."""
    store = registry()
    with store.ManagedSessionMaker(read_only=True) as session:
        level = store._levels(session, name).get(version, Level.CANDIDATE)  # noqa: SLF001 - as above
        rows = listing.ledger_rows(session, model=store.key_of(name), version=version, limit=1)
    last = decided(rows[0]) if rows else None
    standing = standing_of(
        level, last.report if last else None, overridden=bool(last and last.loud)
    )
    return Response(draw_badge(standing), mimetype="image/svg+xml")


@pages.get("/ledger")
def ledger() -> Response:
    """Show the ledger, newest first, all of it or of one model or version."""
    asked = request.args.get("model")
    chosen = {"model": asked and registry().key_of(asked), "version": _number("version")}
    before = _number("before")
    with registry().ManagedSessionMaker(read_only=True) as session:
        head = records.ledger_head(session)
        rows = listing.ledger_rows(
            session,
            model=chosen["model"] if chosen["model"] and isinstance(chosen["model"], str) else None,
            version=chosen["version"] if isinstance(chosen["version"], int) else None,
            before=before,
            limit=ROWS_PER_PAGE + 1,
        )
    shown = [decided(row) for row in rows[:ROWS_PER_PAGE]]
    return _page(
        "ledger.html",
        items=shown,
        head=head,
        before=before,
        next_before=shown[-1].row.seq if len(rows) > ROWS_PER_PAGE else None,
        **chosen,
    )


@pages.get("/ledger/<int:seq>")
def decision(seq: int) -> Response:
    """Show one row of the ledger with everything that was decided and signed."""
    with registry().ManagedSessionMaker(read_only=True) as session:
        row = listing.ledger_row(session, seq) if seq <= records.ledger_head(session) else None
    if row is None:
        return Response(f"the ledger has no row {seq}", 404, mimetype="text/plain")
    try:
        signed = json.dumps(json.loads(row.body), indent=1, sort_keys=True)
    except ValueError:
        signed = row.body
    return _page("decision.html", item=decided(row), signed=signed)


@pages.get("/policies")
def policies() -> Response:
    """List the families and what each is for."""
    found = registry().admission.policies.policies
    return _page("policies.html", policies=[found[name] for name in sorted(found)])


@pages.get("/policies/<family>")
def policy(family: str) -> Response:
    """Show a family's policy: gates, limits, people, exemptions, rollout plan."""
    admission = registry().admission
    if family not in admission.policies.policies:
        raise InputError(
            f"there is no family {family!r}", where="policy", remedy="see /kfm/policies"
        )
    found = admission.policy(family)
    written = found.model_dump(mode="json", by_alias=True, exclude_none=True)
    return _page("policy.html", policy=found, written=written, levels=list(Level)[1:])
