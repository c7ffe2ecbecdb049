"""Worlds that several files of this folder use; each is made once."""

from __future__ import annotations

import pytest

from focus_mode.reserved import without_reserved
from focus_mode.train import train
from focus_mode.world import generate_world
from kfm_mlflow.care.regions import load_regions


@pytest.fixture(scope="session")
def small_world():
    return generate_world(size="small")


@pytest.fixture(scope="session")
def world():
    return generate_world()


@pytest.fixture(scope="session")
def small_trained(small_world):
    """Return a model trained as a small release is: on cells that no region touches."""
    return train(without_reserved(small_world, load_regions(None)), size="small")
