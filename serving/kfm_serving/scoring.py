"""MLflow's scoring protocol for an ONNX model: request bytes in, arrays out, and back.

Rules kept here:

1. The four request forms of ``mlflow models serve`` are read: ``inputs``, ``instances``,
   ``dataframe_split``, ``dataframe_records``. Other top-level keys are ignored, as MLflow does.
2. Every mistake of the client is a :class:`ClientError` with one sentence and an HTTP status.
3. What reaches the model is finite, of the declared type, rank and fixed dimensions. This is
   stricter than MLflow, which passes NaN on and writes it back as invalid JSON.
4. Answers have MLflow's shape: output name -> nested list, and a list of records for a table
   sent to a model whose signature is not tensor-based.

It neither runs a model nor knows HTTP. CSV and Parquet bodies are not read (415).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

FORMATS = ("inputs", "instances", "dataframe_split", "dataframe_records")
JSON_TYPE = "application/json"


class ClientError(InputError):
    """The request is at fault, not the model.

    Attributes:
        status: HTTP status of the answer, 400 or 415.
        error_code: MLflow's name of the kind of error.
    """

    def __init__(self, message: str, *, status: int = 400, error_code: str = "BAD_REQUEST") -> None:
        """Make a client error from one clear sentence."""
        super().__init__(message)
        self.status = status
        self.error_code = error_code


@dataclass(frozen=True)
class TensorSpec:
    """What a model declares about one input or output.

    Attributes:
        name: ONNX name.
        dtype: NumPy type name, e.g. ``float32``.
        shape: Dimensions, batch first; None where the size is free.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class ScoringRequest:
    """A request that the model can run.

    Attributes:
        feeds: Input name -> array of the declared type and rank.
        is_table: True when it came as a data frame.
    """

    feeds: Mapping[str, NDArray[Any]]
    is_table: bool


def error_body(error_code: str, message: str) -> bytes:
    """Write an error as MLflow does: ``{"error_code": …, "message": …}``."""
    return json.dumps({"error_code": error_code, "message": message}).encode()


def check_content_type(content_type: str) -> None:
    """Accept ``application/json``, with ``charset=utf-8`` or without.

    Raises:
        ClientError: 415, for anything else.
    """
    mime, *parameters = (part.strip() for part in content_type.split(";"))
    if mime.lower() != JSON_TYPE:
        raise ClientError(
            f"content type {content_type!r} is not supported; send {JSON_TYPE}", status=415
        )
    for parameter in filter(None, parameters):
        key, _, value = parameter.partition("=")
        if key.strip().lower() != "charset" or value.strip().strip('"').lower() != "utf-8":
            raise ClientError(
                f"content type parameter {parameter!r} is not supported; send charset=utf-8",
                status=415,
            )


def parse_request(body: bytes, content_type: str, specs: Sequence[TensorSpec]) -> ScoringRequest:
    """Read a scoring request.

    Args:
        body: UTF-8 JSON.
        content_type: The header's value.
        specs: The model's inputs, in order.

    Returns:
        One array per input. Table rows hold one flattened field, or one nested list (or flat
        list) per input column, and are reshaped to the declared shape.

    Raises:
        ClientError: 415 for the content type; 400 for everything that does not fit ``specs``.
    """
    check_content_type(content_type)
    try:
        # Python's reader takes NaN and Infinity; `_tensor` refuses them by name of the input.
        document = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise ClientError(f"the body is not valid UTF-8 JSON ({exc})") from exc
    if not isinstance(document, dict):
        raise ClientError(f"the body must be a JSON object with one of {', '.join(FORMATS)}")
    found = [key for key in FORMATS if key in document]
    if len(found) != 1:
        raise ClientError(
            f"the body must have exactly one of {', '.join(FORMATS)}; it has "
            f"{', '.join(found) or 'none'}"
        )
    value = document[found[0]]
    if found[0].startswith("dataframe"):
        columns, rows = read_split(value) if found[0] == "dataframe_split" else _records(value)
        return ScoringRequest(_from_table(columns, rows, specs), is_table=True)
    if found[0] == "instances":
        value = _instances(value)
    return ScoringRequest(_from_tensors(value, specs), is_table=False)


def check_finite(outputs: Mapping[str, NDArray[Any]]) -> None:
    """Refuse outputs that are not finite; masked, they could not be told from withheld values.

    Raises:
        ValueError: An output holds NaN or an infinity.
    """
    if not all(np.isfinite(array).all() for array in outputs.values()):
        raise ValueError("an output is not finite")


def write_predictions(outputs: Mapping[str, NDArray[Any]], *, as_records: bool = False) -> bytes:
    """Write an answer as ``mlflow models serve`` does for an ONNX model.

    Args:
        outputs: Output name -> finite array, None where a value is withheld.
        as_records: Write one record per flattened value (MLflow's answer to a data frame).

    Returns:
        ``{"predictions": …}``.

    Raises:
        ValueError: An output is not finite; JSON cannot carry it.
    """
    if as_records and len({array.size for array in outputs.values()}) == 1:
        columns = [array.reshape(-1).tolist() for array in outputs.values()]
        predictions: Any = [
            dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)
        ]
    else:
        predictions = {name: array.tolist() for name, array in outputs.items()}
    return json.dumps({"predictions": predictions}, allow_nan=False).encode()


