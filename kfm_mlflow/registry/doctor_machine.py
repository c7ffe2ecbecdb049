"""What the doctor sees of the machine: files, permissions, keys, and other MLflow servers.

Rules kept here:

1. What cannot be seen from here (a bucket, another user's process) is said to be skipped.
2. No secret is shown: passwords in database URIs are masked, keys are named by path.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kfm_mlflow.errors import KfmError
from kfm_mlflow.registry.doctor_finding import Finding, judged
from kfm_mlflow.release.freeze import FROZEN_PREFIX, ArtifactArea, local_path
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.keys import load_private_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from kfm_mlflow.registry.doctor_database import Released

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_ANY_WRITE = stat.S_IWUSR | _OTHERS_WRITE
_HEX = frozenset("0123456789abcdef")
_DIGEST_LENGTH = 64
_NONE_OTHERS = 0o077
_TRUE = frozenset({"true", "1"})

# -- databases by name -----------------------------------------------------------------------------


def shown(uri: str) -> str:
    """Return a database URI without its password."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    prefix = "kfm+" if uri.startswith("kfm+") else ""
    try:
        url = make_url(uri.removeprefix("kfm+"))
    except ArgumentError:
        return f"{prefix}(a URI that cannot be read)"
    hidden = {key: "***" for key in url.query if "pass" in key.lower()}
    return prefix + url.update_query_dict(hidden).render_as_string(hide_password=True)


def database_name(uri: str, folder: Path | None) -> tuple[str, ...] | None:
    """Return what tells one database from another, whatever the driver, user and ``kfm+``.

    Args:
        uri: Store URI.
        folder: Where relative paths begin; None when it cannot be known.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri.removeprefix("kfm+"))
    except ArgumentError:
        return None
    backend = url.get_backend_name()
    if backend == "sqlite":
        path = Path(url.database or "")
        if not path.is_absolute() and folder is None:
            return None
        return (backend, os.path.realpath((folder or Path("/")) / path))
    host = url.host or "localhost"
    host = "localhost" if host in {"127.0.0.1", "::1"} else host
    return (backend, host, str(url.port or ""), url.database or "")


# -- other servers ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    """A process of this machine, as far as it can be seen.

    Attributes:
        pid: Its number.
        command: Its command line.
        environ: Its environment at start; None when that cannot be seen.
        folder: Where it works; None when that cannot be seen.
    """

    pid: int
    command: tuple[str, ...]
    environ: Mapping[str, str] | None = field(repr=False, default=None)
    folder: Path | None = None


def processes(proc: Path = Path("/proc")) -> Iterator[Process]:
    """Return every process of this machine but this one; nothing where there is no ``/proc``."""
    for entry in sorted(proc.glob("[0-9]*")):
        if int(entry.name) == os.getpid():
            continue
        try:
            command = tuple((entry / "cmdline").read_text("utf-8", "replace").split("\0")[:-1])
        except OSError:
            continue  # It has ended.
        yield Process(int(entry.name), command, _environ(entry), _folder(entry))


def _environ(entry: Path) -> dict[str, str] | None:
    try:
        text = (entry / "environ").read_text("utf-8", "replace")
    except OSError:
        return None
    return dict(item.split("=", 1) for item in text.split("\0") if "=" in item)


def _folder(entry: Path) -> Path | None:
    try:
        return (entry / "cwd").readlink()
    except OSError:
        return None


def _option(command: Sequence[str], name: str) -> str:
    for index, word in enumerate(command):
        if word == name and index + 1 < len(command):
            return command[index + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""


def registry_uri_of(process: Process) -> str:
    """Return the store that a process keeps its model registry in; empty when it is no server."""
    environ = process.environ or {}
    ours = environ.get("_MLFLOW_SERVER_REGISTRY_STORE") or environ.get("_MLFLOW_SERVER_FILE_STORE")
    names = {Path(word).name for word in process.command[:4]}
    if not ("mlflow" in names and {"server", "ui"} & set(process.command)):
        return ours or ""
    return (
        _option(process.command, "--registry-store-uri")
        or environ.get("MLFLOW_REGISTRY_STORE_URI")
        or ours
        or _option(process.command, "--backend-store-uri")
        or environ.get("MLFLOW_BACKEND_STORE_URI")
        or "sqlite:///mlflow.db"
    )


def plain_servers(seen: Iterable[Process], database_uri: str, folder: Path) -> list[Finding]:
    """Look for MLflow servers on the same database whose registry is not governed.

    Args:
        seen: Processes of this machine.
        database_uri: The registry's database.
        folder: Where its relative path begins.
    """
    wanted = database_name(database_uri, folder)
    bad = []
    remote_assistant = []
    for process in seen:
        uri = registry_uri_of(process)
        if not uri or wanted is None or database_name(uri, process.folder) != wanted:
            continue
        if not uri.startswith("kfm+"):
            bad.append(f"process {process.pid} ({shown(uri)})")
        if _assists(process.environ or {}):
            remote_assistant.append(f"process {process.pid}")
    return [
        judged(
            "plain servers",
            bad,
            "MLflow servers on the registry's database without kfm+",
            "stop them, and start them with `kfm server`",
            "no plain MLflow server of this machine uses the database",
        ),
        judged(
            "assistant",
            remote_assistant,
            "servers let other machines talk to MLflow's assistant, which runs commands here",
            "start them without MLFLOW_ENABLE_REMOTE_ASSISTANT",
            "no server lets other machines talk to MLflow's assistant",
        ),
    ]


def _assists(environ: Mapping[str, str]) -> bool:
    return environ.get("MLFLOW_ENABLE_REMOTE_ASSISTANT", "").lower() in _TRUE


_STORE_VARIABLES = (
    "MLFLOW_REGISTRY_STORE_URI",
    "MLFLOW_BACKEND_STORE_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_TRACKING_URI",
)


def environment(environ: Mapping[str, str], database_uri: str, folder: Path) -> list[Finding]:
    """Look for variables that would open the registry's database without the registry."""
    wanted = database_name(database_uri, folder)
    governed = environ.get("MLFLOW_REGISTRY_STORE_URI", "").startswith("kfm+")
    bad = [
        f"{name}={shown(value)}"
        for name in _STORE_VARIABLES
        if (value := environ.get(name, "")) and not value.startswith(("kfm+", "http"))
        # The backend store may be the same database where the registry is governed.
        if not (name == "MLFLOW_BACKEND_STORE_URI" and governed)
        if database_name(value, folder) == wanted
    ]
    if _assists(environ):
        bad.append("MLFLOW_ENABLE_REMOTE_ASSISTANT, by which others run commands here")
    return [
        judged(
            "environment",
            bad,
            "variables that lead past the registry",
            "unset them; clients name the server's URL",
            "no variable leads past the registry",
        )
    ]


