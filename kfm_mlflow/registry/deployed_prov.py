"""One lineage from data to deployment: the released document and the ledger's part. Pure.

Rules kept here:

1. Every record of the released document stands in the extended one as it was; nothing is taken
   away or said anew. A released document that already speaks of the ledger is refused.
2. What is added follows from rows of the ledger, and from statements that verify under the policy
   at the instant at which they say that they were made. Equal input gives equal bytes.
3. Things are named by the row that made them (``deployed:row-12``) or by their digest
   (``sha256:…``), so that no name given by people can stand for two things. Reasons, which are
   free text, stay in the ledger; why a version was taken down is told in fixed words.
4. Where a clock went back, a row counts from the row before, as everywhere.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import canonical_bytes, digest_bytes, parse_digest, parse_json
from kfm_mlflow.errors import EvidenceError, KfmError
from kfm_mlflow.gates.evidence import read_attestation
from kfm_mlflow.metadata.prov_trace import evaluate_deployed
from kfm_mlflow.policy.levels import Level, parse_level
from kfm_mlflow.registry.deployed_records import Records, party
from kfm_mlflow.registry.deployed_traffic import TrafficEvent, read_traffic, tell_traffic
from kfm_mlflow.trust.attestation import verify_envelope
from kfm_mlflow.trust.instants import parse_instant
from kfm_mlflow.trust.keys import TrustedKey
from kfm_mlflow.trust.ledger import MOVED
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from kfm_mlflow.policy.trust import TrustPolicy
    from kfm_mlflow.registry.history import Entry
    from kfm_mlflow.trust.attestation import AttestationReport
    from kfm_mlflow.trust.keys import PublicKey, Signer

KIND = "deployed-prov"
"""Kind of the statement in which the registry signs an extended document."""
_WHERE = "provenance"
_CANARY_VERDICT = "canary-verdict"
_KEY_LENGTH = 16


@dataclass(frozen=True)
class DeployedProv:
    """An extended document.

    Attributes:
        document: Canonical PROV-JSON.
        binding: Whose it is.
        row: Number of the last row of the ledger that it tells of.
        row_hash: Hash of that row.
    """

    document: bytes
    binding: Binding
    row: int
    row_hash: str

    @property
    def problems(self) -> list[str]:
        """What is wrong with it, as sentences; a clock that ran ahead is enough."""
        return evaluate_deployed(parse_json(self.document, where=_WHERE))


def extended_prov(
    released: bytes,
    entries: Iterable[Entry],
    *,
    version: int,
    trust: TrustPolicy,
    envelopes: Iterable[bytes] = (),
) -> bytes:
    """Extend the lineage of a release by everything that was decided about it.

    Args:
        released: ``provenance/provenance.json`` of the frozen release, its digest checked.
        entries: Rows of the ledger about the registered model, in order: all of them, or at least
            the version's own and those that :func:`neighbours` names. Others change nothing.
        version: Model version.
        trust: Whose canary verdicts count.
        envelopes: Statements about the release, in any order.

    Returns:
        Canonical PROV-JSON.

    Raises:
        EvidenceError: The released document is none, names no release or more than one, uses a
            prefix or name of ours for something else, or no row moved the version.
    """
    return build_deployed(
        released, entries, version=version, trust=trust, envelopes=envelopes
    ).document


def build_deployed(
    released: bytes,
    entries: Iterable[Entry],
    *,
    version: int,
    trust: TrustPolicy,
    envelopes: Iterable[bytes] = (),
) -> DeployedProv:
    """Extend a lineage as :func:`extended_prov` does, and say whose it is and up to which row."""
    moves = [entry for entry in entries if entry.kind == MOVED]
    near = neighbours(moves, version)
    kept = [entry for entry in moves if entry.version == version or entry.seq in near]
    own = [entry for entry in kept if entry.version == version]
    if not own:
        raise EvidenceError(f"holds no decision that moved v{version}", where="ledger")
    story = _Story(Records(parse_json(released, where=_WHERE)), version)
    story.begin(released)
    story.tell(kept, _good(envelopes, trust, own[0].release_id, version))
    last = kept[-1]
    binding = Binding(own[0].model, own[0].release_version, own[0].release_id, None, version)
    return DeployedProv(canonical_bytes(story.records.values), binding, last.seq, last.hash)


def neighbours(moves: Sequence[Entry], version: int) -> frozenset[int]:
    """Return the rows about other versions that belong to a version's story.

    Those are the promotion that took its place at Production, and the other half of a rollback,
    whose two rows are written one after the other.

    Args:
        moves: Rows that moved versions of the model, in order.
        version: Model version.
    """
    found: set[int] = set()
    holds, before = False, None
    for entry in moves:
        if entry.version == version:
            holds = entry.to_level == Level.PRODUCTION
        elif holds and entry.to_level == Level.PRODUCTION:
            found.add(entry.seq)
            holds = False
        halves = entry.restores and before is not None and before.seq == entry.seq - 1
        if halves and before is not None and version in (entry.version, before.version):
            found |= {entry.seq, before.seq}
        before = entry
    return frozenset(found - {entry.seq for entry in moves if entry.version == version})


def _said_at(envelope: bytes) -> datetime:
    """Return when a statement says that it was made; believed only if it verifies then."""
    try:
        payload = base64.b64decode(parse_json(envelope, where=_WHERE)["payload"])
        predicate = parse_json(payload, where=_WHERE)["predicate"]
        run = predicate.get("runDetails")
        text = run["metadata"]["finishedOn"] if run else predicate["issued_at"]
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise EvidenceError("says no instant", where=_WHERE) from exc
    return parse_instant(text, where=_WHERE)


def _good(
    envelopes: Iterable[bytes], trust: TrustPolicy, release_id: str, version: int
) -> dict[str, AttestationReport]:
    """Return digest -> report of what verifies and is about the release, in order of digests."""
    found: dict[str, AttestationReport] = {}
    for envelope in envelopes:
        try:
            report = read_attestation(envelope, trust, _said_at(envelope))
        except EvidenceError:
            continue
        bound = report.binding
        about = bound is not None and (bound.release_id, bound.version or version)
        if report.ok and about == (release_id, version):
            found[report.digest] = report
    return {digest: found[digest] for digest in sorted(found)}


def _kind_of(entry: Entry) -> str:
    """Return what a row did: the type of its activity."""
    if entry.to_level == Level.PRODUCTION:
        return "kfm:Reversion" if entry.restores else "kfm:Promotion"
    if parse_level(entry.from_level).rank < parse_level(entry.to_level).rank:
        return "kfm:CanaryStart" if entry.to_level == Level.CANARY else "kfm:Admission"
    return "kfm:Rollback" if entry.from_level == Level.PRODUCTION else "kfm:Recall"


def _told_cause(entry: Entry) -> dict[str, str | int]:
    """Return why a version was taken down, as attributes of the activity that did it."""
    cause = entry.cause or {}
    drift = cause.get("drift") or {}
    told: dict[str, Any] = {
        "trigger": cause.get("trigger"),
        "drift_verdict": drift.get("verdict"),
        "drift_mode": drift.get("mode"),
        "drift_column_count": drift.get("column_count"),
        "drift_drifting_count": drift.get("drifting_count"),
        "drift_baseline": drift.get("baseline_digest"),
    }
    return {name: value for name, value in told.items() if value not in (None, "")}


class _Story:
    """Tells rows of the ledger as PROV, one after the other."""

    def __init__(self, records: Records, version: int) -> None:
        self.records, self._version = records, version
        self._held = ""  # The release at the level that it has now.
        self._last = ""  # The last activity about the version.
        self._canaries: list[tuple[datetime, str]] = []
        self._told: set[str] = set()  # Activities of traffic: a later verdict tells them again.

    def begin(self, released: bytes) -> None:
        """Name the document that is extended."""
        digest = digest_bytes(released)
        name = self._by_digest(digest, "kfm:Provenance", label="lineage as released")
        self.records.relate("hadMember", collection=self.records.release, entity=name)

    def tell(self, rows: Sequence[Entry], good: dict[str, AttestationReport]) -> None:
        """Tell rows, and the canary verdicts between them."""
        clock: datetime | None = None
        verdicts = sorted(
            (v for r in good.values() if r.kind == _CANARY_VERDICT and (v := _verdict_of(r))),
            key=lambda verdict: (verdict.decided_at, verdict.digest),
        )
        for entry in rows:
            at = parse_instant(entry.at, where=f"row {entry.seq}")
            clock = at = at if clock is None else max(at, clock)
            # Within one millisecond, what a row read came before it, and everything else after.
            due = [v for v in verdicts if v.decided_at < at or v.digest in entry.evidence]
            for verdict in due:
                self._verdict(verdict)
            verdicts = [verdict for verdict in verdicts if verdict not in due]
            if entry.version == self._version:
                self._own(entry, at, good)
            else:
                self._other(entry, at)
        for verdict in verdicts:
            self._verdict(verdict)

    def _by_digest(self, digest: str, kinds: str | list[str], **attributes: Any) -> str:
        text = parse_digest(digest, where=_WHERE)
        return self.records.entity(text, kinds, sha256=text, **attributes)

    def _decide(self, entry: Entry, at: datetime) -> str:
        """Add the activity of a row, who asked for it, who answered, and who approved."""
        add = self.records
        activity = add.activity(
            f"ledger:row-{entry.seq}",
            _kind_of(entry),
            at,
            at,
            label=f"row {entry.seq}",
            row=entry.seq,
            row_hash=entry.hash,
            decision_digest=entry.decision_digest,
            outcome=entry.outcome,
            from_level=entry.from_level,
            to_level=entry.to_level,
            model_version=entry.version,
            **_told_cause(entry),
        )
        policy = self._by_digest(
            entry.policy_digest, ["kfm:Policy", "prov:Plan"], label="policy in force"
        )
        actor = add.agent(party("actor", entry.actor), "kfm:Actor", label=entry.actor)
        add.relate("wasAssociatedWith", activity=activity, agent=actor, role="asked")
        for key in entry.signed_by:
            registry = add.agent(
                party("key", key[:_KEY_LENGTH]),
                ["kfm:Registry", "prov:SoftwareAgent"],
                label=f"registry {key[:8]}",
                key_id=key,
            )
            add.relate(
                "wasAssociatedWith", activity=activity, agent=registry, plan=policy, role="decided"
            )
            add.relate("actedOnBehalfOf", delegate=registry, responsible=actor, activity=activity)
        for name in entry.approving:
            member = add.agent(party("council", name), "kfm:CouncilMember", label=name)
            add.relate("wasAssociatedWith", activity=activity, agent=member, role="approved")
        return activity

    def _deployment(self, entry: Entry, activity: str, at: datetime) -> str:
        """Add a release at a level, which a row made."""
        add = self.records
        made = add.entity(
            f"deployed:row-{entry.seq}",
            "kfm:Deployment",
            label=f"v{entry.version} at {entry.to_level}",
            level=entry.to_level,
            model_name=entry.model,
            model_version=entry.version,
            release_id=entry.release_id,
        )
        add.relate("wasGeneratedBy", entity=made, activity=activity, at=at)
        return made

    def _own(self, entry: Entry, at: datetime, good: dict[str, AttestationReport]) -> None:
        add, activity = self.records, self._decide(entry, at)
        add.relate("used", activity=activity, entity=add.release, at=at)
        policy = parse_digest(entry.policy_digest, where=_WHERE)
        add.relate("used", activity=activity, entity=policy, at=at)
        for digest in entry.evidence:
            kind = str(good[digest].kind) if digest in good else "unread"
            used = self._by_digest(digest, "kfm:Statement", label=kind, kind=kind)
            add.relate("used", activity=activity, entity=used, at=at)
        if self._last:
            add.relate("wasInformedBy", informed=activity, informant=self._last)
        target = self._target(entry, activity, at)
        held, self._held = self._held, ""
        if held:
            add.relate("used", activity=activity, entity=held, at=at)
            add.relate("wasInvalidatedBy", entity=held, activity=activity, at=at)
        if entry.to_level != Level.CANDIDATE:
            self._held = made = self._deployment(entry, activity, at)
            add.relate("specializationOf", specificEntity=made, generalEntity=add.release)
            ends: dict[str, Any] = {"generatedEntity": made, "activity": activity}
            add.relate("wasDerivedFrom", usedEntity=add.release, **ends)
            before = [held] if held else []
            before += [target] if target and _kind_of(entry) == "kfm:Promotion" else []
            for name in before:
                add.relate("wasDerivedFrom", usedEntity=name, kind="prov:Revision", **ends)
            if entry.to_level == Level.CANARY:
                self._canaries.append((at, made))
        self._last = activity

    def _target(self, entry: Entry, activity: str, at: datetime) -> str:
        """Add the release that was Production when the move was judged, if another was."""
        if not entry.rollback_target:
            return ""
        # On a rollback, it is the release that goes.
        label = "release rolled back" if entry.restores else "release to go back to"
        kind = "kfm:RolledBack" if entry.restores else "kfm:RollbackTarget"
        target = self._by_digest(
            entry.rollback_target, kind, label=label, release_id=entry.rollback_target
        )
        self.records.relate("used", activity=activity, entity=target, role=label, at=at)
        return target

    def _other(self, entry: Entry, at: datetime) -> None:
        """Tell what another version's row did to this one."""
        add, activity = self.records, self._decide(entry, at)
        policy = parse_digest(entry.policy_digest, where=_WHERE)
        add.relate("used", activity=activity, entity=policy, at=at)
        if self._last:
            add.relate("wasInformedBy", informed=activity, informant=self._last)
        if entry.to_level == Level.PRODUCTION:
            made = self._deployment(entry, activity, at)
            if self._held and not entry.restores:
                held, self._held = self._held, ""
                add.relate("used", activity=activity, entity=held, at=at)
                add.relate("wasInvalidatedBy", entity=held, activity=activity, at=at)
                ends: dict[str, Any] = {"generatedEntity": made, "activity": activity}
                add.relate("wasDerivedFrom", usedEntity=held, kind="prov:Revision", **ends)
        self._last = activity

    def _verdict(self, verdict: _Verdict) -> None:
        """Tell an analysis of the canary, and what was said of it."""
        add = self.records
        activity = add.activity(
            f"canary:{verdict.digest.removeprefix('sha256:')}",
            "kfm:CanaryAnalysis",
            verdict.began_at,
            verdict.decided_at,
            label=f"canary {verdict.verdict}",
            verdict=verdict.verdict,
        )
        said = self._by_digest(
            verdict.digest, "kfm:Statement", label=_CANARY_VERDICT, kind=_CANARY_VERDICT
        )
        add.relate("wasGeneratedBy", entity=said, activity=activity, at=verdict.decided_at)
        for name in verdict.signers:
            agent = add.agent(party("controller", name), "kfm:Controller", label=name)
            add.relate("wasAssociatedWith", activity=activity, agent=agent, role="judged")
        for event in verdict.traffic:
            if event.name not in self._told:
                self._told.add(event.name)
                tell_traffic(add, event, verdict.signers, self._canaries)
        watched = [name for since, name in self._canaries if since <= verdict.decided_at]
        if watched:
            add.relate("used", activity=activity, entity=watched[-1])
            self._last = activity


