"""Reconstruct a field from a few numbers, and say how much of it that does not explain.

A field's season (mean and two first harmonics per cell, from the training rows) is taken out, the
rest divided by its training deviation, squeezed through a bottleneck and spread again. The score
is the mean square of what is left: a field that obeys the relations between cells scores low
however far it is from the mean; one that breaks them scores high though no cell is unusual. What is left is
smoothed a little first: what one cell says and its neighbours do not is noise, and no anomaly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from kfm_mlflow.authoring.fitting import Fit, fit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kfm_mlflow.authoring.fitting import History

    Floats = NDArray[np.float32]


class Reconstruction(nn.Module):
    """Turns rows [n, 3, lat, lon] (field; sine and cosine of the season) into scores [n, 1].

    Args:
        shape: (lat, lon).
        code_size: Numbers that a field is squeezed into.
        width: Hidden units on both sides.
        smoothing_cells: Deviation of the Gaussian that smooths what is left, in cells; 0 is none.
    """

    season: Tensor
    spread: Tensor
    along_lat: Tensor
    along_lon: Tensor

    def __init__(
        self,
        *,
        shape: tuple[int, int],
        code_size: int = 12,
        width: int = 64,
        smoothing_cells: float = 0.0,
    ) -> None:
        super().__init__()
        size = shape[0] * shape[1]
        self.shape = shape
        for name, count in zip(("along_lat", "along_lon"), shape, strict=True):
            self.register_buffer(name, _gaussian(count, smoothing_cells), persistent=False)
        self.register_buffer("season", torch.zeros(3, *shape))
        self.register_buffer("spread", torch.ones(*shape))
        self.squeeze = nn.Linear(size, code_size)
        self.spread_out = nn.Linear(code_size, size)
        self.bend = nn.Sequential(nn.Linear(code_size, width), nn.Tanh(), nn.Linear(width, size))
        nn.init.zeros_(self.bend[2].weight)
        nn.init.zeros_(self.bend[2].bias)

    def learn_season(self, rows: Floats) -> None:
        """Take season and deviation per cell of training rows, by least squares."""
        season, spread = season_of(rows)
        self.season.copy_(torch.from_numpy(season.astype(np.float32)))
        self.spread.copy_(torch.from_numpy(spread.astype(np.float32)))

    def departures(self, rows: Tensor) -> Tensor:
        """Return [n, lat * lon]: deviations from the season in units of the usual one."""
        usual = self.season[0] + rows[:, 1] * self.season[1] + rows[:, 2] * self.season[2]
        return ((rows[:, 0] - usual) / self.spread).flatten(1)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the score; 0 is perfectly explained."""
        seen = self.departures(rows)
        code = self.squeeze(seen)
        left = (seen - self.spread_out(code) - self.bend(code)).unflatten(1, self.shape)
        smooth = self.along_lat @ left @ self.along_lon.T
        return smooth.square().flatten(1).mean(dim=1, keepdim=True)


def _gaussian(count: int, deviation: float) -> Tensor:
    """Return the matrix [count, count] that smooths a line; its rows sum to 1, at the ends, too."""
    if not deviation:
        return torch.eye(count)
    at = torch.arange(count, dtype=torch.float64)
    weight = torch.exp(-0.5 * ((at[:, None] - at[None, :]) / deviation).square())
    return (weight / weight.sum(dim=1, keepdim=True)).float()


def season_of(rows: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the season's three coefficients per cell [3, lat, lon] and the deviation [lat, lon]."""
    values = rows[:, 0].astype(np.float64)
    waves = rows[:, 1:, 0, 0].astype(np.float64)
    design = np.hstack([np.ones((len(values), 1)), waves])
    weight, *_ = np.linalg.lstsq(design, values.reshape(len(values), -1), rcond=None)
    left = values.reshape(len(values), -1) - design @ weight
    shape = values.shape[1:]
    return weight.reshape(3, *shape), left.std(axis=0).reshape(shape)


def train_reconstruction(
    rows: Floats, config: Fit, *, code_size: int, width: int, smoothing_cells: float = 0.0
) -> tuple[nn.Module, History, float]:
    """Fit to ordinary rows: the less is left of them, the better.

    Args:
        rows: [n, 3, lat, lon].
        config: How.
        code_size: Numbers that a field is squeezed into.
        width: Hidden units.
        smoothing_cells: As the model takes it.
    """

    def build() -> Reconstruction:
        shape = (rows.shape[2], rows.shape[3])
        model = Reconstruction(
            shape=shape, code_size=code_size, width=width, smoothing_cells=smoothing_cells
        )
        model.learn_season(rows)
        return model

    def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        score: Tensor = model(batch[0])
        return score.mean()

    return fit(build, loss, (torch.from_numpy(rows),), config)
