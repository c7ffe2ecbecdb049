"""The probability of a tornado day as a smooth surface over place and season.

logit p = season(month) + place(lat, lon) + season-by-place, where the season is two harmonics,
the place a sum of Gaussian bumps on a grid a degree apart, and the last term lets the peak move
across the state (it comes later in the north). A penalty on all but the season keeps what few
records say from being learned by heart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hazard.records import BBOX
from kfm_mlflow.authoring.fitting import Fit, fit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kfm_mlflow.authoring.fitting import History

_BUMP_WIDTH_DEG = 0.9
_HARMONIC_COUNT = 2
PENALTY = 0.01
"""Weight of the squared place coefficients against the mean deviance per cell-month."""


class HazardModel(nn.Module):
    """Turns [n, 3] (degrees north, degrees east, month 1 to 12) into [n, 1] probabilities per day."""

    centres: Tensor

    def __init__(self, *, spacing_deg: float = 1.0) -> None:
        super().__init__()
        west, south, east, north = BBOX
        lat = torch.arange(south, north + spacing_deg / 2, spacing_deg)
        lon = torch.arange(west + 0.025, east + spacing_deg, spacing_deg)
        self.spacing_deg = spacing_deg
        self.register_buffer("centres", torch.cartesian_prod(lat, lon))
        self.season = nn.Linear(2 * _HARMONIC_COUNT, 1)
        self.place = nn.Linear(len(self.centres), 1, bias=False)
        self.shift = nn.Linear(2 * 2, 1, bias=False)
        for layer in (self.season, self.place, self.shift):
            nn.init.zeros_(layer.weight)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the probability per day; finite and in (0, 1) for finite rows."""
        where = rows[:, :2]
        phase = rows[:, 2:] * (2.0 * torch.pi / 12.0)
        turns = torch.arange(1, _HARMONIC_COUNT + 1, dtype=rows.dtype, device=rows.device)
        waves = torch.cat([torch.sin(phase * turns), torch.cos(phase * turns)], dim=1)
        offset = (where[:, None, :] - self.centres[None]) / _BUMP_WIDTH_DEG
        bumps = torch.exp(-0.5 * offset.square().sum(dim=2))
        first = torch.cat([torch.sin(phase), torch.cos(phase)], dim=1)
        west, south, east, north = BBOX
        unit = torch.stack(
            [
                (rows[:, 0] - south) / (north - south) - 0.5,
                (rows[:, 1] - west) / (east - west) - 0.5,
            ],
            dim=1,
        )
        mixed = (first[:, :, None] * unit[:, None, :]).flatten(1)
        log_odds = self.season(waves) + self.place(bumps) + self.shift(mixed)
        # Not sigmoid: of rare events runtimes compute that to an absolute precision only.
        return torch.reciprocal(1.0 + torch.exp(-log_odds))

    def penalty(self) -> Tensor:
        """Return the sum of squares of what places are told apart by."""
        return self.place.weight.square().sum() + self.shift.weight.square().sum()


def train_hazard(
    rows: NDArray[np.float32],
    hit_count: NDArray[np.float32],
    day_count: NDArray[np.float32],
    config: Fit,
) -> tuple[nn.Module, History, float]:
    """Fit the surface by maximum likelihood of binomial counts, penalised.

    Args:
        rows: [n, 3]: latitude, longitude, month.
        hit_count: [n, 1]: tornado days.
        day_count: [n, 1]: days looked at.
        config: All rows in every step.

    Returns:
        As :func:`fitting.fit`; the loss is the mean deviance of a cell-month.
    """
    base = float(hit_count.sum() / day_count.sum())

    def build() -> HazardModel:
        model = HazardModel()
        nn.init.constant_(model.season.bias, float(torch.logit(torch.tensor(base))))
        return model

    def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        place, hits, days = batch
        chance = model(place).clamp(1e-7, 1 - 1e-7)
        misses = days - hits
        told = -(hits * torch.log(chance) + misses * torch.log1p(-chance)).mean()
        assert isinstance(model, HazardModel)
        return told + PENALTY * model.penalty() / len(place)

    return fit(build, loss, tuple(map(torch.from_numpy, (rows, hit_count, day_count))), config)
