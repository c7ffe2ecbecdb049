import io
import pickle
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from kfm_mlflow.authoring.export import FORMAT, export_onnx, onnx_difference, save_state
from kfm_mlflow.errors import DataError
from restore import load_torch

COARSE_SHAPE = (8, 8)


@pytest.fixture(scope="module")
def graph(small_model):
    return export_onnx(small_model, COARSE_SHAPE)


def save(model, path):
    save_state(model, {"width": model.width, "depth": model.depth}, path)


def test_onnxruntime_agrees_with_torch_in_every_unit_and_batch(small_model, graph, few_patches):
    coarse = few_patches.validation.coarse
    onnx.checker.check_model(graph, full_check=True)
    for example in (coarse, coarse[:1], coarse[:7] + 273.15, coarse * 50.0 + 1.2e5, coarse * 1e-6):
        assert onnx_difference(small_model, graph.SerializeToString(), example) <= 1e-5


def test_the_check_sees_one_changed_weight(small_model, graph, few_patches):
    changed = onnx.ModelProto.FromString(graph.SerializeToString())
    weight = max(changed.graph.initializer, key=lambda part: len(part.raw_data))
    values = np.frombuffer(weight.raw_data, dtype="<f4").copy()
    values[np.abs(values).argmax()] *= 1.5
    weight.raw_data = values.tobytes()
    difference = onnx_difference(
        small_model, changed.SerializeToString(), few_patches.validation.coarse
    )
    assert difference > 1e-5


def test_a_prediction_that_is_not_finite_is_no_agreement(small_model, graph, few_patches):
    example = few_patches.validation.coarse.copy()
    example[0, 0, 0] = np.nan
    assert not onnx_difference(small_model, graph.SerializeToString(), example) <= 1e-5


def test_the_graph_is_what_a_server_expects(graph):
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("input", "tensor(float)", [8, 8])
    assert (answer.name, answer.type, answer.shape[1:]) == ("output", "tensor(float)", [32, 32])
    assert isinstance(given.shape[0], str), "the batch axis is free"
    assert [entry.version for entry in graph.opset_import] == [18]


def test_the_bytes_repeat_and_name_no_place_or_version(small_model, graph):
    data = graph.SerializeToString()
    assert export_onnx(small_model, COARSE_SHAPE).SerializeToString() == data
    for trace in (str(Path.cwd()), str(Path(torch.__file__).parent), ".py", torch.__version__):
        assert trace.encode() not in data


def test_the_torch_file_round_trips_without_code_and_repeats(tmp_path, small_model, few_patches):
    first, second = tmp_path / "model.pt", tmp_path / "other_name.pt"
    save(small_model, first)
    save(small_model, second)
    assert first.read_bytes() == second.read_bytes()
    assert set(torch.load(first, weights_only=True)) == {"format", "config", "state_dict"}
    example = torch.from_numpy(few_patches.validation.coarse)
    with torch.no_grad():
        assert torch.equal(load_torch(first)(example), small_model(example))


class _Dangerous:
    def __reduce__(self):
        return (print, ("code of the file ran",))


def test_files_that_are_no_model_are_refused_and_run_nothing(tmp_path, capsys, small_model):
    save(small_model, tmp_path / "model.pt")
    whole = (tmp_path / "model.pt").read_bytes()
    dangerous, foreign = io.BytesIO(), io.BytesIO()
    torch.save({"format": FORMAT, "config": _Dangerous()}, dangerous)
    torch.save({"weights": torch.zeros(2)}, foreign)
    wide = torch.load(tmp_path / "model.pt", weights_only=True)
    wide["config"]["width"] += 1
    misfit = io.BytesIO()
    torch.save(wide, misfit)
    for content in (
        b"",
        b"text",
        whole[: len(whole) // 2],
        pickle.dumps(_Dangerous()),
        dangerous.getvalue(),
        foreign.getvalue(),
        misfit.getvalue(),
    ):
        path = tmp_path / "bad.pt"
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            load_torch(path)
        assert caught.value.where == "bad.pt"
    with pytest.raises(DataError, match="cannot be read"):
        load_torch(tmp_path / "missing.pt")
    assert "code of the file ran" not in capsys.readouterr().out
