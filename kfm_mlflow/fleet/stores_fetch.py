"""Fetching artifacts from provider stores through fsspec: bounded, checked, whole or not at all.

Rules kept here:

1. A listing is judged before a byte is fetched: count, sizes, names, and suffixes that run code.
   Sizes are counted again while bytes arrive, because a listing can lie.
2. A folder on this machine is only read below the store that was named, links resolved; a link
   inside an artifact is refused.
3. What is fetched becomes visible under its digest only after its bytes gave that digest, nothing
   in it would run code when opened, and its signature was judged. Else nothing is left.
4. A signature that is missing is passed over only when the caller says ``unsafe_unsigned``, which
   is logged and told in the result. One that is wrong is never passed over.

Credentials are the clients' own (environment, instance roles); none is read or passed here.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import InputError, IntegrityError, KfmError, SignatureError, StorageError
from kfm_mlflow.fleet.stores import find_store, split_uri
from kfm_mlflow.release.manifest import build_manifest, check_path
from kfm_mlflow.release.scan import scan_release
from kfm_mlflow.trust.signing import verify_release

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from kfm_mlflow.fleet.manifest import Artifact
    from kfm_mlflow.trust.signing import TrustedSigner

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 2**20
_MAX_SIGNATURE_BYTES = 4 * 2**20
EXTRAS = {"s3": "s3", "gs": "gcs", "hf": "hf"}
"""Scheme -> the extra of this package that brings its client."""
CODE_SUFFIXES = (
    *(".bat", ".cmd", ".dll", ".dylib", ".egg", ".exe", ".jar", ".js", ".ps1", ".py", ".pyc"),
    *(".pyd", ".pyo", ".pyw", ".sh", ".so", ".whl"),
    # Pickles by custom, and archives of layers that may be functions.
    *(".bin", ".dill", ".h5", ".joblib", ".keras", ".pickle", ".pkl"),
)
"""Suffixes of what runs code, or may, when somebody opens it as what its name says."""


@dataclass(frozen=True)
class FetchLimits:
    """How much one artifact may be.

    Attributes:
        max_artifact_bytes: All its files together.
        max_file_count: How many files.
    """

    max_artifact_bytes: int = 20 * 2**30
    max_file_count: int = 1000


@dataclass(frozen=True)
class Trust:
    """Who may have signed an artifact.

    Attributes:
        signers: Whom the fleet's policy trusts; nobody means that no signature holds.
        now: The instant at which they must be trusted (aware).
        unsafe_unsigned: Take an artifact that nobody signed.
    """

    signers: Sequence[TrustedSigner]
    now: datetime
    unsafe_unsigned: bool = False


@dataclass(frozen=True)
class Fetched:
    """One artifact on this machine, its bytes and signature judged.

    Attributes:
        artifact: The manifest's entry.
        directory: Its files.
        signer: Who signed it, by the policy's name; None when it was taken unsigned.
        is_new: Whether it was downloaded now.
    """

    artifact: Artifact
    directory: Path
    signer: str | None
    is_new: bool


def place_of(into: Path, digest: str) -> Path:
    """Return the folder of an artifact's files; its signature is beside it, with ``.sig``."""
    return into / digest.removeprefix("sha256:")


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    try:
        yield
    except KfmError:
        raise
    except FileNotFoundError as exc:
        raise StorageError("nothing is there", where=uri, remedy="correct the manifest") from exc
    except Exception as exc:
        # Each client raises what its transport raises; their texts may hold a signed URL.
        _log.warning("%s: %s", uri, exc)
        raise StorageError(
            f"the store failed ({type(exc).__name__})",
            where=uri,
            remedy="check the client's credentials and the network; the log has its words",
        ) from exc


