"""Governed model releases for MLflow.

Public names are loaded when they are first used: MLflow imports our entry points inside every
``import mlflow``, and that must stay free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kfm_mlflow.authoring.imported import log_imported, text_field
    from kfm_mlflow.authoring.imported_spec import ImportedUnit, Parent
    from kfm_mlflow.authoring.imported_validation import log_imported_validation
    from kfm_mlflow.authoring.release import Dataset, log_release, measure_energy
    from kfm_mlflow.authoring.replay import is_rebuild
    from kfm_mlflow.authoring.spec import Contents
    from kfm_mlflow.authoring.validation import (
        CurrentInputs,
        Inspected,
        OpenedRelease,
        log_validation,
    )
    from kfm_mlflow.metadata.facts import TensorFact

__all__ = [
    "Contents",
    "CurrentInputs",
    "Dataset",
    "ImportedUnit",
    "Inspected",
    "OpenedRelease",
    "Parent",
    "TensorFact",
    "is_rebuild",
    "log_imported",
    "log_imported_validation",
    "log_release",
    "log_validation",
    "measure_energy",
    "text_field",
]

_HOMES = {
    "Contents": "kfm_mlflow.authoring.spec",
    "CurrentInputs": "kfm_mlflow.authoring.validation",
    "Dataset": "kfm_mlflow.authoring.release",
    "ImportedUnit": "kfm_mlflow.authoring.imported_spec",
    "Inspected": "kfm_mlflow.authoring.validation",
    "OpenedRelease": "kfm_mlflow.authoring.validation",
    "Parent": "kfm_mlflow.authoring.imported_spec",
    "TensorFact": "kfm_mlflow.metadata.facts",
    "is_rebuild": "kfm_mlflow.authoring.replay",
    "log_imported": "kfm_mlflow.authoring.imported",
    "log_imported_validation": "kfm_mlflow.authoring.imported_validation",
    "log_release": "kfm_mlflow.authoring.release",
    "log_validation": "kfm_mlflow.authoring.validation",
    "measure_energy": "kfm_mlflow.authoring.release",
    "text_field": "kfm_mlflow.authoring.imported",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
