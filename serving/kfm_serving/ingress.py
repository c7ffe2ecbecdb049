"""The application that clients talk to: started when it is needed, and told things as a whole.

It has any number of processes. What is declared to them stands in the cluster before they are
told, so that one that starts in between has it; telling returns when the running ones have it.
"""

from __future__ import annotations

import http.client
import time
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import PlaneError
from kfm_serving import applications

if TYPE_CHECKING:
    from collections.abc import Callable

_POLL_S = 0.05
_START_S = 60.0
_ACK_S = 10.0
_FIRST_ACK_S = 2.0


class Ingress:
    """A Serve application of routers or dispatchers.

    Its class answers ``GET <prefix>/ping`` over HTTP with ``X-KFM-Generation``, and takes the call
    ``apply(data)``, which returns the generation in force.
    """

    def __init__(
        self, app: str, build: Callable[[], Any], address: tuple[str, int], route_prefix: str
    ) -> None:
        """Name the application; nothing is started.

        Args:
            app: Its name in Serve.
            build: Describes it for Serve.
            address: Host and port at which this process reaches Serve's HTTP proxy.
            route_prefix: Path under which Serve mounts it.
        """
        self.app = app
        self._build, self._address, self._route_prefix = build, address, route_prefix
        self._handle: Any = None

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self._address
        return f"http://{host}:{port}{self._route_prefix.rstrip('/')}"

    @property
    def is_known(self) -> bool:
        """True once this process has talked to it."""
        return self._handle is not None

    def ensure(self) -> None:
        """Start it unless it runs, and return when it answers over HTTP.

        Raises:
            PlaneError: It did not start, or does not answer.
        """
        status = applications.statuses().get(self.app)
        if status is not None and status.status == "RUNNING":
            return
        if status is None or status.status == "DEPLOY_FAILED":
            self._handle = None
            applications.start(self.app, self._build(), route_prefix=self._route_prefix)
        deadline_s = time.monotonic() + _START_S
        applications.await_running(self.app, deadline_s)
        self._await_http(deadline_s)

    def tell(self, data: bytes, generation: int) -> None:
        """Have every running process apply what was declared.

        Asking Serve how they are takes longer than telling them, so that comes second.

        Raises:
            PlaneError: One of them applies another generation.
        """

        def have_it(generations: list[int]) -> bool:
            return all(found >= generation for found in generations)

        try:
            self.ask("apply", data, until=have_it, limit_s=_FIRST_ACK_S)
        except PlaneError:
            self._handle = None
            self.ensure()
            self.ask("apply", data, until=have_it)

    def ask(
        self,
        method: str,
        *args: Any,
        until: Callable[[list[Any]], bool] = bool,
        limit_s: float = _ACK_S,
    ) -> list[Any]:
        """Call every running process until at least one answers and the answers are enough.

        Raises:
            PlaneError: Time is up.
        """
        deadline_s = time.monotonic() + limit_s
        failure: Exception | None = None
        while (left_s := deadline_s - time.monotonic()) > 0:
            try:
                if self._handle is None:
                    self._handle = applications.handle(self.app)
                response = self._handle.broadcast(method, *args)
                answers: list[Any] = response.results(timeout_s=min(left_s, _ACK_S / 2))
                if answers and until(answers):
                    return answers
            except Exception as exc:  # noqa: BLE001 one is starting or just died: ask again
                failure = exc
            time.sleep(_POLL_S)
        raise PlaneError(
            f"it did not answer {method!r} ({applications.reason(failure)})",
            where=self.app,
            remedy="look at `serve status`; what was declared is applied when it is back",
        ) from failure

    def forget(self) -> None:
        """Let go of the handle: the application it was for is gone."""
        self._handle = None

    def _await_http(self, deadline_s: float) -> None:
        """Wait until the application itself answers at our address."""
        while time.monotonic() < deadline_s:
            connection = http.client.HTTPConnection(*self._address, timeout=1.0)
            try:
                connection.request("GET", f"{self._route_prefix.rstrip('/')}/ping")
                if connection.getresponse().getheader("X-KFM-Generation") is not None:
                    return
            except (OSError, http.client.HTTPException):
                pass  # not listening yet: the loop's deadline decides
            finally:
                connection.close()
            time.sleep(_POLL_S)
        raise PlaneError("it does not answer over HTTP", where=self.url, remedy="check the port")
