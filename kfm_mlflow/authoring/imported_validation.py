"""A second party's validation of a release that others made, signed and logged beside it."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfm_mlflow.authoring.imported_spec import INDEX_PATH, UNITS_FOLDER
from kfm_mlflow.authoring.validated import (
    VALID_DAYS,
    LoggedValidation,
    build_document,
    fetch_release,
    log_document,
)
from kfm_mlflow.canonical import digest_json, load_json
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.keys import load_private_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kfm_mlflow.release.manifest import Manifest


def log_imported_validation(
    run_id: str,
    *,
    measure: Callable[[Path], Mapping[str, float]],
    answers: Callable[[Path], Any],
    data: Mapping[str, str],
    validator_key: Path,
    artifact_path: str = "release",
    valid_days: float = VALID_DAYS,
) -> LoggedValidation:
    """Validate the release of a run whose model others made, and log the signed result beside it.

    Args:
        run_id: MLflow run that holds the release.
        measure: Takes the release's directory, returns metric -> value; called once.
        answers: Takes the release's directory, loads it and returns what it answers, as a JSON
            value without anything that a clock decides; called twice, and compared.
        data: What is measured on; must hold a ``digest``.
        validator_key: The validator's private key; not the signer's.
        artifact_path: Where the release lies in the run.
        valid_days: How long the attestation holds.

    Returns:
        What was measured.

    Raises:
        StorageError: The release cannot be downloaded.
        EvidenceError: It does not say what it is, or its index does not list its units.
    """
    now = datetime.now(UTC)
    signer = load_private_key(validator_key)
    with tempfile.TemporaryDirectory(prefix="kfm-validate-") as folder:
        release_dir = fetch_release(run_id, artifact_path, Path(folder))
        _check_index(release_dir, build_manifest(release_dir))
        first, second = (digest_json(answers(release_dir)) for _ in range(2))
        document = build_document(
            release_dir,
            metrics=measure(release_dir),
            answers=(first, second),
            data=data,
            validator=signer.public_key.key_id,
            now=now,
            parts={},
        )
        return log_document(
            document,
            load_json(release_dir / "model_metadata.json"),
            signer=signer,
            run_id=run_id,
            artifact_path=artifact_path,
            valid_until=now + timedelta(days=valid_days),
        )


def _check_index(release_dir: Path, manifest: Manifest) -> None:
    """Refuse a release whose index does not list exactly the files of its units, by digest.

    Raises:
        EvidenceError: It is missing, malformed, or names other files.
    """
    index = load_json(release_dir / INDEX_PATH)
    try:
        listed = {file["path"]: file["digest"] for unit in index["units"] for file in unit["files"]}
    except (KeyError, TypeError) as exc:
        raise EvidenceError(f"lists no units ({exc})", where=INDEX_PATH) from exc
    there = {
        path: digest
        for path, digest in manifest.digests.items()
        if path.startswith(f"{UNITS_FOLDER}/")
    }
    wrong = sorted(
        path for path in listed.keys() | there.keys() if listed.get(path) != there.get(path)
    )
    if wrong:
        raise EvidenceError(f"does not list {wrong[0]} as it is", where=INDEX_PATH)
