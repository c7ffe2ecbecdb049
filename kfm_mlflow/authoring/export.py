"""Writing a torch model for others: a state file that runs no code, and ONNX.

Both are the same bytes on every repeat: the torch file is written from memory (torch puts the
name of a file into it), and everything in the ONNX graph that says where and when it was made is
taken out.
"""

from __future__ import annotations

import io
import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.canonical import write_bytes
from kfm_mlflow.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx
    import torch
    from numpy.typing import NDArray

OPSET = 18
FORMAT = "kfm-state-dict-1"
MAX_RELATIVE_DIFFERENCE = 1e-5
INPUT_NAME = "input"
OUTPUT_NAME = "output"


def save_state(model: torch.nn.Module, config: Mapping[str, Any], path: Path) -> None:
    """Write ``{"format", "config", "state_dict"}``, which ``torch.load(weights_only=True)`` reads.

    Args:
        model: Any module.
        config: Plain values from which the module can be built again.
        path: Where to write.
    """
    import torch

    state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "config": dict(config), "state_dict": state}, buffer)
    write_bytes(path, buffer.getvalue())


def export_onnx(model: torch.nn.Module, row_shape: tuple[int, ...]) -> onnx.ModelProto:
    """Return a module as ONNX: float32 ``input`` [n, …] to ``output`` [n, …], n free.

    Args:
        model: Takes and returns one float32 tensor, batch first.
        row_shape: Shape of one row of the input.

    Raises:
        EvidenceError: torch cannot export the module.
    """
    import torch

    was_training = model.training
    model.eval()
    # Two rows, not one: the exporter takes a batch of one for a constant.
    example = torch.zeros(2, *row_shape)
    # It reports every torchvision operator that is not installed; none is needed.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch's and onnxscript's own deprecation notices about each other.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=({0: torch.export.Dim("n")},),
                verbose=False,
            )
    except Exception as exc:
        raise EvidenceError(
            f"cannot be exported to ONNX ({' '.join(str(exc).split())[:300]})",
            where=type(model).__name__,
            remedy="use operations that torch.onnx.export(dynamo=True) supports",
        ) from exc
    finally:
        model.train(was_training)
    if program is None:
        raise EvidenceError("torch.onnx.export returned no program", where=type(model).__name__)
    return _stripped(program.model_proto)


def _stripped(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Remove stack traces, paths, versions and notes; what is computed stays."""
    proto.producer_name, proto.producer_version, proto.doc_string = "kfm-mlflow", "", ""
    del proto.metadata_props[:]
    graph = proto.graph
    graph.name, graph.doc_string = "model", ""
    parts: list[Any] = [graph, *graph.node, *graph.initializer, *graph.input, *graph.output]
    for part in [*parts, *graph.value_info]:
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.value_info[:]
    return proto


def onnx_difference(model: torch.nn.Module, onnx_bytes: bytes, rows: NDArray[np.float32]) -> float:
    """Return how far onnxruntime and torch differ on the CPU.

    Args:
        model: The model as torch has it.
        onnx_bytes: The same model as ONNX.
        rows: float32 [n, …].

    Returns:
        The largest over the rows of: greatest absolute difference of an element, divided by the
        greatest absolute value of torch's answer for that row, or by the root mean square of all
        answers where that is greater: an answer that passes through 0 has no relative error of
        its own. NaN where an answer is not finite.
    """
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    (other,) = session.run([OUTPUT_NAME], {INPUT_NAME: rows})
    with torch.no_grad():
        ours = model.eval()(torch.from_numpy(rows)).numpy()
    flat, theirs = ours.reshape(len(rows), -1), np.asarray(other).reshape(len(rows), -1)
    difference = np.abs(flat.astype(np.float64) - theirs).max(axis=1)
    usual = np.sqrt(np.square(flat, dtype=np.float64).mean())
    size = np.maximum(np.abs(flat).max(axis=1), max(usual, np.finfo(np.float32).tiny))
    return float((difference / size).max())
