"""Data sets and trained models that several files of this folder use; each is made once."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from gates import made_evidence as made

from downscaling.fields import generate_kansas, load_fields
from downscaling.patches import cut_patches
from downscaling.train import PRESETS, train
from kfm_mlflow.gates.engine import GATES
from kfm_mlflow.policy.load import load_policies
from task import default_name

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


@pytest.fixture(scope="session")
def refused():
    """Return what tells for which metrics the gate refuses a task's release; none, it passes."""
    limits = load_policies(None).policies["climate"].gates.metrics
    policy = made.changed_policy(gates={"metrics": limits.model_dump(mode="json")})

    def ask(task, metrics):
        name = default_name(task)
        report = made.make_validation(binding=made.make_binding(model_name=name, version=None))
        # A report in memory may hold NaN, which a signed one writes as text.
        report = replace(report, claims={**report.claims, "metrics": metrics})
        evidence = made.make_evidence(policy, attestations=(report,))
        findings = GATES["metrics"](evidence, policy, made.make_move(model_name=name))
        assert {finding.code for finding in findings} <= {"METRIC_WITHIN", "METRIC_OUTSIDE"}
        return {
            limit.metric
            for limit, finding in zip(limits.limits_of(name), findings, strict=True)
            if finding.code == "METRIC_OUTSIDE"
        }

    return ask


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
