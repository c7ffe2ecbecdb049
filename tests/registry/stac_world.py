"""A registry whose Production went from v1 to v2 and back, its STAC API, and that API over HTTP."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from flask import Flask, g
from mlflow.server import handlers
from registry import loopback
from registry.causes import DRIFTED
from registry.world import NAME, Registry

from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry.stac_api import stac

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from registry.world import World


def make_story(world: World, folder: Path) -> Registry:
    """v1 to Production, v2 in its place, v1 back; v3 is as far as Staging."""
    made = Registry(world, folder / "registry.db", folder / "artifacts")
    made.now -= timedelta(minutes=30)
    for bundle in world.releases:
        made.register(bundle)
    made.to_production(1)
    made.now += timedelta(minutes=1)
    made.to_production(2)
    made.now += timedelta(minutes=1)
    made.store.move(NAME, 2, Level.CANDIDATE, restore=1, reason="errors", cause=DRIFTED)
    made.store.move(NAME, 3, Level.STAGING)
    return made


def stac_app(unreadable: frozenset[str] = frozenset()) -> Flask:
    """Return the API alone, for somebody who may not read some models."""
    app = Flask("stac")

    @app.before_request
    def _who() -> None:
        g.kfm_may_read = lambda name: name not in unreadable

    app.register_blueprint(stac)
    return app


@contextmanager
def serving(registry: Registry, unreadable: frozenset[str] = frozenset()) -> Iterator[str]:
    """Serve the API of a registry on loopback; gives the server's URL."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handlers, "_model_registry_store", registry.store)
        with loopback.serving(stac_app(unreadable), threaded=True) as url:
            yield url
