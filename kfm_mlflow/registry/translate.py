"""The only place that turns our errors into MLflow's.

MLflow's client retries 408, 429 and every 5xx and then loses the message. A refusal is therefore
always 403, 409 or 400.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    RESOURCE_CONFLICT,
)

from kfm_mlflow.errors import ConflictError, InputError, KfmError

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


def to_mlflow(error: KfmError) -> MlflowException:
    """Return the MLflow exception that carries one of our errors.

    ``ConflictError`` becomes 409, ``InputError`` 400, everything else 403.
    """
    if isinstance(error, ConflictError):
        return MlflowException(str(error), error_code=RESOURCE_CONFLICT)
    if isinstance(error, InputError):
        return MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE)
    return MlflowException(str(error), error_code=PERMISSION_DENIED)


def refuse(sentence: str) -> MlflowException:
    """Return a 403 with one sentence."""
    return MlflowException(sentence, error_code=PERMISSION_DENIED)


def door(method: Callable[P, R]) -> Callable[P, R]:
    """Wrap a store method so that our errors leave it as MLflow's."""

    @wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except KfmError as exc:
            raise to_mlflow(exc) from exc

    return wrapped
