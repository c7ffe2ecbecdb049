"""Our errors as MLflow's, for users of ``mlflow.deployments``: the registry's sentence, untouched.

The registry has its own translation, which never gives a code that MLflow's client retries. Here
nothing is retried any more, so a server that is away says so.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from kfm_mlflow.errors import (
    ConflictError,
    InputError,
    IntegrityError,
    KfmError,
    RefusedError,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow.exceptions import MlflowException

P = ParamSpec("P")
R = TypeVar("R")

_CODES: tuple[tuple[type[KfmError], str], ...] = (
    (ConflictError, "RESOURCE_CONFLICT"),
    (InputError, "INVALID_PARAMETER_VALUE"),
    (RefusedError, "PERMISSION_DENIED"),
    (IntegrityError, "DATA_LOSS"),
    (StorageError, "TEMPORARILY_UNAVAILABLE"),
    (KfmError, "INTERNAL_ERROR"),
)


def told(message: str, code: str) -> MlflowException:
    """Return an MLflow exception with one of MLflow's error codes, by name."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ErrorCode

    return MlflowException(message, error_code=ErrorCode.Value(code))


def tells(method: Callable[P, R]) -> Callable[P, R]:
    """Let every error of ours leave a function as one of MLflow's."""

    @wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except KfmError as exc:
            code = next(code for kind, code in _CODES if isinstance(exc, kind))
            raise told(str(exc), code) from exc

    return wrapped
