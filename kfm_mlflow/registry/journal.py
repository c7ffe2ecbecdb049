"""Writing the rollout controller's journal: traffic follows it, so who writes it is asked.

Whoever may start a rollout (move to canary) may write it; without logins, whoever the policy lets
move versions without one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import InputError
from kfm_mlflow.gates.access import may_roll_out
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.registry import reading, records
from kfm_mlflow.registry.actor import current_actor
from kfm_mlflow.registry.decision import asker_of
from kfm_mlflow.registry.translate import refuse

if TYPE_CHECKING:
    from kfm_mlflow.registry.store import KfmStore


def write_journal(store: KfmStore, name: str, state: Any, *, expected: int) -> int:
    """Write a model's journal by compare-and-set.

    Args:
        store: The registry.
        name: Registered model.
        state: The controller's state, as JSON.
        expected: Generation that the caller read; 0 when there was none.

    Returns:
        The new generation.

    Raises:
        MlflowException: 400 when there is no such model, or it is a prompt; 403 when who asks may
            not carry rollouts; 409 when somebody else wrote in between.
    """
    key = store.key_of(name)
    with store.unit_of_work(f"journal:{key}") as session:
        if reading.is_prompt(session, store._get_active_workspace(), name) is not False:  # noqa: SLF001 - MLflow's store has no public one
            raise InputError(f"{name!r} is no registered model", where="rollout")
        family = records.family(session, key) or store.admission.policies.family_of(name)
        policy = store.admission.policy(family)
        found = may_roll_out(policy, asker_of(current_actor(), policy, None))
        if found.verdict is not Verdict.PASS:
            raise refuse(
                f"KFM refused to write the rollout of {name}: {found.detail}; {found.remedy}"
            )
        return records.write_journal(
            session, key, json.dumps(state), expected=expected, now=store.admission.clock()
        )
