"""The registry's word that an export is whole: what it signs, and how that is checked. Pure.

Rules kept here:

1. What is signed names the index and ``SHA256SUMS`` by digest, so that every file is signed, and
   that there is no other; and which version, release and policy it is about, up to which row.
2. The registry signs no list that it was not able to make itself: every fact of the index and every
   digest in it is compared with what the registry knows, but those of the ledger's own file, whose
   every row it signed before, and of its word on the lineage, which it signs anew each time.
3. Every statement that the registry holds about a release must be in the list: what the registry
   signed lacks nothing that had been said until then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import NAMESPACE, canonical_bytes, digest_bytes, parse_json
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.release.bundle import EVIDENCE_SUFFIX
from kfm_mlflow.release.export import (
    ATTESTATIONS_FOLDER,
    DEPLOYED_FILE,
    INDEX_FILE,
    LEDGER_FILE,
    README_FILE,
    SCHEMA_VERSION,
    SIGNED_DEPLOYED_FILE,
    SIGNED_FILE,
    SUMS_FILE,
    listing,
    part_of,
    sums_of,
)
from kfm_mlflow.release.export_readme import readme_text
from kfm_mlflow.release.manifest import parse_manifest
from kfm_mlflow.trust.dsse import STATEMENT_TYPE, parse_envelope, require_fields
from kfm_mlflow.trust.instants import format_instant, is_future, parse_instant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from kfm_mlflow.release.manifest import Manifest
    from kfm_mlflow.trust.keys import PublicKey

PREDICATE_TYPE = f"{NAMESPACE}attestations/export/v1"
MAX_SIGNED_BYTES = 2**16
_BOUND = (
    "model_name",
    "version",
    "release_version",
    "release_id",
    "policy_digest",
    "ledger_head",
)


@dataclass(frozen=True)
class Known:
    """What a registry knows of a version, to compare an index with.

    Attributes:
        facts: Field of the index -> what it has to say.
        files: Path -> digest of every other file outside release, ``attestations/`` and ledger.
        evidence: File name -> digest of what lies beside the frozen release.
        statements: Digests of the statements that the registry holds about it.
    """

    facts: Mapping[str, Any]
    files: Mapping[str, str]
    evidence: Mapping[str, str]
    statements: frozenset[str]


def index_faults(index: Mapping[str, Any], known: Known) -> list[str]:
    """Return why a registry does not sign an index, as sentences; empty when it does.

    Args:
        index: From somebody who may read the version.
        known: What the registry knows.
    """
    faults = schema_problems("export", index)
    if faults:
        return faults[:1]
    faults = [
        f"{name} is not what the registry knows"
        for name, value in known.facts.items()
        if index[name] != value
    ]
    try:
        manifest = parse_manifest(
            {"schema_version": SCHEMA_VERSION, "files": index["files"]}, where="files"
        )
    except EvidenceError as exc:
        return [*faults, str(exc)]
    release = index["release_path"]
    if faults:
        return faults
    if part_of(manifest, release).release_id != index["release_id"]:
        faults.append(f"{release}: the files are not those of the release")
    if {**index, **listing(manifest, release)} != index:
        faults.append("documents does not follow from the files")
    return faults + _file_faults(manifest, index, known)


def _file_faults(manifest: Manifest, index: Mapping[str, Any], known: Known) -> list[str]:
    release = index["release_path"]
    beside = f"{release}{EVIDENCE_SUFFIX}/"
    wanted = {**known.files, README_FILE: digest_bytes(readme_text(index))}
    wanted |= {f"{beside}{name}": digest for name, digest in known.evidence.items()}
    signed = {LEDGER_FILE} | ({SIGNED_DEPLOYED_FILE} if DEPLOYED_FILE in wanted else set())
    have = {
        path: digest
        for path, digest in manifest.digests.items()
        if not path.startswith(f"{release}/") and path not in signed
    }
    told = {path for path in have if path.startswith(f"{ATTESTATIONS_FOLDER}/")}
    later = known.statements - set(known.evidence.values())
    faults = [f"{path}: is missing" for path in sorted(wanted.keys() - have.keys())]
    faults += [f"{path}: has no place here" for path in sorted(have.keys() - wanted.keys() - told)]
    faults += [
        f"{path}: is not what the registry knows"
        for path in sorted(wanted.keys() & have.keys())
        if wanted[path] != have[path]
    ]
    found = {have[path] for path in told}
    if found != later or len(told) != len(later):
        faults.append(f"{ATTESTATIONS_FOLDER}: holds other statements than the registry")
    return faults + [f"{path}: is missing" for path in sorted(signed - manifest.digests.keys())]


def index_statement(index: Mapping[str, Any], at: datetime) -> dict[str, Any]:
    """Return the in-toto statement that says that an index is whole.

    Args:
        index: Without faults.
        at: When it is signed (aware).
    """
    subjects = {INDEX_FILE: canonical_bytes(dict(index)), SUMS_FILE: sums_of(index)}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": digest_bytes(data).removeprefix("sha256:")}}
            for name, data in subjects.items()
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "schema_version": SCHEMA_VERSION,
            "issued_at": format_instant(at),
            **{name: index[name] for name in _BOUND},
        },
    }


def read_signature(
    data: bytes,
    index: Mapping[str, Any],
    digests: Mapping[str, str],
    keys: Sequence[PublicKey],
    now: datetime,
) -> datetime:
    """Check the registry's signature over an export's index.

    Args:
        data: The bytes of ``export.intoto.json``.
        index: The index that lies there.
        digests: Path -> ``sha256:<hex>`` of the files that lie there.
        keys: The registry's.
        now: When it is checked (aware).

    Returns:
        When it was signed.

    Raises:
        EvidenceError: It is something else, signed by somebody else, about something else, or
            signed in the future; names the file.
    """
    if len(data) > MAX_SIGNED_BYTES:
        raise EvidenceError(f"is larger than {MAX_SIGNED_BYTES} bytes", where=SIGNED_FILE)
    value = parse_json(data, where=SIGNED_FILE)
    envelope = parse_envelope(value, where=SIGNED_FILE)
    if canonical_bytes(value) != data:
        raise EvidenceError("is not canonical JSON", where=SIGNED_FILE)
    known = {key.key_id: key for key in keys}
    for item in envelope.signatures:
        if item.key_id not in known:
            raise EvidenceError("is signed by a key that is not the registry's", where=SIGNED_FILE)
        if not known[item.key_id].verifies(item.signature, envelope.pae):
            raise EvidenceError("has a signature that does not verify", where=SIGNED_FILE)
    said = parse_json(envelope.payload, where=f"{SIGNED_FILE}: payload")
    issued_at = _issued_at(said)
    if said != index_statement(index, issued_at):
        raise EvidenceError("was signed for another export", where=SIGNED_FILE)
    for subject in said["subject"]:
        if digests.get(subject["name"]) != f"sha256:{subject['digest']['sha256']}":
            raise EvidenceError("is not what the registry signed", where=subject["name"])
    if is_future(issued_at, now):
        raise EvidenceError(
            f"not yet valid: signed at {format_instant(issued_at)}", where=SIGNED_FILE
        )
    return issued_at


def _issued_at(said: Any) -> datetime:
    names = {"_type", "subject", "predicateType", "predicate"}
    statement = require_fields(said, names, set(), where=f"{SIGNED_FILE}: statement")
    if statement["predicateType"] != PREDICATE_TYPE:
        raise EvidenceError(
            f"is no signature over an export, but {str(statement['predicateType'])[:120]!r}",
            where=SIGNED_FILE,
        )
    predicate = require_fields(
        statement["predicate"],
        {"schema_version", "issued_at", *_BOUND},
        set(),
        where=f"{SIGNED_FILE}: predicate",
    )
    return parse_instant(predicate["issued_at"], where=f"{SIGNED_FILE}: issued_at")
