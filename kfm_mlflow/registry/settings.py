"""What a registry needs to know besides its database: policies, its signing key, where bytes lie.

MLflow builds stores from a URI alone, so the rest comes from the environment, which `kfm server`
fills in. Anything missing is an error at start, never a weaker registry.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kfm_mlflow.errors import InputError
from kfm_mlflow.release.freeze import ArtifactArea, local_path
from kfm_mlflow.release.s3 import is_s3

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
        InputError: ``KFM_REGISTRY_KEY`` is not set, or the artifact root is one that releases
            cannot be frozen in (see :func:`area_from`).
    """
    if environ.get(ARTIFACTS_VARIABLE) or environ.get(_MLFLOW_DESTINATION):
        area_from(environ)
    key = environ.get(REGISTRY_KEY_VARIABLE, "")
    if not key:
        raise InputError(
            "the registry has no key to sign its decisions with",
            where=REGISTRY_KEY_VARIABLE,
            remedy="start it with `kfm server`, or set it to a key that `kfm keys new` made",
        )
    folder = environ.get(POLICY_DIR_VARIABLE, "")
    return Settings(Path(folder) if folder else None, Path(key))


def _plain(destination: str) -> str:
    """Return a destination in one spelling: absolute when it is a folder, no slash at its end."""
    path = local_path(destination)
    return str(path.absolute()) if path is not None else destination.rstrip("/")


def area_from(environ: Mapping[str, str], workspace: str = "") -> ArtifactArea:
    """Return the artifact root of the server that this process belongs to.

    A server that proxies artifacts has one root: what ``--artifacts-destination`` says.
    ``KFM_ARTIFACTS_DESTINATION`` may repeat it, and is the only word where no server is asked
    (another process on the same database) or the server does not proxy.

    Args:
        environ: Environment variables.
        workspace: MLflow workspace; empty for the default one.

    Raises:
        InputError: There is no root, the two name different ones, or it is neither a folder nor
            an S3 bucket.
    """
    own, server = environ.get(ARTIFACTS_VARIABLE, ""), environ.get(_MLFLOW_DESTINATION, "")
    proxied = environ.get(_MLFLOW_SERVES, "") == "true"
    destination = own or server
    if not destination:
        raise InputError(
            "there is no place to freeze releases",
            where=ARTIFACTS_VARIABLE,
            remedy="start the server with --artifacts-destination, or set the variable",
        )
    if proxied and own and server and _plain(own) != _plain(server):
        raise InputError(
            f"says {own}, but the server serves --artifacts-destination {server}",
            where=ARTIFACTS_VARIABLE,
            remedy="unset the variable: releases are frozen where the server serves them",
        )
    if local_path(destination) is None and not is_s3(destination):
        raise InputError(
            "is neither a folder nor s3://bucket/prefix, the stores that releases can be frozen on",
            where=f"--artifacts-destination {destination}",
            remedy="other stores are reached through their S3 interface (MLFLOW_S3_ENDPOINT_URL)",
        )
    return ArtifactArea(_plain(destination), proxied=proxied, workspace=workspace)


def check_destination(
    environ: Mapping[str, str], artifacts_destination: str, *, proxied: bool = True
) -> None:
    """Refuse a server whose options and environment disagree about the artifact root.

    Args:
        environ: The server's environment, before MLflow fills it in.
        artifacts_destination: What ``--artifacts-destination`` will be.
        proxied: Whether the server will serve artifacts (no ``--no-serve-artifacts``).

    Raises:
        InputError: As :func:`area_from` in the server's workers.
    """
    serves = {_MLFLOW_SERVES: "true"} if proxied else {}
    area_from({**environ, _MLFLOW_DESTINATION: artifacts_destination, **serves})
