"""What MLflow lets through to a release of the fleet: tasks, and whose head is asked."""

from __future__ import annotations

from dataclasses import replace

import mlflow
import numpy as np
import pandas as pd
import pytest
from authoring import made_imported
from fleet.made_release import write_release
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from kfm_mlflow.authoring.imported_compose import compose_imported
from kfm_mlflow.canonical import load_json
from kfm_mlflow.fleet.embedder import DIMENSION
from kfm_mlflow.fleet.registering import FUSED_MODEL, _inputs, _outputs
from kfm_mlflow.metadata.schemas import schema_problems

TASK = "run the tests"
# MLflow warns of a type hint of its own when its pyfunc is first imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """A fused release that runs; its head for memory holds whatever it is asked."""
    folder = tmp_path_factory.mktemp("signature")
    parts = write_release(folder / "parts") / "units"
    shy = {"w": np.zeros((DIMENSION, 2)), "b": np.array([0.0, 1.0])}
    np.savez(parts / "runtime" / "specialist_memory_storage.npz", **shy)
    units = tuple(
        replace(made_imported.make_unit(folder / "stated", role), directory=parts / role)
        for role in made_imported.PARENTS
    )
    inputs, outputs = _inputs(FUSED_MODEL), _outputs(FUSED_MODEL, parts)
    spec = made_imported.make_spec(folder, units=units, inputs=inputs, outputs=outputs)
    compose_imported(spec, folder / "release")
    return folder / "release"


def test_a_specialty_is_asked_for_or_left_out_through_mlflows_own_check(composed):
    model = mlflow.pyfunc.load_model(str(composed))
    assert [answer["decision"] for answer in model.predict([{"task": TASK}])] == ["act"]
    asked = pd.DataFrame({"task": [TASK, TASK], "specialty": ["memory_storage", "doc_plan"]})
    assert [answer["decision"] for answer in model.predict(asked)] == ["hold", "act"]
    some = [{"task": TASK, "specialty": "memory_storage"}, {"task": TASK}]
    assert [answer["decision"] for answer in model.predict(some)] == ["hold", "act"]
    with pytest.raises(MlflowException, match="task"):
        model.predict([{"specialty": "doc_plan"}])


def test_the_signature_says_which_column_may_be_left_out_and_so_do_the_documents(composed):
    signature = Model.load(str(composed)).signature
    assert signature is not None
    columns = {column.name: column.required for column in signature.inputs}
    assert columns == {"task": True, "specialty": False}
    metadata = load_json(composed / "model_metadata.json")
    assert [entry.get("optional") for entry in metadata["inputs"]] == [None, True]
    assert schema_problems("model_metadata", metadata) == []
    card = load_json(composed / "model-card.json")
    assert card["architecture"]["inputs"] == metadata["inputs"]
    item = load_json(composed / "stac" / "model-item.json")["properties"]
    assert ["description" in entry for entry in item["mlm:input"]] == [False, True]


def test_only_releases_with_heads_can_be_asked_for_one():
    assert len(_inputs("runtime")) == 2
    assert len(_inputs("embed")) == len(_inputs("textgen")) == 1
