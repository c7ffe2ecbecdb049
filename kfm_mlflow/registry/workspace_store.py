"""The governed store of a server with workspaces: MLflow's workspace-aware one, ours before it.

MLflow's class says which workspace a request is in, and every statement of both asks for that.
"""

from __future__ import annotations

from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel
from mlflow.store.model_registry.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore
from sqlalchemy import select

from kfm_mlflow.errors import InputError
from kfm_mlflow.registry.store import KfmStore, close_unnamed_doors
from kfm_mlflow.registry.workspaces import said_here


class KfmWorkspaceStore(KfmStore, WorkspaceAwareSqlAlchemyStore):  # type: ignore[misc]  # MLflow's is untyped
    """MLflow's model registry with workspaces, governed in each of them."""

    def _initialize_store_state(self) -> None:
        """Refuse a database in which a name looks like a key.

        Raises:
            InputError: A model made before MLflow forbade slashes has one in its name.
        """
        super()._initialize_store_state()
        names = SqlRegisteredModel.__table__.c.name
        with self.ManagedSessionMaker(read_only=False) as session:
            found = session.execute(select(names).where(names.contains("/")).limit(1)).scalar()
        if found is not None:
            raise InputError(
                "holds a slash, as the key of a model in another workspace does",
                where=f"registered model {found}",
                remedy="rename it with workspaces off",
            )

    def _of_this_workspace(self, envelopes: tuple[bytes, ...], key: str) -> tuple[bytes, ...]:
        return said_here(envelopes, key)


close_unnamed_doors(KfmWorkspaceStore, WorkspaceAwareSqlAlchemyStore)
