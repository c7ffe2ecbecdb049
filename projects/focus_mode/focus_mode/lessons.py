"""What each part of the model is taught: targets of a world's rows, and the losses on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from kfm_mlflow.focus.columns import DOMAINS, SITUATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from focus_mode.routing import ContextRouter
    from focus_mode.world import World

CLASSES = {"region": 6, "terrain": 4, "watershed": 6}
FORECASTS = {"climate": 2, "hydrology": 2, "hazards": 1}
"""How many of next month's numbers a domain tells."""

FEATURE_NOISE = 0.15
"""Standard deviation of what is added to features in training, so that few cells teach more."""


@dataclass(frozen=True)
class Targets:
    """What is true of rows.

    Attributes:
        situation: [n] int64.
        leading: [n] int64, index of the leading domain.
        classes: [n, 3] int64, in the order of :data:`CLASSES`.
        forecasts: [n, 5] float32: next month's numbers of the domains in the order of
            :data:`FORECASTS`, less what is usual in the season, over the deviation of that.
    """

    situation: Tensor
    leading: Tensor
    classes: Tensor
    forecasts: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return them as a batch carries them."""
        return self.situation, self.leading, self.classes, self.forecasts


def targets_of(world: World, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Targets:
    """Return the targets of the chosen rows, [n] of bool."""
    ahead = np.column_stack([world.next_climate, world.next_hydrology, world.next_hazard])[chosen]
    turn = 2.0 * np.pi * world.months[chosen] / 12.0
    season = np.column_stack([np.ones_like(turn), np.sin(turn), np.cos(turn)])
    ahead = ahead - season @ np.linalg.lstsq(season, ahead.astype(np.float64), rcond=None)[0]
    deviation = ahead.std(0)
    ahead = ahead / np.where(deviation > 0, deviation, 1)
    classes = np.column_stack([world.region, world.terrain, world.watershed])[chosen]
    return Targets(
        situation=torch.from_numpy(world.situation[chosen].astype(np.int64)),
        leading=torch.from_numpy(world.leading_domain[chosen].astype(np.int64)),
        classes=torch.from_numpy(classes.astype(np.int64)),
        forecasts=torch.from_numpy(ahead.astype(np.float32)),
    )


class DomainLesson(nn.Module):
    """One encoder and the heads that it is taught by; the heads are thrown away.

    A token must tell its columns again, whether its domain leads and in which situation, and what
    the domain is there to tell: classes of the place, or next month.
    """

    def __init__(self, encoder: nn.Module, domain: str, *, width: int, feature_count: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.index = DOMAINS.index(domain)
        self.again = nn.Linear(width, feature_count)
        self.leads = nn.Linear(width, 1)
        self.situation = nn.Linear(width, len(SITUATIONS))
        self.told = DomainHead(domain, width)

    def forward(self, features: Tensor, *truth: Tensor) -> Tensor:
        """Return the mean loss of a batch: features [n, 2, k] and :attr:`Targets.tensors`."""
        situation, leading, classes, forecasts = truth
        token = self.encoder(features + FEATURE_NOISE * torch.randn_like(features))
        is_leading = (leading == self.index).float()
        per_row = functional.cross_entropy(self.situation(token), situation, reduction="none")
        loss: Tensor = (
            functional.mse_loss(self.again(token), features.flatten(1))
            + functional.binary_cross_entropy_with_logits(self.leads(token)[:, 0], is_leading)
            + (per_row * is_leading).mean()
            + self.told(token, classes, forecasts).mean()
        )
        return loss


class DomainHead(nn.Module):
    """Linear head for what a domain is there to tell."""

    def __init__(self, domain: str, width: int) -> None:
        super().__init__()
        self.is_place = domain == "spatial"
        counts = list(FORECASTS.values())
        at = list(FORECASTS).index(domain) if domain in FORECASTS else len(counts)
        start = sum(counts[:at])
        self.which = slice(start, start + FORECASTS.get(domain, 0))
        size = sum(CLASSES.values()) if self.is_place else FORECASTS.get(domain, 0)
        self.head = nn.Linear(width, size) if size else None

    def forward(self, vectors: Tensor, classes: Tensor, forecasts: Tensor) -> Tensor:
        """Return the loss of each row, [n]; 0 for a domain that tells nothing of the kind."""
        if self.head is None:
            return vectors.new_zeros(len(vectors))
        said = self.head(vectors)
        if not self.is_place:
            return functional.mse_loss(said, forecasts[:, self.which], reduction="none").mean(1)
        parts = said.split(list(CLASSES.values()), dim=1)
        losses = [
            functional.cross_entropy(part, classes[:, k], reduction="none")
            for k, part in enumerate(parts)
        ]
        return torch.stack(losses).mean(0)


class RouterLesson(nn.Module):
    """The router, taught which domain leads."""

    def __init__(self, router: ContextRouter) -> None:
        super().__init__()
        self.router = router

    def forward(self, tokens: Tensor, leading: Tensor) -> Tensor:
        """Return the mean loss of a batch: tokens [n, 5, width] and leading domains [n]."""
        return functional.cross_entropy(self.router.scores(tokens), leading)


class FusionLesson(nn.Module):
    """The fusion, the situation head, and heads that keep each domain legible in the vector.

    Half of the rows come a second time with one domain alone, the others silent: its columns, and
    what the domain is there to tell, must be linear in the vector then.

    Args:
        fusion: Taught.
        situation: Taught.
        router: Asked, not taught.
        silent: [1, 5, width], tokens of the mean row.
        slices: Where each domain's columns stand.
        dimension: Of the vector.
    """

    silent: Tensor

    def __init__(
        self,
        fusion: nn.Module,
        situation: nn.Module,
        router: nn.Module,
        silent: Tensor,
        *,
        slices: Mapping[str, slice],
        dimension: int,
    ) -> None:
        super().__init__()
        self.slices = slices
        self.again = nn.ModuleDict(
            {name: nn.Linear(dimension, 2 * (own.stop - own.start)) for name, own in slices.items()}
        )
        self.fusion, self.situation = fusion, situation
        self.router = router.requires_grad_(requires_grad=False)
        self.told = nn.ModuleList(DomainHead(domain, dimension) for domain in DOMAINS)
        self.register_buffer("silent", silent)

    def forward(self, tokens: Tensor, features: Tensor, *truth: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            tokens: [n, 5, width].
            features: [n, 2, 36].
            truth: :attr:`Targets.tensors`.
        """
        situation, _, classes, forecasts = truth
        count, half = len(tokens), len(tokens) // 2
        only = torch.randint(len(DOMAINS), (half,), device=tokens.device)
        stands = functional.one_hot(only, len(DOMAINS)).bool()[:, :, None]
        shown = torch.cat([tokens, torch.where(stands, tokens[:half], self.silent)])
        vectors, _ = self.fusion(shown, self.router(shown))
        alone = vectors[count:]
        loss = functional.cross_entropy(self.situation(vectors[:count]), situation)
        for d, (head, (domain, own)) in enumerate(zip(self.told, self.slices.items(), strict=True)):
            columns = features[:half, :, own].flatten(1)
            missed = (self.again[domain](alone) - columns).square().mean(1)
            missed = missed + head(alone, classes[:half], forecasts[:half])
            loss = loss + (missed * (only == d)).mean() * len(DOMAINS)
        return loss
