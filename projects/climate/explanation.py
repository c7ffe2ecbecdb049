"""What a release explains, where a task says which rows are worth it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfm_mlflow import Contents
from kfm_mlflow.monitor.attribution import integrated_gradients_summary

if TYPE_CHECKING:
    import torch

    from prepared import Prepared


def contents_of(prepared: Prepared, model: torch.nn.Module, *, seed: int) -> Contents:
    """Return what a release of a task holds beside what every release does.

    Args:
        prepared: The task; where it names rows to explain, ``xai/summary.json`` is made of them,
            by the same measure as everywhere, and says so in its notes.
        model: Trained, on the CPU.
        seed: First of the seeds of the noise.
    """
    explained = prepared.explained
    if explained is None:
        return Contents()
    summary = integrated_gradients_summary(
        model, explained.learned, seed=seed, baseline=prepared.explained_from
    )
    summary["notes"].append(f"Explained: {explained.what}.")
    return Contents(documents={"xai/summary.json": summary})
