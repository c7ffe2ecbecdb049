"""MLflow's deployment target ``kfm``: the verbs of ``mlflow deployments``, all of them governed.

Rules kept here:

1. A deployment and its endpoint have the name of their registered model. A deployment is what of
   the model is at canary and Production; its endpoint is the address at which they are served.
2. Every change of a level is a move that the registry's gates admit or refuse; the refusal's
   sentence comes back as it is. Shares and steps are the policy's and cannot be set from here.
3. What this target cannot do it refuses with the reason; nothing seems done that was not.

The module is loaded by MLflow when the target is asked for, not by ``import mlflow``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NoReturn

# MLflow finds the client by its base class, and takes exactly one from this module.
from mlflow.deployments import BaseDeploymentClient

from kfm_mlflow.canonical import load_json
from kfm_mlflow.errors import InputError
from kfm_mlflow.rollout import deployments_asked as asked
from kfm_mlflow.rollout import deployments_local as local
from kfm_mlflow.rollout.deployments_described import describe
from kfm_mlflow.rollout.deployments_endpoints import Endpoints, EndpointVerbs
from kfm_mlflow.rollout.deployments_errors import tells, told
from kfm_mlflow.rollout.deployments_help import HELP
from kfm_mlflow.rollout.deployments_scoring import score
from kfm_mlflow.rollout.model_uri import parse_model_uri
from kfm_mlflow.rollout.remote import RemoteRegistry
from kfm_mlflow.trust.model_key import current_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlflow.deployments import PredictionsResponse

    from kfm_mlflow.rollout.inputs import Levels

Config = dict[str, Any] | None
_REASON = "mlflow deployments"
_XAI = "xai/summary.json"


def target_help() -> str:
    """Return what ``mlflow deployments help -t kfm`` prints."""
    return HELP


@tells
def run_local(name: str, model_uri: str, flavor: str | None = None, config: Config = None) -> None:
    """Serve one frozen release on this machine until Ctrl-C; the registry is only read.

    Raises:
        MlflowException: It was never frozen, does not verify, or does not become ready.
    """
    import mlflow

    asked.require_flavor(flavor)
    options = asked.read_config(config, *local.OPTIONS)
    server = asked.server_of("kfm", options.get("server") or mlflow.get_tracking_uri())
    version = _version_of(name, model_uri)
    release = local.fetch_frozen(RemoteRegistry(server), name, version)
    local.serve_release(release, options, local.wait_for_signal)


def _version_of(name: str, model_uri: str) -> int:
    """Return the version that a URI names, of the model that a deployment is named after."""
    model, version = parse_model_uri(model_uri)
    if model != current_key(name, os.environ):
        raise InputError(
            f"is of another model than deployment {name!r}",
            where=model_uri,
            remedy="a deployment has the name of its registered model",
        )
    return version


class KfmDeploymentClient(EndpointVerbs, BaseDeploymentClient):  # type: ignore[misc]  # MLflow has no types
    """What of a governed server's models is deployed, and where."""

    @tells
    def __init__(self, target_uri: str) -> None:
        """Name the server; nothing is asked yet.

        Raises:
            MlflowException: The target names no server.
        """
        import mlflow

        super().__init__(target_uri)
        server = asked.server_of(target_uri, mlflow.get_tracking_uri())
        self._registry = RemoteRegistry(server)
        self.endpoints = Endpoints(self._registry)

    # -- deployments ---------------------------------------------------------------------------

    @tells
    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Config = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Move a model's first version to canary; the controller carries it from there.

        Args:
            name: Registered model.
            model_uri: ``models:/NAME/VERSION`` of it.
            flavor: ``onnx`` or None.
            config: ``reason``.
            endpoint: The same as ``name``, or None.

        Raises:
            MlflowException: The gates refuse, or a version of the model is deployed already.
        """
        asked.require_flavor(flavor)
        options = asked.read_config(config, "reason")
        name = asked.name_of(name, endpoint)
        version = _version_of(name, model_uri)
        levels = self._registry.levels(name)
        if levels.production is not None or levels.canary is not None:
            raise told(
                f"{name} is deployed already ({_held(levels)}); update it instead",
                "RESOURCE_ALREADY_EXISTS",
            )
        self._to_canary(name, version, levels, options)
        return {"name": name, "flavor": asked.FLAVOR, "version": version}

    @tells
    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Config = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Move the next candidate to canary, or give the rollout under way an order.

        Args:
            name: Registered model.
            model_uri: ``models:/NAME/VERSION`` of the candidate; None with an order.
            flavor: ``onnx`` or None.
            config: ``reason``; for an order ``rollout`` and, when two are under way, ``version``.
            endpoint: The same as ``name``, or None.

        Raises:
            MlflowException: The registry refuses, or nothing is deployed.
        """
        asked.require_flavor(flavor)
        options = asked.read_config(config, "reason", "rollout", "version")
        name = asked.name_of(name, endpoint)
        if (model_uri is None) == ("rollout" not in options):
            raise InputError(
                "give a model URI, or config rollout", where=name, remedy="one of the two"
            )
        levels = self._registry.levels(name)
        if levels.production is None and levels.canary is None:
            raise told(f"{name} is not deployed; create it first", "RESOURCE_DOES_NOT_EXIST")
        if model_uri is None:
            order = asked.parse_order(options["rollout"])
            self._registry.give_order(
                name,
                order,
                reason=options.get("reason", _REASON),
                version=asked.parse_version(options),
            )
            return {"name": name, "flavor": asked.FLAVOR, "rollout": order}
        version = _version_of(name, model_uri)
        self._to_canary(name, version, levels, options)
        return {"name": name, "flavor": asked.FLAVOR, "version": version}

    @tells
    def delete_deployment(
        self, name: str, config: Config = None, endpoint: str | None = None
    ) -> None:
        """Take a candidate off its level; nothing happens when nothing is deployed.

        Args:
            name: Registered model.
            config: ``reason``, and ``version`` of the candidate, which is needed beside Production.
            endpoint: The same as ``name``, or None.

        Raises:
            MlflowException: Production would stay, or go.
        """
        options = asked.read_config(config, "reason", "version")
        name = asked.name_of(name, endpoint)
        named = asked.parse_version(options)
        levels = self._registry.levels(name)
        if levels.production is not None and named in {None, levels.production}:
            _refuse_to_delete(name, levels)
        if levels.canary is not None and named in {None, levels.canary}:
            self._registry.request_move(
                name,
                levels.canary,
                "candidate",
                reason=options.get("reason", _REASON),
                expect={"production": levels.production, "canary": levels.canary},
            )

    @tells
    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Return every model that has a version at canary or Production, as :meth:`get_deployment`.

        Args:
            endpoint: Only the one that is served there.
        """
        names = self.endpoints.served()
        return [self._described(name) for name in names if endpoint in {None, "", name}]

    @tells
    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """Return levels, releases, shares, phase and verdict of a model.

        Raises:
            MlflowException: Nothing of it is deployed.
        """
        return self._described(asked.name_of(name, endpoint))

    @tells
    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> PredictionsResponse:
        """Score inputs where the model is served.

        Args:
            deployment_name: Registered model.
            inputs: Data frame, array, list, input name -> array, or a body of MLflow's protocol.
            endpoint: The same as ``deployment_name``; one of the two is enough.

        Returns:
            The predictions; ``metadata`` says which version answered.

        Raises:
            MlflowException: It is not known where it is served, nobody answers there, or the
                answer is an error.
        """
        name = asked.name_of(deployment_name, endpoint)
        return score(name, self.url_of(name), inputs)

    def predict_stream(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: an answer is one whole field.

        Raises:
            MlflowException: Always.
        """
        raise told(
            "a release answers a request with one whole field, which is masked as a whole, so "
            "there is nothing to stream; use predict",
            "BAD_REQUEST",
        )

    @tells
    def explain(
        self, deployment_name: str | None = None, df: Any = None, endpoint: str | None = None
    ) -> dict[str, Any]:
        """Return the explanations that a release brought along, verified as part of it.

        They are of the release, from its training data; rows that are given change nothing.

        Args:
            deployment_name: Registered model.
            df: Not looked at.
            endpoint: The same as ``deployment_name``; one of the two is enough.

        Returns:
            ``explains`` says what of: Production's release, or the canary's before the first.

        Raises:
            MlflowException: Nothing is deployed, or its release does not verify.
        """
        del df
        name = asked.name_of(deployment_name, endpoint)
        levels = self._registry.levels(name)
        version = levels.production or levels.canary
        if version is None:
            raise told(f"{name} is not deployed", "RESOURCE_DOES_NOT_EXIST")
        release = self._registry.fetch(name, version)
        return {
            "name": name,
            "explains": f"release {release.release_id} (v{version}), not the rows that were given",
            "summary": load_json(release.release_dir / _XAI),
        }

    # -- what verbs share ----------------------------------------------------------------------

    def _to_canary(
        self, name: str, version: int, levels: Levels, options: Mapping[str, str]
    ) -> None:
        """Move a version up one level at a time; the gates of each decide."""
        if levels.canary is not None:
            raise told(
                f"{name}: {_held(levels)}; one rollout at a time; delete or promote it first",
                "RESOURCE_CONFLICT",
            )
        if version == levels.production:
            raise told(f"{name}: {_held(levels)} already", "RESOURCE_CONFLICT")
        reason = options.get("reason", _REASON)
        expect = {"production": levels.production, "canary": levels.canary}
        if self._registry.version(name, version)["level"] != "staging":
            self._registry.request_move(name, version, "staging", reason=reason, expect=expect)
        self._registry.request_move(name, version, "canary", reason=reason, expect=expect)

    def _described(self, name: str) -> dict[str, Any]:
        model = self._registry.model(name)
        held = {v for v in (model["production"], model["canary"]) if v is not None}
        if not held:
            raise told(f"{name} is not deployed", "RESOURCE_DOES_NOT_EXIST")
        versions = {version: self._registry.version(name, version) for version in held}
        journal = self._registry.load_journal(name)
        return describe(name, model, versions, journal, self.endpoints.read(name))


def _held(levels: Levels) -> str:
    held = (("production", levels.production), ("canary", levels.canary))
    return ", ".join(f"v{version} is at {level}" for level, version in held if version is not None)


def _refuse_to_delete(name: str, levels: Levels) -> NoReturn:
    verb = "mlflow deployments delete -t kfm"
    candidate = (
        f"; `{verb} --name {name} -C version={levels.canary}` gives v{levels.canary} up"
        if levels.canary is not None
        else ""
    )
    raise told(
        f"{name} v{levels.production} is at production, and nothing would answer in its place; "
        f"`kfm rollback {name}` puts the version before it back{candidate}",
        "PERMISSION_DENIED",
    )
