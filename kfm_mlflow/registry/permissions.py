"""What a logged-in user who is no administrator may ask of our routes, by MLflow's permissions.

1. Reading a model's pages and API needs READ on the model; moving it or writing its rollout journal
   needs UPDATE, as MLflow's stage transition does.
2. Sending a signed statement, or a certificate of such, needs READ: the signatures and the
   policy's roles decide the rest. So does having an export signed, which writes nothing.
3. What tells of many models at once (the whole ledger) needs READ on all that it tells of; the list
   of models and the STAC API leave out the others (:func:`kfm_mlflow.registry.actor.may_read`).
   A model is always asked for in its own workspace.
4. A write that names no model is for administrators.
5. A frozen release is read by whoever may read a model that it is a version of. MLflow knows
   artifacts by experiment, and the frozen area is none.

Whether a move is made is decided afterwards, by the policy.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from kfm_mlflow.registry.guard import names_frozen
from kfm_mlflow.registry.workspaces import current_workspace, inside
from kfm_mlflow.release.area import FROZEN_PREFIX
from kfm_mlflow.trust.model_key import split_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flask import Request

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_SIGNED = frozenset(
    {"kfm_api.attest", "kfm_api.vote", "kfm_api.sign_export", "kfm_api.post_certificate"}
)
_OF_NO_MODEL = frozenset(
    {"style", "home", "policies", "policy", "regions", "openapi", "ledger_head", "ledger_key"}
)
"""Views that tell of no model, or leave out by themselves those that may not be read."""
_STAC = "kfm_stac"
"""The blueprint whose views all do so; a search is a POST and writes nothing."""
_NAMES = ("name", "model", "model_name")
_MAX_SEQ = 2**31 - 1
_PROXY = "/mlflow-artifacts/"
_AREA = rf"(?:.*{_PROXY}[a-z]+/|/?)(?:workspaces/[a-z0-9-]+/)?{FROZEN_PREFIX}"
_RELEASE = re.compile(rf"{_AREA}/([0-9a-f]{{64}})(?:/[^%\\]*)?")


def is_ours(path: str) -> bool:
    """Return whether a path is below our pages."""
    return path == "/kfm" or path.startswith("/kfm/")


def permits(request: Request) -> bool:
    """Return whether MLflow's permissions let a request to our routes through.

    Raises:
        MlflowException: 403 with a sentence, where there is something else to ask for.
    """
    from flask import g

    user = str(g.mlflow_authenticated_user)
    g.kfm_may_read = lambda name: permits_model(user, name, writes=False)
    if request.url_rule is None:
        return True  # There is no such page; nothing runs.
    if request.blueprint == _STAC:
        return True
    writes = request.method not in _READS and request.endpoint not in _SIGNED
    named = models_named(request)
    row = _model_of_row((request.view_args or {}).get("seq"))
    if named or row:
        return all(permits_model(user, name, writes=writes) for name in named) and all(
            _permits_key(user, key) for key in row
        )
    if request.method not in _READS:
        return False
    return str(request.endpoint).rpartition(".")[2] in _OF_NO_MODEL or _reads_ledger(user)


def models_named(request: Request) -> list[str]:
    """Return every model that a request names: in its path, its query or its JSON."""
    places: list[Any] = [(request.view_args or {}).get(key) for key in _NAMES]
    places += [value for key in _NAMES for value in request.args.getlist(key)]
    if request.method not in _READS:
        body = request.get_json(silent=True)
        places += [body.get(key) for key in _NAMES] if isinstance(body, dict) else []
    return [str(name) for name in places if name]


def permits_model(user: str, name: str, *, writes: bool) -> bool:
    """Ask MLflow for a permission on a model and its versions, as its own validators do."""
    from mlflow.server import auth

    anchor = (auth.RESOURCE_TYPE_REGISTERED_MODEL, name)
    tier = auth.RESOURCE_TYPE_REGISTERED_MODEL_VERSION
    versions = (
        auth.Requirement(tier, "*", "update", fallback_if_no_grant=(anchor,))
        if writes
        else auth.Requirement(tier, "*", auth.ACTION_NOT_DENIED)
    )
    return bool(auth.authorize(user, anchor, [auth.Requirement(*anchor, "read"), versions]))


def _permits_key(user: str, key: str) -> bool:
    """Return whether a user may read a model, whatever workspace it is in."""
    workspace, name = split_key(key)
    with inside(workspace):
        return permits_model(user, name, writes=False)


def _is_model(name: str) -> bool:
    """Return whether a ledger row's subject is a model; rows about policies have a colon there."""
    return bool(name) and ":" not in name


def _model_of_row(seq: int | None) -> list[str]:
    """Return the model that a row of the ledger is about; none for a row that there is not."""
    from sqlalchemy import select

    from kfm_mlflow.registry import tables
    from kfm_mlflow.registry.api import registry

    if not isinstance(seq, int) or seq > _MAX_SEQ:
        return []
    query = select(tables.ledger.c.model).where(tables.ledger.c.seq == seq)
    with registry().ManagedSessionMaker(read_only=True) as session:
        return [name for name in session.execute(query).scalars() if _is_model(name)]


def _reads_ledger(user: str) -> bool:
    from sqlalchemy import select

    from kfm_mlflow.registry import tables
    from kfm_mlflow.registry.api import registry
    from kfm_mlflow.registry.translate import refuse

    with registry().ManagedSessionMaker(read_only=True) as session:
        names = session.execute(select(tables.ledger.c.model).distinct()).scalars().all()
    if all(_permits_key(user, name) for name in names if _is_model(name)):
        return True
    raise refuse(
        "KFM refused: you may not read every model that is in the ledger; ask for one model"
    )


def asks_for_frozen(path: str, query_paths: Sequence[str]) -> bool:
    """Return whether a request to MLflow's artifact proxy may lead into the frozen area."""
    return _PROXY in path and any(names_frozen(text) for text in (path, *query_paths))


def release_asked_for(path: str, query_paths: Sequence[str]) -> str | None:
    """Return the release id that a request into the frozen area is about.

    Args:
        path: Path of the request, decoded once.
        query_paths: Every ``path`` of its query.

    Returns:
        ``sha256:<hex>``; None when the request is written in any but the plain way, climbs, or
        asks for the area itself.
    """
    texts = [text for text in (path, *query_paths) if names_frozen(text)]
    matches = [_RELEASE.fullmatch(text) for text in texts]
    if len(texts) != 1 or matches[0] is None or ".." in texts[0].split("/"):
        return None
    return f"sha256:{matches[0][1]}"


def permits_frozen(user: str, path: str, query_paths: Sequence[str]) -> bool:
    """Return whether a user may read a model that the release asked for is a version of."""
    from sqlalchemy import select

    from kfm_mlflow.registry import tables
    from kfm_mlflow.registry.api import registry

    release_id = release_asked_for(path, query_paths)
    if release_id is None:
        return False
    query = select(tables.release.c.model).where(tables.release.c.release_id == release_id)
    with registry().ManagedSessionMaker(read_only=True) as session:
        keys = session.execute(query.distinct()).scalars().all()
    here = current_workspace()
    return any(_permits_key(user, key) for key in keys if split_key(key)[0] == here)
