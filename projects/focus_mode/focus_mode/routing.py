"""The context router and the cross-domain fusion: from five tokens to weights and one vector."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from kfm_mlflow.focus.answers import FUSION_DIMENSION
from kfm_mlflow.focus.columns import DOMAINS

if TYPE_CHECKING:
    from torch import Tensor

_COUNT = len(DOMAINS)
MAX_CROSS_SCORE = 0.25
"""How far the other domains can move a domain's score, either way."""
MAX_CONTAMINATION = math.tanh(MAX_CROSS_SCORE)
"""What follows for shares; see :class:`ContextRouter`."""


class ContextRouter(nn.Module):
    """Weigh the domains: tokens [n, 5, width] to weights [n, 5] that sum to 1.

    A domain is scored by its own token; the others add at most :data:`MAX_CROSS_SCORE` either way.
    When one domain's values change, the scores of two others therefore move apart by at most four
    times that, and no share among the others by more than tanh of it, whatever the values are.
    """

    def __init__(self, *, width: int, hidden: int) -> None:
        super().__init__()
        self.own = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, 1))
            for _ in DOMAINS
        )
        self.cross = nn.Linear(_COUNT * width, _COUNT)

    def scores(self, tokens: Tensor) -> Tensor:
        """Return the logarithms of the weights up to a constant, [n, 5]."""
        own = torch.cat([score(tokens[:, d]) for d, score in enumerate(self.own)], dim=1)
        return own + MAX_CROSS_SCORE * torch.tanh(self.cross(tokens.flatten(1)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the weights."""
        return self.scores(tokens).softmax(dim=1)


class CrossDomainFusion(nn.Module):
    """Let the domains attend to each other and make one vector of them.

    Scaled dot-product attention (Vaswani et al. 2017) of the five tokens with several heads, added
    to the tokens; each token is then scaled by its context weight, half of its length kept, so
    that no domain is lost from the vector; a two-layer projection and a layer norm follow.
    """

    def __init__(self, *, width: int, head_count: int, hidden: int) -> None:
        super().__init__()
        if width % head_count:
            raise ValueError(f"width {width} is not a multiple of head_count {head_count}")
        self.head_count = head_count
        self.place = nn.Parameter(torch.randn(_COUNT, width) / math.sqrt(width))
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.projection = nn.Sequential(
            nn.Linear(_COUNT * width, hidden),
            nn.GELU(),
            nn.Linear(hidden, FUSION_DIMENSION),
            nn.LayerNorm(FUSION_DIMENSION),
        )

    def forward(self, tokens: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse.

        Args:
            tokens: [n, 5, width].
            weights: [n, 5], summing to 1.

        Returns:
            The vectors [n, 2048]; the mean entropy of the attention over its largest, [n, 1].
        """
        placed = tokens + self.place
        width = tokens.shape[2] // self.head_count
        heads = self.queries_keys_values(placed).unflatten(2, (3, self.head_count, width))
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        attention = (query @ key.transpose(2, 3) / math.sqrt(width)).softmax(dim=3)
        attended = (attention @ value).transpose(1, 2).flatten(2)
        mixed = placed + self.joined(attended)
        scaled = mixed * (0.5 + 0.5 * _COUNT * weights)[:, :, None]
        vector: Tensor = self.projection(scaled.flatten(1))
        entropy = -(attention * attention.clamp_min(1e-12).log()).sum(3).mean((1, 2))
        return vector, (entropy / math.log(_COUNT))[:, None]
