"""MLflow's entry point: builds the store for a ``kfm+…`` registry URI. Imports nothing itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from kfm_mlflow.registry.store import KfmStore

PREFIX = "kfm+"
READ_REPLICA_VARIABLE = "_MLFLOW_SERVER_READ_REPLICA_BACKEND_STORE"
"""How ``mlflow server --read-replica-backend-store-uri`` tells its workers."""


def plain_uri(store_uri: str) -> str:
    """Return the SQLAlchemy URI inside a ``kfm+…`` one.

    Raises:
        InputError: It does not start with ``kfm+``.
    """
    if not store_uri.startswith(PREFIX):
        raise InputError(f"does not start with {PREFIX}", where=store_uri)
    return store_uri.removeprefix(PREFIX)


def build_store(
    store_uri: str | None = None, artifact_uri: str | None = None, tracking_uri: str | None = None
) -> KfmStore:
    """Build the governed registry store; the signature is MLflow's.

    With a read replica, plain reads go there, and all that decides goes to the primary database.
    With MLflow's workspaces on, it is governed in each of them.

    Raises:
        InputError: The registry has no key, or a policy is wrong.
    """
    del artifact_uri, tracking_uri
    from kfm_mlflow.registry.policy_events import record_policies
    from kfm_mlflow.registry.store import KfmStore
    from kfm_mlflow.registry.workspaces import has_workspaces

    kind = KfmStore
    if has_workspaces():
        from kfm_mlflow.registry.workspace_store import KfmWorkspaceStore

        kind = KfmWorkspaceStore
    replica = os.environ.get(READ_REPLICA_VARIABLE) or None
    store = kind(plain_uri(store_uri or ""), read_db_uri=replica)
    record_policies(store)
    return store
