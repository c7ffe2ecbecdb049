"""One ONNX model in one onnxruntime session.

Rules kept here:

1. The bytes that are loaded are the bytes whose digest was checked: the session is made from
   them, not from the path, so weights in a side file (external data) are refused.
2. The provider is chosen by what Ray lent to this process, never by onnxruntime's own lists,
   which name CUDA on machines without a GPU; and it is checked afterwards, because onnxruntime
   falls back to the CPU without an error.
3. An answer has the shape that the model declares; onnxruntime only warns when it has not.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import digest_bytes, parse_digest
from kfm_mlflow.errors import EvidenceError, IntegrityError, PlaneError
from kfm_serving.scoring import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
}
_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"


class OnnxModel:
    """A loaded model.

    Attributes:
        inputs: What it takes, in order.
        outputs: What it answers, in order.
        provider: The onnxruntime provider in use.
    """

    def __init__(self, model_path: Path, digest: str, *, wants_gpu: bool) -> None:
        """Load a model whose bytes have the given digest.

        Args:
            model_path: ``model.onnx`` with its weights inside.
            digest: ``sha256:<hex>`` that the bytes must have.
            wants_gpu: Run on the GPU lent to this process; without it, on one CPU thread.

        Raises:
            IntegrityError: The bytes are others.
            EvidenceError: The file is missing, not loadable, or uses types we do not serve.
            PlaneError: The wanted provider did not start.
        """
        self._session = _open_session(_read_verified(model_path, digest), wants_gpu=wants_gpu)
        self.provider = check_provider(self._session.get_providers(), wants_gpu=wants_gpu)
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        # Inputs first: they fix the sizes of the named dimensions.
        nodes = (*self._session.get_inputs(), *self._session.get_outputs())
        self._declared = tuple((node.name, tuple(node.shape)) for node in nodes if node.shape)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the model once; onnxruntime's own exception is the model's error."""
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))

    def check_shapes(
        self, feeds: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> None:
        """Hold the shapes of an answer against what the model declares.

        A dimension with a name has one size wherever the name stands (ONNX IR specification,
        "Static tensor shapes").

        Raises:
            ValueError: An output has another rank or size than declared.
        """
        arrays, sizes = {**outputs, **feeds}, dict[str, int]()
        for name, dimensions in self._declared:
            shape = arrays[name].shape
            fits = len(shape) == len(dimensions) and all(
                size == (sizes.setdefault(dim, size) if isinstance(dim, str) else dim or size)
                for dim, size in zip(dimensions, shape, strict=True)
            )
            if not fits:
                raise ValueError(f"{name!r} has shape {shape}, declared is {dimensions}")


def choose_gpu(gpu_share: float, lent: Sequence[object]) -> bool:
    """Tell whether a replica runs on a GPU.

    Args:
        gpu_share: GPUs that were asked for it.
        lent: GPUs that Ray lent to its process.

    Raises:
        PlaneError: One was asked for and none was lent.
    """
    if gpu_share > 0 and not lent:
        raise PlaneError(
            "a GPU was asked for and none was lent to this process",
            remedy="give the node's GPUs to Ray (`ray start --num-gpus`), or deploy without one",
        )
    return bool(lent)


def check_provider(started: Sequence[str], *, wants_gpu: bool) -> str:
    """Refuse a session that runs elsewhere than was asked for.

    Args:
        started: What the session says that it runs on, first choice first.
        wants_gpu: It is to run on a GPU.

    Returns:
        The provider in use.

    Raises:
        PlaneError: It runs on another one, or on none.
    """
    wanted = _CUDA if wants_gpu else _CPU
    found = started[0] if started else "nothing"
    if found != wanted:
        raise PlaneError(
            f"onnxruntime started {found} instead of {wanted}",
            where="model.onnx",
            remedy="repair CUDA and cuDNN on this node, or deploy without a GPU",
        )
    return found


def answers_records(mlmodel_text: str, inputs: tuple[TensorSpec, ...]) -> bool:
    """Tell whether MLflow would answer a data frame with records.

    It does unless the signature is tensor-based; a field (more than two dimensions) without a
    tensor signature could not be sent as a data frame at all, and is answered as tensors.

    Args:
        mlmodel_text: The ``MLmodel`` file; empty when there is none.
        inputs: The model's inputs.

    Raises:
        EvidenceError: The file is not YAML, or its signature is not JSON.
    """
    import yaml

    try:
        document = yaml.safe_load(mlmodel_text) or {}
        columns = json.loads((document.get("signature") or {}).get("inputs") or "[]")
        is_tensor_based = any(column.get("type") == "tensor" for column in columns)
    except (yaml.YAMLError, ValueError, AttributeError, TypeError) as exc:
        raise EvidenceError(f"its signature cannot be read ({exc})", where="MLmodel") from exc
    return not is_tensor_based and all(len(spec.shape) <= 2 for spec in inputs)  # noqa: PLR2004 rows and columns


def _read_verified(model_path: Path, digest: str) -> bytes:
    try:
        data = model_path.read_bytes()
    except OSError as exc:
        raise EvidenceError(f"cannot be read ({exc.strerror})", where=model_path.name) from exc
    found, expected = digest_bytes(data), parse_digest(digest)
    if found != expected:
        raise IntegrityError(
            f"its digest is {found}, expected {expected}",
            where=model_path.name,
            remedy="restore the release's bytes or deploy the version anew",
        )
    return data


def _open_session(data: bytes, *, wants_gpu: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not wants_gpu:
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    elif hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    providers: list[Any] = [(_CUDA, {"device_id": 0}), _CPU] if wants_gpu else [_CPU]
    try:
        session = onnxruntime.InferenceSession(data, sess_options=options, providers=providers)
    except Exception as exc:  # onnxruntime raises one class per status code, of no common root
        raise EvidenceError(
            f"onnxruntime cannot load it ({str(exc).splitlines()[0][:200]})",
            where="model.onnx",
            remedy="export it again, with its weights inside the file",
        ) from exc
    return session


def _spec(node: Any) -> TensorSpec:
    if node.type not in _DTYPES:
        raise EvidenceError(
            f"{node.name!r} is {node.type}, which is not served",
            where="model.onnx",
            remedy=f"use one of {', '.join(_DTYPES)}",
        )
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in node.shape or ())
    # A batch dimension fixed by tracing stays fixed: onnxruntime would refuse another size.
    return TensorSpec(node.name, _DTYPES[node.type], shape)
