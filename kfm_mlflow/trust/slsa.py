"""SLSA provenance v1 of a run that trained or imported: what was run, on what, by which software.

The predicate is the one of https://slsa.dev/spec/v1.0/provenance, without fields of our own, so
that other people's tools read it. It says nothing about the release but what the statement around
it says: the subject names model, release version and release id (see ``attestation.py``).

Its worth is its signer's word: ``log_release`` runs inside the process that trained, so this is
provenance of SLSA Build level 1, signed, and not more. Whether it agrees with the release is for
a gate to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from kfm_mlflow.canonical import NAMESPACE, canonical_bytes, parse_digest
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.trust.dsse import require_fields
from kfm_mlflow.trust.instants import format_instant, parse_instant

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

SLSA_KIND = "slsa-provenance"
SLSA_PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
RunKind = Literal["training", "importing"]
BUILD_TYPES: Mapping[RunKind, str] = {
    "training": f"{NAMESPACE}build-types/training-run/v1",
    "importing": f"{NAMESPACE}build-types/importing-run/v1",
}
"""How to read the parameters: ``docs/formats/slsa-provenance.md``."""
BUILDER_ID = f"{NAMESPACE}builders/trainer-process/v1"
"""The process that trained, on the trainer's own machine."""

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_SOURCE, _ENVIRONMENT, _LOCK = "source", "environment", "lock"
_ROLES = ("training", "validation", "parent")
_TREES = ("clean", "dirty")
_WHERE = "provenance"


@dataclass(frozen=True)
class UsedData:
    """A data set that the run read: ``sha256:<hex>`` of it, where it was, and what for."""

    name: str
    digest: str
    location: str
    role: str


@dataclass(frozen=True)
class UsedLock:
    """The file of pinned versions that the project's environment is made from.

    Attributes:
        path: POSIX path relative to the repository.
        digest: ``sha256:<hex>`` of the file.
        problem: Why it does not fix what is installed, naming the package or line; empty when it
            does.
    """

    path: str
    digest: str
    problem: str = ""


@dataclass(frozen=True)
class Provenance:
    """A training run.

    Attributes:
        entry_point: What was run.
        parameters: Parameters that it was run with.
        seed: The one seed from which all randomness followed.
        started_at: When training began (aware).
        finished_at: When training ended (aware).
        git_commit: Commit of the code, as hex; None when it is not under version control.
        git_url: Repository of the code.
        git_tree: Whether the checkout was as committed; None when that is not known.
        project: Folder of the MLflow project relative to the repository, ``.`` for its root; None
            when there is none.
        environment_lock: ``sha256:<hex>`` of the list of installed packages.
        lock: The file of pinned versions; None when the project names none.
        data: What was trained and validated on.
        invocation_id: Identifier of the run.
        settings: What the code itself settled, as plain JSON (hyperparameters).
        versions: Software that ran it: name -> version.
        kind: Whether it trained, or took what others had made.
    """

    entry_point: str
    parameters: Mapping[str, str]
    seed: int
    started_at: datetime
    finished_at: datetime
    git_commit: str | None = None
    git_url: str | None = None
    git_tree: Literal["clean", "dirty"] | None = None
    project: str | None = None
    environment_lock: str | None = None
    lock: UsedLock | None = None
    data: tuple[UsedData, ...] = ()
    invocation_id: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    kind: RunKind = "training"

    @property
    def data_digests(self) -> frozenset[str]:
        """``sha256:<hex>`` of every data set."""
        return frozenset(used.digest for used in self.data)


