"""The replica's logic in this process, beside MLflow's own scoring server on the same model."""

import json

import numpy as np
import psutil
import pytest

from kfm_mlflow.canonical import digest_file
from kfm_mlflow.errors import EvidenceError, IntegrityError, PlaneError
from kfm_serving.replica import Replica
from kfm_serving.session import OnnxModel, check_provider, choose_gpu

JSON = "application/json"
ONE = [[[[1.5, 2.0], [3.0, 4.0]]]]
FLAT = [1.5, 2.0, 3.0, 4.0]
TABLE = [[1.0, 2.0], [3.0, 4.0]]


@pytest.fixture
def no_gpu(monkeypatch):
    """Answer Ray's question in this process, which no cluster started."""
    from kfm_serving.cluster import _import_ray

    ray, _ = _import_ray()
    monkeypatch.setattr(ray, "get_gpu_ids", list)


def load(directory):
    return Replica(str(directory), digest_file(directory / "model.onnx"))


def mlflow_client(directory, factor, example):
    """Save the same arithmetic with MLflow and return a client of its scoring server."""
    import mlflow
    import onnx
    from mlflow.models import infer_signature
    from mlflow.pyfunc.scoring_server import init
    from starlette.testclient import TestClient

    signature = None if example is None else infer_signature(example, {"y": example * factor})
    mlflow.onnx.save_model(
        onnx.load(directory / "model.onnx"),
        directory / "mlflow",
        signature=signature,
        onnx_execution_providers=["CPUExecutionProvider"],
        pip_requirements=[],
    )
    (directory / "MLmodel").write_text((directory / "mlflow" / "MLmodel").read_text())
    return TestClient(init(mlflow.pyfunc.load_model(str(directory / "mlflow"))))


MLFLOW_NOISE = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"
)
FIELD_REQUESTS = {
    "inputs": ({"inputs": ONE}, JSON),
    "charset": ({"inputs": ONE}, "application/json; charset=utf-8"),
    "instances": ({"instances": ONE}, JSON),
    "split": ({"dataframe_split": {"columns": ["x"], "data": [[FLAT]]}}, JSON),
    "records": ({"dataframe_records": [{"x": FLAT}]}, JSON),
    "rank": ({"inputs": [[1.0]]}, JSON),
    "list": ([1], JSON),
    "broken": ("{", JSON),
    "none": ({"data": 1}, JSON),
    "two": ({"inputs": ONE, "instances": ONE}, JSON),
    "text": ({"inputs": [[[["a", "b"], ["c", "d"]]]]}, JSON),
    "split keys": ({"dataframe_split": {"rows": 1}}, JSON),
    "type": ({"inputs": ONE}, "application/xml"),
    "latin": ({"inputs": ONE}, "application/json; charset=latin-1"),
}
TABLE_REQUESTS = {
    "inputs": ({"inputs": TABLE}, JSON),
    "split": ({"dataframe_split": {"columns": ["a", "b"], "data": TABLE}}, JSON),
    "records": ({"dataframe_records": [{"a": 1.5, "b": 2.5}]}, JSON),
    "too wide": ({"dataframe_split": {"columns": list("abc"), "data": [[1.0, 2.0, 3.0]]}}, JSON),
}


@MLFLOW_NOISE
@pytest.mark.parametrize(
    ("case", "requests"),
    [
        ((("n", 1, 2, 2), np.float32(ONE)), FIELD_REQUESTS),
        ((("n", 2), None), TABLE_REQUESTS),
    ],
    ids=["tensor signature", "no signature"],
)
def test_answers_and_refusals_are_those_of_mlflows_scoring_server(
    no_gpu, models, tmp_path, case, requests
):
    shape, example = case
    directory = models.times(tmp_path / "release", 2, shape)
    client = mlflow_client(directory, 2, example)
    replica = load(directory)
    for name, (document, content_type) in requests.items():
        body = document if isinstance(document, str) else json.dumps(document)
        theirs = client.post("/invocations", content=body, headers={"content-type": content_type})
        ours = replica.score(body.encode(), content_type)
        assert ours.status == theirs.status_code, name
        if ours.status == 200:
            assert json.loads(ours.body) == theirs.json(), name
        elif ours.status == 400:
            assert {"error_code", "message"} <= set(theirs.json()), name
            assert set(json.loads(ours.body)) == {"error_code", "message"}
            assert json.loads(ours.body)["error_code"] == "BAD_REQUEST"


