"""Where frozen releases lie, as the server reaches them and as clients name them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from kfm_mlflow.errors import StorageError

FROZEN_PREFIX = "kfm-frozen"


def local_path(uri: str) -> Path | None:
    """Return the path that a ``file:`` URI or a plain path names, or None for other schemes."""
    parsed = urlparse(uri)
    if parsed.scheme == "":
        return Path(uri)
    if parsed.scheme == "file" and parsed.netloc in {"", "localhost"}:
        return Path(unquote(parsed.path))
    return None


@dataclass(frozen=True)
class ArtifactArea:
    """The server's artifact root, as the server itself reaches it and as clients name it.

    Attributes:
        destination: Path or URI behind the server's artifact proxy (``--artifacts-destination``).
        proxied: Whether clients reach it as ``mlflow-artifacts:/``.
    """

    destination: str
    proxied: bool

    def resolve(self, uri: str) -> str:
        """Return the URI that the server itself can read for a client's artifact URI.

        Raises:
            StorageError: The URI is the proxy's, and there is no proxy.
        """
        parsed = urlparse(uri)
        if parsed.scheme != "mlflow-artifacts":
            return uri
        if not self.proxied:
            raise StorageError("the server does not proxy artifacts", where=uri)
        path = unquote(parsed.path).lstrip("/")
        if any(part in {"..", "."} for part in path.split("/")):
            raise StorageError("climbs out of the artifact root", where=uri)
        return f"{self.destination.rstrip('/')}/{path}"

    def frozen_uri(self, release_id: str) -> str:
        """Return where clients read the frozen copy of a release."""
        tail = f"{FROZEN_PREFIX}/{release_id.removeprefix('sha256:')}/release"
        return (
            f"mlflow-artifacts:/{tail}"
            if self.proxied
            else f"{self.destination.rstrip('/')}/{tail}"
        )