def build_predicate(provenance: Provenance) -> dict[str, Any]:
    """Write a training run as a SLSA provenance v1 predicate.

    Raises:
        InputError: A digest, commit, role or instant is none, the run ended before it began, or
            a value is not canonical JSON.
    """
    started, finished = (
        format_instant(instant, where=where)
        for instant, where in (
            (provenance.started_at, "started_at"),
            (provenance.finished_at, "finished_at"),
        )
    )
    if finished < started:
        raise InputError("finished before it started", where=_WHERE)
    metadata = {"startedOn": started, "finishedOn": finished}
    if provenance.invocation_id:
        metadata["invocationId"] = provenance.invocation_id
    predicate: dict[str, Any] = {
        "buildDefinition": {
            "buildType": BUILD_TYPES[provenance.kind],
            "externalParameters": {
                "entryPoint": provenance.entry_point,
                "parameters": dict(provenance.parameters),
                "seed": provenance.seed,
            },
            "internalParameters": {"settings": dict(provenance.settings)},
            "resolvedDependencies": _dependencies(provenance),
        },
        "runDetails": {
            "builder": {"id": BUILDER_ID, "version": dict(provenance.versions)},
            "metadata": metadata,
        },
    }
    canonical_bytes(predicate)
    return predicate


def _dependencies(provenance: Provenance) -> list[dict[str, Any]]:
    """Return in-toto resource descriptors of code, environment and data, in that order."""
    found = []
    if provenance.git_commit is not None:
        if not _COMMIT.fullmatch(provenance.git_commit):
            raise InputError(
                f"{provenance.git_commit[:80]!r} is no git commit",
                where="git_commit",
                remedy="give its whole hash in hexadecimal",
            )
        url = provenance.git_url or ""
        uri = f"git+{url}@{provenance.git_commit}" if "://" in url else ""
        digest = {"gitCommit": provenance.git_commit}
        notes = {"tree": provenance.git_tree, "project": provenance.project}
        found.append(_descriptor(_SOURCE, _SOURCE, digest, url, uri, **notes))
    if provenance.environment_lock is not None:
        digest = _sha256(provenance.environment_lock, where="environment_lock")
        found.append(_descriptor("installed-packages", _ENVIRONMENT, digest))
    if provenance.lock is not None:
        lock = provenance.lock
        digest = _sha256(lock.digest, where=lock.path)
        found.append(_descriptor(lock.path, _LOCK, digest, problem=lock.problem))
    for used in sorted(provenance.data, key=lambda item: (item.role, item.name, item.digest)):
        if used.role not in _ROLES:
            raise InputError(f"{used.role!r} is no role of data", where=used.name)
        uri = used.location if _SCHEME.match(used.location) else ""
        digest = _sha256(used.digest, where=used.name)
        found.append(_descriptor(used.name, used.role, digest, used.location, uri))
    return found


def _sha256(digest: str, *, where: str) -> dict[str, str]:
    return {"sha256": parse_digest(digest, where=where).removeprefix("sha256:")}


def _descriptor(
    name: str,
    role: str,
    digest: dict[str, str],
    location: str = "",
    uri: str = "",
    **notes: str | None,
) -> dict[str, Any]:
    said = {"location": location, **notes}
    annotations = {"role": role, **{key: text for key, text in said.items() if text}}
    found: dict[str, Any] = {"name": name, "digest": digest, "annotations": annotations}
    return {**found, "uri": uri} if uri else found


