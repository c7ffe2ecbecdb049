"""The small documents of a release that machines write about it: summary, drift, telemetry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.errors import InputError
from kfm_mlflow.monitor.drift_baseline import build_baseline
from kfm_mlflow.monitor.drift_sample import sample_of_inputs
from kfm_mlflow.monitor.statistics import response_statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kfm_mlflow.authoring.imported_spec import ImportedSpec
    from kfm_mlflow.authoring.spec import ReleaseSpec
    from kfm_mlflow.monitor.energy import EnergyReport

# Answers outside this band are rare for the release itself and counted when it serves.
LOW_QUANTILE, HIGH_QUANTILE = 0.005, 0.995
_QUANTILES = (0.005, 0.05, 0.25, 0.5, 0.75, 0.95, 0.995)


def _summary(values: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "quantiles": {f"{q:g}": float(np.quantile(values, q)) for q in _QUANTILES},
    }


def drift_baseline(inputs: NDArray[np.float32], outputs: NDArray[np.float32]) -> dict[str, Any]:
    """Describe how a release answers representative inputs.

    Args:
        inputs: float32 [n, …], at least 30 rows.
        outputs: The release's answers, float32 [n, …].

    Returns:
        Per response statistic: the band between the 0.5 % and 99.5 % quantiles over single
        requests, mean, standard deviation and quantiles; the same of the inputs' row means; and
        what a drift check compares inputs with, rows taken as drawn independently.

    Raises:
        InputError: No statistic is defined on any row.
    """
    rows = [
        response_statistics({"input": inputs[i : i + 1]}, {"output": outputs[i : i + 1]})
        for i in range(len(inputs))
    ]
    names = sorted({name for row in rows for name in row})
    statistics: dict[str, Any] = {}
    for name in names:
        values = np.array([row[name] for row in rows if name in row], dtype=np.float64)
        low, high = np.quantile(values, [LOW_QUANTILE, HIGH_QUANTILE])
        statistics[name] = {"low": float(low), "high": float(high), **_summary(values)}
    if not statistics:
        raise InputError("no response statistic is defined on any row", where="inputs")
    means = inputs.reshape(len(inputs), -1).astype(np.float64).mean(axis=1)
    return {
        "schema_version": "1",
        "sample_count": len(inputs),
        "statistics": statistics,
        "inputs": {
            "row_mean": _summary(means),
            **build_baseline(sample_of_inputs(inputs)).to_dict(),
        },
    }


def model_summary(spec: ReleaseSpec, onnx_relative_difference: float) -> dict[str, Any]:
    """Describe layers, size and formats of a model."""
    layers = [
        {
            "name": name,
            "kind": type(module).__name__,
            "parameter_count": sum(p.numel() for p in module.parameters(recurse=False)),
        }
        for name, module in spec.model.named_modules()
        if name
    ]
    return {
        "schema_version": "1",
        "parameter_count": sum(p.numel() for p in spec.model.parameters()),
        "layers": layers,
        "metrics": dict(spec.metrics),
        "formats": [
            {"path": spec.contents.model_file, "kind": "torch"},
            {"path": "model.onnx", "kind": "onnx"},
            *({"path": path, "kind": "torch"} for path in sorted(spec.contents.parts)),
        ],
        "onnx_max_relative_difference": onnx_relative_difference,
    }


def telemetry(spec: ReleaseSpec | ImportedSpec, energy: EnergyReport) -> dict[str, Any]:
    """Describe energy, carbon and duration of the run that made a model."""
    duration_s = (spec.run.ended_at - spec.run.started_at).total_seconds()
    return {
        **energy.to_dict(),
        "metrics": dict(spec.metrics),
        "otel": {"trace_id": None, "span_name": "train", "latency_ms": duration_s * 1000},
    }
