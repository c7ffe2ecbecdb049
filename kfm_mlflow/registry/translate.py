"""The only place that turns our errors into MLflow's.

MLflow's client retries 408, 429 and every 5xx and then loses the message. A refusal is therefore
always 403, 409 or 400, and so is whatever goes wrong behind a door: the transaction was rolled
back, the caller is told so at once, and the server's log has the traceback.
"""

from __future__ import annotations

import logging
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    RESOURCE_CONFLICT,
    TEMPORARILY_UNAVAILABLE,
    ErrorCode,
)

from kfm_mlflow.errors import ConflictError, InputError, KfmError

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger(__name__)
_TOO_MANY_REQUESTS, _SERVER_ERROR = 429, 500
_MAX_CAUSE = 160


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


def answer_to(error: Exception) -> MlflowException:
    """Return what a caller is told about any error, never with a code that MLflow's client retries.

    Our errors and MLflow's own 4xx keep their text. A busy database is a 409, and anything that
    nobody foresaw a 403: nothing was written, and trying again is for the caller to decide.
    """
    if isinstance(error, KfmError):
        return to_mlflow(error)
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        if status < _SERVER_ERROR and status != _TOO_MANY_REQUESTS:
            return error
        if error.error_code == ErrorCode.Name(TEMPORARILY_UNAVAILABLE):
            return MlflowException(
                "KFM: the registry's database is busy; nothing was changed; try again",
                error_code=RESOURCE_CONFLICT,
            )
    _log.error("unforeseen error in the registry", exc_info=error)
    text = " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_CAUSE]
    return refuse(f"KFM refused: an unforeseen error ({text}); nothing was changed; see the log")


def door(method: Callable[P, R]) -> Callable[P, R]:
    """Wrap a store method so that every error leaves it as one of MLflow's that is not retried."""

    @wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except Exception as exc:
            told = answer_to(exc)
            if told is exc:
                raise
            raise told from exc

    return wrapped
