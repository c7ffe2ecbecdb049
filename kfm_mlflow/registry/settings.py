"""What a registry needs to know besides its database: policies, its signing key, where bytes lie.

MLflow builds stores from a URI alone, so the rest comes from the environment, which `kfm server`
fills in. Anything missing is an error at start, never a weaker registry.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kfm_mlflow.errors import InputError
from kfm_mlflow.release.freeze import ArtifactArea

if TYPE_CHECKING:
    from collections.abc import Mapping

POLICY_DIR_VARIABLE = "KFM_POLICY_DIR"
REGISTRY_KEY_VARIABLE = "KFM_REGISTRY_KEY"
ARTIFACTS_VARIABLE = "KFM_ARTIFACTS_DESTINATION"
# What `mlflow server` tells its own workers.
_MLFLOW_DESTINATION = "_MLFLOW_SERVER_ARTIFACT_DESTINATION"
_MLFLOW_SERVES = "_MLFLOW_SERVER_SERVE_ARTIFACTS"


@dataclass(frozen=True)
class Settings:
    """Where a registry's policies and key lie.

    Attributes:
        policy_dir: Folder of policy files; None takes the packaged ones, which trust nobody.
        registry_key: Private key that signs decisions.
    """

    policy_dir: Path | None
    registry_key: Path


def settings_from(environ: Mapping[str, str]) -> Settings:
    """Read the settings from environment variables.

    Raises:
        InputError: ``KFM_REGISTRY_KEY`` is not set.
    """
    key = environ.get(REGISTRY_KEY_VARIABLE, "")
    if not key:
        raise InputError(
            "the registry has no key to sign its decisions with",
            where=REGISTRY_KEY_VARIABLE,
            remedy="start it with `kfm server`, or set it to a key that `kfm keys new` made",
        )
    folder = environ.get(POLICY_DIR_VARIABLE, "")
    return Settings(Path(folder) if folder else None, Path(key))


def area_from(environ: Mapping[str, str]) -> ArtifactArea:
    """Return the artifact root of the server that this process belongs to.

    Raises:
        InputError: This process is no server and ``KFM_ARTIFACTS_DESTINATION`` is not set.
    """
    own = environ.get(ARTIFACTS_VARIABLE, "")
    if own:
        return ArtifactArea(own, proxied=environ.get(_MLFLOW_SERVES, "") == "true")
    destination = environ.get(_MLFLOW_DESTINATION, "")
    if not destination:
        raise InputError(
            "there is no place to freeze releases",
            where=ARTIFACTS_VARIABLE,
            remedy="start the server with --artifacts-destination, or set the variable",
        )
    return ArtifactArea(destination, proxied=environ.get(_MLFLOW_SERVES, "") == "true")
