import importlib.util
import itertools
import sys
from pathlib import Path

import pytest
from serving.driving import Client

from kfm_mlflow.rollout.plane import Band, Deployable, Split
from kfm_serving.cluster import free_port, start_local
from kfm_serving.portable import PortablePlane

MODEL_NAME = "Kansas downscaler/ü #1"
"""A name that neither Ray's metrics nor its actor names would take."""

BANDS = {"amplification_ratio": Band(1.5, 3.5)}
"""Doubling and tripling are inside; a flat answer is outside."""


def _load(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def models():
    return _load("onnx_models")


@pytest.fixture(scope="session")
def serve_port():
    port = free_port()
    with start_local(port):
        yield port


class Fleet:
    """A plane with its releases, and the next generation to use."""

    def __init__(self, plane, root, models):
        self.plane, self.root, self.models = plane, root, models
        self.generations = itertools.count(1)

    def release(self, version, make=None):
        """Return a version's release, made by ``make`` the first time."""
        directory = self.root / f"v{version}"
        if not directory.exists():
            make(directory)
        return Deployable(MODEL_NAME, version, f"sha256:{version:064x}", directory)

    def deploy(self, version, make, timeout_s=60):
        """Make a release and serve it."""
        self.plane.deploy(self.release(version, make), timeout_s=timeout_s)

    def split(self, stable, canary=None, ratio=0.0, *, copied=0.0):
        """Set and return a split of the next generation."""
        split = Split(next(self.generations), stable, canary, ratio, BANDS, copied)
        self.plane.set_split(split)
        return split

    def catch_up(self):
        """Count generations on from where somebody else left the plane."""
        self.generations = itertools.count(self.plane.observe().generation + 1)


@pytest.fixture(scope="session")
def fleet(serve_port, models, tmp_path_factory):
    """Version 1 doubles and version 2 triples; both are up, the router too."""
    plane = PortablePlane(MODEL_NAME, port=serve_port, canary_deadline_s=1.0)
    fleet = Fleet(plane, tmp_path_factory.mktemp("releases"), models)
    fleet.deploy(1, lambda d: models.times(d, 2))
    fleet.deploy(2, lambda d: models.times(d, 3))
    yield fleet
    plane.close()
    assert plane.deployed() == frozenset()


@pytest.fixture
def client(serve_port, fleet):
    client = Client(serve_port)
    yield client
    client.connection.close()