def _instances(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        names = list(value[0])
        if any(set(row) != set(names) for row in value):
            raise ClientError("every instance must name the same inputs")
        return {name: [row[name] for row in value] for name in names}
    if isinstance(value, dict) and len({_length(cells) for cells in value.values()}) > 1:
        raise ClientError("instances must have the same number of rows for every input")
    return value


def _length(cells: Any) -> int:
    return len(cells) if isinstance(cells, list) else -1


def _from_tensors(value: Any, specs: Sequence[TensorSpec]) -> dict[str, NDArray[Any]]:
    if not isinstance(value, dict):
        if len(specs) != 1:
            raise ClientError(f"the model has {len(specs)} inputs: name them ({_names(specs)})")
        value = {specs[0].name: value}
    if set(value) != {spec.name for spec in specs}:
        raise ClientError(f"expected the inputs {_names(specs)}, got {_listed(value)}")
    return {spec.name: _fitted(_tensor(value[spec.name], spec), spec) for spec in specs}


def read_split(value: Any) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and rows of a ``dataframe_split``.

    Raises:
        ClientError: It is none, or a row has not one cell per column.
    """
    if not isinstance(value, dict) or not {"data"} <= set(value) <= {"columns", "data", "index"}:
        raise ClientError("dataframe_split must be an object of data, columns and index")
    rows, columns = value["data"], value.get("columns")
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ClientError("dataframe_split.data must be a list of rows")
    if columns is None:
        columns = [str(k) for k in range(len(rows[0]) if rows else 0)]
    if not isinstance(columns, list) or any(len(row) != len(columns) for row in rows):
        raise ClientError("every row of dataframe_split.data must have one cell per column")
    return [str(column) for column in columns], rows


def _records(value: Any) -> tuple[list[str], list[list[Any]]]:
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise ClientError("dataframe_records must be a list of objects")
    columns = list(value[0]) if value else []
    if any(set(row) != set(columns) for row in value):
        raise ClientError("every record must have the same columns")
    return columns, [[row[column] for column in columns] for row in value]


def _from_table(
    columns: list[str], rows: list[list[Any]], specs: Sequence[TensorSpec]
) -> dict[str, NDArray[Any]]:
    if not rows or not columns:
        raise ClientError("the data frame is empty")
    if len(specs) == 1:
        cells: list[Any] = rows if len(columns) > 1 else [row[0] for row in rows]
        return {specs[0].name: _reshaped(cells, specs[0])}
    if set(columns) != {spec.name for spec in specs}:
        raise ClientError(f"expected the columns {_names(specs)}, got {_listed(columns)}")
    return {
        spec.name: _reshaped([row[columns.index(spec.name)] for row in rows], spec)
        for spec in specs
    }


def _reshaped(cells: list[Any], spec: TensorSpec) -> NDArray[Any]:
    """Give rows of flat or nested numbers the declared shape."""
    array = _tensor(cells, spec)
    if array.ndim == len(spec.shape) and array.ndim > 2:  # noqa: PLR2004 a nested field is whole
        return _fitted(array, spec)
    free = [size for size in spec.shape[1:] if size is None]
    if len(free) > 1:
        raise ClientError(
            f"input {spec.name!r} has several free dimensions {_shown(spec.shape)}; "
            "send each row as a nested list"
        )
    shape = (len(cells), *(-1 if size is None else size for size in spec.shape[1:]))
    try:
        return _fitted(array.reshape(shape), spec)
    except ValueError as exc:
        raise ClientError(
            f"a row of {math.prod(array.shape[1:])} values does not fill input {spec.name!r} "
            f"of shape {_shown(spec.shape)}"
        ) from exc


def _tensor(value: Any, spec: TensorSpec) -> NDArray[Any]:
    """Make an array of the declared type from nested lists of finite numbers."""
    try:
        raw = np.array(value)
    except (ValueError, OverflowError, RecursionError) as exc:
        raise ClientError(f"input {spec.name!r} is not a rectangular list of numbers") from exc
    if raw.dtype.kind not in "iuf" or raw.size == 0:
        raise ClientError(f"input {spec.name!r} must be a non-empty list of numbers")
    # A number beyond the declared type becomes infinite here and is refused just below.
    with np.errstate(over="ignore", invalid="ignore"):
        array = raw.astype(spec.dtype)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ClientError(f"input {spec.name!r} holds NaN, an infinity or too large a number")
    elif not np.array_equal(array, raw):
        raise ClientError(f"input {spec.name!r} must hold numbers of type {spec.dtype}")
    return array


def _fitted(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    fits = array.ndim == len(spec.shape) and all(
        declared in (None, size) for declared, size in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise ClientError(
            f"input {spec.name!r} has shape {_shown(array.shape)}, expected {_shown(spec.shape)}"
        )
    return array


def _shown(shape: Sequence[int | None]) -> str:
    return f"({', '.join('*' if size is None else str(size) for size in shape)})"


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in specs)


def _listed(names: Any) -> str:
    listed = ", ".join(str(name) for name in names)
    return listed[:100] or "none"
