"""From a domain's columns to its token: what the five domains know, each by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from kfm_mlflow.focus.columns import COLUMNS, DOMAINS, domain_slice

if TYPE_CHECKING:
    from torch import Tensor

_WAVES = (1.0, 2.0, 3.0)
_MAX_DEVIATION = 6.0
_LEAST = 0.02


class Scaling(nn.Module):
    """From columns in their units to numbers of about unit size.

    Each column is standardised by its mean and deviation in the training rows and cut at six
    deviations. For the encoders its logarithm above its least possible value stands beside it,
    standardised too: rain, slopes and runoff are spread over orders of magnitude.
    """

    mean: Tensor
    std: Tensor
    least: Tensor
    log_mean: Tensor
    log_std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("least", torch.tensor([float(c.low) for c in COLUMNS]))
        for name in ("mean", "log_mean"):
            self.register_buffer(name, torch.zeros(len(COLUMNS)))
        for name in ("std", "log_std"):
            self.register_buffer(name, torch.ones(len(COLUMNS)))

    def learn(self, rows: Tensor) -> None:
        """Take the constants from training rows, float32 [n, 36]."""
        exact = rows.double()
        self.mean.copy_(exact.mean(0))
        self.std.copy_(_deviation(exact))
        logs = self._logs(rows).double()
        self.log_mean.copy_(logs.mean(0))
        self.log_std.copy_(_deviation(logs))

    def forward(self, rows: Tensor) -> Tensor:
        """Return the standardised columns, [n, 36]."""
        return _cut((rows - self.mean) / self.std)

    def features(self, rows: Tensor) -> Tensor:
        """Return the standardised columns and logarithms, [n, 2, 36]."""
        logs = _cut((self._logs(rows) - self.log_mean) / self.log_std)
        return torch.stack([self(rows), logs], dim=1)

    def _logs(self, rows: Tensor) -> Tensor:
        above = (rows - self.least) / (self.mean - self.least).clamp_min(_LEAST)
        return (above.clamp_min(0) + _LEAST).log()


class DomainEncoder(nn.Module):
    """A context model: the features of a domain's columns, [n, 2, k], to a token [n, width]."""

    def __init__(self, feature_count: int, *, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(feature_count, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, width),
            nn.LayerNorm(width),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return the token of each row."""
        token: Tensor = self.layers(features.flatten(1))
        return token


class GeoEncoder(DomainEncoder):
    """The geo-awareness engine: place and terrain, [n, 2, 10], to a token [n, width].

    Latitude and longitude, the first two columns, also come as a few sines and cosines of low
    frequency (Tancik et al. 2020): borders of regions and watersheds bend.
    """

    waves: Tensor

    def __init__(self, feature_count: int, *, width: int, hidden: int) -> None:
        super().__init__(feature_count + 4 * len(_WAVES), width=width, hidden=hidden)
        self.register_buffer("waves", torch.tensor(_WAVES), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return the token of each row."""
        turns = (features[:, 0, :2, None] * self.waves).flatten(1)
        return super().forward(torch.cat([features.flatten(1), turns.sin(), turns.cos()], dim=1))


class DomainEncoders(nn.Module):
    """All five side by side: features [n, 2, 36] to tokens [n, 5, width]."""

    def __init__(self, *, width: int, hidden: int) -> None:
        super().__init__()
        self.width = width
        self.slices: dict[str, slice] = {domain: domain_slice(domain) for domain in DOMAINS}
        self.of = nn.ModuleDict(
            {
                domain: (GeoEncoder if domain == "spatial" else DomainEncoder)(
                    2 * (where.stop - where.start), width=width, hidden=hidden
                )
                for domain, where in self.slices.items()
            }
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return the tokens, in the order of the domains."""
        tokens = [self.of[domain](features[..., where]) for domain, where in self.slices.items()]
        return torch.stack(tokens, dim=1)


def _deviation(values: Tensor) -> Tensor:
    deviation = values.std(0, correction=0)
    return torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))  # noqa: PLR2004 constant


def _cut(values: Tensor) -> Tensor:
    return values.clamp(-_MAX_DEVIATION, _MAX_DEVIATION)
