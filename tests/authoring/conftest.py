"""The composed release as a fixture."""

from __future__ import annotations

import warnings

import pytest
from authoring import made_release


@pytest.fixture(scope="session", autouse=True)
def _vendors():
    with warnings.catch_warnings():
        # MLflow warns about type hints of its own while it is imported.
        warnings.simplefilter("ignore")
        import mlflow.onnx
        import mlflow.pyfunc  # noqa: F401


@pytest.fixture(scope="session")
def composed(_vendors):
    return made_release.composed()
