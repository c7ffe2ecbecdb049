"""An export on disk: where each part lies, the index of it, and the list of digests.

Rules kept here:

1. The release is whole and unchanged, so that its id and its OpenSSF signature hold; what is said
   about it lies beside it. Family folder, ``models`` and version are the source documents' own.
2. ``export.json`` lists every file but itself, ``SHA256SUMS`` and the signature; ``SHA256SUMS``
   lists every file but itself and the signature. The signature, ``export.intoto.json``, covers
   both, so that no file can be changed, added or left out (``registry/export_index.py``).

What the parts mean, and whether they are true, is not known here (``registry/exported.py``); how
they are one file is ``release/archive.py``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import canonical_bytes, digest_bytes, write_bytes, write_json
from kfm_mlflow.errors import InputError
from kfm_mlflow.release.bundle import EVIDENCE_SUFFIX, FOCUS_ITEM_PATH, SIGNATURE_FILE
from kfm_mlflow.release.export_readme import readme_text
from kfm_mlflow.release.manifest import (
    FileEntry,
    Manifest,
    build_manifest,
    check_path,
    parse_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA_VERSION = "1"
INDEX_FILE = "export.json"
SUMS_FILE = "SHA256SUMS"
SIGNED_FILE = "export.intoto.json"
README_FILE = "README.md"
POLICY_FILE = "policy/policy.json"
REGIONS_FILE = "policy/regions_public.json"
SCHEMAS_FOLDER = "schemas"
LEDGER_FILE = "ledger/ledger_snapshot.json"
ATTESTATIONS_FOLDER = "attestations"
DEPLOYED_FILE = "provenance/deployed.json"
SIGNED_DEPLOYED_FILE = "provenance/deployed.intoto.json"
KEYS_FOLDER = "keys"
_UNLISTED = frozenset({SUMS_FILE, SIGNED_FILE})
_FOLDERS = {"focus-mode": "focus"}
_DOCUMENTS = {
    "model.pt": "model.pt",
    "model.stac.json": "stac/model-item.json",
    "provenance.json": "provenance/provenance.json",
    "xai": "xai",
    "telemetry": "telemetry",
}
"""Names in the source documents' registry entry -> where a release keeps them."""
_FOCUS_DOCUMENTS = {
    "focus_model.pt": "focus_model.pt",
    "focusmodel-item.stac.json": FOCUS_ITEM_PATH,
    "provenance": "provenance",
    "xai": "xai",
    "telemetry": "telemetry",
}
"""The same of Focus Mode's registry entry."""


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


def export_facts(
    *,
    model_name: str,
    version: int,
    family: str,
    release_version: str,
    release_id: str,
    policy_digest: str,
) -> dict[str, Any]:
    """Return what an index says of the version that it is about.

    Raises:
        InputError: Family or release version cannot be the name of a folder.
    """
    return {
        "model_name": model_name,
        "version": version,
        "family": family,
        "release_version": release_version,
        "release_id": release_id,
        "policy_digest": policy_digest,
        "release_path": release_path(family, release_version),
        "integrity": {
            "hash": release_id,
            "signature": signature_path(family, release_version),
            "immutable": True,
        },
    }


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
    """Return what ``sha256sum -c`` reads, of every file but the list and the signature."""
    lines = (
        f"{entry.digest.removeprefix('sha256:')}  ./{entry.path}\n"
        for entry in manifest.files
        if entry.path not in _UNLISTED
    )
    return "".join(lines).encode("utf-8")


def sums_of(index: Mapping[str, Any]) -> bytes:
    """Return ``SHA256SUMS`` as it follows from an index alone.

    Raises:
        EvidenceError: The files of the index are not a manifest.
    """
    listed = parse_manifest(
        {"schema_version": SCHEMA_VERSION, "files": index["files"]}, where=INDEX_FILE
    )
    data = canonical_bytes(dict(index))
    own = FileEntry(INDEX_FILE, len(data), digest_bytes(data))
    return sums_text(Manifest(tuple(sorted((*listed.files, own)))))


def listed_files(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the files of an export as its index lists them."""
    kept = tuple(e for e in manifest.files if e.path not in {INDEX_FILE, *_UNLISTED})
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
    found, release = build_manifest(root), facts["release_path"]
    readme = readme_text({**facts, **listing(found, release)})
    write_bytes(root / README_FILE, readme)
    entry = FileEntry(README_FILE, len(readme), digest_bytes(readme))
    index = {**facts, **listing(Manifest(tuple(sorted((*found.files, entry)))), release)}
    write_json(root / INDEX_FILE, index)
    write_bytes(root / SUMS_FILE, sums_of(index))
    return index


def listing(manifest: Manifest, release: str) -> dict[str, Any]:
    """Return what an index says that follows from the files alone."""
    paths = {entry.path for entry in manifest.files}
    is_focus = release.startswith(f"{_FOLDERS['focus-mode']}/")
    documents = {
        name: f"{release}/{path}"
        for name, path in (_FOCUS_DOCUMENTS if is_focus else _DOCUMENTS).items()
        if any(f"{known}/".startswith(f"{release}/{path}/") for known in paths)
    }
    if DEPLOYED_FILE in paths:
        documents["deployed.json"] = DEPLOYED_FILE
    return {
        "schema_version": SCHEMA_VERSION,
        "documents": documents,
        "files": listed_files(manifest),
    }


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
        and e.path not in _UNLISTED
        and lines.get(e.path) != f"{e.digest.removeprefix('sha256:')}  ./{e.path}".encode()
    )
    if wrong:
        return [f"{path}: is not what {SUMS_FILE} lists" for path in wrong]
    return [] if known else [f"{SUMS_FILE}: is not the list of these files"]


def archive_name(model_name: str, version: int) -> str:
    """Return the one folder that an archive unpacks to."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", model_name).strip("-.") or "model"
    return f"{slug}-v{version}"


def is_export(root: Path) -> bool:
    """Return whether a directory is, or was before it was damaged, an export and no release."""
    named = any((root / name).is_file() for name in (INDEX_FILE, SUMS_FILE, SIGNED_FILE))
    return named and not (root / "MLmodel").exists()
