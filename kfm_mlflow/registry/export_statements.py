"""The statements in an export: whose word they are, and which of them decisions rest on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import digest_bytes, parse_json
from kfm_mlflow.errors import EvidenceError, KfmError
from kfm_mlflow.gates.evidence import read_attestation
from kfm_mlflow.registry.export_keys import holders
from kfm_mlflow.release.bundle import ENVELOPE_SUFFIX, EVIDENCE_SUFFIX, MAX_ENVELOPE_BYTES
from kfm_mlflow.release.export import ATTESTATIONS_FOLDER
from kfm_mlflow.trust.attestation import AttestationReport, binding_problems
from kfm_mlflow.trust.dsse import parse_envelope
from kfm_mlflow.trust.instants import parse_instant
from kfm_mlflow.trust.keys import parse_public_key
from kfm_mlflow.trust.model_key import signed_name
from kfm_mlflow.trust.statement import Binding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from kfm_mlflow.policy.trust import TrustPolicy
    from kfm_mlflow.registry.history import Entry
    from kfm_mlflow.release.manifest import Manifest


def decided_at(entry: Entry) -> datetime:
    """Return when a decision was made, as the registry signed it."""
    return parse_instant(entry.at, where=f"row {entry.seq}")


@dataclass
class Statements:
    """Every statement of an export, judged at the instant of the first decision that read it.

    Attributes:
        root: The export.
        manifest: Of it, as it is.
        index: The index; its shape is right.
        trust: Whose word counts; None when that cannot be known.
        entries: Verified rows of the ledger about this model.
        moves: Those that moved this very version, oldest first.
        signed_at: When the registry signed the index: the instant by which statements are judged
            that no decision read.
        problems: What is wrong.
        notes: What counts for nothing.
        good: Digest -> report of what counts.
        envelopes: What there is, unjudged.
    """

    root: Path
    manifest: Manifest
    index: Mapping[str, Any]
    trust: TrustPolicy | None
    entries: Sequence[Entry]
    moves: Sequence[Entry]
    signed_at: datetime
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    good: dict[str, AttestationReport] = field(default_factory=dict)
    envelopes: list[bytes] = field(default_factory=list)

    def verify(self) -> None:
        """Verify every envelope, that none is missing that a decision rests on, and the votes."""
        paths = [
            entry.path
            for entry in self.manifest.files
            if entry.path.endswith(ENVELOPE_SUFFIX)
            and entry.path.rpartition("/")[0]
            in (ATTESTATIONS_FOLDER, f"{self.index['release_path']}{EVIDENCE_SUFFIX}")
        ]
        first: dict[str, Entry] = {}
        for entry in self.entries:
            for digest in entry.evidence:
                first.setdefault(digest, entry)
        for path in paths:
            try:
                self._statement(path, first)
            except (KfmError, OSError) as exc:
                text = str(exc)
                self.problems.append(text if text.startswith(path) else f"{path}: {text}")
        there = {self.manifest.digests[path] for path in paths}
        self.problems += [
            f"{ATTESTATIONS_FOLDER}: statement {digest} is missing, which row {entry.seq} rests on"
            for entry in self.moves
            for digest in entry.evidence
            if digest not in there
        ]
        self._votes()

    def _statement(self, path: str, first: Mapping[str, Entry]) -> None:
        if (self.root / path).stat().st_size > MAX_ENVELOPE_BYTES:
            raise EvidenceError(f"is larger than {MAX_ENVELOPE_BYTES} bytes", where=path)
        data, trust = (self.root / path).read_bytes(), self.trust
        self.envelopes.append(data)
        digest = digest_bytes(data)
        envelope = parse_envelope(parse_json(data, where=path), where=path)
        if trust is None:
            raise EvidenceError("cannot be judged without policy", where=path)
        cited = first.get(digest)
        at = decided_at(cited) if cited else self.signed_at
        known = {
            key.key_id: (holder.name, key)
            for _, holder in holders(trust)
            for key in [parse_public_key(holder.public_key or "", where=holder.name)]
        }
        for item in envelope.signatures:
            name, key = known.get(item.key_id, ("", None))
            if key is not None and not key.verifies(item.signature, envelope.pae):
                raise EvidenceError(f"signature of {name!r} does not verify", where=path)
        report = read_attestation(data, trust, at)
        name = signed_name(str(report.kind), self.index["model_name"])
        wanted = Binding(name, self.index["release_version"], self.index["release_id"])
        if report.binding is not None:
            self.problems += [f"{path}: {text}" for text in binding_problems(report, wanted)]
        if report.ok:
            self.good[digest] = report
        else:
            self.notes.append(f"{path}: counts for nothing: {'; '.join(report.problems)}")

    def _votes(self) -> None:
        """Find the approval of every member that the last decision counted."""
        last = self.moves[-1] if self.moves else None
        if last is None or last.policy_digest != self.index["policy_digest"]:
            return
        approved = {
            str(report.claims.get("voter"))
            for digest, report in self.good.items()
            if digest in last.evidence
            and report.kind == "vote"
            and report.claims is not None
            and report.claims.get("choice") == "approve"
            and report.claims.get("voter") in report.signers
        }
        self.problems += [
            f"{ATTESTATIONS_FOLDER}: the approval of {name} is missing, which row {last.seq} counts"
            for name in last.approving
            if name not in approved
        ]
