"""Moves between levels: snapshot, gates, then one transaction that writes everything or nothing.

Invariants:

1. What the gates judged is what is written: the snapshot is compared again under the lock.
2. A refusal is recorded in the ledger and leaves everything else as it was.
3. Repeating a finished move changes nothing and is no error.
4. A check answers as the move would, errors included.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from mlflow.utils.time import get_current_time_millis

from kfm_mlflow.errors import ConflictError, InputError, RefusedError
from kfm_mlflow.gates.findings import refusal_sentence
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry import reading, records, registrations
from kfm_mlflow.registry.actor import Actor, current_actor
from kfm_mlflow.registry.admission import Admission, Snapshot
from kfm_mlflow.registry.policy_events import last_change, recorded_digest
from kfm_mlflow.registry.records import ReleaseRow
from kfm_mlflow.registry.transaction import TransactionalStore, taken_count
from kfm_mlflow.registry.translate import door
from kfm_mlflow.trust.ledger import MOVED, REFUSED
from kfm_mlflow.trust.model_key import model_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from datetime import datetime

    from sqlalchemy.orm import Session

    from kfm_mlflow.gates.cause import Cause
    from kfm_mlflow.gates.findings import Finding
    from kfm_mlflow.gates.glass import BreakGlass
    from kfm_mlflow.registry.decision import Decision

MAX_VERSION = 2**31 - 1
"""Largest number that both databases keep in MLflow's version column."""


@dataclass(frozen=True)
class Expectation:
    """What a caller believes about a model; a move is refused when it is no longer so."""

    production: int | None
    canary: int | None


@dataclass(frozen=True)
class MoveResult:
    """What a move did.

    Attributes:
        seq: Number of the ledger row; 0 when nothing had to change.
        decision_digest: Digest of the decision's report; empty when nothing had to change.
        level: Level that the version has now.
        outcome: ``allowed``, ``warned`` or ``allowed-break-glass``; empty when nothing changed.
        warnings: (gate, finding) of what gates in mode ``warn`` found.
        entity: The version as MLflow has it after the move; None when nothing had to change.
    """

    seq: int
    decision_digest: str
    level: Level
    outcome: str = ""
    warnings: tuple[tuple[str, Finding], ...] = ()
    entity: Any = None


def parse_version(version: int | str) -> int:
    """Read a version as MLflow writes it: no sign, no leading zero.

    Raises:
        InputError: It is something else.
    """
    try:
        number = int(version)
    except (TypeError, ValueError):
        number = 0
    if not 1 <= number <= MAX_VERSION or str(number) != str(version):
        raise InputError(
            f"{version!r} is no model version", where="version", remedy="use 1, 2, 3, …"
        )
    return number


def require_former(session: Session, key: str, version: int) -> None:
    """Refuse to bring a version back that no successor took the place of at Production.

    Raises:
        InputError: It was never there.
        ConflictError: It was taken down from there, and not admitted since.
    """
    left = records.left_production(session, key, version)
    if left == "never":
        raise InputError(
            f"v{version} was never Production",
            where="restore",
            remedy="name a former Production version",
        )
    if left == "taken down":
        raise ConflictError(
            f"v{version} was taken down from Production",
            remedy="it comes back by a new admission only: staging, canary, production",
        )


