"""Where registered models are served, as their registry remembers it: a tag of the model.

``KFM_ENDPOINT`` comes before the tag: whoever may tag a model decides where the inputs of its
users go, unless they say it themselves.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import InputError
from kfm_mlflow.rollout.deployments_asked import parse_url, read_config
from kfm_mlflow.rollout.deployments_errors import tells, told

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow.entities.model_registry import RegisteredModel

    from kfm_mlflow.rollout.remote import RemoteRegistry

TAG = "endpoint_url"
VARIABLE = "KFM_ENDPOINT"
_LEVEL_ALIASES = frozenset({"canary", "production"})
_PAGE = 200


class Endpoints:
    """The addresses of one registry's models, through MLflow's own client."""

    def __init__(self, registry: RemoteRegistry) -> None:
        """Use a registry; nothing is asked yet."""
        from mlflow.tracking import MlflowClient

        self._registry = registry
        self._client = MlflowClient(tracking_uri=registry.server, registry_uri=registry.server)

    def read(self, name: str) -> str | None:
        """Return what is written down for a model; None when nothing is."""
        own = self._registry.require_current(name)
        written: str | None = self._client.get_registered_model(own).tags.get(TAG)
        return written

    def write(self, name: str, url: str) -> None:
        """Write down where a model is served.

        Raises:
            MlflowException: There is no such model, or who asks may not change it.
        """
        own = self._registry.require_current(name)
        self._client.set_registered_model_tag(own, TAG, url)

    def forget(self, name: str) -> None:
        """Remove what is written down for a model; nothing else changes."""
        if self.read(name) is not None:
            own = self._registry.require_current(name)
            self._client.delete_registered_model_tag(own, TAG)

    def written(self) -> dict[str, str]:
        """Return model -> address of those that have one."""
        return {model.name: model.tags[TAG] for model in self._models() if TAG in model.tags}

    def served(self) -> list[str]:
        """Return the models that have a version at canary or production."""
        return [model.name for model in self._models() if _LEVEL_ALIASES & set(model.aliases)]

    def _models(self) -> Iterator[RegisteredModel]:
        token = None
        while True:
            page = self._client.search_registered_models(max_results=_PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def find_url(name: str, said: str | None, written: str | None) -> str:
    """Return where a model is served: what the user says before what the registry remembers.

    Args:
        name: Registered model.
        said: The user's ``KFM_ENDPOINT``.
        written: What the registry remembers; None for nothing.

    Raises:
        InputError: Neither says anything, or it is no HTTP address.
    """
    url = said or written
    if not url:
        raise InputError(
            "nobody said where it is served",
            where=f"endpoint {name}",
            remedy=f"set {VARIABLE}, or mlflow deployments update-endpoint -t kfm "
            f"--endpoint {name} -C url=http://HOST:PORT",
        )
    return parse_url(url, where=f"endpoint {name}", remedy="use http://HOST:PORT")


class EndpointVerbs:
    """The verbs of ``mlflow.deployments`` that are about endpoints.

    Attributes:
        endpoints: The addresses of the registry's models.
    """

    endpoints: Endpoints

    @tells
    def create_endpoint(self, name: str, config: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write down where a registered model is served; nothing is started.

        Args:
            name: Registered model.
            config: ``url``.

        Raises:
            MlflowException: It has an endpoint, or there is no such model.
        """
        if self.endpoints.read(name) is not None:
            raise told(f"endpoint {name} exists; update it instead", "RESOURCE_ALREADY_EXISTS")
        return self._write_endpoint(name, config)

    @tells
    def update_endpoint(
        self, endpoint: str, config: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Write down that a registered model is served elsewhere, or where, if nobody had said.

        Args:
            endpoint: Registered model.
            config: ``url``.
        """
        return self._write_endpoint(endpoint, config)

    @tells
    def delete_endpoint(self, endpoint: str) -> None:
        """Forget where a registered model is served; it is served there all the same."""
        self.endpoints.forget(endpoint)

    @tells
    def list_endpoints(self) -> list[dict[str, Any]]:
        """Return the endpoints that were written down."""
        return [
            {"name": name, "url": url, "deployment": name}
            for name, url in self.endpoints.written().items()
        ]

    @tells
    def get_endpoint(self, endpoint: str) -> dict[str, Any]:
        """Return where a registered model is served.

        Raises:
            MlflowException: Nobody said.
        """
        return {"name": endpoint, "url": self.url_of(endpoint), "deployment": endpoint}

    def _write_endpoint(self, name: str, config: dict[str, Any] | None) -> dict[str, Any]:
        url = parse_url(
            read_config(config, "url").get("url", ""),
            where="config url",
            remedy=f"`kfm rollout run {name} --key KEY` serves it and says where",
        )
        self.endpoints.write(name, url)
        return {"name": name, "url": url}

    def url_of(self, name: str) -> str:
        """Return where a model is served; see :func:`find_url`.

        Raises:
            InputError: Nobody said.
        """
        said = os.environ.get(VARIABLE)
        return find_url(name, said, None if said else self.endpoints.read(name))
