"""The registry store: MLflow's own, with somebody at every door.

Invariants:

1. A level changes only by :meth:`KfmStore.move`: gates first, then one transaction that writes
   stage, aliases, storage location, decision, ledger and outbox, or nothing.
2. What is a prompt stays one, and what is a model stays one: prompts are not governed.
3. A method of MLflow's store that ``doors.py`` does not name is refused.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from mlflow.entities.model_registry import ModelVersionTag
from mlflow.entities.model_registry.prompt_version import IS_PROMPT_TAG_KEY
from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel, SqlRegisteredModelAlias
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

from kfm_mlflow.canonical import parse_json
from kfm_mlflow.errors import ConflictError, EvidenceError, InputError
from kfm_mlflow.gates.access import may_attest
from kfm_mlflow.gates.evidence import policy_regions, read_attestation
from kfm_mlflow.gates.findings import page_path
from kfm_mlflow.gates.ruling import KIND, door_problem
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.levels import ALIASES, Level, level_of_alias, level_of_stage
from kfm_mlflow.registry import reading, records
from kfm_mlflow.registry.actor import current_actor
from kfm_mlflow.registry.candidates import voted_release
from kfm_mlflow.registry.decision import asker_of
from kfm_mlflow.registry.described import DescribedStore
from kfm_mlflow.registry.doors import STORE_DOORS, Reason, is_ours
from kfm_mlflow.registry.equivocations import read_votes, record_equivocation
from kfm_mlflow.registry.moves import Expectation, MoveResult, parse_version
from kfm_mlflow.registry.registrations import (
    forget_registrations,
    record_registration,
    rename_registrations,
)
from kfm_mlflow.registry.rollout_orders import ORDER_TAG, give_order, require_word
from kfm_mlflow.registry.standing import current_policy
from kfm_mlflow.registry.translate import door, refuse
from kfm_mlflow.trust.model_key import signed_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session

    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.registry.admission import Snapshot
    from kfm_mlflow.trust.attestation import AttestationReport

__all__ = ["Expectation", "KfmStore", "MoveResult"]


class KfmStore(DescribedStore):
    """MLflow's model registry on a SQL database, governed."""

    def _governed(self, session: Session, name: str) -> bool:
        """Return whether there is a model of this name, and it is no prompt."""
        prompt = reading.is_prompt(session, self._get_active_workspace(), name)
        if prompt is None:
            # MLflow's own sentence about a model that there is not.
            self._get_registered_model(session, name)
        return not prompt

    def _is_prompt(self, name: str) -> bool:
        with self.ManagedSessionMaker(read_only=False) as session:
            return not self._governed(session, name)

    @contextmanager
    def _as_prompt(self, name: str) -> Iterator[None]:
        """Open a unit of work on what was read to be a prompt, and still is one under the lock.

        Triggers guard the tables that prompts share, so what MLflow writes there needs a permit.
        """
        with self.work_on(name) as session:
            if self._governed(session, name):
                raise ConflictError(f"{name} is no prompt any more", remedy="try again")
            yield

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

        number = parse_version(version)
        canonical = get_canonical_stage(stage)
        with self.ManagedSessionMaker(read_only=False) as session:
            governed = self._governed(session, name)
            current = self._snapshot(session, name, number) if governed else None
        if current is None:
            with self._as_prompt(name):
                return super().transition_model_version_stage(
                    name, number, stage, archive_existing_versions
                )
        wanted = level_of_stage(canonical)
        if wanted is Level.STAGING and current.level is Level.CANARY:
            wanted = Level.CANARY  # Its stage is Staging already.
        if wanted is Level.CANDIDATE and current.level is Level.CANDIDATE:
            # None and Archived differ to MLflow only; under the lock, for a move may be on its way.
            with self.work_on(name) as session:
                if number not in self._levels(session, name):
                    return super().transition_model_version_stage(
                        name, number, canonical, archive_existing_versions=False
                    )
        moved = self.move(name, number, wanted, snapshot=current, stage=canonical)
        if moved.entity is not None:
            return self._described(moved.entity)
        with self.on_primary():
            return self.get_model_version(name, number)

    @door
    def set_registered_model_alias(self, name: str, alias: str, version: int | str) -> None:
        """Set an alias; one that names a level is a move to that level."""
        level = level_of_alias(alias)
        if level is None:
            super().set_registered_model_alias(name, alias, version)
            return
        if self._is_prompt(name):
            with self._as_prompt(name):
                super().set_registered_model_alias(name, alias, version)
            return
        if alias not in ALIASES[level]:
            raise InputError(f"write {alias.lower()!r}", where=f"alias {alias!r}")
        self.move(name, parse_version(version), level)

    @door
    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Delete an alias; one that names a level takes its version down.

        Without ``canary`` a version is back at staging, without ``staging`` a candidate.
        Production goes by promotion or rollback only.
        """
        level = level_of_alias(alias)
        if level is None:
            super().delete_registered_model_alias(name, alias)
            return
        with self.work_on(name) as session:
            query = self._get_query(session, SqlRegisteredModelAlias).filter(
                SqlRegisteredModelAlias.name == name, SqlRegisteredModelAlias.alias == alias
            )
            holders = [int(row.version) for row in query]
            levels = self._levels(session, name) if self._governed(session, name) else {}
            if not any(levels.get(holder) is level for holder in holders):
                # A prompt's, nobody's, or left from before the registry was governed: no level.
                super().delete_registered_model_alias(name, alias)
                return
        self.move(name, holders[0], Level.STAGING if level is Level.CANARY else Level.CANDIDATE)

    # -- doors that protect --------------------------------------------------------------------

    @door
    def create_registered_model(
        self, name: str, tags: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Create a model and fix its family (tag ``kfm.family``, or its name)."""
        declared = next((tag.value for tag in tags or [] if tag.key == "kfm.family"), None)
        foreign = [tag.key for tag in tags or [] if is_ours(tag.key) and tag.key != "kfm.family"]
        if foreign:
            raise refuse(
                f"KFM refused tag {foreign[0]} on {name}: kfm.* tags are the registry's own",
                Reason.TAG_RESERVED,
            )
        family = self.admission.policies.family_of(name, declared)
        with self.work_on(name) as session:
            known = self._get_query(session, SqlRegisteredModel).filter(
                SqlRegisteredModel.name == name
            )
            if known.first() is None:
                created = super().create_registered_model(name, tags, *args, **kwargs)
                records.set_family(session, self.key_of(name), family)
                return created
        # MLflow's own answer to a name that is taken, in a transaction of its own.
        return super().create_registered_model(name, tags, *args, **kwargs)

    @door
    def create_model_version(
        self, name: str, source: str, run_id: Any = None, tags: Any = None, **kwargs: Any
    ) -> Any:
        """Create a candidate version.

        Tags that are the registry's own are refused. So is a model among a prompt's versions, whose
        aliases nobody guards, and a prompt among a model's, which no search for models finds.
        """
        for tag in tags or []:
            if is_ours(tag.key):
                raise refuse(
                    f"KFM refused tag {tag.key} on {name}: kfm.* tags are the registry's own",
                    Reason.TAG_RESERVED,
                )
        said = [tag.value for tag in tags or [] if tag.key == IS_PROMPT_TAG_KEY]
        is_prompt = self._is_prompt(name)
        if is_prompt and "true" not in said:
            raise refuse(
                f"KFM refused a model version of {name}: it is a prompt", Reason.KIND_FIXED
            )
        if said and not is_prompt:
            raise refuse(
                f"KFM refused a prompt version of {name}: it is a model", Reason.KIND_FIXED
            )
        create = partial(super().create_model_version, name, source, run_id, tags, **kwargs)
        if is_prompt:
            return create()
        # MLflow asks its tracking server about these, which may not happen under the lock. Should
        # this process die in between, nobody has registered the version, which lets nobody approve.
        asks = source.startswith("models:") or (kwargs.get("model_id") and not run_id)
        created = create() if asks else None
        with self.work_on(name) as session:
            created = created or create()
            record_registration(
                session,
                self.key_of(name),
                int(created.version),
                current_actor(),
                self.admission.clock(),
            )
        return created

    def _protect(self, name: str, doing: str, version: int | None = None) -> None:
        if self._is_prompt(name):
            return
        key = self.key_of(name)
        with self.ManagedSessionMaker(read_only=True) as session:
            levels = self._levels(session, name)
            held = [v for v in levels if version is None or v == version]
            kept = records.released_versions(session, key)
        recorded = [v for v in kept if version is None or v == version]
        if held or recorded:
            which = (held or recorded)[0]
            level = levels.get(which, Level.CANDIDATE)
            raise refuse(
                f"KFM refused to {doing} {key}: v{which} ({level}) is in the ledger and is kept; "
                f"see {page_path(key, which)}",
                Reason.RELEASE_KEPT,
            )

    @door
    def rename_registered_model(self, name: str, new_name: str) -> Any:
        """Rename a model that no version was ever released of."""
        with self.work_on(name) as session:
            self._protect(name, "rename")
            family = self._family(session, name)
            if not self._is_prompt(name):
                # A new name may not lead out of the family that the old one was made in.
                self.admission.policies.family_of(new_name, family)
            renamed = super().rename_registered_model(name, new_name)
            records.rename_family(session, self.key_of(name), self.key_of(new_name))
            rename_registrations(session, self.key_of(name), self.key_of(new_name))
            return renamed

    @door
    def delete_registered_model(self, name: str) -> None:
        """Delete a model that no version was ever released of."""
        with self.work_on(name) as session:
            self._protect(name, "delete")
            super().delete_registered_model(name)
            records.forget_family(session, self.key_of(name))
            forget_registrations(session, self.key_of(name))

    @door
    def delete_model_version(self, name: str, version: int | str) -> None:
        """Delete a version that was never released."""
        number = parse_version(version)
        with self.work_on(name):
            self._protect(name, "delete a version of", number)
            super().delete_model_version(name, number)

    @door
    def set_registered_model_tag(self, name: str, tag: Any) -> None:
        """Set a tag that is not the registry's own."""
        _refuse_ours(tag.key, name)
        _refuse_kind(tag.key, name)
        super().set_registered_model_tag(name, tag)

    @door
    def delete_registered_model_tag(self, name: str, key: str) -> None:
        """Delete a tag that is not the registry's own."""
        _refuse_ours(key, name)
        _refuse_kind(key, name)
        super().delete_registered_model_tag(name, key)

    @door
    def set_model_version_tag(self, name: str, version: int | str, tag: Any) -> None:
        """Set a tag that is not the registry's own; ``kfm.rollout`` is an operator's order."""
        if tag.key == ORDER_TAG:
            require_word(tag.value)
            why = f"tag {ORDER_TAG} was set"
            give_order(self, name, tag.value, reason=why, version=parse_version(version))
            return
        _refuse_ours(tag.key, name)
        _refuse_kind(tag.key, name)
        super().set_model_version_tag(name, version, tag)

    def show_order(self, name: str, version: int, order: str) -> None:
        """Show a version's last order in MLflow's pages; joins the open unit of work."""
        super().set_model_version_tag(name, version, ModelVersionTag(ORDER_TAG, order))

    @door
    def delete_model_version_tag(self, name: str, version: int | str, key: str) -> None:
        """Delete a tag that is not the registry's own."""
        _refuse_ours(key, name)
        _refuse_kind(key, name)
        super().delete_model_version_tag(name, version, key)

    # -- evidence ------------------------------------------------------------------------------

    @door
    def add_attestation(
        self, name: str, version: int, envelope: bytes, *, kind: str | None = None
    ) -> str:
        """Keep a signed statement about a frozen release.

        A vote that contradicts an earlier one of the same member is kept, too, and a row of the
        ledger says so.

        Args:
            name: Registered model.
            version: Model version.
            envelope: DSSE envelope; must verify under the policy's keys and name this release.
            kind: Kind that it must be of; None takes any.

        Returns:
            The envelope's digest.

        Raises:
            MlflowException: 400 when it does not verify, is of another release, or none is frozen;
                403 when who sends it may not.
        """
        snapshot = self.snapshot(name, version)
        try:
            parse_json(envelope, where="attestation")
        except EvidenceError as exc:
            raise InputError(str(exc)) from exc
        policy = self.admission.policy(snapshot.family)
        regions = policy_regions(current_policy(policy))
        report = read_attestation(envelope, policy.trust, self.admission.clock(), regions=regions)
        votes = report.kind == "vote"
        if report.kind != KIND and not votes and snapshot.release is None:
            raise InputError(
                f"{name} v{version} is not frozen yet",
                where="attestation",
                remedy="move it to Staging",
            )
        if not report.ok:
            raise InputError("; ".join(report.problems) or "does not verify", where="attestation")
        if kind not in (None, report.kind):
            raise InputError(f"is a {report.kind}, not a {kind}", where="attestation")
        bound, release = report.binding, snapshot.release
        called = signed_name(str(report.kind), snapshot.model_name)
        if bound is None or bound.model_name != called:
            raise InputError("is about another release", where="attestation")
        expected = release.release_id if release is not None else bound.release_id
        if votes:
            expected, _ = voted_release(self.admission, snapshot, policy, where="attestation")
        if bound.release_id != expected:
            raise InputError("is about another release", where="attestation")
        if report.kind == KIND and (fault := door_problem(report, version, regions)):
            raise InputError(fault, where="attestation")
        self._require_may_attest(snapshot, policy, report)
        subject = _subject_of(report, snapshot, bound.release_id)
        known = read_votes(snapshot.envelopes, policy, self.admission) if votes else {}
        with self.work_on(name) as session:
            if votes:
                record_equivocation(
                    session,
                    envelope,
                    report,
                    snapshot=snapshot,
                    subject=subject,
                    known=known,
                    policy=policy,
                    admission=self.admission,
                )
            return records.add_attestation(
                session,
                release_id=subject,
                kind=str(report.kind),
                envelope=envelope,
                now=self.admission.clock(),
            )

    def _require_may_attest(
        self, snapshot: Snapshot, policy: Policy, report: AttestationReport
    ) -> None:
        """Refuse a statement in favour of a release from who registered it, or has no role."""
        actor, claims = current_actor(), report.claims or {}
        registrar = self._registrar(snapshot.model_name, snapshot.version, actor)
        found = may_attest(
            policy,
            asker_of(actor, policy, registrar),
            str(report.kind),
            # A rollback speaks for no release: it takes down what is worse.
            approves=report.kind != "rollback" and claims.get("choice", "approve") == "approve",
        )
        if found.verdict is not Verdict.PASS:
            raise refuse(
                f"KFM refused a {report.kind} on {snapshot.model_name} v{snapshot.version}: "
                f"{found.detail}; {found.remedy}"
            )


