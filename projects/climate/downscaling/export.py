"""Write a model for others: a torch file without code, and ONNX.

Both are the same bytes on every repeat: the torch file is written from memory, since torch puts
the name of a file into it, and everything in the ONNX graph that says where and when it was made is
taken out.
"""

from __future__ import annotations

import io
import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from downscaling.geometry import COARSE_SIZE
from downscaling.network import Downscaler
from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

OPSET = 18
INPUT_NAME = "coarse"
OUTPUT_NAME = "fine"
FORMAT = "downscaler-1"
_BATCH_DIM = "n"


def save_torch(model: Downscaler, path: Path) -> None:
    """Write ``{"format", "config", "state_dict"}``, which ``weights_only=True`` reads."""
    state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    config = {"width": model.width, "depth": model.depth}
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "config": config, "state_dict": state}, buffer)
    path.write_bytes(buffer.getvalue())


def load_torch(path: Path) -> Downscaler:
    """Read what :func:`save_torch` wrote; runs no code of the file.

    Raises:
        DataError: The file is missing, is no such file, or its weights do not fit its config.
    """
    remedy = "give a .pt file that save_torch wrote"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as exc:  # damaged bytes reach torch's unpickler, which raises whatever it meets
        reason = " ".join(str(exc).split())[:200]
        raise DataError(f"cannot be read ({reason})", where=path.name, remedy=remedy) from exc
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(f"is not of format {FORMAT}", where=path.name, remedy=remedy)
    try:
        model = Downscaler(width=found["config"]["width"], depth=found["config"]["depth"])
        model.load_state_dict(found["state_dict"], strict=True)
    except (KeyError, TypeError, RuntimeError, AttributeError) as exc:
        reason = " ".join(str(exc).split())[:200]
        raise DataError(
            f"has the wrong weights ({reason})", where=path.name, remedy=remedy
        ) from exc
    return model.eval()


def export_onnx(model: Downscaler) -> onnx.ModelProto:
    """Return the model as ONNX: float32 ``coarse`` [n, 8, 8] to ``fine`` [n, 32, 32]."""
    model = model.eval()
    # Two, not one: the exporter takes a batch of one for a constant.
    example = torch.zeros(2, COARSE_SIZE, COARSE_SIZE)
    # It reports every torchvision operator that is not installed; none is needed.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
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
            dynamic_shapes=({0: torch.export.Dim(_BATCH_DIM)},),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    return _stripped(program.model_proto)


def _stripped(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Remove stack traces, paths, versions and notes; what is computed stays."""
    proto.producer_name, proto.producer_version, proto.doc_string = "downscaling", "", ""
    del proto.metadata_props[:]
    graph = proto.graph
    graph.name, graph.doc_string = "downscaler", ""
    parts: list[Any] = [graph, *graph.node, *graph.initializer, *graph.input, *graph.output]
    for part in [*parts, *graph.value_info]:
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.value_info[:]
    return proto


def check_agreement(model: Downscaler, onnx_bytes: bytes, example: NDArray[np.float32]) -> float:
    """Return how far onnxruntime and torch differ, on the CPU.

    Args:
        model: The model as torch has it.
        onnx_bytes: The same model as :func:`export_onnx` wrote it.
        example: float32 [n, 8, 8] in physical units.

    Returns:
        The largest over the patches of: greatest absolute difference of a cell, divided by the
        greatest absolute value of torch's answer for that patch. Relative to the value and not to
        its anomaly, since float32 itself keeps no more of a small anomaly on a large mean.
        At most 1e-5 is agreement; NaN where an answer is not finite.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    (other,) = session.run([OUTPUT_NAME], {INPUT_NAME: example})
    with torch.no_grad():
        ours = model(torch.from_numpy(example)).numpy()
    difference = np.abs(ours.astype(np.float64) - other).max(axis=(1, 2))
    size = np.maximum(np.abs(ours).max(axis=(1, 2)), np.finfo(np.float32).tiny)
    return float((difference / size).max())
