"""Orders of operators to the rollout controller: rows of the ledger, which the controller reads.

Rules:

1. Whoever may start a rollout may give orders. An order is a signed row with who and why, written
   in one transaction with the tag that shows it in MLflow's pages.
2. What nothing could obey is refused before anything is written: the order names a version that is
   under way, and a rollback a former Production version.
3. A version that was taken down from Production does not come back by an order. It is admitted
   anew, through all gates, or not at all.
4. The controller decides what an order does; nothing is moved here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, select

from kfm_mlflow.errors import ConflictError, InputError
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry import listing, reading, records, tables
from kfm_mlflow.registry.actor import current_actor
from kfm_mlflow.registry.decision import asker_of
from kfm_mlflow.registry.journal import require_carrier, require_model
from kfm_mlflow.registry.moves import require_former
from kfm_mlflow.registry.policy_events import claims_of
from kfm_mlflow.registry.translate import door
from kfm_mlflow.trust.ledger import ROLLOUT_ORDER
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from kfm_mlflow.registry.store import KfmStore

ORDER_TAG = "kfm.rollout"
"""Tag of a version that shows its last order, and gives one when somebody sets it."""
STEERING = ("pause", "resume", "abort", "promote")
"""Orders to the rollout of a version that is under way."""
ROLLBACK = "rollback"
MAX_REASON_CHARS = 1000
MAX_ORDERS = 20
RESTING_PHASES = frozenset({"Idle", "Succeeded", "RolledBack"})
"""Phases of the controller's journal in which no rollout is under way."""

_NO_RELEASE = f"sha256:{'0' * 64}"
_ORDERS = (
    select(tables.ledger.c.seq, tables.ledger.c.at, tables.ledger.c.version, tables.ledger.c.body)
    .where(
        tables.ledger.c.model == bindparam("named"),
        tables.ledger.c.seq > bindparam("after"),
        tables.ledger.c.kind == ROLLOUT_ORDER,
    )
    .order_by(tables.ledger.c.seq.desc())
    .limit(MAX_ORDERS)
)


