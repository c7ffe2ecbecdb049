"""Admission: from a snapshot of the registry to a signed decision, with nothing written yet.

Everything slow happens here, outside the lock: reading, hashing, verifying, freezing. The store
then takes the lock, checks that the snapshot still holds, and writes.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import KfmError
from kfm_mlflow.gates.content import ReleaseContent
from kfm_mlflow.gates.engine import evaluate
from kfm_mlflow.gates.evidence import Evidence, EvidenceReader
from kfm_mlflow.gates.findings import GateReport, Move
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.load import PolicySet, load_policies
from kfm_mlflow.registry.records import release_version_taken
from kfm_mlflow.registry.settings import Settings, area_from, settings_from
from kfm_mlflow.release.freeze import freeze, local_bundle
from kfm_mlflow.release.manifest import Manifest, build_manifest
from kfm_mlflow.trust.attestation import Binding, build_statement, sign_statement
from kfm_mlflow.trust.keys import load_private_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.registry.records import ReleaseRow
    from kfm_mlflow.release.bundle import Bundle
    from kfm_mlflow.trust.keys import Signer

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """What the registry said about a version at one moment; compared again under the lock.

    Attributes:
        envelopes: Attestations kept in the registry about the version's release.
        production_release: What was frozen for the Production version.
    """

    model_name: str
    version: int
    family: str
    level: Level
    epoch: int
    source_uri: str
    production: int | None
    canary: int | None
    release: ReleaseRow | None
    production_release: ReleaseRow | None
    envelopes: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Decision:
    """A verdict on one move, signed.

    Attributes:
        report: What the gates found; its digest is the decision's digest.
        frozen_uri: Where the frozen release can be read; empty when nothing was frozen.
        envelope: The decision as a DSSE envelope.
    """

    report: GateReport
    frozen_uri: str
    envelope: str

    @property
    def allowed(self) -> bool:
        """Whether the move may be written."""
        return self.report.verdict is Verdict.PASS


def utc_now() -> datetime:
    """Return the current instant, aware, UTC."""
    return datetime.now(UTC)


@dataclass
class Admission:
    """Evaluates moves; one per process."""

    settings: Settings
    policies: PolicySet
    signer: Signer
    environ: Mapping[str, str]
    clock: Callable[[], datetime] = utc_now
    reader: EvidenceReader = field(default_factory=EvidenceReader)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Admission:
        """Load policies and key as the environment says.

        Raises:
            InputError: The key or a policy is missing or wrong.
        """
        env = os.environ if environ is None else environ
        settings = settings_from(env)
        return cls(
            settings=settings,
            policies=load_policies(settings.policy_dir),
            signer=load_private_key(settings.registry_key),
            environ=env,
        )

    def policy(self, family: str) -> Policy:
        """Return a family's policy."""
        return self.policies.policy(family)

    def decide(
        self,
        snapshot: Snapshot,
        to_level: Level,
        *,
        actor: str,
        holder_of: Callable[[str], int | None] = lambda _: None,
        reason: str = "",
        restores: bool = False,
        dry_run: bool = False,
    ) -> Decision:
        """Evaluate a move and sign what was decided.

        Args:
            snapshot: What the registry says now.
            to_level: Level asked for.
            actor: Who asks.
            holder_of: Which version of the model a release version was frozen for.
            reason: Why, in their words.
            restores: Whether this brings back a former Production release on a rollback.
            dry_run: Evaluate only: nothing is frozen.

        Returns:
            The decision, allowed or not. A dry run has the same report and digest.

        Raises:
            ConflictError: The release version is another version's; nothing is frozen.
            StorageError: An allowed release could not be frozen.
        """
        now = self.clock()
        policy = self.policy(snapshot.family)
        move = Move(
            model_name=snapshot.model_name,
            version=snapshot.version,
            from_level=snapshot.level,
            to_level=to_level,
            epoch=snapshot.epoch,
            production=snapshot.production,
            now=now,
            restores=restores,
        )
        frozen_uri = ""
        if to_level.rank < snapshot.level.rank:
            report = _taken_down(move, snapshot, policy)
        else:
            with ExitStack() as stack:
                bundle = self._open(snapshot, stack)
                evidence = (
                    _unreadable(snapshot)
                    if bundle is None
                    else self.reader.read(
                        bundle,
                        policy,
                        now=now,
                        envelopes=snapshot.envelopes,
                        target=self._target(snapshot),
                        recorded_release_id=snapshot.release.release_id if snapshot.release else "",
                    )
                )
                report = evaluate(evidence, policy, move)
                admitted = report.verdict is Verdict.PASS and to_level is Level.STAGING
                # What was frozen for this version before is its own release version.
                asks = admitted and snapshot.release is None
                holder = holder_of(report.release_version) if asks else None
                if holder not in (None, snapshot.version):
                    raise release_version_taken(move.model_name, report.release_version, holder)
                if admitted and bundle is not None and not dry_run:
                    frozen_uri = freeze(bundle, _manifest(evidence), area_from(self.environ))
        envelope = self._sign(report, now=now, actor=actor, reason=reason, frozen_uri=frozen_uri)
        return Decision(report, frozen_uri, envelope)

    def _open(self, snapshot: Snapshot, stack: ExitStack) -> Bundle | None:
        """Return the release as local directories; None when it cannot be read."""
        try:
            return stack.enter_context(local_bundle(self._readable(snapshot)))
        except Exception as exc:  # noqa: BLE001 - artifact stores raise whatever their vendors do
            # The log may name paths of this machine; what a caller is told may not.
            _log.warning("%s v%s: %s", snapshot.model_name, snapshot.version, exc)
            return None

    def _readable(self, snapshot: Snapshot) -> str:
        uri = snapshot.release.frozen_uri if snapshot.release else snapshot.source_uri
        if uri.startswith("mlflow-artifacts:"):
            return area_from(self.environ).resolve(uri)
        return uri

    def _target(self, snapshot: Snapshot) -> dict[str, object]:
        row = snapshot.production_release
        if snapshot.production is None or snapshot.production == snapshot.version:
            return {}
        if row is None:
            return {"problems": (f"v{snapshot.production} was never frozen",)}
        problems: list[str] = []
        try:
            with local_bundle(area_from(self.environ).resolve(row.frozen_uri)) as bundle:
                found = build_manifest(bundle.release_dir, self.reader.digests).release_id
                if found != row.release_id:
                    problems.append(
                        f"v{snapshot.production} has changed: {found} is not {row.release_id}"
                    )
        except KfmError as exc:
            problems.append(str(exc))
        return {"release_id": row.release_id, "problems": tuple(problems)}

    def _sign(
        self, report: GateReport, *, now: datetime, actor: str, reason: str, frozen_uri: str
    ) -> str:
        move = report.move
        predicate: dict[str, Any] = {
            "report": report.to_dict(),
            "report_digest": report.digest,
            "outcome": "allowed" if report.verdict is Verdict.PASS else "refused",
            "actor": actor,
            "reason": reason,
            "frozen_uri": frozen_uri,
        }
        binding = Binding(
            model_name=move.model_name,
            release_version=report.release_version or "unknown",
            release_id=report.release_id or f"sha256:{'0' * 64}",
            policy_digest=report.policy_digest,
            version=move.version,
        )
        statement = build_statement("decision", binding, predicate, now)
        return sign_statement(statement, self.signer).decode("utf-8")


def _taken_down(move: Move, snapshot: Snapshot, policy: Policy) -> GateReport:
    from kfm_mlflow.gates.findings import Finding, GateResult

    finding = Finding(
        "TAKEN_DOWN",
        Verdict.PASS,
        "taken down",
        f"{move.from_level} back to {move.to_level}; asks no gates",
    )
    row = snapshot.release
    return GateReport(
        move=move,
        family=policy.family,
        policy_digest=policy.digest,
        release_id=row.release_id if row else "",
        release_version=row.release_version if row else "",
        evidence=(),
        gates=(GateResult("path", "enforce", (finding,)),),
    )


def _unreadable(snapshot: Snapshot) -> Evidence:
    uri = snapshot.release.frozen_uri if snapshot.release else snapshot.source_uri
    return Evidence(
        manifest=None,
        manifest_problem=f"{uri}: cannot be read",
        content=ReleaseContent({}, {}),
        signature=None,
        attestations=(),
        envelope_digests=(),
        screening=None,
    )


def _manifest(evidence: Evidence) -> Manifest:
    if evidence.manifest is None:
        raise AssertionError("a release without a manifest cannot pass gate integrity")
    return evidence.manifest