# -- files -----------------------------------------------------------------------------------------


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def private_key(key: Path, artifact_root: Path | None) -> list[Finding]:
    """Look at the registry's private key: readable by its owner alone, and out of reach."""
    try:
        unsafe = list(load_private_key(key).findings)
        owner = key.stat().st_uid
    except (KfmError, OSError) as exc:
        remedy = "give --data-dir, or set KFM_REGISTRY_KEY, as for `kfm server`"
        return [Finding("registry key", "problem", str(exc), remedy)]
    if owner not in {os.geteuid(), 0}:
        unsafe.append(f"{key} belongs to user {owner}, who is neither this one nor root")
    folder_mode = _mode(key.resolve().parent)
    if folder_mode & stat.S_IWOTH and not folder_mode & stat.S_ISVTX:
        unsafe.append(f"everybody may replace files in {key.resolve().parent}")
    if artifact_root is not None and key.resolve().is_relative_to(artifact_root.resolve()):
        unsafe.append(f"{key} lies in the artifact root, which clients read")
    return [
        judged(
            "registry key",
            unsafe,
            "not safe",
            "chmod 600, owned by the server's user, outside the artifact root; if others had it, "
            "make a new one",
            f"{key} is its owner's alone",
        )
    ]


def database_file(database_uri: str, folder: Path) -> list[Finding]:
    """Look at who may write a SQLite database."""
    found = database_name(database_uri, folder)
    if found is None or found[0] != "sqlite":
        detail = "who may log in to the database cannot be seen from here"
        return [Finding("database file", "skipped", detail, "only the server should have a role")]
    path = Path(found[1])
    open_to = [
        f"{place} (mode {_mode(place):04o})"
        for place in (path, path.parent)
        if _mode(place) & (_OTHERS_WRITE if place == path else stat.S_IWOTH)
    ]
    return [
        judged(
            "database file",
            open_to,
            "others may write",
            "chmod go-w",
            "only its owner may write the database",
        )
    ]


