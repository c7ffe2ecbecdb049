"""An export on disk: where each part lies, the index of it, and the list of digests.

Rules kept here:

1. The release is whole and unchanged, so that its id and its OpenSSF signature hold; what is said
   about it lies beside it. Family folder, ``models`` and version are the source documents' own.
2. ``export.json`` lists every file but itself and ``SHA256SUMS``; ``SHA256SUMS`` lists every file
   but itself. Neither is signed: a byte that changes by accident or without care is found by them,
   what is meant to deceive by the signatures, the ledger, and keys that were kept elsewhere.
3. An archive of equal directories is equal, byte by byte.

What the parts mean, and whether they are true, is not known here (``registry/exported.py``).
"""

from __future__ import annotations

import json
import re
import shlex
import tarfile
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import canonical_bytes, write_bytes, write_json
from kfm_mlflow.errors import InputError
from kfm_mlflow.release.bundle import EVIDENCE_SUFFIX, SIGNATURE_FILE
from kfm_mlflow.release.manifest import FileEntry, Manifest, build_manifest, check_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA_VERSION = "1"
INDEX_FILE = "export.json"
SUMS_FILE = "SHA256SUMS"
README_FILE = "README.md"
POLICY_FILE = "policy/policy.json"
LEDGER_FILE = "ledger/ledger_snapshot.json"
ATTESTATIONS_FOLDER = "attestations"
KEYS_FOLDER = "keys"
_FOLDERS = {"focus-mode": "focus"}
_DOCUMENTS = {
    "model.pt": "model.pt",
    "model.stac.json": "stac/model-item.json",
    "provenance.json": "provenance/provenance.json",
    "xai": "xai",
    "telemetry": "telemetry",
}
"""Names in the source documents' registry entry -> where a release keeps them."""


def release_path(family: str, release_version: str) -> str:
    """Return where a release lies in its export: ``climate/models/v11.2.2``.

    Raises:
        InputError: Family or version cannot be the name of a folder.
    """
    path = f"{_FOLDERS.get(family, family)}/models/{release_version}"
    # The README shows it to a shell.
    plain = all(re.fullmatch(r"[A-Za-z0-9._+-]+", part) for part in (family, release_version))
    if not plain or check_path(path):
        raise InputError(f"{path!r} cannot be the name of a folder", where="release version")
    return path


def signature_path(family: str, release_version: str) -> str:
    """Return where the signature of a release lies in its export."""
    return f"{release_path(family, release_version)}{EVIDENCE_SUFFIX}/{SIGNATURE_FILE}"


def key_path(duty: str, holder: str, key_id: str, suffix: str = ".pem") -> str:
    """Return where a public key, or what stands for one, lies in an export."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", holder).strip("-").lower()[:60]
    return f"{KEYS_FOLDER}/{duty}/{slug or 'key'}-{key_id[:16]}{suffix}"


def part_of(manifest: Manifest, folder: str) -> Manifest:
    """Return what a manifest says of one folder, with paths relative to it."""
    start = f"{folder}/"
    return Manifest(
        tuple(
            FileEntry(entry.path.removeprefix(start), entry.size_bytes, entry.digest)
            for entry in manifest.files
            if entry.path.startswith(start)
        )
    )


def sums_text(manifest: Manifest) -> bytes:
    """Return what ``sha256sum -c`` reads, of every file but the list itself."""
    lines = (
        f"{entry.digest.removeprefix('sha256:')}  ./{entry.path}\n"
        for entry in manifest.files
        if entry.path != SUMS_FILE
    )
    return "".join(lines).encode("utf-8")


def listed_files(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the files of an export as its index lists them."""
    kept = tuple(e for e in manifest.files if e.path not in {INDEX_FILE, SUMS_FILE})
    found: list[dict[str, Any]] = Manifest(kept).to_dict()["files"]
    return found


