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
def _tracking_store(tmp_path_factory, _vendors):
    """Make a tracking store; once, for its tables take seconds."""
    from mlflow.tracking import MlflowClient

    folder = tmp_path_factory.mktemp("tracking")
    with warnings.catch_warnings():
        # Creating the tables warns about the vendor's own migrations.
        warnings.simplefilter("ignore")
        client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
        client.create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
    return folder


@pytest.fixture(scope="module")
def tracking(_tracking_store):
    """Return the folder of a tracking store that MLflow writes to meanwhile."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{_tracking_store}/mlflow.db")
    mlflow.set_experiment("tests")
    yield _tracking_store
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="session")
def composed(_vendors):
    return made_release.composed()
