"""What a rollout controller writes: its lease and its journal. Traffic follows, so who asks counts.

Whoever may start a rollout (move to canary) may; without logins, whoever the policy lets move
versions without one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import InputError
from kfm_mlflow.gates.access import may_roll_out
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.registry import reading, records, rollout_lease
from kfm_mlflow.registry.actor import current_actor
from kfm_mlflow.registry.decision import asker_of
from kfm_mlflow.registry.translate import refuse

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from kfm_mlflow.registry.rollout_lease import RolloutLease
    from kfm_mlflow.registry.store import KfmStore

MIN_TTL_S, MAX_TTL_S = 0.1, 600.0
MAX_HOLDER_CHARS = 128
_RENEW_BELOW = 0.75
"""A lease of which more is left than this share is not written again."""


def write_journal(store: KfmStore, name: str, state: Any, *, expected: int, token: int = 0) -> int:
    """Write a model's journal by compare-and-set.

    Args:
        store: The registry.
        name: Registered model.
        state: The controller's state, as JSON.
        expected: Generation that the caller read; 0 when there was none.
        token: What the caller was given with the lease; 0 where nobody ever took one.

    Returns:
        The new generation.

    Raises:
        MlflowException: 400 when there is no such model, or it is a prompt; 403 when who asks may
            not carry rollouts; 409 when somebody else wrote in between, or was given the lease.
    """
    key = store.key_of(name)
    with store.unit_of_work(f"journal:{key}") as session:
        require_carrier(store, session, name, "write")
        rollout_lease.require_token(session, key, token)
        return records.write_journal(
            session, key, json.dumps(state), expected=expected, now=store.admission.clock()
        )


def hold_lease(store: KfmStore, name: str, *, holder: str, ttl_s: float) -> dict[str, Any]:
    """Take or renew the lease on a model's rollouts; asked often, it writes seldom.

    Args:
        store: The registry.
        name: Registered model.
        holder: Name of the controller, which no other has.
        ttl_s: How long the lease is to last, by the registry's clock.

    Returns:
        Whether the caller leads, who does, the token, and for how long.

    Raises:
        InputError: No lease can have this name or duration.
        MlflowException: As :func:`write_journal`.
    """
    if not MIN_TTL_S <= ttl_s <= MAX_TTL_S:
        raise InputError(f"must be between {MIN_TTL_S:g} and {MAX_TTL_S:g}", where="ttl_s")
    key = store.key_of(name)
    found, now = _lease_asked_for(store, name, holder), store.admission.clock()
    if found.holder == holder and found.left_s(now) > _RENEW_BELOW * ttl_s:
        return found.to_dict(now, asker=holder)
    with store.unit_of_work(f"journal:{key}") as session:
        now = store.admission.clock()
        taken = rollout_lease.take_lease(session, key, holder=holder, ttl_s=ttl_s, now=now)
        return taken.to_dict(now, asker=holder)


def give_back_lease(store: KfmStore, name: str, *, holder: str) -> dict[str, Any]:
    """End the lease of a controller that stops; one that has none changes nothing.

    Returns:
        Who leads now, as :func:`hold_lease`.
    """
    found, key = _lease_asked_for(store, name, holder), store.key_of(name)
    if found.holder != holder:
        return found.to_dict(store.admission.clock(), asker=holder)
    with store.unit_of_work(f"journal:{key}") as session:
        now = store.admission.clock()
        left = rollout_lease.give_back_lease(session, key, holder=holder, now=now)
        return left.to_dict(now, asker=holder)


def read_lease(store: KfmStore, name: str) -> dict[str, Any]:
    """Return who leads a model's rollouts now."""
    with store.on_primary() as session:
        found = rollout_lease.read_lease(session, store.key_of(name))
    return found.to_dict(store.admission.clock())


def _lease_asked_for(store: KfmStore, name: str, holder: str) -> RolloutLease:
    """Return the lease as it stands to a named controller, if it may carry rollouts."""
    if not 0 < len(holder) <= MAX_HOLDER_CHARS or not holder.isprintable():
        raise InputError(f"must be 1 to {MAX_HOLDER_CHARS} printable characters", where="holder")
    with store.on_primary() as session:
        require_carrier(store, session, name, "write")
        return rollout_lease.read_lease(session, store.key_of(name))


def require_model(store: KfmStore, session: Session, name: str) -> None:
    """Refuse what is no registered model.

    Raises:
        InputError: There is no such model, or it is a prompt.
    """
    if reading.is_prompt(session, store._get_active_workspace(), name) is not False:  # noqa: SLF001 - MLflow's store has no public one
        raise InputError(f"{name!r} is no registered model", where="rollout")


def require_carrier(store: KfmStore, session: Session, name: str, doing: str) -> None:
    """Refuse who may not carry rollouts of a model.

    Args:
        store: The registry.
        session: Open session.
        name: Registered model.
        doing: What is asked for, before "the rollout of".

    Raises:
        InputError: There is no such model, or it is a prompt.
        MlflowException: 403.
    """
    require_model(store, session, name)
    family = records.family(session, store.key_of(name)) or store.admission.policies.family_of(name)
    policy = store.admission.policy(family)
    found = may_roll_out(policy, asker_of(current_actor(), policy, None))
    if found.verdict is not Verdict.PASS:
        raise refuse(
            f"KFM refused to {doing} the rollout of {name}: {found.detail}; {found.remedy}"
        )