def _frozen_trees(frozen: Path) -> Iterator[Path]:
    """Return the folder of every frozen release; what is being frozen has another name."""
    for path in sorted(frozen.iterdir()):
        if len(path.name) == _DIGEST_LENGTH and set(path.name) <= _HEX:
            yield path


def artifact_area(destination: str) -> list[Finding]:
    """Look at the artifact root and the frozen area below it."""
    root = local_path(destination)
    if root is None:
        detail = "who may write to the bucket cannot be seen from here"
        remedy = "give the server alone the right to write, and lock objects; see docs/freezing.md"
        return [Finding("frozen area", "skipped", detail, remedy)]
    if not root.is_dir():
        return [Finding("frozen area", "ok", "there is no artifact root yet")]
    areas = [root / FROZEN_PREFIX, *sorted(root.glob(f"workspaces/*/{FROZEN_PREFIX}"))]
    open_to = [
        f"{place} (mode {_mode(place):04o})"
        for place, bits in ((root, stat.S_IWOTH), *((area, _OTHERS_WRITE) for area in areas))
        if place.is_dir() and _mode(place) & bits
    ]
    unsealed = [
        str(path.relative_to(root))
        for frozen in areas
        if frozen.is_dir()
        for tree in _frozen_trees(frozen)
        for path in _unsealed(tree)
    ]
    return [
        judged(
            "artifact root",
            open_to,
            "others may write",
            "chmod go-w; only the server's user writes there",
            "only its owner may write to the artifact root",
        ),
        judged(
            "frozen area",
            unsealed,
            "files of frozen releases can be written",
            "find out who changed them, then chmod -R a-w",
            "every frozen release is read-only",
        ),
    ]


def _unsealed(tree: Path) -> Iterator[Path]:
    """Return what can be written, or leads elsewhere, in a frozen release."""
    # Root may write anywhere, whatever a mode says; for others an access list may say more.
    ask = os.geteuid() != 0
    for folder, _, files in os.walk(tree):
        for path in (Path(folder), *(Path(folder, name) for name in sorted(files))):
            if path.is_symlink() or _mode(path) & _ANY_WRITE or (ask and os.access(path, os.W_OK)):
                yield path


def frozen_copies(releases: Sequence[Released], destination: str, *, hashed: bool) -> list[Finding]:
    """Look whether every recorded release has its frozen copy.

    Args:
        releases: What the registry recorded.
        destination: The artifact root.
        hashed: Read every byte and compare release ids; else only that they are there.
    """
    if local_path(destination) is None:
        return [Finding("frozen copies", "skipped", "frozen copies in a bucket are not read here")]
    area, wrong = ArtifactArea(destination, proxied=True), []
    for row in releases:
        what = f"{row.model} v{row.version}"
        try:
            path = local_path(area.resolve(row.frozen_uri))
        except KfmError as exc:
            wrong.append(f"{what}: {exc}")
            continue
        expected = row.release_id.removeprefix("sha256:")
        if path is None or not path.is_dir():
            wrong.append(f"{what} is not there")
        elif path.parent.name != expected or path.parent.parent.name != FROZEN_PREFIX:
            wrong.append(f"{what} is not in the frozen area under its release id")
        elif hashed and not _has_id(path, row.release_id):
            wrong.append(f"{what} is no longer what was admitted")
    looked = "has its release id" if hashed else "is there (their bytes: --hash)"
    return [
        judged(
            "frozen copies",
            wrong,
            "lost or altered",
            "restore them from a copy of the artifact root; see docs/freezing.md",
            f"each of {len(releases)} frozen copies {looked}",
        )
    ]


def _has_id(path: Path, release_id: str) -> bool:
    try:
        return build_manifest(path).release_id == release_id
    except (KfmError, OSError):
        return False