@dataclass(frozen=True)
class RolloutOrder:
    """An order as the ledger has it.

    Attributes:
        order_id: Number of the row; grows.
        at: When it was given, RFC 3339.
        order: One of :data:`STEERING`, or ``rollback``.
        version: Version that it is about; of a rollback, the one that goes.
        to_version: Of a rollback, the version that comes back.
        actor: Who gave it.
        reason: Why.
    """

    order_id: int
    at: str
    order: str
    version: int
    to_version: int | None
    actor: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, ``docs/formats/rollout_order.md``."""
        return {"schema_version": "1", **self.__dict__}


def require_word(value: str) -> None:
    """Refuse a tag that is no order to the rollout of its version.

    Raises:
        InputError: It is none of the four words.
    """
    if value not in STEERING:
        raise InputError(
            f"{str(value)[:40]!r} is no order",
            where=f"tag {ORDER_TAG}",
            remedy=f"use one of {', '.join(STEERING)}",
        )


@door
def give_order(
    store: KfmStore,
    name: str,
    order: str,
    *,
    reason: str,
    version: int | None = None,
    to_version: int | None = None,
) -> RolloutOrder:
    """Append an order to the ledger.

    Args:
        store: The registry.
        name: Registered model.
        order: One of :data:`STEERING`, or ``rollback``.
        reason: Why.
        version: Version that it is about; None takes the one that is under way or, of a rollback,
            at Production.
        to_version: Of a rollback, a former Production version; None takes the last one before.

    Raises:
        MlflowException: 400 the order is none, has no reason, or names what never was; 403 who asks
            may not; 409 nothing could obey it as things stand.
    """
    if order not in (*STEERING, ROLLBACK):
        known = ", ".join((*STEERING, ROLLBACK))
        raise InputError(f"{order[:40]!r} is no order", where="order", remedy=f"use one of {known}")
    reason = " ".join(reason.split())
    if not 0 < len(reason) <= MAX_REASON_CHARS or not reason.isprintable():
        raise InputError(f"is needed: 1 to {MAX_REASON_CHARS} printable characters", where="reason")
    if to_version is not None and order != ROLLBACK:
        raise InputError(f"goes with {ROLLBACK}, not with {order}", where="to_version")
    before: list[int] = []
    if order == ROLLBACK and to_version is None:
        with store.on_primary() as session:
            require_carrier(store, session, name, "give orders to")
            # Walks all moves of a model, so not under the lock; what it finds is asked again there.
            before = listing.former_production(session, store.key_of(name), limit=2)
    with store.work_on(name) as session:
        require_carrier(store, session, name, "give orders to")
        if order == ROLLBACK:
            about, to_version = _rolled_back(
                store, session, name, version=version, to_version=to_version, before=before
            )
        else:
            about = _under_way(store, session, name, version)
        said = {"order": order, "version": about, "to_version": to_version, "reason": reason}
        return _record(store, session, name, said)


def _rolled_back(
    store: KfmStore,
    session: Session,
    name: str,
    *,
    version: int | None,
    to_version: int | None,
    before: list[int],
) -> tuple[int, int]:
    """Return which version goes and which comes back, of those before unless one is named."""
    levels = _levels(store, session, name)
    production = next((v for v, level in levels.items() if level is Level.PRODUCTION), None)
    if production is None:
        raise ConflictError(f"nothing of {name} is at Production", remedy="nothing to roll back")
    if version not in {None, production}:
        raise ConflictError(
            f"v{version} is not at Production of {name}, v{production} is",
            remedy="read the levels again",
        )
    if to_version is None:
        to_version = next((v for v in before if v != production), None)
    if to_version is None:
        raise ConflictError(
            f"no version of {name} was at Production before v{production}, or it was taken down",
            remedy="admit another version",
        )
    held = levels.get(to_version)
    if held in {Level.PRODUCTION, Level.CANARY}:
        raise ConflictError(f"v{to_version} is at {held} already", remedy="name another version")
    require_former(session, store.key_of(name), to_version)
    return production, to_version


def _under_way(store: KfmStore, session: Session, name: str, version: int | None) -> int:
    """Return the version that an order is about."""
    levels = _levels(store, session, name)
    canary = next((v for v, level in levels.items() if level is Level.CANARY), None)
    found = [v for v in (canary, _watched(store, session, name, levels)) if v is not None]
    if not found:
        raise ConflictError(
            f"no rollout of {name} is under way", remedy="`kfm rollout start` begins one"
        )
    if version is None and len(found) > 1:
        raise InputError(
            f"v{found[0]} is the canary and v{found[1]} at Production is watched",
            where="version",
            remedy="name one of them",
        )
    if version not in {None, *found}:
        named = " and ".join(f"v{v}" for v in found)
        raise ConflictError(
            f"v{version} of {name} is not under way, {named} is", remedy="name that version"
        )
    return found[0] if version is None else version


def _levels(store: KfmStore, session: Session, name: str) -> dict[int, Level]:
    return reading.levels(session, store._get_active_workspace(), name)  # noqa: SLF001 - MLflow's store has no public one


def _watched(store: KfmStore, session: Session, name: str, levels: dict[int, Level]) -> int | None:
    """Return the Production version that the controller still watches, or could not take back."""
    found = records.read_journal(session, store.key_of(name))
    state = json.loads(found[1]) if found else {}
    candidate = state.get("candidate") if isinstance(state, dict) else None
    if not isinstance(candidate, int) or levels.get(candidate) is not Level.PRODUCTION:
        return None
    return None if state.get("phase") in RESTING_PHASES else candidate


def _record(store: KfmStore, session: Session, name: str, said: dict[str, Any]) -> RolloutOrder:
    key, now, actor = store.key_of(name), store.admission.clock(), current_actor()
    family = records.family(session, key) or store.admission.policies.family_of(name)
    policy = store.admission.policy(family)
    version: int = said["version"]
    release = records.releases_of(session, key, (version,)).get(version)
    claims = {
        **said,
        "actor": actor.name,
        "authenticated": actor.authenticated,
        "roles": list(asker_of(actor, policy, None).roles),
    }
    binding = Binding(
        model_name=key,
        release_version=release.release_version if release else "unknown",
        release_id=release.release_id if release else _NO_RELEASE,
        policy_digest=policy.digest,
        version=version,
    )
    statement = build_statement(ROLLOUT_ORDER, binding, claims, now)
    seq = records.append_ledger(
        session,
        kind=ROLLOUT_ORDER,
        model=key,
        version=version,
        body=sign_statement(statement, store.admission.signer).decode("utf-8"),
        now=now,
    )
    store.show_order(name, version, said["order"])
    return _read(seq, records.instant(now), version, claims)


@door
def orders_of(store: KfmStore, name: str, *, after: int = 0) -> list[RolloutOrder]:
    """Return the last orders of a model, the newest first.

    Args:
        store: The registry.
        name: Registered model.
        after: Only orders with a higher number; what a caller has seen costs nothing then.

    Raises:
        MlflowException: 400 when there is no such model.
    """
    with store.on_primary() as session:
        require_model(store, session, name)
        rows = session.execute(_ORDERS, {"named": store.key_of(name), "after": after}).all()
    return [_read(row.seq, row.at, row.version, claims_of(row.body)) for row in rows]


def _read(seq: int, at: str, version: int, claims: dict[str, Any]) -> RolloutOrder:
    return RolloutOrder(
        order_id=int(seq),
        at=str(at),
        order=str(claims["order"]),
        version=int(version),
        to_version=claims["to_version"],
        actor=str(claims["actor"]),
        reason=str(claims["reason"]),
    )