def _open_store(scheme: str) -> Any:
    """Return the fsspec file system of a scheme, with nothing remembered from before."""
    import fsspec

    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if scheme == "hf" and os.environ.get("HF_ENDPOINT"):
        # The client reads the variable once, when it is imported.
        options["endpoint"] = os.environ["HF_ENDPOINT"]
    try:
        return fsspec.get_filesystem_class(scheme)(**options)
    except ImportError as exc:
        raise InputError(
            f"no client of {scheme}:// is installed",
            where="kfm fleet collect",
            remedy=f"pip install 'kfm-mlflow[{EXTRAS.get(scheme, scheme)}]'",
        ) from exc


def _local_root(uri: str, store: str) -> str:
    """Return the real path of a ``file://`` URI, which must lie below that of its store."""
    path = Path(uri.removeprefix("file://"))
    root = Path(store.removeprefix("file://")).resolve()
    if not path.resolve().is_relative_to(root):
        raise InputError("leads out of its store through a link", where=uri, remedy="copy it there")
    return str(path.resolve())


def _problem(name: str, relative: str, entry: dict[str, Any], *, is_local: bool) -> str | None:
    """Return why one listed file may not be fetched; None when it may."""
    if is_local and os.path.realpath(name) != name:
        return "is reached through a symbolic link"
    if entry.get("type", "file") != "file":
        return "is no file"
    if Path(relative).suffix.lower() in CODE_SUFFIXES:
        return "may run code when it is opened, by its suffix"
    return check_path(relative)


def _listing(store: Any, root: str, uri: str, limits: FetchLimits) -> dict[str, tuple[str, int]]:
    """Return path inside the artifact -> (name in the store, size in bytes), judged."""
    found: dict[str, tuple[str, int]] = {}
    total_bytes = 0
    for name, entry in sorted(store.find(root, detail=True).items()):
        # A URI may name one file: an artifact of that one file.
        relative = name.rpartition("/")[2] if name == root else name.removeprefix(f"{root}/")
        if relative == ".gitattributes" and uri.startswith("hf://"):
            continue  # Written by the hub into every repository; nobody's model.
        problem = _problem(name, relative, entry, is_local=uri.startswith("file://"))
        if problem:
            raise IntegrityError(
                f"{relative} {problem}",
                where=uri,
                remedy="publish weights as .safetensors, .npz or .onnx and nothing that runs",
            )
        size_bytes = int(entry.get("size") or 0)
        total_bytes += size_bytes
        found[relative] = (name, size_bytes)
        if len(found) > limits.max_file_count or total_bytes > limits.max_artifact_bytes:
            raise InputError(
                f"has more than {limits.max_file_count} files or {limits.max_artifact_bytes} bytes",
                where=uri,
                remedy="publish less, or raise --max-artifact-bytes",
            )
    if not found:
        raise StorageError("nothing is there", where=uri, remedy="correct the manifest")
    return found


