"""MLflow's workspaces: which one a request is in, and what of the registry's records is another's.

Rules kept here:

1. MLflow's own hook says which workspace a request is in: the header ``X-MLFLOW-WORKSPACE``, else
   its default. A link can carry no header, so our routes take ``?workspace=``, too; where both are
   there they must agree.
2. A workspace that there is not, or any on a server without workspaces, is refused: nobody is
   shown a model of the same name elsewhere.
"""

from __future__ import annotations

import json
from base64 import b64decode
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import InputError
from kfm_mlflow.release.area import DEFAULT_WORKSPACE
from kfm_mlflow.trust.model_key import signed_name
from kfm_mlflow.trust.statement import KINDS, predicate_type

if TYPE_CHECKING:
    from collections.abc import Iterator

PARAMETER = "workspace"
_KIND_OF = {predicate_type(kind): kind for kind in KINDS}


def has_workspaces() -> bool:
    """Return whether this process serves workspaces."""
    from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES

    return bool(MLFLOW_ENABLE_WORKSPACES.get())


def current_workspace() -> str:
    """Return the workspace that this request is in; empty for the default one."""
    if not has_workspaces():
        return ""
    from mlflow.utils.workspace_context import get_request_workspace

    found = get_request_workspace() or ""
    return "" if found == DEFAULT_WORKSPACE else found


@contextmanager
def inside(workspace: str) -> Iterator[None]:
    """Ask MLflow something as a request in a workspace would.

    Args:
        workspace: Its name; empty for the default one.
    """
    if not has_workspaces():
        yield
        return
    from mlflow.utils.workspace_context import ServerWorkspaceContext

    with ServerWorkspaceContext(workspace or DEFAULT_WORKSPACE):
        yield


def enter_asked(asked: list[str], header: str | None) -> None:
    """Enter the workspace that the address of a request names, if it names one.

    Args:
        asked: Every ``workspace`` in its query.
        header: The workspace that its header names.

    Raises:
        InputError: Two different ones are named, or this server has no workspaces.
        MlflowException: There is no such workspace.
    """
    wanted = {name.strip() for name in (*asked, header or "")} - {""}
    if not asked or not wanted:
        return
    if len(wanted) > 1:
        raise InputError("two different ones are named", where=PARAMETER)
    (name,) = wanted
    if not has_workspaces():
        if name == DEFAULT_WORKSPACE:
            return
        raise InputError(
            "this server has no workspaces",
            where=f"{PARAMETER} {name[:80]!r}",
            remedy="leave it out",
        )
    from mlflow.server.workspace_helpers import resolve_workspace_from_header
    from mlflow.utils.workspace_context import set_server_request_workspace

    found = resolve_workspace_from_header(name)
    set_server_request_workspace(found.name if found else None)


def said_here(envelopes: tuple[bytes, ...], key: str) -> tuple[bytes, ...]:
    """Return the statements that are about a model, or about its release alone.

    Two workspaces may have released the same bytes, each with a council of its own.

    Args:
        envelopes: Statements about a release, verified when they were kept.
        key: The model's key.
    """
    return tuple(
        data
        for data, (kind, called) in zip(envelopes, map(_read, envelopes), strict=True)
        if called is None or called == signed_name(kind, key)
    )


@lru_cache(maxsize=512)
def _read(envelope: bytes) -> tuple[str, str | None]:
    """Return kind and model name of a statement; no name where it is of no shape that we know."""
    try:
        statement: Any = json.loads(b64decode(json.loads(envelope)["payload"]))
        kind = _KIND_OF.get(statement["predicateType"], "")
        return kind, str(statement["predicate"]["binding"]["model_name"])
    except (ValueError, KeyError, TypeError):
        return "", None
