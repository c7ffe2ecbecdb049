"""Where frozen releases lie, as the server reaches them and as clients name them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from kfm_mlflow.errors import StorageError

FROZEN_PREFIX = "kfm-frozen"
DEFAULT_WORKSPACE = "default"
"""MLflow's name for the workspace of what was there before there were any."""
_WORKSPACES = "workspaces"


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
        workspace: MLflow workspace whose releases are frozen; empty for the default one. Its folder
            is where MLflow's proxy keeps everything of it, and lets nobody else read.
    """

    destination: str
    proxied: bool
    workspace: str = ""

    @property
    def frozen_prefix(self) -> str:
        """Where frozen releases lie below the root."""
        return (
            f"{_WORKSPACES}/{self.workspace}/{FROZEN_PREFIX}" if self.workspace else FROZEN_PREFIX
        )

    def workspace_of(self, uri: str) -> str | None:
        """Return whose folder below the root a URI leads into.

        Args:
            uri: As the server reads it.

        Returns:
            The workspace; empty for the default one; None outside of the root.
        """
        root, path = local_path(self.destination), local_path(uri)
        base = f"{self.destination.rstrip('/')}/"
        if root is not None and path is not None:
            home, found = root.resolve(), path.resolve()
            if not found.is_relative_to(home):
                return None
            parts = found.relative_to(home).parts
        elif uri.startswith(base):
            parts = tuple(part for part in uri.removeprefix(base).split("/") if part)
        else:
            return None
        named = parts[1] if len(parts) > 1 and parts[0] == _WORKSPACES else ""
        return "" if named == DEFAULT_WORKSPACE else named

    def resolve(self, uri: str) -> str:
        """Return the URI that the server itself can read for a client's artifact URI.

        What names no workspace lies in the folder of this one, as MLflow's proxy has it.

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
        if self.workspace and not path.startswith(f"{_WORKSPACES}/"):
            path = f"{_WORKSPACES}/{self.workspace}/{path}"
        return f"{self.destination.rstrip('/')}/{path}"

    def frozen_uri(self, release_id: str) -> str:
        """Return where clients read the frozen copy of a release."""
        tail = f"{self.frozen_prefix}/{release_id.removeprefix('sha256:')}/release"
        return (
            f"mlflow-artifacts:/{tail}"
            if self.proxied
            else f"{self.destination.rstrip('/')}/{tail}"
        )
