"""What a controller writes down about where it serves; see :mod:`.deployments_endpoints`.

Rules kept here:

1. Only a controller that leads writes, once its routers answer.
2. What somebody else wrote stays, unless the operator named an address.
3. The loop waits for none of it, and a registry that refuses stops nothing.
4. An address on the loopback is not told to a registry elsewhere: whoever reads it there would send
   inputs to a machine of their own.
5. What ends with the controller is taken back with it, if it still stands there.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from kfm_mlflow.rollout.deployments_endpoints import Endpoints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kfm_mlflow.rollout.remote import RemoteRegistry
    from kfm_mlflow.rollout.watched import Call

_logger = logging.getLogger(__name__)
_WAIT_S = 5.0


def public_address(url: str, server: str, machine: str) -> str | None:
    """Return the address at which others reach what a controller serves.

    Args:
        url: Where it serves.
        server: URL of the registry, which tells the address to everybody.
        machine: Name of this machine; stands for "every address" of it.

    Returns:
        The address; None when only this machine reaches it, and the registry is on another.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if _is("is_unspecified", host):
        return urlunsplit(parts._replace(netloc=f"{machine}:{parts.port}"))
    return None if _is_loopback(host) and not _is_loopback(urlsplit(server).hostname or "") else url


def _is_loopback(host: str) -> bool:
    return host == "localhost" or _is("is_loopback", host)


def _is(kind: str, host: str) -> bool:
    try:
        return bool(getattr(ipaddress.ip_address(host), kind))
    except ValueError:
        return False


class Announcement:
    """Writes an address down, when and if it is right to."""

    def __init__(
        self, endpoints: Endpoints, model_name: str, url: str, *, replaces: bool, lasts: bool
    ) -> None:
        """Take an address; nothing is written yet.

        Args:
            endpoints: Where it is written.
            model_name: Registered model.
            url: Where it is served.
            replaces: Write it in the place of another.
            lasts: It is served on when the controller has ended.
        """
        self._endpoints, self._model_name, self._url = endpoints, model_name, url
        self._replaces, self._lasts = replaces, lasts
        self._is_ours = False
        self._thread: threading.Thread | None = None

    def saw(self, call: Call) -> None:
        """Write the address once the routers answer the controller that leads."""
        answers = call.name == "observe" and not call.error and call.result.generation > 0
        if answers and self._thread is None:
            self._thread = self._start(self._write)

    def end(self) -> None:
        """Take back what does not outlast the controller; wait 5 s for it, at most."""
        if self._thread is None:
            return
        self._thread.join(_WAIT_S)
        if self._is_ours and not self._lasts:
            self._start(self._take_back).join(_WAIT_S)

    def _start(self, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._try, args=(work,), name="kfm-address", daemon=True)
        thread.start()
        return thread

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - of MLflow's client, which has no root of its own
            _logger.warning("the address of %s was not written: %s", self._model_name, error)

    def _write(self) -> None:
        written = self._endpoints.read(self._model_name)
        if written == self._url:
            self._is_ours = True
        elif written is None or self._replaces:
            self._endpoints.write(self._model_name, self._url)
            self._is_ours = True
        else:
            _logger.warning(
                "%s is written down as served at %s; --endpoint-url changes that",
                self._model_name,
                written,
            )

    def _take_back(self) -> None:
        if self._endpoints.read(self._model_name) == self._url:
            self._endpoints.forget(self._model_name)


@contextmanager
def announced(
    registry: RemoteRegistry, model_name: str, url: str, *, named: str | None, lasts: bool
) -> Iterator[list[Announcement]]:
    """Write down where a model is served, for the length of a block.

    Args:
        registry: Who remembers it.
        model_name: Registered model.
        url: Where it is served.
        named: The address that the operator gave for others; it stays when the block ends.
        lasts: It is served on when the block has ended.
    """
    import socket

    address = named or public_address(url, registry.server, socket.gethostname())
    if address is None:
        _logger.info("only this machine reaches %s, so it is not written down", url)
        yield []
        return
    is_named = named is not None
    announcement = Announcement(
        Endpoints(registry), model_name, address, replaces=is_named, lasts=lasts or is_named
    )
    try:
        yield [announcement]
    finally:
        announcement.end()