def parse_predicate(value: Any) -> Provenance:
    """Read a SLSA provenance v1 predicate of one of our build types.

    Raises:
        EvidenceError: It is of another build type or builder, a field is missing, unknown or of
            the wrong type, or it ended before it began.
    """
    predicate = require_fields(value, {"buildDefinition", "runDetails"}, set(), where=_WHERE)
    definition = require_fields(
        predicate["buildDefinition"],
        {"buildType", "externalParameters", "internalParameters", "resolvedDependencies"},
        set(),
        where="buildDefinition",
    )
    kinds: dict[Any, RunKind] = {uri: kind for kind, uri in BUILD_TYPES.items()}
    kind = kinds.get(_text(definition["buildType"], where="buildType"))
    if kind is None:
        raise EvidenceError(f"buildType is not {' or '.join(kinds)}", where=_WHERE)
    external = require_fields(
        definition["externalParameters"],
        {"entryPoint", "parameters", "seed"},
        set(),
        where="externalParameters",
    )
    internal = require_fields(
        definition["internalParameters"], {"settings"}, set(), where="internalParameters"
    )
    details = require_fields(
        predicate["runDetails"], {"builder", "metadata"}, set(), where="runDetails"
    )
    builder = require_fields(details["builder"], {"id", "version"}, set(), where="builder")
    if builder["id"] != BUILDER_ID:
        raise EvidenceError(f"builder is not {BUILDER_ID}", where=_WHERE)
    metadata = require_fields(
        details["metadata"], {"startedOn", "finishedOn"}, {"invocationId"}, where="metadata"
    )
    started_at = parse_instant(metadata["startedOn"], where="startedOn")
    finished_at = parse_instant(metadata["finishedOn"], where="finishedOn")
    if finished_at < started_at:
        raise EvidenceError("finished before it started", where=_WHERE)
    seed = external["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise EvidenceError("seed is not an integer", where="externalParameters")
    invocation_id = metadata.get("invocationId")
    return Provenance(
        entry_point=_text(external["entryPoint"], where="entryPoint"),
        parameters=_texts(external["parameters"], where="parameters"),
        seed=seed,
        started_at=started_at,
        finished_at=finished_at,
        invocation_id=None if invocation_id is None else _text(invocation_id, where="invocationId"),
        settings=_mapping(internal["settings"], where="settings"),
        versions=_texts(builder["version"], where="builder version"),
        kind=kind,
        **_parse_dependencies(definition["resolvedDependencies"]),
    )


def _text(value: Any, *, where: str) -> str:
    if not isinstance(value, str):
        raise EvidenceError("is not text", where=where)
    return value


def _mapping(value: Any, *, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EvidenceError("is not an object", where=where)
    return value


def _texts(value: Any, *, where: str) -> dict[str, str]:
    return {name: _text(text, where=where) for name, text in _mapping(value, where=where).items()}


def _tree(text: str | None) -> Literal["clean", "dirty"] | None:
    if text is not None and text not in _TREES:
        raise EvidenceError(f"{text[:40]!r} is no state of a tree", where=_SOURCE)
    return cast('Literal["clean", "dirty"] | None', text)


def _parse_dependencies(value: Any) -> dict[str, Any]:
    """Return the fields of a provenance that stand under ``resolvedDependencies``."""
    if not isinstance(value, list):
        raise EvidenceError("is not a list", where="resolvedDependencies")
    found: dict[str, Any] = {}
    data: list[UsedData] = []
    for item in value:
        entry = require_fields(item, {"name", "digest", "annotations"}, {"uri"}, where="dependency")
        name = _text(entry["name"], where="dependency")
        _text(entry.get("uri", ""), where=name)
        notes = _texts(entry["annotations"], where=name)
        role = notes.get("role")
        digest = _digest(name, role, entry["digest"])
        if role in _ROLES:
            data.append(UsedData(name, digest, notes.get("location", ""), str(role)))
            continue
        told = _once(name, role, digest, notes)
        if told.keys() & found.keys():
            raise EvidenceError(f"a second {role}", where=name)
        found |= told
    return {**found, "data": tuple(data)}


def _once(name: str, role: str | None, digest: str, notes: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields that a dependency gives of which there is one at most."""
    if role == _SOURCE:
        return {
            "git_commit": digest,
            "git_url": notes.get("location") or None,
            "git_tree": _tree(notes.get("tree")),
            "project": notes.get("project"),
        }
    if role == _ENVIRONMENT:
        return {"environment_lock": digest}
    if role == _LOCK:
        return {"lock": UsedLock(name, digest, notes.get("problem", ""))}
    raise EvidenceError(f"is of unknown role {str(role)[:40]!r}", where=name)


def _digest(name: str, role: str | None, value: Any) -> str:
    """Return a dependency's one digest: of the source the commit, of anything else SHA-256."""
    digests = _texts(value, where=name)
    key = "gitCommit" if role == _SOURCE else "sha256"
    if set(digests) != {key}:
        raise EvidenceError(f"must have one digest, {key}", where=name)
    if role == _SOURCE:
        if not _COMMIT.fullmatch(digests[key]):
            raise EvidenceError("is no git commit", where=name)
        return digests[key]
    try:
        return parse_digest(digests[key], where=name)
    except InputError as exc:
        raise EvidenceError(str(exc), where=_WHERE) from exc
