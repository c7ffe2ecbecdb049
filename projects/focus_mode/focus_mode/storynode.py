"""Story Node v3: the part of the model that says what a story should tell, and in which band.

A band is an ordered answer, so each told column has a proportional-odds head (McCullagh 1980): two
cut points on its own normalised value and one steepness. Relevance reads the fused vector and,
through the same cuts, which bands the row is in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from kfm_mlflow.focus.answers import BANDS, FUSION_DIMENSION
from kfm_mlflow.focus.columns import COLUMN_NAMES, SITUATIONS, TOLD
from kfm_mlflow.focus.lexicon import build_lexicon
from kfm_mlflow.focus.story import SIGNS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from focus_mode.world import World

_TOLD_COUNT = len(TOLD)
_ORDINARY = ("temperature_c", "precipitation_mm")
_CONTEXT_WIDTH = 24
_HIDDEN_WIDTH = 48
_USUAL_CUT = 0.84  # the 20th and 80th percentiles of a normal distribution
_STEEPNESS = 4.0
_PACE = 8.0  # a cut has further to go than a weight, and the optimiser's steps are alike for all
_BAND_WEIGHT = 0.5


@dataclass(frozen=True)
class StoryTargets:
    """What a story of each row should tell.

    Attributes:
        relevance: float32 [n, 14], 1 for what is worth telling: the signs of the row's true
            situation that the row shows; temperature and precipitation where it shows none.
        bands: int64 [n, 14], index in :data:`~kfm_mlflow.focus.answers.BANDS`.
    """

    relevance: NDArray[np.float32]
    bands: NDArray[np.int64]


class StoryDecoder(nn.Module):
    """Decode the fused vector and the row into relevance and bands."""

    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        places = [COLUMN_NAMES.index(column.name) for column in TOLD]
        self.register_buffer("places", torch.tensor(places))
        self.context = nn.Linear(FUSION_DIMENSION, _CONTEXT_WIDTH)
        usual = torch.tensor([-_USUAL_CUT, _USUAL_CUT]) / _PACE
        self.cuts = nn.Parameter(usual.repeat(_TOLD_COUNT, 1))
        self.steepness = nn.Parameter(torch.full((_TOLD_COUNT,), _STEEPNESS).log() / _PACE)
        self.relevance = nn.Sequential(
            nn.Linear(_CONTEXT_WIDTH + _TOLD_COUNT * len(BANDS), _HIDDEN_WIDTH),
            nn.GELU(),
            nn.Linear(_HIDDEN_WIDTH, _TOLD_COUNT),
        )

    def forward(self, fused: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Decode n answers.

        Args:
            fused: float32 [n, 2048].
            rows: float32 [n, 36], normalised.

        Returns:
            Relevance [n, 14] in 0..1, and band logits [n, 14, 3].
        """
        context = torch.tanh(self.context(fused))
        values = rows[:, self.places]
        steepness, cuts = (_PACE * self.steepness).exp(), _PACE * self.cuts
        low = steepness * (cuts[:, 0] - values)
        high = steepness * (values - cuts[:, 1])
        bands = torch.stack([low, torch.zeros_like(values), high], dim=2)
        seen = torch.cat([context, bands.softmax(dim=2).flatten(1)], dim=1)
        return torch.sigmoid(self.relevance(seen)), bands


def story_loss(
    relevance: Tensor, bands: Tensor, true_relevance: Tensor, true_bands: Tensor
) -> Tensor:
    """Return how far decoded stories are from what they should tell.

    Args:
        relevance: [n, 14] in 0..1, as decoded.
        bands: Logits [n, 14, 3], as decoded.
        true_relevance: [n, 14], 0 or 1.
        true_bands: int64 [n, 14].

    Returns:
        Mean cross-entropy of relevance plus half of that of bands.
    """
    told = nn.functional.binary_cross_entropy(relevance, true_relevance)
    banded = nn.functional.cross_entropy(bands.flatten(0, 1), true_bands.flatten())
    return told + _BAND_WEIGHT * banded


def targets(world: World) -> StoryTargets:
    """Return what a story of each row of a world should tell, by its thresholds and its truth."""
    lexicon = build_lexicon(world.thresholds)
    bands = np.empty((len(world.rows), _TOLD_COUNT), np.int64)
    for j, told in enumerate(lexicon.told):
        stated = np.round(world.rows[:, told.index].astype(np.float64), told.decimals)
        bands[:, j] = 1 + (stated > told.high).astype(np.int64) - (stated < told.low)
    signs = np.array(
        [
            [[(column.name, band) in SIGNS[situation] for band in BANDS] for column in TOLD]
            for situation in SITUATIONS
        ]
    )
    relevance = signs[world.situation[:, None], np.arange(_TOLD_COUNT)[None], bands]
    ordinary = np.array([column.name in _ORDINARY for column in TOLD])
    relevance = np.where(relevance.any(axis=1, keepdims=True), relevance, ordinary)
    return StoryTargets(relevance.astype(np.float32), bands)
