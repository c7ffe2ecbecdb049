"""Tiny ONNX models, made node by node, whose answers are known by arithmetic."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_model(directory: Path, nodes, *, shape, constants, out_shape=None) -> Path:
    """Write ``model.onnx`` with input ``x`` and output ``y`` into a new directory."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out_shape or shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    directory.mkdir(parents=True)
    onnx.save(model, directory / "model.onnx")
    return directory


def times(directory: Path, factor: float, shape=("n", 1, 2, 2)) -> Path:
    """Y = factor * x."""
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    return write_model(directory, [node], shape=shape, constants={"factor": np.float32(factor)})


def flat(directory: Path, shape=("n", 1, 2, 2)) -> Path:
    """Y = 0 * x + 5, whatever is asked."""
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["z"]),
        helper.make_node("Add", ["z", "five"], ["y"]),
    ]
    constants = {"zero": np.float32(0), "five": np.float32(5)}
    return write_model(directory, nodes, shape=shape, constants=constants)


def twice_the_rows(directory: Path) -> Path:
    """Answer 2n rows for n, though it declares n; onnxruntime lets it pass."""
    node = helper.make_node("Concat", ["x", "x"], ["y"], axis=0)
    return write_model(directory, [node], shape=("n", 1, 2, 2), constants={})


def slow(directory: Path, round_count: int = 300, side: int = 256) -> Path:
    """Y = x, after multiplying matrices for a while, 0.2 s on a slow core."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["m_in", "eye"], ["m_out"]),
            helper.make_node("Identity", ["go_in"], ["go_out"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("k", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("m_in", TensorProto.FLOAT, [side, side]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("m_out", TensorProto.FLOAT, [side, side]),
        ],
    )
    nodes = [
        # Depends on the request, or it would be computed once, at load.
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Mul", ["eye", "top"], ["start"]),
        helper.make_node("Loop", ["rounds", "go", "start"], ["end"], body=body),
        helper.make_node("ReduceMin", ["end"], ["least"], keepdims=0),
        helper.make_node("Mul", ["least", "zero"], ["nothing"]),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    constants = {
        "rounds": np.int64(round_count),
        "go": np.bool_(True),  # noqa: FBT003 a tensor's value
        "eye": np.eye(side, dtype=np.float32),
        "zero": np.float32(0),
    }
    return write_model(directory, nodes, shape=("n", 1, 2, 2), constants=constants)


def only_one_row(directory: Path) -> Path:
    """Y = x for one row; raises for any other number of rows, though it declares any."""
    node = helper.make_node("Reshape", ["x", "target"], ["y"])
    return write_model(
        directory,
        [node],
        shape=("n", 1, 2, 2),
        constants={"target": np.array([1, 1, 2, 2], dtype=np.int64)},
    )
