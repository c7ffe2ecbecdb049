"""Saving the checkpoints of a training: whole or not at all, and no list ahead of its files.

Rules kept here:

1. A checkpoint is a torch zip that ``torch.load(weights_only=True)`` reads (``state.py``). It holds
   no instant and no energy, so that a training that was killed and resumed ends in the same bytes
   as one that was not.
2. The file is written first (temporary name, fsync, rename), then the documents about it, the
   manifest last. Killed between two of them, the manifest still names only what is whole; a file
   that no manifest names is replaced when its epoch is trained again.
3. Tensors are copied when :meth:`CheckpointWriter.save` is called and written by a thread; the next
   save, and the end, wait for it and raise what went wrong in it.
4. One trainer at a time holds a directory (``flock``, which ends with the process).
5. Instants never go back, whatever the clock does.
"""

from __future__ import annotations

import fcntl
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from kfm_mlflow.canonical import digest_bytes, digest_file, load_json, write_bytes
from kfm_mlflow.checkpoints.documents import SavedState, read_state, write_documents
from kfm_mlflow.checkpoints.records import (
    DOCUMENTS,
    SUFFIX,
    TELEMETRY,
    ChecksumEntry,
    ManifestEntry,
    MetricsEntry,
)
from kfm_mlflow.checkpoints.state import checkpoint_bytes, copied, load_checkpoint
from kfm_mlflow.errors import ConflictError, InputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

    from kfm_mlflow.checkpoints.documents import Measured, Training
    from kfm_mlflow.checkpoints.records import Phase

_LOCK = ".lock"


class CheckpointWriter:
    """Writes one training's checkpoints and documents into a directory; a context manager."""

    def __init__(
        self,
        root: Path,
        training: Training,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Take the directory, and read what is in it.

        Raises:
            ConflictError: Another trainer has it.
            EvidenceError: Its documents do not parse.
            InputError: It belongs to another training.
            StorageError: It cannot be written to.
        """
        self._root, self._training, self._clock = root, training, clock
        with ExitStack() as stack:
            stack.enter_context(hold_directory(root, make=True))
            _sweep(root)
            self.state = read_state(root, training)
            self._held = stack.pop_all()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kfm-checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for what is being written, and give the directory back."""
        try:
            if kind is None:
                self.wait()
        finally:
            self._thread.shutdown(wait=True)
            self._held.close()

    def latest(self) -> tuple[ManifestEntry, dict[str, Any]] | None:
        """Return the last listed checkpoint and its state; None before the first one.

        Raises:
            EvidenceError: Its file is missing, changed or no checkpoint.
        """
        self.wait()
        if not self.state.manifest.checkpoints:
            return None
        entry = self.state.manifest.checkpoints[-1]
        return entry, load_checkpoint(self._root / entry.file_name, entry.checksum_sha256)

    @property
    def elapsed_s(self) -> float:
        """Training time of all listed checkpoints, as the telemetry says; 0 before the first."""
        if not self.state.manifest.checkpoints:
            return 0.0
        said = load_json(self._root / TELEMETRY)
        return float(said["training_time_min"]) * 60.0

    def save(
        self, checkpoint_id: str, phase: Phase, epoch: int, state: Any, measured: Measured
    ) -> None:
        """Copy a state, and have it written while training goes on.

        Args:
            checkpoint_id: Name without suffix.
            phase: Part of the training.
            epoch: Epochs of the whole training that are done.
            state: See :func:`checkpoint_bytes`.
            measured: At this epoch.

        Raises:
            InputError: The epoch does not follow the last one, or energy fell.
            StorageError: The checkpoint before could not be written.
        """
        snapshot = copied(state)
        self.wait()
        listed = self.state.manifest.checkpoints
        if listed and epoch <= listed[-1].epoch:
            raise InputError(
                f"epoch {epoch} does not follow {listed[-1].epoch}", where=checkpoint_id
            )
        if listed and measured.energy_wh < listed[-1].energy_wh:
            raise InputError(
                f"{measured.energy_wh:g} Wh is less than {listed[-1].energy_wh:g} Wh before",
                where=f"{checkpoint_id}.energy_wh",
                remedy="give the energy of the whole training so far",
            )
        self._pending = self._thread.submit(
            self._write, checkpoint_id, phase, epoch, snapshot, measured
        )

    def wait(self) -> None:
        """Wait until everything that was given to :meth:`save` is on disk.

        Raises:
            StorageError: It could not be written; everything that was listed before still is.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(
        self, checkpoint_id: str, phase: Phase, epoch: int, state: Any, measured: Measured
    ) -> None:
        name = f"{checkpoint_id}{SUFFIX}"
        data = checkpoint_bytes(state)
        at = max(self._clock().strftime("%Y-%m-%dT%H:%M:%SZ"), self.state.latest_instant)
        score, violations = self._training.audit(measured)
        entry = ManifestEntry(
            id=checkpoint_id,
            epoch=epoch,
            auc=measured.auc,
            faircare_score=score,
            checksum_sha256=digest_bytes(data),
            energy_wh=measured.energy_wh,
            phase=phase,
            file=name,
        )
        row = MetricsEntry(
            id=checkpoint_id,
            training_epoch=epoch,
            auc=measured.auc,
            loss=measured.loss,
            bias_index=measured.bias_index,
            faircare_score=score,
            energy_wh=measured.energy_wh,
            carbon_gco2e=measured.carbon_gco2e,
            checksum_verified=True,
            timestamp=at,
        )
        before = self.state
        with _translated(self._root / name):
            write_bytes(self._root / name, data)
        if digest_file(self._root / name) != entry.checksum_sha256:
            raise StorageError("reads back otherwise than it was written", where=name)
        checksum = ChecksumEntry(
            file=name,
            checksum_sha256=entry.checksum_sha256,
            size_bytes=len(data),
            verified=True,
            timestamp=at,
        )
        after = SavedState(
            before.manifest.model_copy(
                update={"checkpoints": (*before.manifest.checkpoints, entry)}
            ),
            (*before.metrics, row),
            (*before.checksums, checksum),
            at,
        )
        with _translated(self._root):
            write_documents(self._root, self._training, after, measured, violations)
        self.state = after


@contextmanager
def hold_directory(root: Path, *, make: bool = False) -> Iterator[None]:
    """Keep everybody else from writing into a directory of checkpoints.

    Args:
        root: The directory.
        make: Whether to make it.

    Raises:
        ConflictError: A trainer, or another command, holds it.
        StorageError: It is not there, or cannot be written to.
    """
    try:
        if make:
            root.mkdir(parents=True, exist_ok=True)
        lock = os.open(root / _LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as exc:
        raise StorageError(f"cannot be used ({exc.strerror})", where=str(root)) from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        raise ConflictError(
            "another trainer is writing here",
            where=str(root),
            remedy="wait for it, or give this one a directory of its own",
        ) from exc
    try:
        yield
    finally:
        os.close(lock)


def _sweep(root: Path) -> None:
    """Remove what writers that were killed left half-written; we hold the directory."""
    for name in (*DOCUMENTS, f"*{SUFFIX}"):
        for left in root.glob(f".{name}.*"):
            left.unlink()


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn an error of the file system into ours, naming the file."""
    try:
        yield
    except OSError as exc:
        raise StorageError(
            f"cannot be written ({exc.strerror})",
            where=str(path),
            remedy="make room; every checkpoint that was listed is still there, resume then",
        ) from exc
