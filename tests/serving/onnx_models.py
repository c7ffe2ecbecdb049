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


def only_one_row(directory: Path) -> Path:
    """Y = x for one row; raises for any other number of rows, though it declares any."""
    node = helper.make_node("Reshape", ["x", "target"], ["y"])
    return write_model(
        directory,
        [node],
        shape=("n", 1, 2, 2),
        constants={"target": np.array([1, 1, 2, 2], dtype=np.int64)},
    )
