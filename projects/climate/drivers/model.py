"""Leading EOFs of the large-scale fields, and a small network from their amplitudes to a region.

The EOFs are those of the training rows alone and are constants of the graph: nothing of a held-out
day is in them. A field is standardised by its training mean and deviation per channel.

The answer is a line plus what a network of bounded units adds to it. The line starts as the
regression on the amplitudes, the addition at nothing. A bounded network alone says of a day
stronger than all that it learned from no more than of the strongest of them: it loses the extremes.
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


class DriverNetwork(nn.Module):
    """Turns fields [n, channel, lat, lon] into [n, k] regional quantities, physical units.

    Args:
        shape: (channel, lat, lon) of a row.
        eof_count: Leading EOFs kept.
        target_count: k.
        width: Hidden units.
    """

    mean: Tensor
    spread: Tensor
    eofs: Tensor
    eof_spread: Tensor
    target_mean: Tensor
    target_spread: Tensor

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        eof_count: int = 10,
        target_count: int = 2,
        width: int = 32,
    ) -> None:
        super().__init__()
        size = shape[0] * shape[1] * shape[2]
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("spread", torch.ones(shape[0], 1, 1))
        self.register_buffer("eofs", torch.zeros(size, eof_count))
        self.register_buffer("eof_spread", torch.ones(eof_count))
        self.register_buffer("target_mean", torch.zeros(target_count))
        self.register_buffer("target_spread", torch.ones(target_count))
        self.head = nn.Sequential(
            nn.Linear(eof_count, width),
            nn.Tanh(),
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Linear(width, target_count),
        )
        self.line = nn.Parameter(torch.zeros(eof_count, target_count))
        for zero in self.head[-1].parameters():
            nn.init.zeros_(zero)

    def learn_eofs(self, rows: Floats, targets: Floats) -> None:
        """Take mean, spread, EOFs (singular vectors, sign fixed) and regression of training rows."""
        values = rows.astype(np.float64)
        mean = values.mean(axis=0)
        spread = (values - mean).std(axis=(0, 2, 3))[:, None, None]
        flat = ((values - mean) / spread).reshape(len(values), -1)
        covariance = flat.T @ flat / len(flat)
        _, vectors = np.linalg.eigh(covariance)
        leading = vectors[:, ::-1][:, : self.eofs.shape[1]]
        # A singular vector's sign is arbitrary: the largest entry is made positive.
        sign = np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(leading.shape[1])])
        leading = leading * sign
        amplitudes = flat @ leading
        amplitudes /= amplitudes.std(axis=0)
        unit = (targets - targets.mean(axis=0)) / targets.std(axis=0)
        # Amplitudes of EOFs are uncorrelated: the regression on all is that on each.
        line = amplitudes.T @ unit / len(unit)
        for name, value in (
            ("mean", mean),
            ("spread", spread),
            ("eofs", leading),
            ("eof_spread", (flat @ leading).std(axis=0)),
            ("target_mean", targets.mean(axis=0)),
            ("target_spread", targets.std(axis=0)),
            ("line", line),
        ):
            getattr(self, name).data.copy_(torch.from_numpy(np.asarray(value, np.float32)))

    def forward(self, rows: Tensor) -> Tensor:
        """Return the regional quantities."""
        flat = ((rows - self.mean) / self.spread).flatten(1)
        # A sum of hundreds of terms that nearly cancel: in double, every runtime agrees on it.
        amplitudes = (flat.double() @ self.eofs.double()).float() / self.eof_spread
        said = amplitudes @ self.line + self.head(amplitudes)
        answer: Tensor = said * self.target_spread + self.target_mean
        return answer


def train_drivers(
    rows: Floats, targets: Floats, config: Fit, *, eof_count: int, width: int
) -> tuple[nn.Module, History, float]:
    """Fit to regional quantities, each in units of its own training deviation.

    Args:
        rows: [n, channel, lat, lon].
        targets: [n, k].
        config: How.
        eof_count: Leading EOFs kept.
        width: Hidden units.
    """
    spread = torch.from_numpy(targets.std(axis=0))

    def build() -> DriverNetwork:
        shape = (rows.shape[1], rows.shape[2], rows.shape[3])
        model = DriverNetwork(
            shape=shape, eof_count=eof_count, target_count=targets.shape[1], width=width
        )
        model.learn_eofs(rows, targets)
        return model

    def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        seen, wanted = batch
        error: Tensor = (model(seen) - wanted) / spread.to(seen.device)
        return error.square().mean()

    return fit(build, loss, (torch.from_numpy(rows), torch.from_numpy(targets)), config)
