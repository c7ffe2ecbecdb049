"""The registry store: MLflow's own, with somebody at every door.

Invariants:

1. A level changes only by :meth:`KfmStore.move`: gates first, then one transaction that writes
   stage, aliases, storage location, decision, ledger and outbox, or nothing.
2. What the gates judged is what is written: the snapshot is compared again under the lock.
3. A refusal is recorded in the ledger and leaves everything else as it was.
4. Repeating a finished move changes nothing and is no error.
5. A method of MLflow's store that ``doors.py`` does not name is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlRegisteredModel,
    SqlRegisteredModelAlias,
)
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.time import get_current_time_millis

from kfm_mlflow.canonical import parse_json
from kfm_mlflow.errors import ConflictError, EvidenceError, InputError, RefusedError
from kfm_mlflow.gates.evidence import read_attestation
from kfm_mlflow.gates.findings import refusal_sentence
from kfm_mlflow.policy.levels import (
    ALIASES,
    STAGES,
    Level,
    level_of,
    level_of_alias,
    level_of_stage,
)
from kfm_mlflow.registry import records
from kfm_mlflow.registry.admission import Admission, Decision, Snapshot
from kfm_mlflow.registry.doors import STORE_DOORS, is_ours
from kfm_mlflow.registry.records import MOVED, REFUSED, ReleaseRow
from kfm_mlflow.registry.transaction import TransactionalStore
from kfm_mlflow.registry.translate import door, refuse

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

UNAUTHENTICATED = "unauthenticated"
_ALL_ALIASES = tuple(alias for names in ALIASES.values() for alias in names)


@dataclass(frozen=True)
class Expectation:
    """What a caller believes about a model; a move is refused when it is no longer so."""

    production: int | None
    canary: int | None


@dataclass(frozen=True)
class MoveResult:
    """What a move did: the ledger row, or 0 when nothing had to change."""

    seq: int
    decision_digest: str
    level: Level


def current_actor() -> str:
    """Return the authenticated user of the request that this thread serves."""
    try:
        from flask import g, has_request_context
    except ImportError:
        return UNAUTHENTICATED
    if not has_request_context():
        return UNAUTHENTICATED
    user = g.get("mlflow_authenticated_user")
    name = getattr(user, "username", user)
    return str(name) if name else UNAUTHENTICATED


class KfmStore(TransactionalStore):
    """MLflow's model registry on a SQL database, governed."""

    def __init__(
        self, db_uri: str, read_db_uri: str | None = None, *, admission: Admission | None = None
    ) -> None:
        """Connect, and load policies and the registry's key.

        Raises:
            InputError: The key is missing or a policy is wrong; the registry does not start.
        """
        self.admission = admission or Admission.from_environment()
        super().__init__(db_uri, read_db_uri=read_db_uri)

    # -- what is there -------------------------------------------------------------------------

    def snapshot(self, name: str, version: int) -> Snapshot:
        """Read what a decision about a version rests on, in one session."""
        with self.ManagedSessionMaker(read_only=False) as session:
            return self._snapshot(session, name, version)

    def _snapshot(self, session: Session, name: str, version: int) -> Snapshot:
        row = self._get_sql_model_version(session, name, version)
        levels = self._levels(session, name)
        production = next((v for v, level in levels.items() if level is Level.PRODUCTION), None)
        canary = next((v for v, level in levels.items() if level is Level.CANARY), None)
        frozen = records.release(session, name, version)
        return Snapshot(
            model_name=name,
            version=version,
            family=self._family(session, name),
            level=levels.get(version, Level.CANDIDATE),
            epoch=records.taken_down_count(session, name, version),
            source_uri=row.storage_location or row.source,
            production=production,
            canary=canary,
            release=frozen,
            production_release=records.release(session, name, production) if production else None,
            envelopes=records.attestations(session, frozen.release_id) if frozen else (),
        )

    def _levels(self, session: Session, name: str) -> dict[int, Level]:
        """Return the level of every version above candidate."""
        aliases: dict[int, list[str]] = {}
        for row in self._get_query(session, SqlRegisteredModelAlias).filter(
            SqlRegisteredModelAlias.name == name
        ):
            aliases.setdefault(int(row.version), []).append(row.alias)
        stages = {
            int(row.version): row.current_stage
            for row in self._get_query(session, SqlModelVersion).filter(
                SqlModelVersion.name == name,
                SqlModelVersion.current_stage.in_(sorted(set(STAGES.values()))),
            )
        }
        found = {v: level_of(stages.get(v), aliases.get(v, ())) for v in {*stages, *aliases}}
        return {version: level for version, level in found.items() if level is not Level.CANDIDATE}

    def levels(self, name: str) -> dict[int, Level]:
        """Return the level of every version of a model that is above candidate."""
        with self.ManagedSessionMaker(read_only=True) as session:
            self._get_registered_model(session, name)
            return self._levels(session, name)

    def _family(self, session: Session, name: str) -> str:
        known = records.family(session, name)
        return known if known is not None else self.admission.policies.family_of(name)

    def _is_prompt(self, name: str) -> bool:
        return bool(super().get_registered_model(name)._is_prompt())  # noqa: SLF001 - MLflow has no public test

    # -- moves ---------------------------------------------------------------------------------

    @door
    def check(self, name: str, version: int, to_level: Level) -> Decision:
        """Evaluate a move without writing anything: same findings, same digest."""
        snapshot = self.snapshot(name, version)
        return self.admission.decide(snapshot, to_level, actor=current_actor(), dry_run=True)

    @door
    def move(
        self,
        name: str,
        version: int,
        to_level: Level,
        *,
        stage: str | None = None,
        expect: Expectation | None = None,
        restore: int | None = None,
        reason: str = "",
    ) -> MoveResult:
        """Move a version to a level, or refuse.

        Args:
            name: Registered model.
            version: Model version.
            to_level: Level asked for.
            stage: MLflow stage that a candidate shall have (``None`` or ``Archived``).
            expect: Refuse with a conflict unless the model's levels are as given.
            restore: On taking down the Production version, the former Production version that
                comes back in the same transaction.
            reason: Why, for the record.

        Raises:
            MlflowException: 403 refused, 409 the state moved, 400 bad input. Never a code that
                MLflow's client retries.
        """
        snapshot = self.snapshot(name, version)
        if expect and (snapshot.production, snapshot.canary) != (expect.production, expect.canary):
            raise ConflictError(
                f"Production is v{snapshot.production} and canary v{snapshot.canary} of {name}, "
                f"not v{expect.production} and v{expect.canary}",
                remedy="read the levels again",
            )
        if snapshot.level is to_level:
            return MoveResult(0, "", to_level)
        down = to_level.rank < snapshot.level.rank
        if down and snapshot.level is Level.PRODUCTION and restore is None:
            raise refuse(
                f"KFM refused to take down Production {name} v{version}: promote a successor, or go back "
                f"with `kfm rollback {name}`; see /kfm/models/{name}/{version}"
            )
        decision = self.admission.decide(
            snapshot, Level.CANDIDATE if down else to_level, actor=current_actor(), reason=reason
        )
        back = self._decide_restore(name, snapshot, restore, reason)
        if not decision.allowed or (back and not back[1].allowed):
            self._refuse(snapshot, decision if not decision.allowed else back[1])  # type: ignore[index]
        with self.unit_of_work(f"model:{name}") as session:
            if self._snapshot(session, name, version) != snapshot:
                raise ConflictError(
                    f"{name} changed while v{version} was judged", remedy="try again"
                )
            now = self.admission.clock()
            seq = 0
            if back:
                self._write_level(session, snapshot, Level.CANDIDATE, "Archived", "")
                seq = self._record(session, snapshot, decision, Level.CANDIDATE, now)
                restored = self._snapshot(session, name, back[0].version)
                self._write_level(session, restored, Level.PRODUCTION, None, "")
                seq = self._record(session, restored, back[1], Level.PRODUCTION, now)
            else:
                landed = to_level if not down else to_level
                self._write_level(session, snapshot, landed, stage, decision.frozen_uri)
                seq = self._record(session, snapshot, decision, landed, now)
        return MoveResult(seq, decision.report.digest, to_level)

    def _decide_restore(
        self, name: str, snapshot: Snapshot, restore: int | None, reason: str
    ) -> tuple[Snapshot, Decision] | None:
        if restore is None:
            return None
        if snapshot.level is not Level.PRODUCTION:
            raise InputError(f"v{snapshot.version} is not Production", where="restore")
        target = self.snapshot(name, restore)
        with self.ManagedSessionMaker(read_only=True) as session:
            served = records.was_at(session, name, restore, Level.PRODUCTION)
        if not served:
            raise InputError(
                f"v{restore} was never Production",
                where="restore",
                remedy="name a former Production version",
            )
        return target, self.admission.decide(
            target, Level.PRODUCTION, actor=current_actor(), reason=reason, restores=True
        )

    def _refuse(self, snapshot: Snapshot, decision: Decision) -> None:
        with self.unit_of_work(f"model:{snapshot.model_name}") as session:
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
        self, session: Session, snapshot: Snapshot, decision: Decision, level: Level, now: Any
    ) -> int:
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
        name, version = snapshot.model_name, snapshot.version
        instant_ms = get_current_time_millis()
        row = self._get_sql_model_version(session, name, version)
        if level is Level.PRODUCTION and snapshot.production not in (None, version):
            old = self._get_sql_model_version(session, name, snapshot.production)
            old.current_stage, old.last_updated_time = "Archived", instant_ms
            session.add(old)
        row.current_stage = STAGES.get(level, stage or "Archived")
        row.last_updated_time = instant_ms
        if frozen_uri:
            row.storage_location = frozen_uri
        row.registered_model.last_updated_time = instant_ms
        session.add(row)
        for alias in self._get_query(session, SqlRegisteredModelAlias).filter(
            SqlRegisteredModelAlias.name == name,
            SqlRegisteredModelAlias.version == version,
            SqlRegisteredModelAlias.alias.in_(_ALL_ALIASES),
        ):
            session.delete(alias)
        session.flush()
        for alias_name in ALIASES[level]:
            SqlAlchemyStore.set_registered_model_alias(self, name, alias_name, str(version))

    # -- doors that move -----------------------------------------------------------------------

    @door
    def transition_model_version_stage(
        self,
        name: str,
        version: int | str,
        stage: str,
        archive_existing_versions: bool,  # noqa: FBT001 - MLflow's signature
    ) -> Any:
        """Move a version to the level that a stage names; see :meth:`move`.

        Promoting archives the Production version before, whatever ``archive_existing_versions``
        says: a model has one Production version.
        """
        from mlflow.entities.model_registry.model_version_stages import get_canonical_stage

        number = _number(version)
        canonical = get_canonical_stage(stage)
        if self._is_prompt(name):
            return super().transition_model_version_stage(
                name, number, stage, archive_existing_versions
            )
        wanted = level_of_stage(canonical)
        current = self.snapshot(name, number)
        if wanted is Level.STAGING and current.level is Level.CANARY:
            wanted = Level.CANARY  # Its stage is Staging already.
        if wanted is Level.CANDIDATE and current.level is Level.CANDIDATE:
            return super().transition_model_version_stage(
                name, number, canonical, archive_existing_versions=False
            )
        self.move(name, number, wanted, stage=canonical)
        return self.get_model_version(name, number)

    @door
    def set_registered_model_alias(self, name: str, alias: str, version: int | str) -> None:
        """Set an alias; one that names a level is a move to that level."""
        level = level_of_alias(alias)
        if level is None or self._is_prompt(name):
            super().set_registered_model_alias(name, alias, version)
            return
        if alias not in _ALL_ALIASES:
            raise InputError(f"write {alias.lower()!r}", where=f"alias {alias!r}")
        self.move(name, _number(version), level)

    @door
    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Delete an alias; one that names a level takes its version down.

        Without ``canary`` a version is back at staging, without ``staging`` a candidate.
        Production goes by promotion or rollback only.
        """
        level = level_of_alias(alias)
        if level is None or self._is_prompt(name):
            super().delete_registered_model_alias(name, alias)
            return
        holder = next((v for v, found in self.levels(name).items() if found is level), None)
        if holder is None:
            return
        self.move(name, holder, Level.STAGING if level is Level.CANARY else Level.CANDIDATE)

    # -- doors that protect --------------------------------------------------------------------

    @door
    def create_registered_model(
        self, name: str, tags: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Create a model and fix the family that it belongs to (tag ``kfm.family``, or its name)."""
        declared = next((tag.value for tag in tags or [] if tag.key == "kfm.family"), None)
        foreign = [tag.key for tag in tags or [] if is_ours(tag.key) and tag.key != "kfm.family"]
        if foreign:
            raise refuse(
                f"KFM refused tag {foreign[0]} on {name}: kfm.* tags are the registry's own"
            )
        family = self.admission.policies.family_of(name, declared)
        with self.unit_of_work(f"model:{name}") as session:
            known = self._get_query(session, SqlRegisteredModel).filter(
                SqlRegisteredModel.name == name
            )
            if known.first() is None:
                created = super().create_registered_model(name, tags, *args, **kwargs)
                records.set_family(session, name, family)
                return created
        # MLflow's own answer to a name that is taken, in a transaction of its own.
        return super().create_registered_model(name, tags, *args, **kwargs)

    @door
    def create_model_version(
        self, name: str, source: str, run_id: Any = None, tags: Any = None, **kwargs: Any
    ) -> Any:
        """Create a candidate version; tags that are the registry's own are refused."""
        for tag in tags or []:
            if is_ours(tag.key):
                raise refuse(
                    f"KFM refused tag {tag.key} on {name}: kfm.* tags are the registry's own"
                )
        return super().create_model_version(name, source, run_id, tags, **kwargs)

    def _protect(self, name: str, doing: str, version: int | None = None) -> None:
        with self.ManagedSessionMaker(read_only=True) as session:
            levels = self._levels(session, name)
            held = [v for v in levels if version is None or v == version]
            kept = records.released_versions(session, name)
        recorded = [v for v in kept if version is None or v == version]
        if held or recorded:
            which = (held or recorded)[0]
            level = levels.get(which, Level.CANDIDATE)
            raise refuse(
                f"KFM refused to {doing} {name}: v{which} ({level}) is in the ledger and is kept; "
                f"see /kfm/models/{name}/{which}"
            )

    @door
    def rename_registered_model(self, name: str, new_name: str) -> Any:
        """Rename a model that no version was ever released of."""
        self._protect(name, "rename")
        with self.unit_of_work(f"model:{name}") as session:
            renamed = super().rename_registered_model(name, new_name)
            records.rename_family(session, name, new_name)
            return renamed

    @door
    def delete_registered_model(self, name: str) -> None:
        """Delete a model that no version was ever released of."""
        self._protect(name, "delete")
        with self.unit_of_work(f"model:{name}") as session:
            super().delete_registered_model(name)
            records.forget_family(session, name)

    @door
    def delete_model_version(self, name: str, version: int | str) -> None:
        """Delete a version that was never released."""
        self._protect(name, "delete a version of", _number(version))
        super().delete_model_version(name, version)

    @door
    def set_registered_model_tag(self, name: str, tag: Any) -> None:
        """Set a tag that is not the registry's own."""
        _refuse_ours(tag.key, name)
        super().set_registered_model_tag(name, tag)

    @door
    def delete_registered_model_tag(self, name: str, key: str) -> None:
        """Delete a tag that is not the registry's own."""
        _refuse_ours(key, name)
        super().delete_registered_model_tag(name, key)

    @door
    def set_model_version_tag(self, name: str, version: int | str, tag: Any) -> None:
        """Set a tag that is not the registry's own."""
        _refuse_ours(tag.key, name)
        super().set_model_version_tag(name, version, tag)

    @door
    def delete_model_version_tag(self, name: str, version: int | str, key: str) -> None:
        """Delete a tag that is not the registry's own."""
        _refuse_ours(key, name)
        super().delete_model_version_tag(name, version, key)

    # -- evidence ------------------------------------------------------------------------------

    @door
    def add_attestation(self, name: str, version: int, envelope: bytes) -> str:
        """Keep a signed statement about a frozen release.

        Args:
            name: Registered model.
            version: Model version.
            envelope: DSSE envelope; must verify under the policy's keys and name this release.

        Returns:
            The envelope's digest.

        Raises:
            MlflowException: 400 when it does not verify, is of another release, or nothing is frozen.
        """
        snapshot = self.snapshot(name, version)
        if snapshot.release is None:
            raise InputError(
                f"{name} v{version} is not frozen yet",
                where="attestation",
                remedy="move it to Staging",
            )
        parse_json(envelope, where="attestation")
        policy = self.admission.policy(snapshot.family)
        report = read_attestation(envelope, policy.trust, self.admission.clock())
        if not report.ok:
            raise EvidenceError(
                "; ".join(report.problems) or "does not verify", where="attestation"
            )
        if report.binding is None or report.binding.release_id != snapshot.release.release_id:
            raise InputError("is about another release", where="attestation")
        with self.unit_of_work(f"model:{name}") as session:
            return records.add_attestation(
                session,
                release_id=snapshot.release.release_id,
                kind=str(report.kind),
                envelope=envelope,
                now=self.admission.clock(),
            )


def _number(version: int | str) -> int:
    try:
        number = int(version)
    except (TypeError, ValueError):
        number = 0
    if number < 1 or str(number) != str(version):
        raise InputError(
            f"{version!r} is no model version", where="version", remedy="use 1, 2, 3, …"
        )
    return number


def _refuse_ours(key: str, name: str) -> None:
    if is_ours(key):
        raise refuse(f"KFM refused tag {key} on {name}: kfm.* tags are the registry's own")


def _closed(method_name: str) -> Any:
    def closed(self: KfmStore, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG001 - whatever is asked, the answer is no
        raise refuse(
            f"KFM refused {method_name}: this version of kfm-mlflow does not know this door"
        )

    return closed


for _method in dir(SqlAlchemyStore):
    if (
        not _method.startswith("_")
        and callable(getattr(SqlAlchemyStore, _method))
        and _method not in STORE_DOORS
    ):
        setattr(KfmStore, _method, _closed(_method))
