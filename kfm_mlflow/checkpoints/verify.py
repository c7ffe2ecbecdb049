"""Whether the checkpoints of a training are all there, whole, in order, and rightly approved.

What is looked for, each with a code of its own:

========================= =======================================================================
``MANIFEST_MISSING``      there is no manifest
``DOCUMENT_INVALID``      a document does not parse, or a field is missing or wrong
``DOCUMENT_MISSING``      one of the other documents is not there
``FILE_MISSING``          the manifest names a file that is not there
``FILE_UNLISTED``         a checkpoint that no manifest names
``CHECKSUM_WRONG``        a file does not have the digest that the manifest or the registry gives
``CHECKSUM_UNPARSABLE``   a digest that is none
``CHECKSUM_UNREGISTERED`` a listed file that the registry does not know, or the reverse
``UNSAFE``                a file that would run code, or cannot be read to its end
``TWICE``                 an id or file that is listed twice
``SEQUENCE_GAP``          numbered checkpoints with one left out: ``001``, ``003``
``EPOCHS_OUT_OF_ORDER``   epochs that do not rise
``EPOCH_BEYOND_PLAN``     an epoch after the last one that was planned
``ENERGY_FALLS``          energy of the whole training that is less than before
``METRICS_UNKNOWN``       metrics for a checkpoint that is not listed
``METRICS_MISSING``       a listed checkpoint without metrics
``METRICS_DISAGREE``      metrics that say something else than the manifest
``MANIFESTS_DISAGREE``    two manifests that say different things of one checkpoint
``NOT_CERTIFIED``         approved, and no certificate of a quorum holds for a listed checkpoint
========================= =======================================================================

Pure; ``directory.py`` reads for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from kfm_mlflow.canonical import parse_digest
from kfm_mlflow.checkpoints.records import (
    CERTIFICATE,
    CHECKSUMS,
    DOCUMENTS,
    MANIFEST,
    METRICS,
    SUFFIX,
    CheckpointsManifest,
    ChecksumEntry,
    ManifestEntry,
    MetricsEntry,
)
from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Certified = Callable[["VerifiedCheckpoints", ManifestEntry], Sequence[str]]

_NUMBERED = re.compile(r"(?P<stem>checkpoint_)(?P<number>\d{3,})(?:_.*)?")
_TRAIN_AGAIN = "restore the file, or resume the training, which writes it again"


@dataclass(frozen=True)
class CheckpointFinding:
    """One thing that is wrong.

    Attributes:
        code: See the module.
        where: File, and the field in it.
        sentence: What is wrong.
        remedy: What to do.
    """

    code: str
    where: str
    sentence: str
    remedy: str

    def __str__(self) -> str:
        """Return it in one line."""
        return f"{self.code}: {self.where}: {self.sentence}; {self.remedy}"


@dataclass
class VerifiedCheckpoints:
    """What verification found.

    Attributes:
        model_id: As the manifest says; empty without one.
        version: The same.
        entries: Checkpoints that could be read from the manifest, in its order.
        findings: What is wrong; nothing when all is well.
        approved: What the manifest says of itself.
    """

    model_id: str = ""
    version: str = ""
    entries: tuple[ManifestEntry, ...] = ()
    findings: list[CheckpointFinding] = field(default_factory=list)
    approved: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def add(self, code: str, where: str, sentence: str, remedy: str) -> None:
        """Note what is wrong."""
        self.findings.append(CheckpointFinding(code, where, sentence, remedy))


@dataclass(frozen=True)
class _Read:
    """A document: its head, and its rows that could be read, by their place in it."""

    head: dict[str, Any]
    rows: tuple[tuple[int, Any], ...]


@dataclass(frozen=True)
class Held:
    """What a directory of checkpoints holds, or a release of it.

    Attributes:
        documents: Name -> parsed JSON.
        problems: Name -> why a document that is there could not be read.
        digests: Name of a checkpoint file -> ``sha256:<hex>``; None where it could not be read.
        unsafe: Name of a checkpoint file -> what it would run.
    """

    documents: Mapping[str, Any]
    problems: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str | None] = field(default_factory=dict)
    unsafe: Mapping[str, Sequence[str]] = field(default_factory=dict)


def judge_checkpoints(
    held: Held,
    *,
    planned_epochs: int | None = None,
    certified: Certified | None = None,
) -> VerifiedCheckpoints:
    """Look for everything in the module's table.

    Args:
        held: What there is.
        planned_epochs: Length of the training, where the manifest does not say it.
        certified: Says why no certificate of a quorum holds for a checkpoint of what was found;
            nothing when one does. None leaves it at whether a certificate names the checkpoint.
    """
    found = VerifiedCheckpoints()
    for name, problem in held.problems.items():
        found.add("DOCUMENT_INVALID", name, problem, "restore it from a copy")
    if MANIFEST not in held.documents:
        if MANIFEST not in held.problems:
            found.add("MANIFEST_MISSING", MANIFEST, "is not there", "name the checkpoints' folder")
        _unlisted(set(held.digests), set(), found)
        return found
    for name in DOCUMENTS[1:]:
        if name not in held.documents and name not in held.problems:
            found.add("DOCUMENT_MISSING", name, "is not there", "resume the training")
    manifest = _manifest(held.documents[MANIFEST], found)
    if manifest is None:
        _unlisted(set(held.digests), set(), found)
        return found
    _order(found.entries, planned_epochs or manifest.get("planned_epochs"), found)
    listed = {entry.file_name for entry in found.entries}
    _unlisted(set(held.digests), listed | _named_by_broken(manifest), found)
    _files(held, found)
    _registry(held, listed, found)
    _metrics(held, found)
    for name in sorted(set(held.documents) - {*DOCUMENTS, CERTIFICATE}):
        _other(name, held.documents[name], found)
    if found.approved:
        _approval(certified or _names(held), found)
    return found


def _rows(
    name: str, value: Any, key: str, kind: type[BaseModel], found: VerifiedCheckpoints
) -> _Read | None:
    """Read a document row by row, so that one bad row hides no other."""
    listed = value.get(key) if isinstance(value, dict) else None
    if not isinstance(listed, list):
        found.add("DOCUMENT_INVALID", f"{name}: {key}", "is no list", "restore it from a copy")
        return None
    rows = []
    for place, row in enumerate(listed):
        try:
            rows.append((place, kind.model_validate(row)))
        except ValidationError as exc:
            _bad_row(f"{name}: {key}.{place}", exc, found)
    return _Read(value, tuple(rows))


def _bad_row(where: str, exc: ValidationError, found: VerifiedCheckpoints) -> None:
    for error in exc.errors(include_url=False):
        name = ".".join(str(part) for part in error["loc"])
        is_digest = name == "checksum_sha256" and error["type"] != "missing"
        found.add(
            "CHECKSUM_UNPARSABLE" if is_digest else "DOCUMENT_INVALID",
            f"{where}.{name}" if name else where,
            str(error["msg"]),
            "write sha256:<64 hex digits>" if is_digest else "restore it from a copy",
        )


def _manifest(value: Any, found: VerifiedCheckpoints) -> dict[str, Any] | None:
    read = _rows(MANIFEST, value, "checkpoints", ManifestEntry, found)
    if read is None:
        return None
    try:
        head = CheckpointsManifest.model_validate({**read.head, "checkpoints": ()})
    except ValidationError as exc:
        _bad_row(MANIFEST, exc, found)
    else:
        found.model_id, found.version, found.approved = head.model_id, head.version, head.approved
    # Who claims approval without a readable head claims it all the same.
    found.approved = found.approved or bool(read.head.get("approved"))
    found.entries = tuple(row for _, row in read.rows)
    return read.head


def _named_by_broken(manifest: dict[str, Any]) -> set[str]:
    """Return files that rows name which could not be read: they are listed, only badly."""
    rows = (row for row in manifest["checkpoints"] if isinstance(row, dict))
    return {str(row.get("file") or f"{row.get('id')}{SUFFIX}") for row in rows}


def _unlisted(present: set[str], listed: set[str], found: VerifiedCheckpoints) -> None:
    for name in sorted(present - listed):
        found.add(
            "FILE_UNLISTED",
            name,
            "no manifest names it",
            "resume the training, which finishes or replaces it, or move it away",
        )


def _order(
    entries: Sequence[ManifestEntry], planned_epochs: int | None, found: VerifiedCheckpoints
) -> None:
    for name in ("id", "file_name"):
        values = [getattr(entry, name) for entry in entries]
        for value in sorted({v for v in values if values.count(v) > 1}):
            found.add("TWICE", MANIFEST, f"{value} is listed twice", "list it once")
    for before, after in pairwise(entries):
        if after.epoch <= before.epoch:
            found.add(
                "EPOCHS_OUT_OF_ORDER",
                f"{MANIFEST}: {after.id}",
                f"epoch {after.epoch} stands after epoch {before.epoch}",
                "list the checkpoints in the order of training",
            )
        if after.energy_wh < before.energy_wh:
            found.add(
                "ENERGY_FALLS",
                f"{MANIFEST}: {after.id}.energy_wh",
                f"{after.energy_wh:g} Wh is less than {before.energy_wh:g} Wh of {before.id}",
                "give the energy of the whole training so far",
            )
    for entry in entries:
        if planned_epochs is not None and entry.epoch > planned_epochs:
            found.add(
                "EPOCH_BEYOND_PLAN",
                f"{MANIFEST}: {entry.id}.epoch",
                f"epoch {entry.epoch} of a training of {planned_epochs}",
                "correct the plan or the epoch",
            )
    for missing in _gaps([entry.id for entry in entries]):
        found.add(
            "SEQUENCE_GAP",
            MANIFEST,
            f"is incomplete: {missing} is not listed, and later ones are",
            "list it, or resume the training, which writes it",
        )


def _gaps(ids: Sequence[str]) -> Iterator[str]:
    """Yield ``checkpoint_002`` where 001 and 003 are there."""
    numbers: dict[str, set[int]] = {}
    widths: dict[str, int] = {}
    for name in ids:
        match = _NUMBERED.fullmatch(name)
        if match:
            numbers.setdefault(match["stem"], set()).add(int(match["number"]))
            widths[match["stem"]] = len(match["number"])
    for stem, seen in sorted(numbers.items()):
        for number in range(1, max(seen)):
            if number not in seen:
                yield f"{stem}{number:0{widths[stem]}d}"


def _files(held: Held, found: VerifiedCheckpoints) -> None:
    for entry in found.entries:
        name = entry.file_name
        digest = held.digests.get(name)
        if name not in held.digests:
            found.add(
                "FILE_MISSING", f"{MANIFEST}: {entry.id}", f"{name} is not there", _TRAIN_AGAIN
            )
        elif digest not in (None, entry.checksum_sha256):
            found.add(
                "CHECKSUM_WRONG",
                name,
                f"has {digest}, the manifest says {entry.checksum_sha256}",
                _TRAIN_AGAIN,
            )
        for problem in held.unsafe.get(name, ()):
            found.add("UNSAFE", name, problem, f"do not load it; {_TRAIN_AGAIN}")


def _registry(held: Held, listed: set[str], found: VerifiedCheckpoints) -> None:
    document = held.documents.get(CHECKSUMS)
    read = document and _rows(CHECKSUMS, document, "files", ChecksumEntry, found)
    if not read:
        return
    known: dict[str, ChecksumEntry] = {row.file: row for _, row in read.rows}
    tried = {str(row.get("file")) for row in read.head["files"] if isinstance(row, dict)}
    for name in sorted(listed - tried):
        found.add("CHECKSUM_UNREGISTERED", CHECKSUMS, f"{name} has no row", "resume the training")
    for name in sorted(set(known) - listed):
        found.add(
            "CHECKSUM_UNREGISTERED", CHECKSUMS, f"{name} is not in the manifest", "remove the row"
        )
    for name, entry in known.items():
        digest = held.digests.get(name)
        if digest not in (None, entry.checksum_sha256):
            found.add(
                "CHECKSUM_WRONG",
                name,
                f"has {digest}, {CHECKSUMS} says {entry.checksum_sha256}",
                _TRAIN_AGAIN,
            )


def _metrics(held: Held, found: VerifiedCheckpoints) -> None:
    document = held.documents.get(METRICS)
    read = document and _rows(METRICS, document, "checkpoints", MetricsEntry, found)
    if not read:
        return
    listed = {entry.id: entry for entry in found.entries}
    known: dict[str, MetricsEntry] = {row.id: row for _, row in read.rows}
    for name in sorted(set(known) - set(listed)):
        found.add("METRICS_UNKNOWN", METRICS, f"{name} is not in the manifest", "remove or list it")
    tried = {str(row.get("id")) for row in read.head["checkpoints"] if isinstance(row, dict)}
    for name, entry in listed.items():
        if name not in tried:
            found.add("METRICS_MISSING", METRICS, f"says nothing of {name}", "resume the training")
        elif name in known:
            for what, here, there in _pairs(entry, known[name]):
                found.add(
                    "METRICS_DISAGREE",
                    f"{METRICS}: {name}.{what}",
                    f"is {there}, the manifest says {here}",
                    "restore the two from one copy",
                )


def _pairs(entry: ManifestEntry, row: MetricsEntry) -> Iterator[tuple[str, Any, Any]]:
    for what, here, there in (
        ("training_epoch", entry.epoch, row.training_epoch),
        ("auc", entry.auc, row.auc),
        ("faircare_score", entry.faircare_score, row.faircare_score),
        ("energy_wh", entry.energy_wh, row.energy_wh),
    ):
        if here != there:
            yield what, here, there


def _other(name: str, value: Any, found: VerifiedCheckpoints) -> None:
    """Hold another manifest against the first one."""
    read = _rows(name, value, "checkpoints", ManifestEntry, found)
    if read is None:
        return
    ours = {entry.id: entry for entry in found.entries}
    theirs: dict[str, ManifestEntry] = {row.id: row for _, row in read.rows}
    for key, mine in (("model_id", found.model_id), ("version", found.version)):
        if read.head.get(key) != mine:
            found.add(
                "MANIFESTS_DISAGREE",
                f"{name}: {key}",
                f"is {read.head.get(key)!r}, {MANIFEST} says {mine!r}",
                "remove the wrong one",
            )
    for checkpoint in sorted(set(ours) | set(theirs)):
        if checkpoint not in ours or checkpoint not in theirs:
            there = name if checkpoint in theirs else MANIFEST
            found.add(
                "MANIFESTS_DISAGREE",
                name,
                f"{checkpoint} is only in {there}",
                "remove the wrong manifest",
            )
            continue
        mine_row, their_row = ours[checkpoint], theirs[checkpoint]
        for what in ("epoch", "checksum_sha256", "energy_wh", "auc", "faircare_score"):
            if getattr(mine_row, what) != getattr(their_row, what):
                found.add(
                    "MANIFESTS_DISAGREE",
                    f"{name}: {checkpoint}.{what}",
                    f"is {getattr(their_row, what)}, {MANIFEST} says {getattr(mine_row, what)}",
                    "remove the wrong manifest",
                )


def _approval(certified: Certified, found: VerifiedCheckpoints) -> None:
    """Say why no certificate holds for any checkpoint; one that does is enough."""
    problems: list[str] = []
    for entry in reversed(found.entries):
        wrong = certified(found, entry)
        if not wrong:
            return
        problems += [sentence for sentence in wrong if sentence not in problems]
    found.add(
        "NOT_CERTIFIED",
        f"{MANIFEST}: approved",
        "is true, and no certificate holds" + (f" ({'; '.join(problems[:3])})" if problems else ""),
        "let the council vote, then kfm checkpoints certify",
    )


def _names(held: Held) -> Certified:
    """Return whether the certificate that is there, if there is one, names a checkpoint."""
    value = held.documents.get(CERTIFICATE)

    def why_not(_: VerifiedCheckpoints, entry: ManifestEntry) -> Sequence[str]:
        if value is None:
            return (f"there is no {CERTIFICATE}",)
        try:
            named = parse_digest(value["checksum_sha256"]) if isinstance(value, dict) else ""
        except (InputError, KeyError):
            return (f"{CERTIFICATE} names no digest",)
        wrong = f"{CERTIFICATE} is of another checkpoint"
        return () if named == entry.checksum_sha256 else (wrong,)

    return why_not
