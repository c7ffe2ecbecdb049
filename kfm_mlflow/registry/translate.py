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

from kfm_mlflow.errors import ConflictError, InputError, KfmError, RefusedError
from kfm_mlflow.registry.doors import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger(__name__)
_TOO_MANY_REQUESTS, _SERVER_ERROR = 429, 500
_MAX_CAUSE = 160


def to_mlflow(error: KfmError) -> MlflowException:
    """Return the MLflow exception that carries one of our errors, with its reason code.

    ``ConflictError`` becomes 409, ``InputError`` 400, everything else 403.
    """
    if isinstance(error, ConflictError):
        return _told(str(error), RESOURCE_CONFLICT, Reason.STATE_MOVED)
    if isinstance(error, InputError):
        return _told(str(error), INVALID_PARAMETER_VALUE, Reason.BAD_INPUT)
    refused = isinstance(error, RefusedError)
    return refuse(str(error), Reason.FINDINGS if refused else Reason.FAILED)


def refuse(sentence: str, reason: Reason = Reason.NOT_PERMITTED) -> MlflowException:
    """Return a 403 with one sentence and its reason code."""
    return _told(sentence, PERMISSION_DENIED, reason)


def _told(sentence: str, error_code: int, reason: Reason) -> MlflowException:
    return MlflowException(sentence, error_code=error_code, reason_code=str(reason))


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
            return _told(
                "KFM: the registry's database is busy; nothing was changed; try again",
                RESOURCE_CONFLICT,
                Reason.STATE_MOVED,
            )
    _log.error("unforeseen error in the registry", exc_info=error)
    text = " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_CAUSE]
    return refuse(
        f"KFM refused: an unforeseen error ({text}); nothing was changed; see the log",
        Reason.FAILED,
    )


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
