"""One release's facts, made up but complete, as plain functions."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from kfm_mlflow.metadata.facts import (
    AgentFact,
    DatasetFact,
    FileFact,
    ReleaseFact,
    RunFact,
    TensorFact,
)

PATHS = (
    "MLmodel",
    "care.json",
    "drift/baseline.json",
    "model-card.json",
    "model.onnx",
    "model.pt",
    "model_metadata.json",
    "model_summary.json",
    "provenance/provenance.json",
    "telemetry/training.json",
    "xai/maps of attribution.json",
    "xai/summary.json",
)


def make_file(path: str, content: bytes | None = None) -> FileFact:
    content = path.encode() if content is None else content
    return FileFact(
        path,
        len(content),
        hashlib.sha256(content).hexdigest(),
        hashlib.sha1(content).hexdigest(),
    )


def make_files() -> tuple[FileFact, ...]:
    return tuple(make_file(path) for path in PATHS)


def make_datasets() -> tuple[DatasetFact, ...]:
    return (
        DatasetFact(
            name="era-interim monthly",
            uri="https://example.org/era.nc",
            sha256="aa" * 32,
            license="other",
            role="training",
            bbox=(-102.05, 36.99, -98.0, 40.0),
            start_at=datetime(1979, 1, 1, tzinfo=UTC),
            end_at=datetime(2018, 12, 1, tzinfo=UTC),
            variables=("t2m",),
            selection="longitudes west of -98",
        ),
        DatasetFact(
            name="era-interim monthly",
            uri="https://example.org/era.nc#east",
            sha256="bb" * 32,
            license="other",
            role="validation",
        ),
    )


def make_run() -> RunFact:
    return RunFact(
        run_id="0123456789abcdef",
        entry_point="release",
        git_commit="deadbeef" * 5,
        git_url="https://example.org/kfm.git",
        started_at=datetime(2026, 1, 31, 12, tzinfo=UTC),
        ended_at=datetime(2026, 1, 31, 12, 10, tzinfo=UTC),
        parameters={"epochs": "40", "family": "climate"},
        seed=42,
        environment_lock_sha256="cc" * 32,
    )


def make_agents() -> tuple[AgentFact, ...]:
    return (
        AgentFact("kfm-mlflow", "kfm-mlflow 0.1.0", "software", on_behalf_of="trainer@example.org"),
        AgentFact("trainer@example.org", "A trainer", "person", on_behalf_of="climate-group"),
        AgentFact("climate-group", "Climate Working Group", "organization", signs=True),
    )


def make_release() -> ReleaseFact:
    dims = ("batch", "channel", "height", "width")
    return ReleaseFact(
        model_name="climate-downscaler",
        release_version="v1.2.0",
        family="climate",
        task="super-resolution",
        released_at=datetime(2026, 1, 31, 12, 30, tzinfo=UTC),
        license="MIT",
        description="Residual convolutional downscaler.",
        architecture="residual-cnn",
        framework="PyTorch",
        framework_version="2.13.0+cpu",
        hyperparameters={"lr": 0.0003, "epochs": 40},
        metrics={"rmse": 1.07, "mae": 0.71, "bias": -0.02},
        parameter_count=50_000,
        inputs=(TensorFact("coarse", "float32", (-1, 1, 16, 16), dims),),
        outputs=(TensorFact("fine", "float32", (-1, 1, 64, 64), dims),),
        bbox=(-102.05, 36.99, -94.58, 40.0),
        care={
            "masking": "h3-climate-generalized",
            "scope": "public-generalized",
            "notes": ["Deployment generalized"],
            "authority": None,
            "labels": [],
            "h3_max_resolution": 6,
        },
        energy_wh=3.5,
        carbon_gco2e=1.4,
        screening_status="no-known-conflict",
        sovereignty_notes=("Outputs are no finer than the ceiling of any region.",),
        explainability={"method": "integrated-gradients", "library": "captum"},
        intended_uses=("regional climate summaries",),
        forbidden_uses=("locating cultural sites",),
        limitations=("trained on one region",),
        predecessor="v1.1.0",
    )
