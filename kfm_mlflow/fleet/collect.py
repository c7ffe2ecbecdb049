"""Collecting: every artifact of every manifest fetched and judged, each on its own.

What is wrong with one artifact is its finding and keeps nobody else's out. Running it again
fetches nothing that lies there unchanged, and leaves the same bytes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import load_json, write_json
from kfm_mlflow.errors import ConflictError, EvidenceError, KfmError
from kfm_mlflow.fleet.manifest import Finding
from kfm_mlflow.fleet.stores_fetch import Fetched, FetchLimits, Trust, fetch_artifact, place_of
from kfm_mlflow.metadata.schemas import schema_problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from kfm_mlflow.fleet.manifest import Artifact, Manifests

COLLECTED_FILE = "collected.json"
_LOCK_FILE = ".lock"


@dataclass(frozen=True)
class Collection:
    """What came of collecting.

    Attributes:
        fetched: The artifacts that are there now, judged, by provider and id.
        findings: What was wrong with manifests, entries, stores, bytes and signatures.
    """

    fetched: tuple[Fetched, ...]
    findings: tuple[Finding, ...]


def artifact_finding(artifact: Artifact, error: KfmError, code: str) -> Finding:
    """Return an error about an artifact as its finding."""
    remedy = error.remedy
    detail = str(error).removesuffix(f"; {remedy}") if remedy else str(error)
    return Finding(artifact.provider, artifact.id, code, detail, remedy)


def collect(
    manifests: Manifests,
    stores: Sequence[str],
    into: Path,
    trust: Trust,
    limits: FetchLimits = FetchLimits(),  # noqa: B008 - frozen
) -> Collection:
    """Fetch every artifact into the folder of its digest.

    Args:
        manifests: As read; entries with findings are left out.
        stores: Prefixes that are allowed.
        into: Folder of all artifacts; made where it is missing.
        trust: Who may have signed them.
        limits: How much one may be.

    Raises:
        ConflictError: Somebody else is collecting into the folder.
        EvidenceError: The folder's list of artifacts is not readable.
    """
    into.mkdir(parents=True, exist_ok=True)
    fetched: list[Fetched] = []
    findings = list(manifests.findings)
    with _alone(into):
        known = _read_list(into)
        for artifact in manifests.artifacts:
            try:
                fetched.append(fetch_artifact(artifact, stores, into, trust, limits))
            except KfmError as exc:
                findings.append(artifact_finding(artifact, exc, "FETCH"))
        _write_list(into, known, fetched)
    return Collection(tuple(fetched), tuple(sorted(set(findings))))


@contextmanager
def _alone(into: Path) -> Iterator[None]:
    """Keep others out of a folder, and clear what a process that was killed had begun."""
    handle = os.open(into / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ConflictError(
                "somebody else is collecting here", where=str(into), remedy="wait, and run it again"
            ) from exc
        for left in into.glob(".fetch-*"):
            shutil.rmtree(left)
        yield
    finally:
        os.close(handle)


def _read_list(into: Path) -> list[dict[str, Any]]:
    path = into / COLLECTED_FILE
    if not path.exists():
        return []
    document = load_json(path)
    problems = schema_problems("fleet-collected", document)
    if problems:
        raise EvidenceError("; ".join(problems[:3]), where=str(path), remedy="remove the file")
    entries: list[dict[str, Any]] = document["collected"]
    return entries


def signed_digests(into: Path) -> frozenset[str]:
    """Return the digests of the artifacts in a folder whose signature held when they were fetched.

    Raises:
        EvidenceError: The folder's list of artifacts is not readable.
    """
    return frozenset(e["digest"] for e in _read_list(into) if not e["unsafe_unsigned"])


def _write_list(into: Path, known: list[dict[str, Any]], fetched: Sequence[Fetched]) -> None:
    """Write which artifacts lie in the folder; those of earlier runs stay listed."""
    by_name = {
        (entry["provider"], entry["id"], entry["digest"]): entry
        for entry in known
        if place_of(into, entry["digest"]).is_dir()
    }
    for one in fetched:
        artifact = one.artifact
        by_name[artifact.provider, artifact.id, artifact.digest] = {
            "provider": artifact.provider,
            "id": artifact.id,
            "role": artifact.role,
            "uri": artifact.uri,
            "digest": artifact.digest,
            "signer": one.signer,
            "unsafe_unsigned": one.signer is None,
        }
    document = {"schema_version": "1", "collected": [by_name[key] for key in sorted(by_name)]}
    write_json(into / COLLECTED_FILE, document)