def _subject_of(report: AttestationReport, snapshot: Snapshot, release_id: str) -> str:
    """Return under what a statement is kept: authority and council may come before freezing."""
    if report.kind != KIND and snapshot.release is None:
        return records.subject_of(snapshot.model_name, snapshot.version)
    if report.kind != KIND:
        return release_id
    covers = ((report.claims or {}).get("scope") or {}).get("covers")
    version = None if covers == "model" else snapshot.version
    return records.subject_of(snapshot.model_name, version)


def _refuse_ours(key: str, name: str) -> None:
    if is_ours(key):
        raise refuse(
            f"KFM refused tag {key} on {name}: kfm.* tags are the registry's own",
            Reason.TAG_RESERVED,
        )


def _refuse_kind(key: str, name: str) -> None:
    if key == IS_PROMPT_TAG_KEY:
        raise refuse(
            f"KFM refused tag {key} on {name}: what is a prompt is said when it is made",
            Reason.KIND_FIXED,
        )


def _closed(method_name: str) -> Any:
    def closed(self: KfmStore, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG001 - whatever is asked, the answer is no
        raise refuse(
            f"KFM refused {method_name}: this version of kfm-mlflow does not know this door",
            Reason.DOOR_UNKNOWN,
        )

    return closed


def close_unnamed_doors(ours: type[KfmStore], theirs: type) -> None:
    """Refuse every public method of MLflow's class that no row of ``doors.py`` names.

    Args:
        ours: The class that gets the refusals.
        theirs: MLflow's.
    """
    for method in dir(theirs):
        if (
            not method.startswith("_")
            and callable(getattr(theirs, method))
            and method not in STORE_DOORS
        ):
            setattr(ours, method, _closed(method))


close_unnamed_doors(KfmStore, SqlAlchemyStore)
