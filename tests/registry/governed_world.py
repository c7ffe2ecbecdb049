"""A controller at work on a real registry over real HTTP; the traffic plane is in memory."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace

from mlflow.server import handlers
from mlflow.server.constants import ARTIFACTS_DESTINATION_ENV_VAR, SERVE_ARTIFACTS_ENV_VAR
from mlflow.store.tracking.dbmodels.models import SqlRun
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking._tracking_service import utils
from registry.loopback import listening
from registry.world import NAME, uri_of
from rollout.simulated_plane import FakePlane
from rollout.simulated_registry import Fuse
from rollout.simulator import build_plan

from kfm_mlflow.policy.levels import Level
from kfm_mlflow.rollout.controller import Controller
from kfm_mlflow.rollout.remote import RemoteRegistry


class Clock:
    """The clock that the registry goes by, too."""

    def __init__(self, registry):
        self._registry = registry

    def now(self):
        """Return what the registry takes for now."""
        return self._registry.now

    def monotonic_s(self):
        """Return seconds that never go back."""
        return self._registry.now.timestamp()

    def sleep(self, duration_s):
        """Fail: a pass does not wait."""
        raise AssertionError(f"nothing here waits, and not {duration_s} s")


@contextmanager
def tracking(registry, folder, monkeypatch):
    """Serve MLflow's own API beside ours, with the run that the registry's versions name."""
    store = SqlAlchemyStore(uri_of(registry.database), str(folder))
    with store.ManagedSessionMaker(read_only=False) as session:
        session.add(
            SqlRun(
                run_uuid="run",
                name="run",
                experiment_id=0,
                user_id="test",
                status="FINISHED",
                start_time=0,
                lifecycle_stage="active",
                source_type="LOCAL",
                artifact_uri=str(folder / "run"),
            )
        )
    monkeypatch.setattr(handlers, "_tracking_store", store)
    monkeypatch.setattr(handlers, "_artifact_repo", None)
    # The client remembers where a run's artifacts lie by its id, which is the same in every test.
    monkeypatch.setattr(utils, "_artifact_repos_cache", OrderedDict())
    monkeypatch.setenv(SERVE_ARTIFACTS_ENV_VAR, "true")
    monkeypatch.setenv(ARTIFACTS_DESTINATION_ENV_VAR, str(registry.area))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    try:
        yield
    finally:
        store._dispose_engine()


@contextmanager
def under_control(registry, folder, monkeypatch):
    """Put v1 at Production and v2 at canary behind HTTP, with a controller of both."""
    registry.now = datetime.now(UTC)
    with (
        tracking(registry, folder / "runs", monkeypatch),
        listening(registry, monkeypatch, with_mlflow=True) as url,
    ):
        remote = RemoteRegistry(
            url, controller_key=registry.world.key("controller"), cache_dir=folder / "cache"
        )
        plane = FakePlane(Fuse(), SimpleNamespace(corrupt=set(), fetched={1, 2}))
        controller = Controller(remote, plane, build_plan(), Clock(registry), NAME)
        yield SimpleNamespace(
            registry=registry,
            url=url,
            remote=remote,
            plane=plane,
            controller=controller,
            reports=folder / "runs",
        )


def promote(governed):
    """Put v2 at Production and let traffic follow."""
    governed.registry.endorse(2)
    governed.registry.store.move(NAME, 2, Level.PRODUCTION)
    governed.controller.reconcile_once()
    assert (governed.plane.split.stable, governed.plane.split.canary) == (2, None)


def levels(governed):
    found = governed.remote.levels(NAME)
    return found.production, found.canary
