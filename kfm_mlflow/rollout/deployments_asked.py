"""What a user of ``mlflow.deployments`` asks for: target, model and options as values. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kfm_mlflow.rollout.inputs import OperatorOrder

FLAVOR = "onnx"
"""What of a release is served: its ``model.onnx``."""
ORDERS: tuple[OperatorOrder, ...] = ("pause", "resume", "promote", "abort")
"""To the rollout that is under way; a rollback has its own command."""
_TARGET = "kfm"


def server_of(target_uri: str, tracking_uri: str) -> str:
    """Return the governed server that a target names.

    Args:
        target_uri: ``kfm``, ``kfm:/http://HOST:PORT`` or ``kfm+http://HOST:PORT``.
        tracking_uri: MLflow's; the server of a target that names none.

    Raises:
        InputError: The target is something else, or no URL of a server is named.
    """
    named = target_uri.removeprefix(_TARGET)
    if named.startswith("+"):
        server = named.removeprefix("+")
    elif named in {"", ":", ":/"}:
        server = tracking_uri
    elif named.startswith(":/"):
        server = named.removeprefix(":/")
    else:
        server = ""
    return parse_url(
        server,
        where=f"target {target_uri}",
        remedy="set MLFLOW_TRACKING_URI, or use kfm:/http://HOST:PORT",
    )


def parse_url(text: str, *, where: str, remedy: str) -> str:
    """Return an HTTP address without a slash at its end.

    Raises:
        InputError: It is none, or holds a query, a fragment or a password.
    """
    try:
        parts = urlsplit(text)
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or parts.query or parts.fragment or "@" in parts.netloc:
        raise InputError(f"{text!r} is no HTTP address", where=where, remedy=remedy)
    return text.rstrip("/")


def read_config(config: Mapping[str, object] | None, *known: str) -> dict[str, str]:
    """Return options as text; the command line gives no others.

    Args:
        config: What the user gave; None is nothing.
        known: The options that there are.

    Raises:
        InputError: There is no such option.
    """
    given = {str(key): str(value) for key, value in (config or {}).items()}
    foreign = sorted(set(given) - set(known))
    if foreign:
        raise InputError(
            f"{foreign[0]!r} is no option here",
            where="config",
            remedy=f"use {', '.join(known)}; shares, steps and limits are the policy's"
            if known
            else "leave it out",
        )
    return given


def require_flavor(flavor: str | None) -> None:
    """Refuse a flavor that is not served.

    Raises:
        InputError: It is another than the ONNX one.
    """
    if flavor not in {None, "", FLAVOR}:
        raise InputError(
            f"{flavor!r} is not served", where="flavor", remedy=f"use {FLAVOR}, or leave it out"
        )


def name_of(name: str | None, endpoint: str | None) -> str:
    """Return the registered model that a deployment or its endpoint names: they have one name.

    Raises:
        InputError: None is given, or they differ.
    """
    given = {text for text in (name, endpoint) if text}
    if len(given) != 1:
        raise InputError(
            f"{name!r} is not in endpoint {endpoint!r}" if given else "name a registered model",
            where="name",
            remedy="a deployment and its endpoint have the name of the registered model",
        )
    return given.pop()


def parse_order(text: str) -> OperatorOrder:
    """Return an operator's order to the rollout that is under way.

    Raises:
        InputError: There is no such order.
    """
    order = next((order for order in ORDERS if order == text), None)
    if order is None:
        raise InputError(
            f"{text!r} is no order", where="config rollout", remedy=f"use {', '.join(ORDERS)}"
        )
    return order


def parse_version(options: Mapping[str, str]) -> int | None:
    """Return the version that options name; None when they name none.

    Raises:
        InputError: It is no number of a version.
    """
    text = options.get("version")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise InputError(f"{text!r} is no version", where="config version", remedy="use 1, 2, …")
    return int(text)