@dataclass(frozen=True)
class _Verdict:
    """What a controller said of a canary, from when to when it watched."""

    digest: str
    verdict: str
    began_at: datetime
    decided_at: datetime
    signers: tuple[str, ...]
    traffic: tuple[TrafficEvent, ...] = ()


def _verdict_of(report: AttestationReport) -> _Verdict | None:
    claims, issued_at = report.claims or {}, report.issued_at
    if issued_at is None:
        return None

    def instant(name: str, otherwise: datetime) -> datetime:
        try:
            return parse_instant(claims[name], where=name)
        except (KfmError, KeyError, TypeError):
            return otherwise

    decided_at = instant("decided_at", issued_at)
    began_at = instant("began_at", decided_at)
    said = str(claims.get("verdict", ""))[:40]
    traffic = tuple(read_traffic(claims))
    return _Verdict(report.digest, said, began_at, decided_at, report.signers, traffic)


def sign_deployed(deployed: DeployedProv, signer: Signer, now: datetime) -> bytes:
    """Sign an extended document, and what is wrong with it.

    Args:
        deployed: The document.
        signer: The registry's.
        now: When (aware).

    Returns:
        An in-toto statement of kind :data:`KIND` in a DSSE envelope. It holds the whole document.
    """
    claims = {
        "sha256": digest_bytes(deployed.document),
        "document": parse_json(deployed.document, where=_WHERE),
        "row": deployed.row,
        "row_hash": deployed.row_hash,
        "problems": deployed.problems,
    }
    return sign_statement(build_statement(KIND, deployed.binding, claims, now), signer)


def read_deployed(envelope: bytes, keys: Sequence[PublicKey], now: datetime) -> DeployedProv:
    """Return the extended document that a registry signed.

    Args:
        envelope: From :func:`sign_deployed`.
        keys: The registry's, as kept elsewhere.
        now: Instant (aware) at which it is read.

    Raises:
        EvidenceError: It does not verify, or does not hold the document whose digest it states.
    """
    trusted = [TrustedKey("registry", key.pem) for key in keys]
    report = verify_envelope(envelope, trusted, now, kind=KIND)
    if not report.ok or report.binding is None:
        raise EvidenceError("; ".join(report.problems), where=KIND)
    claims = report.claims or {}
    document = canonical_bytes(claims.get("document"))
    if claims.get("sha256") != digest_bytes(document):
        raise EvidenceError("does not hold the document whose digest it states", where=KIND)
    row, row_hash = claims.get("row"), claims.get("row_hash")
    if not isinstance(row, int) or not isinstance(row_hash, str):
        raise EvidenceError("names no row of the ledger", where=KIND)
    return DeployedProv(document, report.binding, row, row_hash)
