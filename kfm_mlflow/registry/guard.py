"""The guard before MLflow's HTTP routes: refuses what the door table does not let pass.

Invariants:

1. Whatever only reads passes, and so do our own routes, which the store guards.
2. No path, query or body leads to a write below the frozen area, however it is spelt.
3. A request that would change something and that no row of the table names is refused.

A store's own doors are guarded by the store. Under uvicorn artifact uploads never reach Flask, so
the guard is an ASGI middleware; under gunicorn the same function is called from a Flask hook.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from kfm_mlflow.registry.doors import Guard, Reason
from kfm_mlflow.registry.route_doors import door_of
from kfm_mlflow.release.freeze import FROZEN_PREFIX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from kfm_mlflow.registry.doors import Door

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

FROZEN_REFUSAL = "KFM refused to change a frozen release; releases are immutable"
OUR_PREFIX = "/kfm/"
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_PROXY = re.compile(r"/mlflow-artifacts/artifacts(?:/(?P<path>.*))?$", re.DOTALL)
_TELLING = re.compile(r"[^./\\\s\x00-\x1f?#;]")
_WORKSPACES, _WORKSPACE_DEPTH = "workspaces", 2
_MAX_SHOWN = 100
_POLICY_VIOLATION = 1008

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refusal:
    """What a refused request is told."""

    reason: Reason
    sentence: str

    def body(self) -> dict[str, str]:
        """Return the JSON answer, in the shape of MLflow's own."""
        return {
            "error_code": "PERMISSION_DENIED",
            "message": self.sentence,
            "reason_code": str(self.reason),
        }


_FROZEN = Refusal(Reason.FROZEN_AREA, FROZEN_REFUSAL)


def _decoded(text: str) -> str:
    while (decoded := unquote(text)) != text:
        text = decoded
    return text


def names_frozen(text: str) -> bool:
    """Return whether a path or URI, however it is spelt, may lead into the frozen area.

    MLflow decodes up to ten times, drops control characters and understands ``file:``; so
    everything but letters, digits and slashes is left out before comparing. A name that merely
    looks alike is refused, too.
    """
    return FROZEN_PREFIX.replace("-", "") in _plainly(_decoded(text).replace("\\", "/"))


def _plainly(text: str) -> str:
    return re.sub(r"[^a-z0-9/]", "", text.lower())


def touches_frozen(method: str, path: str) -> bool:
    """Return whether a request would change the frozen area, or a folder that it lies in.

    Those are the artifact root, and the folders of workspaces.

    Args:
        method: HTTP method.
        path: Request path, decoded or not.
    """
    if method.upper() in _READS:
        return False
    proxied = _PROXY.search(_decoded(path))
    if proxied is not None:
        parts = [p for p in re.split(r"[/\\]", _without_scheme(proxied)) if _TELLING.search(p)]
        if not parts or (_plainly(parts[0]) == _WORKSPACES and len(parts) <= _WORKSPACE_DEPTH):
            return True
    return names_frozen(path)


def _without_scheme(proxied: re.Match[str]) -> str:
    return (proxied["path"] or "").strip().lower().removeprefix("file:")


def body_names_frozen(body: Any) -> bool:
    """Return whether any text of a JSON body may lead into the frozen area.

    Every text is looked at, for a field has two names in MLflow's JSON, and a body may be JSON in
    a JSON string.
    """
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError:
            return names_frozen(body)
    waiting = [body]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str) and names_frozen(item):
            return True
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item
    return False


def refusal_of(
    method: str,
    path: str,
    query: str = "",
    *,
    static_prefix: str = "",
    read_body: Callable[[], Any] | None = None,
) -> Refusal | None:
    """Return what a request is refused with, or None when it passes on to MLflow.

    Args:
        method: HTTP method.
        path: Path as the router sees it.
        query: Query string, encoded or not.
        static_prefix: What MLflow serves its routes below (``--static-prefix``).
        read_body: Gives the JSON body, for the rows that say where something is to lie. None
            leaves them to the Flask hook, which every such request reaches.
    """
    if method.upper() in _READS:
        return None
    if touches_frozen(method, path):
        return _FROZEN
    if path.startswith(OUR_PREFIX):
        return None
    if static_prefix and path.startswith(f"{static_prefix}/"):
        path = path.removeprefix(static_prefix)
    row = door_of(method, path)
    if row is None:
        return Refusal(
            Reason.DOOR_UNKNOWN,
            f"KFM refused {method[:_MAX_SHOWN]} {path[:_MAX_SHOWN]}: "
            "this version of kfm-mlflow does not know this door",
        )
    if row.guard is Guard.CLOSED or _asks_for_more(row, query):
        return Refusal(Reason.DOOR_CLOSED, f"KFM refused to {row.name}: {row.why}")
    named = (row.guard is Guard.FREEZE and names_frozen(query)) or (
        row.reads_body and read_body is not None and body_names_frozen(read_body())
    )
    return _FROZEN if named else None


def _asks_for_more(row: Door, query: str) -> bool:
    if row.only_query is None:
        return False
    key, value = row.only_query
    return bool(set(parse_qs(query, keep_blank_values=True).get(key, ())) - {value})


class DoorGuard:
    """ASGI middleware that answers refused requests with 403."""

    def __init__(self, app: AsgiApp, static_prefix: str = "") -> None:
        """Stand before an application.

        Args:
            app: What requests pass on to.
            static_prefix: See :func:`refusal_of`.
        """
        self.app = app
        self.static_prefix = static_prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse or pass on."""
        if scope["type"] == "websocket":
            # MLflow has none; one that it grows would be a door that no row names.
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        refusal = None
        if scope["type"] == "http":
            query = scope.get("query_string", b"").decode("latin-1")
            refusal = refusal_of(
                scope["method"], routed_path(scope), query, static_prefix=self.static_prefix
            )
        if refusal is None:
            await self.app(scope, receive, send)
            return
        log_refusal(refusal)
        body = json.dumps(refusal.body()).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send(
            {"type": "http.response.start", "status": refusal.reason.status, "headers": headers}
        )
        await send({"type": "http.response.body", "body": body})


def routed_path(scope: Scope) -> str:
    """Return the path without the mount's prefix, as Starlette's router takes it."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def log_refusal(refusal: Refusal) -> None:
    """Leave a line about a refused request in the server's log."""
    _log.warning("%s (%s)", refusal.sentence.encode("unicode_escape").decode(), refusal.reason)