def test_faults_are_told_apart_and_only_answers_are_measured(no_gpu, models, tmp_path):
    replica = load(models.only_one_row(tmp_path / "release"))
    good = replica.score(json.dumps({"inputs": ONE}).encode(), JSON)
    mistake = replica.score(b"{}", JSON)
    broken = replica.score(json.dumps({"inputs": ONE * 2}).encode(), JSON)
    assert (good.status, good.fault) == (200, "none")
    assert good.statistics == {"amplification_ratio": 1.0, "mean_shift_ratio": 0.0}
    assert (mistake.status, mistake.fault, mistake.statistics) == (400, "client", {})
    assert (broken.status, broken.fault, broken.statistics) == (500, "model", {})
    assert json.loads(broken.body)["error_code"] == "INTERNAL_ERROR"


def test_an_answer_of_infinity_is_the_models_error(no_gpu, models, tmp_path):
    replica = load(models.times(tmp_path / "release", 3e38))
    answer = replica.score(json.dumps({"inputs": ONE}).encode(), JSON)
    assert (answer.status, answer.fault) == (500, "model")


def test_an_answer_of_another_shape_than_declared_is_the_models_error(no_gpu, models, tmp_path):
    replica = load(models.twice_the_rows(tmp_path / "release"))
    answer = replica.score(json.dumps({"inputs": ONE}).encode(), JSON)
    assert (answer.status, answer.fault, answer.statistics) == (500, "model", {})


CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("started", "wants_gpu", "found"),
    [
        ([CUDA, CPU], True, CUDA),
        ([CPU], False, CPU),
        ([CPU], True, None),
        (["TensorrtExecutionProvider", CUDA, CPU], True, None),
        ([CUDA, CPU], False, None),
        ([], True, None),
    ],
)
def test_a_session_runs_where_it_was_asked_to_or_not_at_all(started, wants_gpu, found):
    if found is not None:
        assert check_provider(started, wants_gpu=wants_gpu) == found
        return
    with pytest.raises(PlaneError, match="instead of"):
        check_provider(started, wants_gpu=wants_gpu)


@pytest.mark.parametrize("share", [0.0, 0.5, 2.0])
def test_a_gpu_is_used_when_lent_and_its_want_is_an_error_when_asked_for(share):
    assert choose_gpu(share, [0])
    if share:
        with pytest.raises(PlaneError, match="none was lent"):
            choose_gpu(share, [])
    else:
        assert not choose_gpu(share, [])


def test_a_replica_that_asked_for_a_gpu_and_got_none_does_not_start(no_gpu, models, tmp_path):
    directory = models.times(tmp_path / "release", 2)
    with pytest.raises(PlaneError, match="none was lent"):
        Replica(str(directory), digest_file(directory / "model.onnx"), gpu_share=0.5)


def test_one_other_byte_is_refused_at_load(no_gpu, models, tmp_path):
    directory = models.times(tmp_path / "release", 2)
    digest = digest_file(directory / "model.onnx")
    data = bytearray((directory / "model.onnx").read_bytes())
    data[-1] ^= 1
    (directory / "model.onnx").write_bytes(data)
    with pytest.raises(IntegrityError, match="expected sha256:"):
        Replica(str(directory), digest)


def test_bytes_that_are_no_model_are_refused_with_a_remedy(no_gpu, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(EvidenceError, match="onnxruntime cannot load it"):
        load(tmp_path)


def test_a_wanted_gpu_that_does_not_start_fails_the_load(models, tmp_path):
    import onnxruntime

    # `get_ep_devices` lists real devices; `get_available_providers` lists what was compiled in.
    if any(d.ep_name == "CUDAExecutionProvider" for d in onnxruntime.get_ep_devices()):
        pytest.skip("this machine has a GPU that onnxruntime can use")
    directory = models.times(tmp_path / "release", 2)
    with pytest.raises(PlaneError, match="instead of CUDAExecutionProvider"):
        OnnxModel(directory / "model.onnx", digest_file(directory / "model.onnx"), wants_gpu=True)


def test_on_a_cpu_the_session_makes_no_threads_of_its_own(models, tmp_path):
    directory = models.times(tmp_path / "release", 2)
    digest = digest_file(directory / "model.onnx")
    OnnxModel(directory / "model.onnx", digest, wants_gpu=False)  # what loads once is loaded
    before = psutil.Process().num_threads()
    model = OnnxModel(directory / "model.onnx", digest, wants_gpu=False)
    assert model.run({"x": np.float32(ONE)})["y"].tolist() == (np.float32(ONE) * 2).tolist()
    assert model.provider == "CPUExecutionProvider"
    assert psutil.Process().num_threads() <= before
