"""What a validator found: fetched, written down, signed, and logged beside a release.

The same for every family; what is measured, and how, is for :mod:`kfm_mlflow.authoring.validation`
and :mod:`kfm_mlflow.authoring.imported_validation` to say.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import canonical_bytes, write_bytes
from kfm_mlflow.errors import EvidenceError, StorageError
from kfm_mlflow.release.bundle import ENVELOPE_SUFFIX, EVIDENCE_SUFFIX
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.instants import parse_instant
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from kfm_mlflow.trust.keys import Signer

VALID_DAYS = 90.0


@dataclass(frozen=True)
class LoggedValidation:
    """What was measured and where the attestation lies, relative to the run's artifacts.

    Attributes:
        envelope: The signed statement itself, as a registry takes it for a version that it has.
    """

    release_id: str
    metrics: dict[str, float]
    is_deterministic: bool
    artifact_path: str
    envelope: bytes = field(default=b"", repr=False)


def finite_or_text(value: float) -> float | str:
    """Return a number, or its name: JSON has no NaN; gates read these words and refuse them."""
    if math.isfinite(value):
        return float(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def build_document(
    release_dir: Path,
    *,
    metrics: Mapping[str, float],
    answers: tuple[str, str],
    data: Mapping[str, str],
    validator: str,
    now: datetime,
    parts: Mapping[str, Any],
) -> dict[str, Any]:
    """Return ``deployment_validation.json`` of what was measured.

    Args:
        release_dir: The release on local disk.
        metrics: Name -> value.
        answers: Digest of what inference gave the first and the second time.
        data: What was measured on, with its ``digest``.
        validator: Who measured.
        now: When (aware UTC).
        parts: What else was found, by name.
    """
    return {
        "schema_version": "1",
        "release_id": build_manifest(release_dir).release_id,
        "metrics": {name: finite_or_text(value) for name, value in sorted(metrics.items())},
        "determinism": {"identical": answers[0] == answers[1], "digest": answers[0]},
        "validator": validator,
        "data": dict(data),
        "at": now.isoformat().replace("+00:00", "Z"),
        **parts,
    }


def fetch_release(run_id: str, artifact_path: str, folder: Path) -> Path:
    """Download the release of a run, and return where it lies.

    Args:
        run_id: MLflow run that holds it.
        artifact_path: Where it lies in the run.
        folder: Where to put it.

    Raises:
        StorageError: It cannot be downloaded.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = f"runs:/{run_id}/{artifact_path}"
    try:
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
    except (MlflowException, OSError) as exc:
        raise StorageError(f"cannot be downloaded ({exc})", where=uri) from exc


def log_files(run_id: str, artifact_path: str, files: Mapping[str, bytes]) -> None:
    """Log some small files under a path of a run; nothing when there are none."""
    import mlflow

    if not files:
        return
    with tempfile.TemporaryDirectory(prefix="kfm-validate-") as folder:
        for name, content in files.items():
            write_bytes(Path(folder) / name, content)
        mlflow.tracking.MlflowClient().log_artifacts(run_id, folder, artifact_path)


def log_document(
    document: Mapping[str, Any],
    metadata: Any,
    *,
    signer: Signer,
    run_id: str,
    artifact_path: str,
    valid_until: datetime,
) -> LoggedValidation:
    """Sign a validation, and log it and its envelope beside the release.

    Args:
        document: From :func:`build_document`.
        metadata: The release's ``model_metadata.json``.
        signer: Who validated.
        run_id: MLflow run that holds the release.
        artifact_path: Where it lies in the run.
        valid_until: Until when the attestation holds.

    Raises:
        EvidenceError: The release does not say what it is.
    """
    try:
        binding = Binding(
            metadata["model_name"], metadata["release_version"], document["release_id"]
        )
    except (KeyError, TypeError) as exc:
        raise EvidenceError(f"lacks {exc}", where="model_metadata.json") from exc
    at = parse_instant(document["at"], where="deployment_validation.json: at")
    statement = build_statement("validation", binding, dict(document), at, valid_until)
    name = f"validation-{signer.public_key.key_id[:12]}{ENVELOPE_SUFFIX}"
    envelope = sign_statement(statement, signer)
    target = artifact_path + EVIDENCE_SUFFIX
    log_files(
        run_id, target, {"deployment_validation.json": canonical_bytes(document), name: envelope}
    )
    return LoggedValidation(
        document["release_id"],
        {k: float(v) for k, v in document["metrics"].items()},
        document["determinism"]["identical"],
        f"{target}/{name}",
        envelope,
    )
