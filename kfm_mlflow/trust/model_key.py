"""What the registry's own records call a registered model: its name, and its workspace before it.

MLflow lets workspaces have models of the same name. In ledger, signed bindings, locks, outbox,
pages and refusals a model of another than the default workspace is therefore ``workspace/name``;
in the default one, and without workspaces, it is ``name``. Neither part may hold a slash, so that
no two models ever have one key. What a trainer or validator signs is about a release, which knows
no workspace: it names the model alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfm_mlflow.errors import InputError
from kfm_mlflow.release.area import DEFAULT_WORKSPACE

if TYPE_CHECKING:
    from collections.abc import Mapping

WORKSPACE_VARIABLE = "MLFLOW_WORKSPACE"
"""How MLflow's clients are told a workspace."""
MAX_KEY_LENGTH = 256
"""Characters that the database keeps of a key."""
_OF_A_VERSION = frozenset(
    {
        "vote",
        "canary-verdict",
        "rollback",
        "decision",
        "equivocation",
        "care-authority",
        "rollout-order",
        "checkpoint-certificate",
    }
)


def model_key(workspace: str, name: str) -> str:
    """Return a model's key; a name with a colon is no model's, and stays as it is.

    Args:
        workspace: MLflow workspace; empty is the default one.
        name: Registered model, without a workspace.

    Raises:
        InputError: The name holds a slash, or the key is longer than is kept.
    """
    if ":" in name:
        return name
    if "/" in name:
        raise InputError(
            f"{name[:80]!r} holds a slash", where="model", remedy="name the workspace by itself"
        )
    if workspace in ("", DEFAULT_WORKSPACE):
        return name
    key = f"{workspace}/{name}"
    if len(key) > MAX_KEY_LENGTH:
        raise InputError(
            f"workspace and name have more than {MAX_KEY_LENGTH - 1} characters together",
            where=f"model {name[:40]}…",
            remedy="give the model a shorter name",
        )
    return key


def split_key(key: str) -> tuple[str, str]:
    """Return workspace (empty for the default one) and name of a model's key."""
    workspace, slash, name = key.partition("/")
    return (workspace, name) if slash else ("", key)


def current_key(name: str, environ: Mapping[str, str]) -> str:
    """Return a model's key as a client means it: in ``MLFLOW_WORKSPACE`` unless it says where.

    Args:
        name: ``NAME`` or ``WORKSPACE/NAME``.
        environ: The client's environment variables.

    Raises:
        InputError: It holds two slashes, or is too long.
    """
    workspace, own = split_key(name)
    return model_key(workspace or environ.get(WORKSPACE_VARIABLE, "").strip(), own)


def signed_name(kind: str, key: str) -> str:
    """Return what a statement of a kind calls a model.

    Args:
        kind: Kind of attestation.
        key: The model's key.

    Returns:
        The key for what is said of a model version in its registry, the name alone for what is
        said of a release.
    """
    return key if kind in _OF_A_VERSION else split_key(key)[1]
