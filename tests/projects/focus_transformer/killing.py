"""Trains in forked processes, kills each with SIGKILL at a random moment, resumes, and compares.

Run as a script with a folder, a count and a seed; prints one JSON object. A fork costs nothing, where
a new interpreter would load torch each time.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from checkpoints.trainings import training

from focus_mode.world import generate_world
from focus_transformer.sequences import cut_sequences
from focus_transformer.training import Plan, train
from kfm_mlflow.canonical import digest_file
from kfm_mlflow.checkpoints.directory import verify_directory
from kfm_mlflow.checkpoints.records import MANIFEST
from kfm_mlflow.checkpoints.saving import CheckpointWriter

PLAN = Plan(
    {"pretrain": 1, "finetune": 2, "final": 1},
    {"width": 16, "block_count": 1},
    batch_size=64,
)
LAST = "checkpoint_003_final.pt"


def run(root: Path, sides: tuple) -> None:
    """Train to the end, or as far as the process lives."""
    said = training(planned_epochs=PLAN.epoch_count)
    with CheckpointWriter(root, said) as writer:
        train(*sides, PLAN, writer, lambda: (0.01, 0.004))


def forked(root: Path, sides: tuple) -> int:
    """Start a process that trains; return its id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run(root, sides)
            status = 0
        finally:
            os._exit(status)
    return child


def main(folder: Path, count: int, seed: int) -> None:
    """Kill ``count`` trainings and print what became of them."""
    torch.set_num_threads(1)
    sides = cut_sequences(generate_world(size="small"))
    # What torch loads when it is first used would be loaded in every child, and the kills fall there.
    run(folder / "warm", sides)
    began = time.monotonic()
    assert os.waitpid(forked(folder / "undisturbed", sides), 0)[1] == 0
    whole_s = time.monotonic() - began
    wanted = digest_file(folder / "undisturbed" / LAST)
    draw = random.Random(seed)
    outcomes = []
    for k in range(count):
        root = folder / f"killed-{k}"
        child = forked(root, sides)
        time.sleep(draw.uniform(0.0, whole_s))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        path = root / MANIFEST
        listed = len(json.loads(path.read_bytes())["checkpoints"]) if path.is_file() else 0
        resumed = os.waitpid(forked(root, sides), 0)[1]
        findings = [str(finding) for finding in verify_directory(root).findings]
        outcomes.append(
            {
                "was_killed": os.WIFSIGNALED(status),
                "listed_at_kill": listed,
                "resumed": resumed == 0,
                "same": digest_file(root / LAST) == wanted,
                "findings": findings,
            }
        )
    sys.stdout.write(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
