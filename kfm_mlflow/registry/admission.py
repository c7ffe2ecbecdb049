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
from typing import TYPE_CHECKING, TypeVar

from kfm_mlflow.errors import DataError, KfmError, ManifestError, RefusedError, StorageError
from kfm_mlflow.gates.content import ReleaseContent
from kfm_mlflow.gates.engine import evaluate, judge_asker
from kfm_mlflow.gates.evidence import Evidence, EvidenceReader
from kfm_mlflow.gates.findings import Finding, GateReport, GateResult, Move
from kfm_mlflow.gates.ruling import against_serving
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.load import PolicySet, load_policies
from kfm_mlflow.registry.decision import Decision, asker_of, sign_decision
from kfm_mlflow.registry.records import release_version_taken
from kfm_mlflow.registry.settings import Settings, area_from, settings_from
from kfm_mlflow.registry.standing import current_policy
from kfm_mlflow.registry.workspaces import has_workspaces
from kfm_mlflow.release.freeze import freeze, local_bundle
from kfm_mlflow.release.manifest import Manifest, build_manifest
from kfm_mlflow.trust.keys import load_private_key
from kfm_mlflow.trust.model_key import split_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kfm_mlflow.gates.cause import Cause
    from kfm_mlflow.gates.glass import BreakGlass
    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.registry.actor import Actor
    from kfm_mlflow.registry.records import ReleaseRow
    from kfm_mlflow.release.bundle import Bundle
    from kfm_mlflow.trust.keys import Signer

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Snapshot:
    """What the registry said about a version at one moment; compared again under the lock.

    Attributes:
        model_name: The model's key (``trust/model_key.py``).
        envelopes: Attestations kept in the registry about the version's release.
        production_release: What was frozen for the Production version.
        taken_count: How often the model's lock had been taken; every writer of the above takes it.
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
    taken_count: int = field(default=-1, compare=False)

    @property
    def workspace(self) -> str:
        """MLflow workspace; empty for the default one."""
        return split_key(self.model_name)[0]

    @property
    def registered_name(self) -> str:
        """What MLflow's own tables call the model, in its workspace."""
        return split_key(self.model_name)[1]


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
        actor: Actor,
        registrar: str | None = None,
        holder_of: Callable[[str], int | None] = lambda _: None,
        reason: str = "",
        cause: Cause | None = None,
        restores: bool = False,
        replaced: bool = False,
        break_glass: BreakGlass | None = None,
        dry_run: bool = False,
    ) -> Decision:
        """Evaluate a move and sign what was decided.

        Args:
            snapshot: What the registry says now.
            to_level: Level asked for.
            actor: Who asks.
            registrar: Who registered the version; None when nobody knows.
            holder_of: Which version of the model a release version was frozen for.
            reason: Why, in their words.
            cause: Why, in fixed words.
            restores: Whether this brings back a former Production release on a rollback.
            replaced: Whether a former Production release takes this one's place; without one,
                Production comes down only when it may no longer be served.
            break_glass: The emergency, if one is declared.
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
            asker=asker_of(actor, policy, registrar),
            break_glass=break_glass,
        )
        frozen_uri = ""
        if to_level.rank < snapshot.level.rank:
            ends = snapshot.level is Level.PRODUCTION and not replaced
            withheld = ends and bool(self.against_serving(snapshot))
            report = _taken_down(move, snapshot, policy, replaced=replaced or withheld)
        else:
            with ExitStack() as stack:
                bundle, evidence = self._open(snapshot, policy, now, stack)
                report = evaluate(evidence, policy, move)
                admitted = report.verdict is Verdict.PASS and to_level is Level.STAGING
                # What was frozen for this version before is its own release version.
                asks = admitted and snapshot.release is None
                if asks and not report.release_version:
                    raise _unnamed(snapshot)
                holder = holder_of(report.release_version) if asks else None
                if holder not in (None, snapshot.version):
                    raise release_version_taken(move.model_name, report.release_version, holder)
                if admitted and bundle is not None and not dry_run:
                    frozen_uri = self._frozen(bundle, evidence, snapshot)
        return sign_decision(
            report,
            policy,
            signer=self.signer,
            actor=actor,
            reason=reason,
            cause=cause,
            frozen_uri=frozen_uri,
        )

    def judge(self, snapshot: Snapshot, move: Move, policy: Policy) -> GateReport:
        """Evaluate a move at the instant that it names, and do nothing else.

        Args:
            snapshot: The version, and what is kept about it.
            move: From where to where, and when.
            policy: The policy to judge by.
        """
        with ExitStack() as stack:
            _, evidence = self._open(snapshot, policy, move.now, stack)
            return evaluate(evidence, policy, move)

    def examine(self, snapshot: Snapshot, policy: Policy, ask: Callable[[Evidence], T]) -> T:
        """Return what a function makes of the evidence about a version as it is now.

        Args:
            snapshot: The version, and what is kept about it.
            policy: Whose keys and regions count.
            ask: Asked while the release can be read.
        """
        with ExitStack() as stack:
            return ask(self._open(snapshot, policy, self.clock(), stack)[1])

    def against_serving(self, snapshot: Snapshot) -> tuple[tuple[str, Finding], ...]:
        """Return (gate, finding) of what forbids to serve a version, by the regions of today.

        Consent, labels, embargoes and vetoes are looked at, and nothing else. Regions that can not
        be read are such a finding: nobody knows what they forbid.
        """
        move = Move(
            model_name=snapshot.model_name,
            version=snapshot.version,
            from_level=Level.CANARY,
            to_level=Level.PRODUCTION,
            epoch=snapshot.epoch,
            production=None,
            now=self.clock(),
            restores=True,
        )
        problem = ""
        for _ in range(2):  # The file may be replaced between two looks at it.
            try:
                report = self.judge(snapshot, move, current_policy(self.policy(snapshot.family)))
            except DataError as exc:
                problem = str(exc)
            else:
                return against_serving(
                    (gate.gate, finding) for gate in report.gates for finding in gate.findings
                )
        finding = Finding(
            "REGIONS_UNREADABLE",
            Verdict.ERROR,
            "regions cannot be read",
            f"nobody knows whose land is touched: {problem}",
            remedy="put the regions file right",
        )
        return (("care", finding),)

    def _open(
        self, snapshot: Snapshot, policy: Policy, now: datetime, stack: ExitStack
    ) -> tuple[Bundle | None, Evidence]:
        """Return the release as local directories, if it can be read, and the evidence."""
        try:
            bundle = stack.enter_context(local_bundle(self._readable(snapshot)))
        except ManifestError as exc:
            # Says which file of the release is none, and names nothing of this machine.
            return None, _unreadable(str(exc))
        except Exception as exc:  # noqa: BLE001 - artifact stores raise whatever their vendors do
            # The log may name paths of this machine; what a caller is told may not.
            _log.warning("%s v%s: %s", snapshot.model_name, snapshot.version, exc)
            uri = snapshot.release.frozen_uri if snapshot.release else snapshot.source_uri
            return None, _unreadable(f"{uri}: cannot be read")
        return bundle, self.reader.read(
            bundle,
            policy,
            now=now,
            envelopes=snapshot.envelopes,
            target=self._target(snapshot),
            recorded_release_id=snapshot.release.release_id if snapshot.release else "",
        )

    def _frozen(self, bundle: Bundle, evidence: Evidence, snapshot: Snapshot) -> str:
        """Freeze an admitted release and return where; what was judged may be the frozen copy."""
        row = snapshot.release
        if row is not None and row.release_id == evidence.release_id:
            return row.frozen_uri
        area, digests = area_from(self.environ, snapshot.workspace), self.reader.digests
        return freeze(bundle, _manifest(evidence), area, memory=digests)

    def _readable(self, snapshot: Snapshot) -> str:
        uri = snapshot.release.frozen_uri if snapshot.release else snapshot.source_uri
        if uri.startswith("mlflow-artifacts:"):
            uri = area_from(self.environ, snapshot.workspace).resolve(uri)
        if snapshot.release is None and has_workspaces():
            # The server may read everything; who asks may read their own workspace.
            area = area_from(self.environ, snapshot.workspace)
            if area.workspace_of(uri) not in (None, snapshot.workspace):
                raise StorageError("is another workspace's", where=snapshot.source_uri)
        return uri

    def _target(self, snapshot: Snapshot) -> dict[str, object]:
        row = snapshot.production_release
        if snapshot.production is None or snapshot.production == snapshot.version:
            return {}
        if row is None:
            return {"problems": (f"v{snapshot.production} was never frozen",)}
        known: dict[str, object] = {"release_id": row.release_id}
        try:
            with local_bundle(area_from(self.environ).resolve(row.frozen_uri)) as bundle:
                manifest = build_manifest(bundle.release_dir, self.reader.digests)
                if manifest.release_id == row.release_id:
                    content = self.reader.memory.read(bundle.release_dir, manifest)
                    return {**known, "content": content}
                problem = (
                    f"v{snapshot.production} has changed: {manifest.release_id} is not "
                    f"{row.release_id}"
                )
        except KfmError as exc:
            problem = str(exc)
        return {**known, "problems": (problem,)}


def _taken_down(move: Move, snapshot: Snapshot, policy: Policy, *, replaced: bool) -> GateReport:
    finding = Finding(
        "TAKEN_DOWN",
        Verdict.PASS,
        "taken down",
        f"{move.from_level} back to {move.to_level}; asks no gates",
    )
    if move.from_level is Level.PRODUCTION and not replaced:
        finding = Finding(
            "PRODUCTION_KEPT",
            Verdict.FAIL,
            "Production comes down by promotion or rollback only",
            f"v{move.version} is what is served, and nothing would take its place",
            observed=str(move.from_level),
            limit=str(move.to_level),
            remedy="promote a successor, or restore a former version in its place",
        )
    row = snapshot.release
    return GateReport(
        move=move,
        family=policy.family,
        policy_digest=policy.digest,
        release_id=row.release_id if row else "",
        release_version=row.release_version if row else "",
        evidence=(),
        gates=(GateResult("path", "enforce", (finding,)), *judge_asker(policy, move)),
    )


def _unnamed(snapshot: Snapshot) -> RefusedError:
    """Return why a release is not frozen that no gate stopped: all of its name was waived."""
    return RefusedError(
        f"KFM refused Staging for {snapshot.model_name} v{snapshot.version}: the release does not "
        "say which release version it is; write it into model_metadata.json"
    )


def _unreadable(problem: str) -> Evidence:
    return Evidence(
        manifest=None,
        manifest_problem=problem,
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
