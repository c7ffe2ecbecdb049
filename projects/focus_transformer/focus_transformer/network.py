"""The transformer: six months in, the probability of a dry spell out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from focus_transformer.sequences import MONTHS
from kfm_mlflow.focus.columns import COLUMNS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WIDTH_IN = len(COLUMNS)


class Block(nn.Module):
    """Pre-norm self-attention over months and a feed-forward layer (Vaswani et al., 2017)."""

    def __init__(self, width: int, head_count: int) -> None:
        super().__init__()
        self.head_count = head_count
        self.before_attention = nn.LayerNorm(width)
        self.before_feed = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, months: Tensor) -> tuple[Tensor, Tensor]:
        """Return [n, 6, width] and the attention [n, heads, 6, 6]."""
        length, width = months.shape[1:]
        parts = self.query_key_value(self.before_attention(months))
        query, key, value = (
            part.reshape(-1, length, self.head_count, width // self.head_count).transpose(1, 2)
            for part in parts.chunk(3, dim=-1)
        )
        scale = 1.0 / math.sqrt(width // self.head_count)
        attention = torch.softmax(query @ key.transpose(-1, -2) * scale, dim=-1)
        seen = (attention @ value).transpose(1, 2).reshape(-1, length, width)
        months = months + self.out(seen)
        return months + self.feed(self.before_feed(months)), attention


class FocusTransformer(nn.Module):
    """Turns float32 [n, 6, 36] in physical units into the probability of a dry spell, [n, 1].

    Args:
        width: Of a month's vector.
        block_count: Blocks.
        head_count: Attention heads; divides ``width``.
    """

    center: Tensor
    spread: Tensor

    def __init__(self, *, width: int = 48, block_count: int = 2, head_count: int = 4) -> None:
        super().__init__()
        self.config = {"width": width, "block_count": block_count, "head_count": head_count}
        self.register_buffer("center", torch.zeros(WIDTH_IN))
        self.register_buffer("spread", torch.ones(WIDTH_IN))
        # A column and whether it was hidden: pretraining hides some, the model is told which.
        self.enter = nn.Linear(2 * WIDTH_IN, width)
        self.position = nn.Parameter(torch.zeros(MONTHS, width))
        self.blocks = nn.ModuleList(Block(width, head_count) for _ in range(block_count))
        self.norm = nn.LayerNorm(width)
        self.restore = nn.Linear(width, WIDTH_IN)
        self.head = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 1))

    def learn_scale(self, rows: NDArray[np.float32]) -> None:
        """Take center and spread of each column from training sequences [n, 6, 36]."""
        flat = torch.from_numpy(rows).reshape(-1, WIDTH_IN).double()
        self.center.copy_(flat.mean(dim=0))
        self.spread.copy_(flat.std(dim=0, unbiased=False).clamp_min(1e-6))

    def standardised(self, rows: Tensor) -> Tensor:
        """Return rows in units of each column's spread."""
        return (rows - self.center) / self.spread

    def encode(self, months: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return [n, 6, width] and the last block's attention.

        Args:
            months: Standardised, [n, 6, 36].
            hidden: 1 where a value is hidden, of the same shape.
        """
        vector = self.enter(torch.cat([months * (1.0 - hidden), hidden], dim=-1)) + self.position
        attention = vector
        for block in self.blocks:
            vector, attention = block(vector)
        return self.norm(vector), attention

    def summary(self, months: Tensor) -> Tensor:
        """Return [n, 2 width]: the last month's vector beside the mean of all."""
        vector, _ = self.encode(months, torch.zeros_like(months))
        return torch.cat([vector[:, -1], vector.mean(dim=1)], dim=-1)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the probability of a dry spell, [n, 1]."""
        return torch.sigmoid(self.head(self.summary(self.standardised(rows))))
