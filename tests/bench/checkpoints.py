"""What a checkpoint costs a training while it waits, and what verifying costs beyond hashing.

Saving: a model is trained by Adam for some epochs; after each one its whole state is written by
``torch.save`` in line, as most trainers do, and then given to ``CheckpointWriter.save``, which
copies it and writes it while the next epoch trains. What counts is how long ``save`` keeps the
training waiting, also for a write that is not done yet.

Verifying: ``verify_directory`` on checkpoints that ``CheckpointWriter`` wrote, against
``digest_file`` of the same files on the same number of threads; whoever is first changes with
every round. All files were just written, so they are read from memory where it is large enough.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from report import Row, paired_ratio

from kfm_mlflow.canonical import digest_file
from kfm_mlflow.checkpoints.directory import THREAD_COUNT, verify_directory
from kfm_mlflow.checkpoints.documents import Measured, Training
from kfm_mlflow.checkpoints.saving import CheckpointWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHARE_GOAL = 0.05
"""Largest share of an epoch that saving may keep the training waiting."""
VERIFY_GOAL = 1.05
"""Of files of 50 MB: reading the pickle of a checkpoint takes the same time whatever its size, which
shows in small files, so that ``size=small`` only states the number."""
_PROMISED_BYTES = 50 * 10**6
_BATCH, _ROUNDS = 64, 6


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        width: Of the trained model's layers; its state has 24 times the square of it in bytes.
        step_count: Of an epoch.
        epoch_count: Of the training.
        file_count: Checkpoints that are verified.
        file_bytes: Of each.
    """

    width: int
    step_count: int
    epoch_count: int
    file_count: int
    file_bytes: int


SIZES = {
    "small": Size(512, 100, 6, 20, 5 * 10**6),
    "full": Size(1024, 400, 10, 100, 50 * 10**6),
}


def _training(epoch_count: int) -> Training:
    return Training(
        model_id="bench",
        version="v1.0.0",
        planned_epochs=epoch_count,
        intensity_g_per_kwh=400.0,
        intensity_source="none",
        energy_method="estimated",
        datasets={},
        audit=lambda _: (100.0, ()),
    )


def _measured(epoch: int) -> Measured:
    return Measured(0.5, 0.5, 0.0, float(epoch), float(epoch), float(epoch))


def _seconds(work: Callable[[], Any]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def measure(size: str, work_dir: Path) -> list[Row]:
    """Return the rows of both halves."""
    work_dir.mkdir()
    wanted = SIZES[size]
    return [*_saving(wanted, work_dir / "saved"), _verifying(wanted, work_dir / "verified")]


def _saving(size: Size, root: Path) -> list[Row]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(size.width, size.width),
        torch.nn.GELU(),
        torch.nn.Linear(size.width, size.width),
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    rows = torch.randn(_BATCH, size.width)

    def train() -> None:
        for _ in range(size.step_count):
            optimiser.zero_grad()
            (model(rows) - rows).square().mean().backward()
            optimiser.step()

    train()
    epochs_s, saves_s, lines_s = [], [], []
    with CheckpointWriter(root, _training(size.epoch_count)) as writer:
        for epoch in range(1, size.epoch_count + 1):
            epochs_s.append(_seconds(train))
            state = {"model": dict(model.state_dict()), "optimiser": optimiser.state_dict()}
            lines_s.append(_seconds(partial(torch.save, state, root / "inline")))
            given = (f"epoch_{epoch:03d}", "final", epoch, state, _measured(epoch))
            saves_s.append(_seconds(partial(writer.save, *given)))
        size_bytes = (root / "inline").stat().st_size
    ours = f"{median(saves_s) * 1e3:.1f} ms"
    what = f"save a checkpoint of {size_bytes / 1e6:.0f} MB: the training waits"
    return [
        Row(
            what,
            ours,
            "its epoch",
            f"{median(epochs_s) * 1e3:.0f} ms",
            paired_ratio(saves_s, epochs_s),
            SHARE_GOAL,
            "a share of the time of the epoch before",
        ),
        Row(
            what,
            ours,
            "`torch.save` in line, no fsync",
            f"{median(lines_s) * 1e3:.1f} ms",
            paired_ratio(saves_s, lines_s),
        ),
    ]


def _verifying(size: Size, root: Path) -> Row:
    generator = torch.Generator().manual_seed(0)
    with CheckpointWriter(root, _training(size.file_count)) as writer:
        for epoch in range(1, size.file_count + 1):
            weights = torch.rand(size.file_bytes // 4, generator=generator)
            state = {"epoch": epoch, "model": {"w": weights}}
            writer.save(f"epoch_{epoch:03d}", "final", epoch, state, _measured(epoch))
    files = sorted(root.glob("*.pt"))

    def verify() -> None:
        found = verify_directory(root)
        assert found.ok, found.findings

    def hash_all() -> None:
        with ThreadPoolExecutor(THREAD_COUNT) as threads:
            list(threads.map(digest_file, files))

    hash_all()
    ours_s, peers_s = [], []
    for round_ in range(_ROUNDS):
        for work, into in ((verify, ours_s), (hash_all, peers_s))[:: 1 if round_ % 2 else -1]:
            into.append(_seconds(work))
    total_mb = sum(file.stat().st_size for file in files) / 1e6
    return Row(
        f"verify {size.file_count} checkpoints of {size.file_bytes / 1e6:.0f} MB",
        f"{median(ours_s):.2f} s, {total_mb / median(ours_s):.0f} MB/s",
        f"SHA-256 alone, {THREAD_COUNT} threads",
        f"{median(peers_s):.2f} s",
        paired_ratio(ours_s, peers_s),
        VERIFY_GOAL if size.file_bytes >= _PROMISED_BYTES else None,
    )
