"""Checking an export offline: bytes, signature, ledger, policy, statements, keys, documents.

Rules kept here:

1. Nothing in an export is believed because the index says it: every field of the index is found
   again in what is signed, or is named in ``docs/export.md`` as mere word.
2. What decided is judged at the instant of the decision, which the registry signed: an export does
   not rot when votes expire or keys run out. A revoked key never counts.
3. Every fault is a sentence that begins with the file. Bad input is never an exception.
4. What is not wrong but counts for nothing (an expired statement, a signer whom the policy no
   longer names) is a note.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kfm_mlflow.canonical import canonical_bytes, digest_bytes, load_json, parse_json
from kfm_mlflow.errors import EvidenceError, KfmError, StorageError
from kfm_mlflow.gates.content import ContentMemory
from kfm_mlflow.gates.engine import GATES
from kfm_mlflow.gates.evidence import Evidence, trusted_signers
from kfm_mlflow.gates.findings import Move
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.models import LineagePolicy, Policy
from kfm_mlflow.registry.deployed_prov import build_deployed
from kfm_mlflow.registry.export_index import MAX_SIGNED_BYTES, read_signature
from kfm_mlflow.registry.export_keys import anchors, index_keys, signer_of
from kfm_mlflow.registry.export_lineage import lineage_problems
from kfm_mlflow.registry.export_statements import Statements, decided_at
from kfm_mlflow.registry.history import Entry, History, read_entry
from kfm_mlflow.registry.snapshot import snapshot_rows, verify_snapshot
from kfm_mlflow.release.bundle import (
    EVIDENCE_SUFFIX,
    SIGNATURE_FILE,
)
from kfm_mlflow.release.export import (
    ATTESTATIONS_FOLDER,
    DEPLOYED_FILE,
    INDEX_FILE,
    KEYS_FOLDER,
    LEDGER_FILE,
    POLICY_FILE,
    REGIONS_FILE,
    SIGNED_DEPLOYED_FILE,
    SIGNED_FILE,
    byte_problems,
    part_of,
    release_path,
    signature_path,
)
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.keys import parse_public_key
from kfm_mlflow.trust.ledger import MOVED, POLICY
from kfm_mlflow.trust.signing import verify_release

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from kfm_mlflow.gates.content import ReleaseContent
    from kfm_mlflow.policy.trust import TrustPolicy
    from kfm_mlflow.release.manifest import Manifest
    from kfm_mlflow.trust.keys import PublicKey

OWN_WORD = "the export itself"
"""Whose word the keys are when nobody gave any from elsewhere."""
_DOCUMENT_GATES = ("stac", "prov", "sbom")


@dataclass(frozen=True)
class ExportReport:
    """What an export proves.

    Attributes:
        problems: One sentence per fault, each beginning with the file; none means that all holds.
        notes: What is not wrong, but counts for nothing or has changed since.
        index: The index; empty when it cannot be read.
        row_count: Good rows of the ledger.
        statement_count: Statements that count.
        key_source: Whose word the keys are.
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    index: Mapping[str, Any] = field(default_factory=dict)
    row_count: int = 0
    statement_count: int = 0
    key_source: str = OWN_WORD

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, for programs that ask ``kfm verify --json``."""
        return {
            "schema_version": "1",
            "verdict": "PASS" if self.ok else "FAIL",
            "problems": list(self.problems),
            "notes": list(self.notes),
            "release_id": self.index.get("release_id"),
            "model_name": self.index.get("model_name"),
            "version": self.index.get("version"),
            "row_count": self.row_count,
            "statement_count": self.statement_count,
            "key_source": self.key_source,
        }


def read_policy(data: bytes) -> Policy:
    """Read a policy as exports hold it: by the names of its fields, which its digest covers.

    Raises:
        EvidenceError: It is something else.
    """
    value = parse_json(data, where=POLICY_FILE)
    try:
        # People write these steps by another name, by which the model tells them apart.
        for step in value["rollout"]["steps"]:
            if "weight_pct" in step:
                step["setWeight"] = step.pop("weight_pct")
        return Policy.model_validate_json(json.dumps(value), by_alias=True, by_name=True)
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise EvidenceError(f"is no policy ({place}: {first['msg']})", where=POLICY_FILE) from exc
    except (KeyError, TypeError, AttributeError) as exc:
        raise EvidenceError("is no policy (rollout.steps)", where=POLICY_FILE) from exc


@dataclass
class _Check:
    """One verification; every part adds to what is wrong."""

    root: Path
    manifest: Manifest
    index: Mapping[str, Any]
    registry_keys: Sequence[PublicKey]
    trust: TrustPolicy | None
    now: datetime
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    policy: Policy | None = None
    entries: tuple[Entry, ...] = ()
    row_count: int = 0
    statement_count: int = 0
    signed_at: datetime | None = None
    envelopes: Sequence[bytes] = ()

    def part(self, where: str, check: Callable[[], None]) -> None:
        """Run one part; what it can not read is a problem of its file."""
        try:
            check()
        except (KfmError, OSError) as exc:
            text = str(exc)
            named = text.startswith(where) or getattr(exc, "where", "") in self.manifest.digests
            self.problems.append(text if named else f"{where}: {text}")

    @property
    def release(self) -> str:
        """Where the release lies."""
        return str(self.index["release_path"])

    @property
    def moves(self) -> tuple[Entry, ...]:
        """Decisions that moved this very version, oldest first."""
        wanted = (self.index["model_name"], self.index["version"])
        return tuple(e for e in self.entries if e.kind == MOVED and (e.model, e.version) == wanted)

    @property
    def own_keys(self) -> tuple[PublicKey, ...]:
        """The registry's keys, as the index names them."""
        return tuple(
            parse_public_key(key["public_key"], where=key["path"])
            for key in self.index["keys"]
            if key["duty"] == "registry"
        )

    def signed(self) -> None:
        """Verify the registry's signature over the index, and so over every file."""
        path = self.root / SIGNED_FILE
        if not path.is_file():
            raise EvidenceError("is missing", where=SIGNED_FILE)
        with path.open("rb") as stream:
            data = stream.read(MAX_SIGNED_BYTES + 1)
        keys = tuple(self.registry_keys) or self.own_keys
        digests = self.manifest.digests
        self.signed_at = read_signature(data, self.index, digests, keys, self.now)

    def regions(self) -> None:
        """Compare what is told of the regions with the digest that the policy names."""
        found = load_json(self.root / REGIONS_FILE, where=REGIONS_FILE)
        self.problems += [
            f"{REGIONS_FILE}: {text}" for text in schema_problems("regions_public", found)[:1]
        ]
        digest = self.policy.regions_digest if self.policy is not None else None
        if digest is not None and found.get("regions_digest") != digest:
            raise EvidenceError("is not of the regions that the policy names", where=REGIONS_FILE)

    def layout(self) -> None:
        """Compare the paths that the index names with where they have to be."""
        index = self.index
        if index["release_path"] != release_path(index["family"], index["release_version"]):
            raise EvidenceError("release_path is not where the release has to lie")
        signature = signature_path(index["family"], index["release_version"])
        stated = {"hash": index["release_id"], "signature": signature, "immutable": True}
        if index["integrity"] != stated:
            raise EvidenceError("integrity does not follow from release id and path")
        there = [f"{entry.path}/" for entry in self.manifest.files]
        for name, path in index["documents"].items():
            if not any(entry.startswith(f"{path}/") for entry in there):
                self.problems.append(f"{INDEX_FILE}: documents names {name}, which is not there")

    def read_policy(self) -> None:
        """Read the policy, and compare its digest."""
        data = (self.root / POLICY_FILE).read_bytes()
        found = read_policy(data)
        if found.digest != digest_bytes(data) or found.digest != self.index["policy_digest"]:
            raise EvidenceError("is not the policy whose digest the index names")
        if found.family != self.index["family"]:
            raise EvidenceError(f"is of family {found.family}, not {self.index['family']}")
        self.policy = found

    def keys(self) -> None:
        """Compare the key files with the policy and with what the ledger is verified by."""
        index, policy = self.index, self.policy
        registry = self.own_keys
        if not registry:
            raise EvidenceError("names no key of the registry")
        if policy is not None and index["keys"] != index_keys(policy.trust, registry):
            self.problems.append(f"{INDEX_FILE}: keys are not those of {POLICY_FILE}")
        named = {key["path"]: str(key["public_key"]).encode() for key in index["keys"]}
        named |= dict(anchors(policy.trust).values()) if policy is not None else {}
        there = self.manifest.digests
        for path in sorted(p for p in there if p.startswith(f"{KEYS_FOLDER}/")):
            if path not in named or there[path] != digest_bytes(named[path]):
                self.problems.append(f"{path}: is not what the policy names, or {INDEX_FILE}")
        self.problems += [f"{path}: is missing" for path in sorted(named.keys() - there.keys())]

    def ledger(self) -> None:
        """Verify the chain and its signatures, and find this version's rows in it."""
        index, path = self.index, self.root / LEDGER_FILE
        report, problems = verify_snapshot(path, keys=tuple(self.registry_keys) or self.own_keys)
        self.row_count = report.row_count
        if report.finding is not None:
            raise EvidenceError(str(report.finding))
        self.problems += [f"{LEDGER_FILE}: {problem}" for problem in problems]
        asked = {index["model_name"], f"policy:{index['family']}"}
        self.entries = tuple(
            read_entry(row) for row in snapshot_rows(path) if row["model"] in asked
        )
        history = History(index["model_name"])
        for entry in self.entries:
            history.add(entry)
        mine = [e.seq for e in self.entries if e.version == index["version"]]
        said = {
            "ledger_head": report.head.to_dict(),
            "ledger_rows": mine,
            "level": str(history.levels().get(index["version"], Level.CANDIDATE)),
        }
        self.problems += [
            f"{INDEX_FILE}: {name} does not follow from the ledger"
            for name, value in said.items()
            if index[name] != value
        ]
        self._decisions()

    def _decisions(self) -> None:
        index = self.index
        name = f"{index['model_name']} v{index['version']}"
        if not self.moves:
            raise EvidenceError(f"holds no decision that admitted {name}")
        for entry in self.moves:
            for wanted in ("release_id", "release_version"):
                if getattr(entry, wanted) != index[wanted]:
                    self.problems.append(
                        f"{LEDGER_FILE}: row {entry.seq} is about {wanted.replace('_', ' ')} "
                        f"{getattr(entry, wanted)}, not {index[wanted]}"
                    )
        changes = [e for e in self.entries if e.kind == POLICY]
        latest = changes[-1].change if changes else None
        known = {entry.policy_digest for entry in self.moves}
        known.add(str(latest["after"]) if latest else "")
        if index["policy_digest"] not in known:
            self.problems.append(f"{POLICY_FILE}: no row of the ledger names its digest")
        last = self.moves[-1]
        if last.policy_digest != index["policy_digest"]:
            self.notes.append(
                f"{POLICY_FILE}: changed since row {last.seq}, which was decided under "
                f"{last.policy_digest}"
            )

    def signature(self) -> None:
        """Verify release id and signature, at the instant of the last decision."""
        found = part_of(self.manifest, self.release)
        if found.release_id != self.index["release_id"]:
            self.problems.append(
                f"{self.release}: has release id {found.release_id}, not {self.index['release_id']}"
            )
        trust = self._trust()
        if trust is None or not self.moves:
            self.problems.append(
                f"{self.release}{EVIDENCE_SUFFIX}/{SIGNATURE_FILE}: cannot be judged without "
                "policy and ledger"
            )
            return
        report = verify_release(
            self.root / self.release,
            self.root / f"{self.release}{EVIDENCE_SUFFIX}" / SIGNATURE_FILE,
            trusted_signers(trust),
            decided_at(self.moves[-1]),
            digests=found.digests,
        )
        # A sentence begins with the signature file, or with a file inside the release.
        beside = f"{self.release}{EVIDENCE_SUFFIX}/"
        self.problems += [
            f"{beside if text.startswith(SIGNATURE_FILE) else f'{self.release}/'}{text}"
            for text in report.problems
        ]
        stated = self.index["signer"]
        if report.ok and self.trust is None and stated != signer_of(trust, report.signer):
            self.problems.append(f"{INDEX_FILE}: signer is not who signed")

    def _trust(self) -> TrustPolicy | None:
        return self.trust or (self.policy.trust if self.policy is not None else None)

    def statements(self) -> None:
        """Verify every statement, and that none is missing that a decision rests on."""
        found = Statements(
            self.root,
            self.manifest,
            self.index,
            self._trust(),
            self.entries,
            self.moves,
            self.signed_at or self.now,
        )
        found.verify()
        self.problems += found.problems
        self.notes += found.notes
        self.statement_count = len(found.good)
        self.envelopes = found.envelopes

    @cached_property
    def content(self) -> ReleaseContent:
        """What the release says."""
        manifest = part_of(self.manifest, self.release)
        return ContentMemory(1).read(self.root / self.release, manifest)

    @property
    def waived(self) -> set[str]:
        """Gates that a decision on this version passed over."""
        return {item["gate"] for entry in self.moves for item in entry.not_passed}

    def lineage(self) -> None:
        """Put the lineage up to the deployment together again, compare, and judge it."""
        if self.policy is None or not self.moves:
            return
        gate = self.policy.gates.prov
        released = self.content.texts.get((gate or LineagePolicy()).path)
        wanted = None
        if released is not None:
            with suppress(EvidenceError):  # Then there must be no file, which is said.
                wanted = build_deployed(
                    released.encode("utf-8"),
                    self.entries,
                    version=self.index["version"],
                    trust=self.policy.trust,
                    envelopes=self.envelopes,
                )
        keys = tuple(self.registry_keys) or self.own_keys
        found = lineage_problems(self.root, self.manifest.digests, wanted, keys, self.now)
        self.problems += found
        if wanted is not None and not found:
            told = self.notes if gate is None or "prov" in self.waived else self.problems
            told += [f"{DEPLOYED_FILE}: {text}" for text in wanted.problems]

    def documents(self) -> None:
        """Judge STAC, PROV and SBOM again by the gates that admitted them."""
        if self.policy is None or not self.moves:
            return
        manifest = part_of(self.manifest, self.release)
        evidence = Evidence(manifest, "", self.content, None, (), (), None)
        last = self.moves[-1]
        move = Move(
            last.model,
            last.version,
            Level.CANDIDATE,
            Level.STAGING,
            0,
            None,
            decided_at(last),
        )
        for name in _DOCUMENT_GATES:
            if getattr(self.policy.gates, name) is None:
                continue
            for finding in GATES[name](evidence, self.policy, move):
                if finding.verdict is not Verdict.PASS:
                    text = f"{self.release}/{finding.detail}"
                    (self.notes if name in self.waived else self.problems).append(text)