def finish_export(root: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write README, index and list of digests of an export whose parts all lie in place.

    Args:
        root: The directory.
        facts: What the index says besides its files; see ``docs/formats/export.md``.

    Returns:
        The index.
    """
    write_bytes(root / README_FILE, _readme(facts))
    manifest = build_manifest(root)
    release = facts["release_path"]
    documents = {
        name: f"{release}/{path}"
        for name, path in _DOCUMENTS.items()
        if any(e.path == f"{release}/{path}" for e in manifest.files)
        or (root / release / path).is_dir()
    }
    index = {
        **facts,
        "schema_version": SCHEMA_VERSION,
        "documents": documents,
        "files": listed_files(manifest),
    }
    write_json(root / INDEX_FILE, index)
    write_bytes(root / SUMS_FILE, sums_text(build_manifest(root)))
    return index


def _readme(facts: Mapping[str, Any]) -> bytes:
    text = files("kfm_mlflow.release").joinpath("export_readme.txt").read_text(encoding="utf-8")
    registry = next(key["path"] for key in facts["keys"] if key["duty"] == "registry")
    plain = {name: str(value) for name, value in facts.items()}
    plain |= {
        "registry_key": registry,
        "signer_path": facts["signer"]["path"],
        "signature_command": _signature_command(facts),
        "policy_hex": facts["policy_digest"].removeprefix("sha256:"),
        "model_literal": json.dumps(facts["model_name"], ensure_ascii=False),
    }
    return Template(text).substitute(plain).encode("utf-8")


def _signature_command(facts: Mapping[str, Any]) -> str:
    """Return how model-signing's own command line verifies the release."""
    signer, release = facts["signer"], facts["release_path"]
    options = {
        "key": ["--public_key", signer["path"]],
        "certificate": ["--certificate_chain", signer["path"]],
        "sigstore": [
            *("--identity", signer.get("identity", "")),
            *("--identity_provider", signer.get("issuer", "")),
            *("--trust_config", signer["path"]),
        ],
    }[signer["kind"]]
    words = ["python", "-m", "model_signing", "verify", signer["kind"], release]
    words += ["--signature", facts["integrity"]["signature"], *options, "--no-ignore-git-paths"]
    return shlex.join(words)


def byte_problems(root: Path, manifest: Manifest, index: Mapping[str, Any] | None) -> list[str]:
    """Return every file of an export that is not as the index and ``SHA256SUMS`` list it.

    Args:
        root: The directory.
        manifest: Of the directory, as it is.
        index: The index, if it could be read.
    """
    have = {entry["path"]: entry for entry in listed_files(manifest)}
    listed = have if index is None else {entry["path"]: entry for entry in index["files"]}
    problems = {p: f"{p}: is missing" for p in listed.keys() - have.keys()}
    problems |= {p: f"{p}: is not listed in {INDEX_FILE}" for p in have.keys() - listed.keys()}
    for path in listed.keys() & have.keys():
        if listed[path] != have[path]:
            size = f"{have[path]['size']} bytes instead of {listed[path]['size']}"
            how = size if have[path]["size"] != listed[path]["size"] else "the bytes differ"
            problems[path] = f"{path}: is not what {INDEX_FILE} lists ({how})"
    found = [problems[path] for path in sorted(problems)]
    if not found and index is not None and index["files"] != listed_files(manifest):
        found.append(f"{INDEX_FILE}: files are not sorted and unique")
    return found + _sums_problems(root, manifest, frozenset(problems))


def _sums_problems(root: Path, manifest: Manifest, known: frozenset[str]) -> list[str]:
    entry = next((e for e in manifest.files if e.path == SUMS_FILE), None)
    wanted = sums_text(manifest)
    if entry is None:
        return [f"{SUMS_FILE}: is missing"]
    if entry.size_bytes > 2 * len(wanted) + 2**20:
        return [f"{SUMS_FILE}: is far too large ({entry.size_bytes} bytes)"]
    written = (root / SUMS_FILE).read_bytes()
    if written == wanted:
        return []
    lines = {
        line.partition(b"  ./")[2].decode("utf-8", "replace"): line for line in written.split(b"\n")
    }
    wrong = sorted(
        e.path
        for e in manifest.files
        if e.path not in known
        and e.path != SUMS_FILE
        and lines.get(e.path) != f"{e.digest.removeprefix('sha256:')}  ./{e.path}".encode()
    )
    if wrong:
        return [f"{path}: is not what {SUMS_FILE} lists" for path in wrong]
    return [] if known else [f"{SUMS_FILE}: is not the list of these files"]


def archive_name(model_name: str, version: int) -> str:
    """Return the one folder that an archive unpacks to."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", model_name).strip("-.") or "model"
    return f"{slug}-v{version}"


def write_tar(root: Path, target: Path, folder: str) -> None:
    """Write a directory as a tar: sorted names, no owners, no instants, no modes of its own.

    Args:
        root: The directory.
        target: The archive.
        folder: What it unpacks to.
    """
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for entry in build_manifest(root).files:
            member = tarfile.TarInfo(f"{folder}/{entry.path}")
            member.size, member.mode, member.mtime = entry.size_bytes, 0o644, 0
            with (root / entry.path).open("rb") as stream:
                archive.addfile(member, stream)


def write_policy(root: Path, policy: Mapping[str, Any]) -> None:
    """Write a resolved policy so that the SHA-256 of the file is the policy's digest."""
    write_bytes(root / POLICY_FILE, canonical_bytes(dict(policy)))


def is_export(root: Path) -> bool:
    """Return whether a directory is, or was before it was damaged, an export and no release."""
    named = any((root / name).is_file() for name in (INDEX_FILE, SUMS_FILE))
    return named and not (root / "MLmodel").exists()
