"""The Focus Mode model: rows [n, 36] in, everything that is answered [n, 2121] out.

Five encoders make a token of each domain, the router weighs the tokens, cross-domain attention
fuses them into a vector of 2,048 numbers, and two heads read the vector: which situation it is,
and what a story should say. What a domain did for the answer is found by leaving it out: its token
is replaced by the token of the mean training row, and the vector is fused again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from focus_mode.encoders import DomainEncoders, Scaling
from focus_mode.routing import ContextRouter, CrossDomainFusion
from focus_mode.storynode import StoryDecoder
from kfm_mlflow.focus.answers import FUSION_DIMENSION
from kfm_mlflow.focus.columns import DOMAINS, SITUATIONS

if TYPE_CHECKING:
    from torch import Tensor

_COUNT = len(DOMAINS)
_LEAST_MOVEMENT = 1e-3


@dataclass(frozen=True)
class FocusConfig:
    """From what a :class:`FocusModel` is built; its numbers are in its state.

    Attributes:
        width: Of a token.
        hidden: Of the layers inside encoders and router.
        fusion_hidden: Of the layer before the fused vector.
        head_count: Of the attention; divides ``width``.
    """

    width: int = 48
    hidden: int = 64
    fusion_hidden: int = 128
    head_count: int = 4

    @property
    def said(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


class FocusModel(nn.Module):
    """Answer rows; see the module and :mod:`kfm_mlflow.focus.answers`.

    Args:
        config: What it is built from; keywords of :class:`FocusConfig`.
    """

    kept: Tensor

    def __init__(self, **config: Any) -> None:
        super().__init__()
        sizes = FocusConfig(**config)
        self.scaling = Scaling()
        self.encoders = DomainEncoders(width=sizes.width, hidden=sizes.hidden)
        self.router = ContextRouter(width=sizes.width, hidden=sizes.hidden)
        self.fusion = CrossDomainFusion(
            width=sizes.width, head_count=sizes.head_count, hidden=sizes.fusion_hidden
        )
        self.situation = nn.Linear(FUSION_DIMENSION, len(SITUATIONS))
        self.story = StoryDecoder()
        # Which tokens stand when each domain in turn is left out.
        kept = ~torch.eye(_COUNT, dtype=torch.bool)
        self.register_buffer("kept", kept[:, :, None], persistent=False)

    def parts(self) -> dict[str, nn.Module]:
        """Return the modules that are released beside the whole, by file name."""
        return {"context_router.pt": self.router, "storynode_v3.pt": self.story}

    def tokens(self, rows: Tensor) -> Tensor:
        """Encode rows in their units: [n, 36] to [n, 5, width]."""
        encoded: Tensor = self.encoders(self.scaling.features(rows))
        return encoded

    def silent_tokens(self) -> Tensor:
        """Return the tokens of the mean training row, [1, 5, width]."""
        return self.tokens(self.scaling.mean[None])

    def fuse(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights [n, 5], vectors [n, 2048] and attention entropy [n, 1] of tokens."""
        weights = self.router(tokens)
        vectors, entropy = self.fusion(tokens, weights)
        return weights, vectors, entropy

    def forward(self, rows: Tensor) -> Tensor:
        """Answer rows.

        Args:
            rows: float32 [n, 36], in the units of the columns.

        Returns:
            float32 [n, 2121], the parts in their order.
        """
        tokens = self.tokens(rows)
        weights, vectors, entropy = self.fuse(tokens)
        logits = self.situation(vectors)
        relevance, bands = self.story(vectors, self.scaling(rows))
        return torch.cat(
            [
                weights,
                self._attribution(tokens, logits),
                logits.softmax(dim=1),
                relevance,
                bands.softmax(dim=2).flatten(1),
                entropy,
                vectors,
            ],
            dim=1,
        )

    def _attribution(self, tokens: Tensor, logits: Tensor) -> Tensor:
        """Return the share of each domain in the logit of the likeliest situation, [n, 5]."""
        left_out = torch.where(self.kept, tokens[:, None], self.silent_tokens()[:, None])
        _, vectors, _ = self.fuse(left_out.flatten(0, 1))
        others = self.situation(vectors).unflatten(0, (-1, _COUNT))
        likeliest = logits.argmax(dim=1)[:, None, None].expand(-1, _COUNT, 1)
        moved = (logits[:, None].gather(2, likeliest[:, :1]) - others.gather(2, likeliest))[..., 0]
        total = moved.abs().sum(1, keepdim=True)
        # Under that it is rounding that moved.
        return torch.where(total > _LEAST_MOVEMENT, moved.abs() / total.clamp_min(1e-30), 0.0)