def _read_index(root: Path) -> dict[str, Any]:
    value = load_json(root / INDEX_FILE)
    problems = schema_problems("export", value)
    if problems:
        raise EvidenceError(problems[0], where=INDEX_FILE)
    if (root / INDEX_FILE).read_bytes() != canonical_bytes(value):
        raise EvidenceError("is not canonical JSON", where=INDEX_FILE)
    found: dict[str, Any] = value
    return found


def verify_export(
    root: Path,
    *,
    now: datetime,
    registry_keys: Sequence[PublicKey] = (),
    trust: TrustPolicy | None = None,
) -> ExportReport:
    """Check an export without server, network or database.

    Args:
        root: The directory.
        now: The instant of the check (aware); what was signed after it does not hold yet.
        registry_keys: The registry's keys, as kept elsewhere; none takes those in the export.
        trust: Whom to trust instead of whom the exported policy names.

    Returns:
        The report; nothing that an export may hold raises.
    """
    given = [text for text, there in (("--key", registry_keys), ("--policy-dir", trust)) if there]
    source = " and ".join(given) or OWN_WORD
    try:
        manifest = build_manifest(root)
    except (KfmError, OSError) as exc:
        return ExportReport((str(exc),), key_source=source)
    index: dict[str, Any] | None = None
    problems: list[str] = []
    try:
        index = _read_index(root)
    except (KfmError, StorageError, OSError) as exc:
        problems.append(str(exc))
    problems += byte_problems(root, manifest, index)
    if index is None:
        return ExportReport(tuple(problems), key_source=source)
    check = _Check(root, manifest, index, registry_keys, trust, now, problems)
    check.part(SIGNED_FILE, check.signed)
    check.part(INDEX_FILE, check.layout)
    check.part(POLICY_FILE, check.read_policy)
    check.part(REGIONS_FILE, check.regions)
    check.part(INDEX_FILE, check.keys)
    check.part(LEDGER_FILE, check.ledger)
    check.part(check.release, check.signature)
    check.part(ATTESTATIONS_FOLDER, check.statements)
    if not check.problems:
        check.part(SIGNED_DEPLOYED_FILE, check.lineage)
        check.part(check.release, check.documents)
    return ExportReport(
        tuple(dict.fromkeys(check.problems)),
        tuple(dict.fromkeys(check.notes)),
        index,
        check.row_count,
        check.statement_count,
        source,
    )