def _copy(store: Any, name: str, target: Path, allowed_bytes: int, where: str) -> int:
    """Copy one file and return its size; stop once it is more than is allowed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    copied_bytes = 0
    with store.open(name, "rb") as source, target.open("xb") as copy:
        while chunk := source.read(_CHUNK_BYTES):
            copied_bytes += len(chunk)
            if copied_bytes > allowed_bytes:
                raise InputError("is larger than its store listed, or than is allowed", where=where)
            copy.write(chunk)
    return copied_bytes


def _download(uri: str, stores: Sequence[str], target: Path, limits: FetchLimits) -> None:
    allowed = find_store(uri, stores)
    scheme, segments = split_uri(uri)
    with _translated(uri):
        store = _open_store(scheme)
        root = _local_root(uri, allowed) if scheme == "file" else "/".join(segments)
        left_bytes = limits.max_artifact_bytes
        for relative, (name, size_bytes) in _listing(store, root, uri, limits).items():
            allowed_bytes = min(size_bytes, left_bytes)
            where = f"{uri}: {relative}"
            left_bytes -= _copy(store, name, target / relative, allowed_bytes, where)


def _download_signature(uri: str, stores: Sequence[str], target: Path) -> bool:
    """Fetch a signature file; return whether there is one."""
    allowed = find_store(uri, stores)
    scheme, segments = split_uri(uri)
    with _translated(uri):
        store = _open_store(scheme)
        name = _local_root(uri, allowed) if scheme == "file" else "/".join(segments)
        if not store.isfile(name):
            return False
        _copy(store, name, target, _MAX_SIGNATURE_BYTES, uri)
    return True


def _judge_signature(
    artifact: Artifact, directory: Path, signature: Path, trust: Trust
) -> str | None:
    """Return who signed; None when nobody did and the caller takes that."""
    if not signature.is_file():
        if not trust.unsafe_unsigned:
            raise SignatureError(
                "is not signed",
                where=artifact.signature_uri,
                remedy="ask its provider to sign it (kfm sign), and put the signature there",
            )
        _log.warning("UNSAFE: %s is taken without a signature", artifact.uri)
        return None
    report = verify_release(directory, signature, trust.signers, trust.now)
    if not report.ok:
        raise SignatureError(
            "; ".join(report.problems[:3]),
            where=artifact.signature_uri,
            remedy="trust its signer in the fleet's policy, or ask its provider",
        )
    return report.signer


def _judge_bytes(artifact: Artifact, directory: Path) -> None:
    manifest = build_manifest(directory)
    if manifest.release_id != artifact.digest:
        raise IntegrityError(
            f"digest is {manifest.release_id}, the manifest says {artifact.digest}",
            where=artifact.uri,
            remedy="ask its provider which is right; nothing of it was kept",
        )
    found = scan_release(directory, {file.path: file.size_bytes for file in manifest.files})
    if found.pickles or found.formats:
        raise IntegrityError("; ".join((*found.pickles, *found.formats)[:3]), where=artifact.uri)


def _kept(artifact: Artifact, place: Path, signature: Path, trust: Trust) -> Fetched | None:
    """Return what was fetched before, judged again; None when it has to be fetched."""
    if not place.is_dir():
        return None
    try:
        if build_manifest(place).release_id != artifact.digest:
            return None
        signer = _judge_signature(artifact, place, signature, trust)
    except IntegrityError as exc:
        _log.info("%s: fetched again (%s)", artifact.uri, exc)
        return None
    return Fetched(artifact, place, signer, is_new=False)


def fetch_artifact(
    artifact: Artifact, stores: Sequence[str], into: Path, trust: Trust, limits: FetchLimits
) -> Fetched:
    """Fetch one artifact into the folder of its digest, or take it from there.

    What lies there from before is judged again, bytes and signature, and replaced if it changed.

    Args:
        artifact: From a manifest.
        stores: Prefixes that are allowed, from :func:`kfm_mlflow.fleet.stores.parse_stores`.
        into: Folder of all artifacts.
        trust: Who may have signed it.
        limits: How much it may be.

    Raises:
        InputError: The URI lies in no allowed store, the artifact is too large, or the client of
            its store is not installed.
        IntegrityError: Its bytes are not those of the digest, or may run code when opened.
        SignatureError: It is unsigned, or not signed by anybody who is trusted.
        StorageError: The store failed.
    """
    find_store(artifact.uri, stores)
    place = place_of(into, artifact.digest)
    signature = place.with_name(f"{place.name}.sig")
    kept = _kept(artifact, place, signature, trust)
    if kept is not None:
        return kept
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=into) as folder:
        draft, draft_signature = Path(folder) / "artifact", Path(folder) / "artifact.sig"
        _download(artifact.uri, stores, draft, limits)
        _judge_bytes(artifact, draft)
        is_signed = _download_signature(artifact.signature_uri, stores, draft_signature)
        signer = _judge_signature(artifact, draft, draft_signature, trust)
        if place.is_dir():
            shutil.rmtree(place)
        signature.unlink(missing_ok=True)
        if is_signed:
            draft_signature.replace(signature)
        draft.replace(place)
    return Fetched(artifact, place, signer, is_new=True)
