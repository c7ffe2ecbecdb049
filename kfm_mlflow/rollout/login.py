"""How requests to the server log in and check its certificate: as MLflow's own client does.

The same variables and the same file, in the same order: ``MLFLOW_TRACKING_USERNAME`` and
``MLFLOW_TRACKING_PASSWORD``, each from ``~/.mlflow/credentials`` when it is not set; otherwise
``MLFLOW_TRACKING_TOKEN``. MLflow is not imported for it, so that commands start at once. Its
plug-ins (``MLFLOW_TRACKING_AUTH``, AWS signatures) are not supported.
"""

from __future__ import annotations

import base64
import configparser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

_USERNAME, _PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
_INSECURE, _CA = "MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_TRACKING_SERVER_CERT_PATH"
_TRUE, _FALSE = ("true", "1"), ("false", "0")


@dataclass(frozen=True)
class Login:
    """What every request carries.

    Attributes:
        authorization: Value of the ``Authorization`` header; empty without credentials.
        username: Who logs in; empty with a token or without credentials.
        verify: Whether the server's certificate is checked, or the file of authorities to trust.
        client_cert: File with the client's own certificate and key, or None.
    """

    authorization: str = ""
    username: str = ""
    verify: bool | str = True
    client_cert: str | None = None

    def __repr__(self) -> str:
        """Write everything but the secret."""
        return f"Login(username={self.username!r}, verify={self.verify!r})"

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of :func:`requests.request`."""

        def authorize(request: Any) -> Any:
            request.headers["Authorization"] = self.authorization
            return request

        # A header alone would be overridden by ~/.netrc.
        found: dict[str, Any] = {"auth": authorize} if self.authorization else {}
        if self.verify is not True:
            found["verify"] = self.verify
        return {**found, "cert": self.client_cert} if self.client_cert else found


def _from_file(path: Path) -> Mapping[str, str]:
    parser = configparser.ConfigParser()
    try:
        parser.read(path, encoding="utf-8")
        return dict(parser["mlflow"]) if "mlflow" in parser else {}
    except (configparser.Error, OSError, UnicodeDecodeError) as exc:
        raise InputError(
            f"cannot be read ({type(exc).__name__})",
            where=str(path),
            remedy="write [mlflow], mlflow_tracking_username = …, mlflow_tracking_password = …",
        ) from exc


def _verify(environ: Mapping[str, str]) -> bool | str:
    authorities = environ.get(_CA)
    insecure = environ.get(_INSECURE, "false").lower()
    if insecure not in _TRUE + _FALSE:
        raise InputError("must be true or false", where=f"{_INSECURE}={insecure}")
    if authorities is None:
        return insecure in _FALSE
    if insecure in _TRUE:
        raise InputError(f"cannot go with {_CA}", where=_INSECURE, remedy="unset one of them")
    if not Path(authorities).exists():
        raise InputError("there is no such file", where=f"{_CA}={authorities}")
    return authorities


def load_login(environ: Mapping[str, str], home: Path) -> Login:
    """Read credentials and TLS settings.

    Args:
        environ: Environment variables.
        home: The user's home directory, where ``.mlflow/credentials`` may be.

    Raises:
        InputError: A file cannot be read, or settings contradict each other.
    """
    written = _from_file(home / ".mlflow" / "credentials")
    username = environ.get(_USERNAME) or written.get(_USERNAME.lower()) or ""
    password = environ.get(_PASSWORD) or written.get(_PASSWORD.lower()) or ""
    token = environ.get("MLFLOW_TRACKING_TOKEN", "")
    authorization = ""
    if username and password:
        both = base64.b64encode(f"{username}:{password}".encode()).decode("ascii")
        authorization = f"Basic {both}"
    elif token:
        authorization, username = f"Bearer {token}", ""
    return Login(
        authorization,
        username if authorization else "",
        _verify(environ),
        environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"),
    )