class MovingStore(TransactionalStore):
    """MLflow's store that can judge and make moves; the doors stand in ``store.py``."""

    def __init__(
        self, db_uri: str, read_db_uri: str | None = None, *, admission: Admission | None = None
    ) -> None:
        """Connect, and load policies and the registry's key.

        Raises:
            InputError: The key is missing or a policy is wrong; the registry does not start.
        """
        self.admission = admission or Admission.from_environment()
        # Family -> ledger row that was found to name the policy of this process; none before any.
        self._policy_rows: dict[str, int | None] = {}
        super().__init__(db_uri, read_db_uri=read_db_uri)

    # -- what is there -------------------------------------------------------------------------

    def key_of(self, name: str) -> str:
        """Return what our own tables call a model of the workspace that this request is in.

        Raises:
            InputError: The name holds a slash, or is too long.
        """
        return model_key(self._get_active_workspace(), name)

    def work_on(self, name: str) -> AbstractContextManager[Session]:
        """Open the unit of work that locks a model of this workspace."""
        return self.unit_of_work(f"model:{self.key_of(name)}")

    def snapshot(self, name: str, version: int) -> Snapshot:
        """Read what a decision about a version rests on, in one session.

        Raises:
            InputError: The number is no version's.
            MlflowException: 404 when there is no such version.
        """
        parse_version(version)
        with self.ManagedSessionMaker(read_only=False) as session:
            return self._snapshot(session, name, version)

    def _snapshot(self, session: Session, name: str, version: int) -> Snapshot:
        workspace = self._get_active_workspace()
        key = model_key(workspace, name)
        # Before all else: what others write from here on is seen to have come later.
        taken = taken_count(session, f"model:{key}")
        source_uri = reading.source_of(session, workspace, name, version)
        if source_uri is None:
            # MLflow's own sentence about what there is not.
            self._get_sql_model_version(session, name, version)
            raise AssertionError("MLflow knows a version that is not in its table")
        levels = self._levels(session, name)
        production = next((v for v, level in levels.items() if level is Level.PRODUCTION), None)
        canary = next((v for v, level in levels.items() if level is Level.CANARY), None)
        frozen = records.releases_of(session, key, (version, production or version))
        release = frozen.get(version)
        subjects = [records.subject_of(key), records.subject_of(key, version)]
        envelopes = records.attestations(
            session, *subjects, *([release.release_id] if release else ())
        )
        return Snapshot(
            model_name=key,
            version=version,
            family=self._family(session, name),
            level=levels.get(version, Level.CANDIDATE),
            epoch=records.epoch(session, key, version),
            source_uri=source_uri,
            production=production,
            canary=canary,
            release=release,
            production_release=frozen.get(production) if production else None,
            envelopes=self._of_this_workspace(envelopes, key),
            taken_count=taken,
        )

    def _of_this_workspace(self, envelopes: tuple[bytes, ...], key: str) -> tuple[bytes, ...]:  # noqa: ARG002 - for the store that has workspaces
        """Return what was said of this model; the same bytes may be released elsewhere, too."""
        return envelopes

    def _levels(self, session: Session, name: str) -> dict[int, Level]:
        """Return the level of every version above candidate."""
        return reading.levels(session, self._get_active_workspace(), name)

    def levels(self, name: str) -> dict[int, Level]:
        """Return the level of every version of a model that is above candidate."""
        with self.ManagedSessionMaker(read_only=True) as session:
            self._get_registered_model(session, name)
            return self._levels(session, name)

    def _family(self, session: Session, name: str) -> str:
        known = records.family(session, self.key_of(name))
        return known if known is not None else self.admission.policies.family_of(name)

    # -- moves ---------------------------------------------------------------------------------

    @door
    def check(
        self,
        name: str,
        version: int,
        to_level: Level,
        *,
        restores: bool = False,
        break_glass: BreakGlass | None = None,
    ) -> Decision:
        """Evaluate a move without writing anything: same findings, same digest, same errors.

        Args:
            name: Registered model.
            version: Model version.
            to_level: Level asked for.
            restores: Whether it is to come back to Production, on a rollback.
            break_glass: The emergency, if one is declared.
        """
        snapshot = self.snapshot(name, version)
        if not restores:
            return self._decide(snapshot, to_level, break_glass=break_glass, dry_run=True)
        if to_level is not Level.PRODUCTION or break_glass is not None:
            raise InputError("goes with Production alone", where="restores")
        with self.ManagedSessionMaker(read_only=False) as session:
            require_former(session, snapshot.model_name, version)
        return self.admission.decide(
            snapshot, to_level, actor=current_actor(), restores=True, dry_run=True
        )

    def _registrar(self, key: str, version: int, actor: Actor) -> str | None:
        """Return who registered a version; not looked up for who is not logged in."""
        if not actor.authenticated:
            return None
        with self.ManagedSessionMaker(read_only=False) as session:
            return registrations.registrar(session, key, version)

    def _decide(
        self,
        snapshot: Snapshot,
        to_level: Level,
        *,
        reason: str = "",
        cause: Cause | None = None,
        break_glass: BreakGlass | None = None,
        dry_run: bool = False,
    ) -> Decision:
        """Say what is a conflict or bad input, then ask the gates."""
        name, version = snapshot.model_name, snapshot.version
        if to_level is Level.CANARY and snapshot.canary not in (None, version):
            raise ConflictError(
                f"v{snapshot.canary} is the canary of {name}",
                remedy="one rollout at a time; promote it or take it down first",
            )
        down = to_level.rank < snapshot.level.rank
        if break_glass is not None and down:
            raise InputError("taking down asks no gates", where="break-glass")
        if cause is not None and not down:
            raise InputError("goes with taking a version down", where="cause")
        actor = current_actor()
        return self.admission.decide(
            snapshot,
            to_level,
            actor=actor,
            registrar=self._registrar(name, version, actor),
            holder_of=self._holder_of(name),
            reason=reason,
            cause=cause,
            break_glass=break_glass,
            dry_run=dry_run,
        )

    def _holder_of(self, key: str) -> Callable[[str], int | None]:
        def holder_of(release_version: str) -> int | None:
            with self.ManagedSessionMaker(read_only=False) as session:
                return records.release_version_holder(session, key, release_version)

        return holder_of

    @door
    def move(
        self,
        name: str,
        version: int,
        to_level: Level,
        *,
        snapshot: Snapshot | None = None,
        stage: str | None = None,
        expect: Expectation | None = None,
        restore: int | None = None,
        reason: str = "",
        cause: Cause | None = None,
        break_glass: BreakGlass | None = None,
    ) -> MoveResult:
        """Move a version to a level, or refuse.

        Args:
            name: Registered model.
            version: Model version.
            to_level: Level asked for.
            snapshot: What the caller has just read; None reads it.
            stage: MLflow stage that a candidate shall have (``None`` or ``Archived``).
            expect: Refuse with a conflict unless the model's levels are as given.
            restore: On taking down the Production version to candidate, the former Production
                version that comes back in the same transaction.
            reason: Why, for the record.
            cause: On taking down, the same in fixed words, fit for everybody.
            break_glass: The emergency, if one is declared.

        Raises:
            MlflowException: 403 refused, 409 the state moved, 400 bad input. Never a code that
                MLflow's client retries.
        """
        if restore is not None and (to_level is not Level.CANDIDATE or restore == version):
            raise InputError(
                "goes with the move of another version to candidate", where=f"restore v{restore}"
            )
        if restore is not None and break_glass is not None:
            raise InputError(
                "a restore asks for nothing that it may pass over", where="break-glass"
            )
        snapshot = snapshot or self.snapshot(name, version)
        if expect and (snapshot.production, snapshot.canary) != (expect.production, expect.canary):
            raise ConflictError(
                f"Production is v{snapshot.production} and canary v{snapshot.canary} of {name}, "
                f"not v{expect.production} and v{expect.canary}",
                remedy="read the levels again",
            )
        if snapshot.level is to_level:
            return MoveResult(0, "", to_level)
        if restore is not None:
            return self._restore(snapshot, restore, reason, cause)
        decision = self._decide(
            snapshot, to_level, reason=reason, cause=cause, break_glass=break_glass
        )
        if not decision.allowed:
            self._refuse(snapshot, decision)
        with self.work_on(name) as session:
            self._require_unchanged(session, snapshot)
            self._write_level(session, snapshot, to_level, stage, decision.frozen_uri)
            seq = self._record(session, snapshot, decision, to_level)
            workspace = self._get_active_workspace()
            entity = reading.version_entity(session, workspace, name, version)
        report = decision.report
        return MoveResult(seq, report.digest, to_level, report.outcome, report.warnings, entity)

    def _restore(
        self, snapshot: Snapshot, restore: int, reason: str, cause: Cause | None
    ) -> MoveResult:
        """Put a former Production version in the place of the present one, in one transaction."""
        name = snapshot.registered_name
        if snapshot.level is not Level.PRODUCTION:
            raise InputError(f"v{snapshot.version} is not Production", where="restore")
        target = self.snapshot(name, restore)
        with self.ManagedSessionMaker(read_only=False) as session:
            require_former(session, snapshot.model_name, restore)
        actor = current_actor()
        decide = partial(self.admission.decide, actor=actor, reason=reason, cause=cause)
        down = decide(snapshot, Level.CANDIDATE, replaced=True)
        back = decide(target, Level.PRODUCTION, restores=True)
        for judged, decision in ((snapshot, down), (target, back)):
            if not decision.allowed:
                self._refuse(judged, decision)
        with self.work_on(name) as session:
            self._require_unchanged(session, snapshot)
            self._require_unchanged(session, target)
            self._write_level(session, snapshot, Level.CANDIDATE, "Archived", "")
            self._record(session, snapshot, down, Level.CANDIDATE)
            self._write_level(session, target, Level.PRODUCTION, None, "")
            seq = self._record(session, target, back, Level.PRODUCTION)
        report = down.report
        return MoveResult(seq, report.digest, Level.CANDIDATE, back.report.outcome)

    def _require_unchanged(self, session: Session, snapshot: Snapshot) -> None:
        name, version = snapshot.model_name, snapshot.version
        self._require_policy(session, snapshot.family)
        if taken_count(session, f"model:{name}") == snapshot.taken_count + 1:
            return  # By this very transaction, and whatever the snapshot says is written under it.
        if self._snapshot(session, snapshot.registered_name, version) != snapshot:
            raise ConflictError(f"{name} changed while v{version} was judged", remedy="try again")

    def _require_policy(self, session: Session, family: str) -> None:
        """Refuse to decide by a policy that another process of this registry has replaced."""
        row = last_change(session, family)
        if row == self._policy_rows.get(family):
            return
        if recorded_digest(session, family) != self.admission.policy(family).digest:
            raise ConflictError(
                f"policy {family} is another one since row {row} of the ledger",
                remedy="restart the server: a process of it still has the policy before",
            )
        self._policy_rows[family] = row

    def _refuse(self, snapshot: Snapshot, decision: Decision) -> NoReturn:
        with self.unit_of_work(f"model:{snapshot.model_name}") as session:
            # What was judged may be half before and half after another move.
            self._require_unchanged(session, snapshot)
            records.append_ledger(
                session,
                kind=REFUSED,
                model=snapshot.model_name,
                version=snapshot.version,
                body=decision.envelope,
                now=self.admission.clock(),
            )
        raise RefusedError(refusal_sentence(decision.report), report=decision.report)

    def _record(
        self, session: Session, snapshot: Snapshot, decision: Decision, level: Level
    ) -> int:
        now: datetime = self.admission.clock()
        if decision.frozen_uri and snapshot.release is None:
            row = ReleaseRow(
                snapshot.version,
                decision.report.release_id,
                decision.report.release_version,
                decision.frozen_uri,
            )
            records.add_release(session, snapshot.model_name, row, now)
        return records.append_ledger(
            session,
            kind=MOVED,
            model=snapshot.model_name,
            version=snapshot.version,
            body=decision.envelope,
            now=now,
            level=str(level),
        )

    def _write_level(
        self, session: Session, snapshot: Snapshot, level: Level, stage: str | None, frozen_uri: str
    ) -> None:
        reading.write_level(
            session,
            self._get_active_workspace(),
            snapshot.registered_name,
            snapshot.version,
            level,
            stage=stage or "Archived",
            frozen_uri=frozen_uri,
            at_ms=get_current_time_millis(),
        )
