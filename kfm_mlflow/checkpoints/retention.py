"""Which checkpoints may go: never one that is certified, ends a phase, or that somebody names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfm_mlflow.canonical import load_json, write_json
from kfm_mlflow.checkpoints.records import (
    CERTIFICATE,
    CHECKSUMS,
    MANIFEST,
    METRICS,
    CheckpointMetrics,
    CheckpointsManifest,
    ChecksumRegistry,
    read_record,
    record_json,
)
from kfm_mlflow.checkpoints.saving import hold_directory
from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from kfm_mlflow.checkpoints.records import ManifestEntry


def choose_prunable(
    entries: Sequence[ManifestEntry],
    *,
    keep_count: int,
    certified: Collection[str] = (),
    referenced: Collection[str] = (),
) -> tuple[ManifestEntry, ...]:
    """Return what retention lets go, in the order of training.

    Kept are: the latest ``keep_count``, the best by AUC, the last of each phase, and whatever is
    certified or referenced.

    Args:
        entries: All checkpoints, in the order of training.
        keep_count: At least 1: a training must be able to go on.
        certified: Digests for which a certificate holds.
        referenced: Digests that a release or somebody else names.

    Raises:
        InputError: ``keep_count`` is below 1.
    """
    if keep_count < 1:
        raise InputError("is below 1", where="keep", remedy="keep at least the latest checkpoint")
    kept = {entry.id for entry in entries[-keep_count:]}
    measured = [entry for entry in entries if entry.auc is not None]
    if measured:
        kept.add(max(measured, key=lambda entry: (entry.auc or 0.0, entry.epoch)).id)
    kept |= {{entry.phase: entry.id for entry in entries}[entry.phase] for entry in entries}
    named = {*certified, *referenced}
    return tuple(
        entry for entry in entries if entry.id not in kept and entry.checksum_sha256 not in named
    )


def prune(root: Path, leaving: Sequence[ManifestEntry]) -> None:
    """Take checkpoints off the lists, then remove their files.

    Killed in between, a file is left that no manifest names; it is never the other way round.

    Raises:
        ConflictError: A trainer is writing here.
        EvidenceError: A document cannot be read.
        InputError: One is certified.
    """
    gone = {entry.id for entry in leaving}
    names = {entry.file_name for entry in leaving}
    with hold_directory(root):
        if (root / CERTIFICATE).is_file():
            digest = load_json(root / CERTIFICATE).get("checksum_sha256")
            for entry in leaving:
                if entry.checksum_sha256 == digest:
                    raise InputError("is certified, and is kept", where=entry.id)
        manifest = read_record(CheckpointsManifest, root / MANIFEST)
        metrics = read_record(CheckpointMetrics, root / METRICS)
        checksums = read_record(ChecksumRegistry, root / CHECKSUMS)
        left = tuple(entry for entry in manifest.checkpoints if entry.id not in gone)
        write_json(root / MANIFEST, record_json(manifest.model_copy(update={"checkpoints": left})))
        rows = tuple(row for row in metrics.checkpoints if row.id not in gone)
        write_json(root / METRICS, record_json(metrics.model_copy(update={"checkpoints": rows})))
        files = tuple(row for row in checksums.files if row.file not in names)
        write_json(root / CHECKSUMS, record_json(checksums.model_copy(update={"files": files})))
        for name in sorted(names):
            (root / name).unlink(missing_ok=True)
