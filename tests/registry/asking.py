"""Who asks, and under which policy: requests of logged-in users, policies changed between moves."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flask import Flask, g

from kfm_mlflow.policy.load import PolicySet
from kfm_mlflow.policy.models import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.world import Registry

ROLES = {
    "trainer": ["tom"],
    "validator": ["val"],
    "council": ["cora"],
    "authority": ["aki"],
    "operator": ["olga", "otto"],
}
FAR = "192.0.2.7"
_APP = Flask(__name__)


@contextmanager
def request_of(user: str = "", address: str = FAR) -> Iterator[None]:
    """Serve a request, as MLflow's basic-auth does: of a user, or of nobody when empty."""
    with _APP.test_request_context(environ_base={"REMOTE_ADDR": address}):
        if user:
            g.mlflow_authenticated_user = user
        yield


def repolicy(registry: Registry, family: str = "climate", **sections: Any) -> Policy:
    """Put sections of another policy in force, merged into the present one."""
    policies = registry.store.admission.policies.policies
    raw = policies[family].model_dump(mode="json", by_alias=True)
    changed = Policy.model_validate(_merged(raw, sections))
    registry.store.admission.policies = PolicySet({**policies, family: changed})
    return changed


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
    return new


def with_roles(registry: Registry, **access: Any) -> Policy:
    """Give people roles, and allow nobody who is not logged in."""
    return repolicy(
        registry,
        access={"unauthenticated": "never", "roles": ROLES, **access},
    )
