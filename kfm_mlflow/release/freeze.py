"""Frozen copies: a release where nobody can write, and the way back to a local directory.

A frozen release is content-addressed: ``<area>/<hex of release id>/release`` with its evidence
beside it. It is copied, read back and compared with the release id before anybody points to it;
a copy that does not agree is removed. Freezing what is already frozen is a check, not a copy.

Artifact stores are reached through MLflow's own repositories, so that local disks and object
stores are one case.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from kfm_mlflow.canonical import digest_bytes, write_bytes
from kfm_mlflow.errors import ManifestError, StorageError
from kfm_mlflow.release.bundle import SIGNATURE_FILE, Bundle, bundle_at, evidence_uri
from kfm_mlflow.release.manifest import Manifest, build_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def _download(uri: str, target: Path) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    target.mkdir(parents=True)
    try:
        get_artifact_repository(uri).download_artifacts("", dst_path=str(target))
    except (MlflowException, OSError) as exc:
        raise StorageError(f"cannot be read ({exc})", where=uri) from exc


def _upload(source: Path, uri: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        get_artifact_repository(uri).log_artifacts(str(source))
    except (MlflowException, OSError) as exc:
        raise StorageError(f"cannot be written ({exc})", where=uri) from exc


@contextmanager
def local_bundle(uri: str) -> Iterator[Bundle]:
    """Give a release and its evidence as local directories, for as long as the block runs.

    Args:
        uri: Where the release lies, as this process reaches it. A local directory is used in
            place; anything else is downloaded to a temporary folder.

    Raises:
        StorageError: It cannot be read.
    """
    path = local_path(uri)
    if path is not None:
        if not path.is_dir():
            raise StorageError("no such directory", where=str(path))
        yield bundle_at(path)
        return
    with tempfile.TemporaryDirectory(prefix="kfm-release-") as folder:
        bundle = bundle_at(Path(folder) / "release")
        _download(uri, bundle.release_dir)
        try:
            _download(evidence_uri(uri), bundle.evidence_dir)
        except StorageError:
            # Evidence may not exist yet; the gates say what is missing.
            shutil.rmtree(bundle.evidence_dir, ignore_errors=True)
        yield bundle


def _copy(bundle: Bundle, target: Path) -> None:
    shutil.copytree(bundle.release_dir, target / "release", symlinks=True)
    if bundle.evidence_dir.is_dir():
        shutil.copytree(
            bundle.evidence_dir, bundle_at(target / "release").evidence_dir, symlinks=True
        )


def _add_evidence(bundle: Bundle, frozen: Path) -> None:
    """Add what is said about a frozen release since; what was said before stays."""
    if not bundle.evidence_dir.is_dir() or frozen.resolve() == bundle.evidence_dir.resolve():
        return
    known = {path.read_bytes() for path in frozen.iterdir()} if frozen.is_dir() else set()
    new = [p for p in sorted(bundle.evidence_dir.iterdir()) if p.read_bytes() not in known]
    if not new:
        return
    frozen.parent.chmod(0o755)
    frozen.mkdir(exist_ok=True)
    frozen.chmod(0o755)
    try:
        for path in new:
            data = path.read_bytes()
            # The gates have just verified this signature: it replaces one no longer taken.
            taken = (frozen / path.name).exists() and path.name != SIGNATURE_FILE
            name = f"{digest_bytes(data)[7:19]}-{path.name}" if taken else path.name
            write_bytes(frozen / name, data, mode=0o444)
    finally:
        frozen.chmod(0o555)
        frozen.parent.chmod(0o555)


def _protect(root: Path) -> None:
    for path in sorted(root.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    root.chmod(0o555)


def _unprotect_and_remove(root: Path) -> None:
    for path in [root, *root.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(root)


def _verify_copy(release_dir: Path, manifest: Manifest) -> None:
    found = build_manifest(release_dir)
    if found.release_id != manifest.release_id:
        raise ManifestError(
            f"the copy has release id {found.release_id}, expected {manifest.release_id}",
            where=str(release_dir),
            remedy="the release changed while it was copied; try the move again",
        )


def freeze(bundle: Bundle, manifest: Manifest, area: ArtifactArea) -> str:
    """Copy a release and its evidence to the frozen area and verify the copy.

    Args:
        bundle: The release, readable locally.
        manifest: What the gates judged; the copy must have the same release id.
        area: The server's artifact root.

    Returns:
        The URI at which clients read the frozen release.

    Raises:
        ManifestError: The copy does not agree with the manifest; it has been removed.
        StorageError: The area cannot be read or written.
    """
    key = manifest.release_id.removeprefix("sha256:")
    root = local_path(area.destination)
    if root is None:
        target = f"{area.destination.rstrip('/')}/{FROZEN_PREFIX}/{key}/release"
        _upload(bundle.release_dir, target)
        if bundle.evidence_dir.is_dir():
            _upload(bundle.evidence_dir, evidence_uri(target))
        with local_bundle(target) as copy:
            _verify_copy(copy.release_dir, manifest)
        return area.frozen_uri(manifest.release_id)
    final = root / FROZEN_PREFIX / key
    if final.is_dir():
        _verify_copy(final / "release", manifest)
        _add_evidence(bundle, bundle_at(final / "release").evidence_dir)
        return area.frozen_uri(manifest.release_id)
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{key[:16]}.", dir=final.parent))
    try:
        _copy(bundle, partial)
        _verify_copy(partial / "release", manifest)
        _protect(partial)
        try:
            partial.rename(final)
        except OSError:
            # Somebody else froze the same bytes first.
            _unprotect_and_remove(partial)
            _verify_copy(final / "release", manifest)
    except BaseException as exc:
        if partial.is_dir():
            _unprotect_and_remove(partial)
        if isinstance(exc, OSError):
            raise StorageError(f"cannot be written ({exc})", where=str(final)) from exc
        raise
    return area.frozen_uri(manifest.release_id)
