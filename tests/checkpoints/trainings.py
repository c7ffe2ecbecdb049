"""A training of one number, for the tests of what is saved about it."""

from __future__ import annotations

import torch

from kfm_mlflow.checkpoints.documents import Measured, Training
from kfm_mlflow.checkpoints.saving import CheckpointWriter

NAMES = ("checkpoint_001_pretrain", "checkpoint_002_finetune", "checkpoint_003_final")
PHASES = ("pretrain", "finetune", "final")


def training(**changed):
    """Return what is the same for three epochs."""
    said = {
        "model_id": "focus_transformer_v2",
        "version": "v10.0.0",
        "planned_epochs": 3,
        "intensity_g_per_kwh": 410.0,
        "intensity_source": "tests",
        "energy_method": "estimated",
        "datasets": {"world": "sha256:" + "a" * 64},
        "audit": lambda measured: (99.2 if measured.bias_index < 0.1 else 60.0, ()),
        "limits": {"max_energy_wh": 4500.0},
    }
    return Training(**{**said, **changed})


def measured(epoch):
    """Return what was measured after an epoch."""
    return Measured(
        auc=0.7 + epoch / 100,
        loss=1.0 / epoch,
        bias_index=0.01,
        energy_wh=0.5 * epoch,
        carbon_gco2e=0.2 * epoch,
        elapsed_s=2.0 * epoch,
        explained={"methods": ["integrated-gradients"], "top_features": ["soil"]},
    )


def state(epoch):
    """Return the whole state after an epoch, from which the next one follows."""
    weights = torch.arange(64, dtype=torch.float32) * epoch
    return {"epoch": epoch, "model": {"w": weights}, "rng": [1, 2, epoch], "note": None}


def save_all(root, *, up_to=3, **changed):
    """Train as far as is asked from where the directory stands, as a trainer does."""
    with CheckpointWriter(root, training(**changed)) as writer:
        latest = writer.latest()
        begin = latest[1]["epoch"] if latest else 0
        for epoch in range(begin + 1, up_to + 1):
            writer.save(NAMES[epoch - 1], PHASES[epoch - 1], epoch, state(epoch), measured(epoch))
