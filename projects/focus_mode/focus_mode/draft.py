"""A Focus Mode release before it is one: the trained model, and what will be released with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from focus_mode.documents import context_cells, fusion_weights, xai_summary
from kfm_mlflow import Contents
from kfm_mlflow.authoring.focus_explained import DOMAINS_PATH, explain_focus
from kfm_mlflow.care.cells import cell_side_km
from kfm_mlflow.care.passages import KM_PER_DEGREE
from kfm_mlflow.focus.answers import FUSION_DIMENSION
from kfm_mlflow.focus.columns import DOMAINS
from kfm_mlflow.focus.fusion import measure_fusion
from kfm_mlflow.focus.lexicon import build_lexicon
from kfm_mlflow.release.bundle import FOCUS_ITEM_PATH

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from focus_mode.model import FocusModel
    from focus_mode.train import Trained
    from focus_mode.world import World
    from kfm_mlflow.care.regions import RegionSet
    from kfm_mlflow.focus.lexicon import Lexicon

    Rows = NDArray[np.float32]

MODEL_FILE = "focus_model.pt"
_EXPLAINED_COUNT = 48
_NOTES = (
    "Cells that a sovereign region touches were not trained on and are not listed.",
    "Stories about such places are generalised to the region's ceiling, or withheld.",
)


@dataclass(frozen=True)
class Draft:
    """What is about to be composed and signed.

    Attributes:
        model: On the CPU, in evaluation mode.
        world: What it was trained on, without reserved cells.
        baseline_rows: One row of every cell, of a month drawn for it: what explanations and the
            drift baseline are made of.
        baseline_cells: Their cells.
        lexicon: What stories are told with.
        cells: ``context_cells.json``.
        seed: The one seed.
        care: Parts of the CARE block that differ from the family's default.
        replaced: Path -> what stands there in place of what would be composed.
    """

    model: FocusModel
    world: World
    baseline_rows: Rows
    baseline_cells: tuple[str, ...]
    lexicon: Lexicon
    cells: Mapping[str, Any]
    seed: int
    care: Mapping[str, Any] = field(default_factory=dict)
    replaced: Mapping[str, Any] = field(default_factory=dict)

    @property
    def predict(self) -> Callable[[Rows], Rows]:
        """The model on arrays."""
        return predict_with(self.model)

    @property
    def cell_size_deg(self) -> float:
        """Size of an answered cell, in degrees."""
        return cell_side_km(int(self.cells["resolution"])) / KM_PER_DEGREE

    def contents(self, regions: RegionSet, now: datetime | None = None) -> Contents:
        """Return what the release will hold beside what every release does.

        Args:
            regions: Whose rules the map of attributions keeps.
            now: The instant whose rules hold (aware); None takes the clock's.
        """
        trained = self.world.rows[~self.world.is_held_out]
        explained = explain_focus(
            self.model,
            self.baseline_rows[:_EXPLAINED_COUNT],
            self.baseline_cells[:_EXPLAINED_COUNT],
            regions=regions,
            now=now or datetime.now(UTC),
            seed=self.seed,
        )
        return Contents(
            model_file=MODEL_FILE,
            item_path=FOCUS_ITEM_PATH,
            parts=self.model.parts(),
            documents={
                "fusion_weights.json": fusion_weights(
                    measure_fusion(self.predict, trained), seed=self.seed
                ),
                "storynode_lexicon.json": self.lexicon.to_dict(),
                "context_cells.json": dict(self.cells),
                **explained.documents,
                "xai/summary.json": xai_summary(explained.documents[DOMAINS_PATH]),
                **self.replaced,
            },
            domains=DOMAINS,
            fusion_dimension=FUSION_DIMENSION,
            sovereignty_notes=_NOTES,
        )


def draft_of(trained: Trained, whole: World, kept: World, regions: RegionSet, seed: int) -> Draft:
    """Return the draft of an honest release.

    Args:
        trained: The model.
        whole: All rows, reserved cells included, so that they can be counted.
        kept: Those that it was trained on and is validated on.
        regions: The policy's.
        seed: The one seed.
    """
    chosen = one_row_per_cell(kept, seed=seed)
    return Draft(
        model=trained.model,
        world=kept,
        baseline_rows=kept.rows[chosen],
        baseline_cells=tuple(kept.cells[k] for k in chosen),
        lexicon=build_lexicon(kept.thresholds),
        cells=context_cells(whole, regions),
        seed=seed,
    )


def one_row_per_cell(world: World, *, seed: int) -> NDArray[np.int64]:
    """Return one row of every cell, of a month drawn for it: what a release is asked about.

    Places that were not trained on are among them: an endpoint is asked about all.

    Args:
        world: From where.
        seed: Of the draw.
    """
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    order = rng.permutation(len(world.rows))
    _, first = np.unique(np.array(world.cells)[order], return_index=True)
    drawn: NDArray[np.int64] = order[np.sort(first)]
    return drawn


def predict_with(model: torch.nn.Module) -> Callable[[Rows], Rows]:
    """Return a model's inference on arrays."""
    return partial(_answer, model)


def _answer(model: torch.nn.Module, rows: Rows) -> Rows:
    with torch.no_grad():
        answer: Rows = model(torch.from_numpy(np.ascontiguousarray(rows))).numpy()
    return answer
