"""Data sets and trained models that several files of this folder use; each is made once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from downscaling.fields import generate_kansas, load_fields
from downscaling.patches import cut_patches
from downscaling.train import PRESETS, train

_ERA_BESIDE_REPOSITORY = Path(__file__).parents[4] / "shared" / "data" / "era_interim_monthly.nc"


@pytest.fixture(scope="session")
def kansas():
    return generate_kansas()


@pytest.fixture(scope="session")
def era_path():
    named = os.environ.get("KFM_TEST_ERA")
    path = Path(named) if named else _ERA_BESIDE_REPOSITORY
    if not path.is_file():
        pytest.skip("KFM_TEST_ERA names no file, and ../shared/data has none")
    return path


@pytest.fixture(scope="session")
def era(era_path):
    return load_fields(era_path)


@pytest.fixture(scope="session")
def few_patches():
    return cut_patches(generate_kansas(day_count=6), train_count=256, validation_count=32)


@pytest.fixture(scope="session")
def small_model(few_patches):
    return train(few_patches.train, PRESETS["small"]).model


def predictor(model):
    def predict(coarse):
        with torch.no_grad():
            return model(torch.from_numpy(coarse)).numpy()

    return predict


@pytest.fixture(scope="session")
def as_predict():
    return predictor


@pytest.fixture
def make_dataset():
    """Return a builder of a small CF data set; every argument breaks or changes one thing."""

    def build(
        *, lat=None, lon=None, lat_name="lat", lon_name="lon", lat_attrs=None, lon_attrs=None
    ):
        lat = np.linspace(30.0, 45.0, 40) if lat is None else lat
        lon = np.linspace(-110.0, -80.0, 100) if lon is None else lon
        values = (lat[:, None] * 1000.0 + lon[None, :]).astype(np.float32)
        return xr.Dataset(
            {"t": ((lat_name, lon_name), values, {"units": "K"})},
            coords={
                lat_name: (lat_name, lat, lat_attrs or {}),
                lon_name: (lon_name, lon, lon_attrs or {}),
            },
        )

    return build
