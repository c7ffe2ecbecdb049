"""Governed model releases for MLflow.

Public names are loaded when they are first used: MLflow imports our entry points inside every
``import mlflow``, and that must stay free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kfm_mlflow.authoring.release import log_release

__all__ = ["log_release"]

_HOMES = {"log_release": "kfm_mlflow.authoring.release"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
