"""A bucket whose fluxes a small network decides, so that water is never made or lost.

Each day snow falls, melts and runs into the soil; the network sees how full the soil is, what
runs in and how warm it is, and answers with the share of the soil's water that evaporates and the
shares of inflow and soil that run off. Storage is what is left: P = ET + Q + dS holds by
construction up to rounding. In the manner of differentiable parameter learning (Feng, Liu, Lawson
and Shen, "Differentiable, learnable, regionalized process-based models with multiphysical outputs
can approach state-of-the-art hydrologic prediction accuracy", Water Resources Research, 2022).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kfm_mlflow.authoring.fitting import Fit, fit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kfm_mlflow.authoring.fitting import History

WINDOW_DAYS = 60
ANSWERED_DAYS = 30
OUTPUTS = ("soil_mm", "runoff_mm", "et_mm", "storage_mm")
_CAPACITY_MM = 160.0
_FALLS_MM, _WARM_C = 20.0, 20.0


class BucketNetwork(nn.Module):
    """Turns [n, 60, 2] (precipitation mm, temperature degC) into [n, 30, 4] for the last 30 days.

    The four are soil moisture and storage (soil and snow) at the end of the day in mm, runoff and
    evapotranspiration of the day in mm.

    Args:
        width: Hidden units of the flux network.
    """

    begin_at: Tensor
    scale: Tensor

    def __init__(self, *, width: int = 24) -> None:
        super().__init__()
        self.width = width
        self.flux = nn.Sequential(
            nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3)
        )
        self.start = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))
        self.melt_per_k = nn.Parameter(torch.tensor(1.0))
        # Where the shares begin: little evaporates and drains in a day, a fourth of rain runs off.
        self.register_buffer("begin_at", torch.tensor([3.0, 1.0, 3.0]))
        self.register_buffer("scale", torch.tensor([_FALLS_MM / 8.0, _WARM_C] * 3))

    def forward(self, rows: Tensor) -> Tensor:
        """Return the last 30 days; storage that the window does not show is estimated."""
        soil, snow = self._begin(rows)
        days = []
        for day in range(WINDOW_DAYS):
            falls, warm = rows[:, day, :1].clamp_min(0.0), rows[:, day, 1:]
            cold = (warm < 0.0).to(rows.dtype)
            melt = torch.minimum(snow, torch.relu(self.melt_per_k) * torch.relu(warm))
            snow = snow + cold * falls - melt
            inflow = (1.0 - cold) * falls + melt
            seen = torch.cat([soil / _CAPACITY_MM, inflow / _FALLS_MM, warm / _WARM_C], dim=1)
            share = torch.sigmoid(self.flux(seen) - self.begin_at)
            et = share[:, :1] * soil
            runoff = share[:, 1:2] * inflow + share[:, 2:] * (soil - et)
            soil = soil + inflow - et - runoff
            if day >= WINDOW_DAYS - ANSWERED_DAYS:
                days.append(torch.cat([soil, runoff, et, soil + snow], dim=1))
        return torch.stack(days, dim=1)

    def _begin(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate soil and snow before the window from its first month and its mean."""
        first, whole = rows[:, :30].mean(dim=1), rows.mean(dim=1)
        early = rows[:, :10].mean(dim=1)
        seen = self.start(torch.cat([first, whole, early], dim=1) / self.scale)
        soil = _CAPACITY_MM * torch.sigmoid(seen[:, :1])
        return soil, torch.relu(seen[:, 1:])


def train_bucket(
    rows: NDArray[np.float32],
    targets: NDArray[np.float32],
    config: Fit,
    *,
    width: int,
) -> tuple[nn.Module, History, float]:
    """Fit to observed soil moisture, runoff and evapotranspiration.

    Args:
        rows: [n, 60, 2].
        targets: [n, 30, 4]; each quantity counts in units of its own standard deviation.
        config: How.
        width: Of the flux network.

    Returns:
        As :func:`fitting.fit`.
    """
    spread = torch.from_numpy(targets.std(axis=(0, 1)))

    def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        inputs, wanted = batch
        error: Tensor = (model(inputs) - wanted) / spread.to(inputs.device)
        return error.square().mean()

    tensors = (torch.from_numpy(rows), torch.from_numpy(targets))
    return fit(lambda: BucketNetwork(width=width), loss, tensors, config)
