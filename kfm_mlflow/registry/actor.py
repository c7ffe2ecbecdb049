"""Who asks: the user that MLflow's basic-auth let in, and where the request came from.

Rules:

1. A name is believed only when MLflow's authentication put it there; no header ever gives one.
2. A forwarding header only takes trust away: who came through a proxy is not local, whatever
   address the proxy has.
3. Outside a request there is nobody to ask: the caller has the database in its hands already.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

UNAUTHENTICATED = "unauthenticated"
UNKNOWN_ADDRESS = "unknown"
"""The address of a request whose socket has none, such as a Unix socket."""
_FORWARDING_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")


@dataclass(frozen=True)
class Actor:
    """Who asks for something.

    Attributes:
        name: User name, or ``unauthenticated``.
        authenticated: Whether the server checked a password or token for the name. A user may be
            called ``unauthenticated``, so compare this and not the name.
        remote_address: Address of the socket's other end; ``unknown`` where it has none; empty
            outside any request (in-process use).
        forwarded: Whether the request says that it came through a proxy.
    """

    name: str
    authenticated: bool
    remote_address: str
    forwarded: bool = False

    @property
    def is_local(self) -> bool:
        """Whether the request began on this machine: in-process, or loopback and no proxy."""
        if not self.remote_address:
            return True
        return not self.forwarded and is_loopback(self.remote_address)


IN_PROCESS = Actor(UNAUTHENTICATED, authenticated=False, remote_address="")


def is_loopback(address: str) -> bool:
    """Return whether an IP address is this machine's own loopback; a name or nonsense is not.

    Args:
        address: IPv4 or IPv6 address, with or without a zone, also IPv4 written as IPv6.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return (mapped or parsed).is_loopback


def current_actor() -> Actor:
    """Return who asks in the request that this thread serves.

    Returns:
        The authenticated user; without authentication an actor named ``unauthenticated``;
        :data:`IN_PROCESS` outside any request.
    """
    try:
        from flask import g, has_request_context, request
    except ImportError:
        return IN_PROCESS
    if not has_request_context():
        return IN_PROCESS
    user = g.get("mlflow_authenticated_user")
    return Actor(
        name=str(user) if user else UNAUTHENTICATED,
        authenticated=bool(user),
        remote_address=request.environ.get("REMOTE_ADDR") or UNKNOWN_ADDRESS,
        forwarded=any(header in request.headers for header in _FORWARDING_HEADERS),
    )


def may_read(model_name: str) -> bool:
    """Return whether who asks may read a model; on a server without logins everybody may.

    Args:
        model_name: Registered model.
    """
    try:
        from flask import g, has_request_context
    except ImportError:
        return True
    permits = g.get("kfm_may_read") if has_request_context() else None
    return permits is None or bool(permits(model_name))
