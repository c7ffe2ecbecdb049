"""Governed model releases for MLflow.

Public names are loaded when they are first used: MLflow imports our entry points inside every
``import mlflow``, and that must stay free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kfm_mlflow.authoring.release import Dataset, log_release, measure_energy
    from kfm_mlflow.authoring.replay import is_rebuild
    from kfm_mlflow.authoring.spec import Contents
    from kfm_mlflow.authoring.validation import (
        CurrentInputs,
        Inspected,
        OpenedRelease,
        log_validation,
    )

__all__ = [
    "Contents",
    "CurrentInputs",
    "Dataset",
    "Inspected",
    "OpenedRelease",
    "is_rebuild",
    "log_release",
    "log_validation",
    "measure_energy",
]

_HOMES = {
    "Contents": "kfm_mlflow.authoring.spec",
    "CurrentInputs": "kfm_mlflow.authoring.validation",
    "Dataset": "kfm_mlflow.authoring.release",
    "Inspected": "kfm_mlflow.authoring.validation",
    "OpenedRelease": "kfm_mlflow.authoring.validation",
    "is_rebuild": "kfm_mlflow.authoring.replay",
    "log_release": "kfm_mlflow.authoring.release",
    "log_validation": "kfm_mlflow.authoring.validation",
    "measure_energy": "kfm_mlflow.authoring.release",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
