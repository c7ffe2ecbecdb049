"""Training the Focus Mode model, part by part, the same way every time.

Encoders first, each by itself; then the router on their tokens; then the fusion and the situation
head on tokens and weights; then the story decoder on fused vectors. What was taught earlier stands
still, so that each part has its own time and its own loss. Held-out rows are not touched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from focus_mode.lessons import DomainLesson, FusionLesson, RouterLesson, targets_of
from focus_mode.model import FocusConfig, FocusModel
from focus_mode.storynode import StoryDecoder, story_loss, targets
from kfm_mlflow.authoring.fitting import Fit, deterministic, fit
from kfm_mlflow.focus.answers import FUSION_DIMENSION
from kfm_mlflow.focus.columns import DOMAINS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from focus_mode.world import World
    from kfm_mlflow.authoring.fitting import Device, History

ENCODERS, ROUTER, FUSION, STORY = "encoders", "router", "fusion", "story"
PRESETS: dict[str, dict[str, Fit]] = {
    "default": {
        ENCODERS: Fit(step_count=600, batch_size=256),
        ROUTER: Fit(step_count=400, batch_size=256),
        FUSION: Fit(step_count=400, batch_size=256, learning_rate=2e-3),
        STORY: Fit(step_count=600, batch_size=256),
    },
    "small": {
        ENCODERS: Fit(step_count=150, batch_size=128),
        ROUTER: Fit(step_count=100, batch_size=128),
        FUSION: Fit(step_count=80, batch_size=128, learning_rate=1e-3),
        STORY: Fit(step_count=200, batch_size=128),
    },
}
"""How each part is fitted, by size."""


@dataclass(frozen=True)
class Trained:
    """A trained model and how it came about.

    Attributes:
        model: On the CPU, in evaluation mode.
        config: Keywords from which the module can be built again.
        hyperparameters: What else decided the training; JSON values.
        history: (step, mean loss since the previous point) of the parts in turn, the steps counted
            through. The losses of different parts are different quantities.
        elapsed_s: Wall time of all fits.
        part_seconds: Wall time of each part: ``encoders.<domain>``, ``router``, ``fusion``,
            ``story``.
    """

    model: FocusModel
    config: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    history: History
    elapsed_s: float
    part_seconds: Mapping[str, float]


def train(
    world: World,
    *,
    size: str = "default",
    seed: int = 42,
    device: Device = "cpu",
    fits: Mapping[str, Fit] | None = None,
) -> Trained:
    """Train on the rows of a world that are not held out.

    Args:
        world: Rows and the truth about them.
        size: Which of :data:`PRESETS`.
        seed: Of initial weights and batches.
        device: ``auto`` takes CUDA where there is one.
        fits: Other fits than the preset's, by part.

    Raises:
        ValueError: There is no such size.
        RuntimeError: ``device`` is ``cuda`` and there is none.
        FloatingPointError: A loss stopped being finite.
    """
    if size not in PRESETS:
        raise ValueError(f"size {size!r} is none of {', '.join(PRESETS)}")
    fits = {
        part: replace(how, seed=seed, device=device)
        for part, how in {**PRESETS[size], **(fits or {})}.items()
    }
    chosen = ~world.is_held_out
    rows = torch.from_numpy(world.rows[chosen])
    truth = targets_of(world, chosen)
    config = FocusConfig()
    with deterministic("cpu"):
        torch.manual_seed(seed)
        model = FocusModel(**config.said)
    model.scaling.learn(rows)
    course = _Course(fits)
    features = model.scaling.features(rows)
    for domain in DOMAINS:
        _teach_domain(course, model, domain, features, truth.tensors)
    with deterministic("cpu"), torch.no_grad():
        tokens, silent = model.encoders(features), model.silent_tokens()
    course.fit(ROUTER, lambda: RouterLesson(model.router), (tokens, truth.leading))
    course.fit(
        FUSION,
        lambda: FusionLesson(
            model.fusion,
            model.situation,
            model.router,
            silent,
            slices=model.encoders.slices,
            dimension=FUSION_DIMENSION,
        ),
        (tokens, features, *truth.tensors),
    )
    with deterministic("cpu"), torch.no_grad():
        vectors = torch.cat([model.fuse(some)[1] for some in tokens.split(1024)])
    told = targets(world)
    told_tensors = (torch.from_numpy(part[chosen]) for part in (told.relevance, told.bands))
    course.fit(
        STORY,
        lambda: StoryLesson(model.story),
        (vectors, model.scaling(rows), *told_tensors),
    )
    return Trained(
        model=model.cpu().requires_grad_(requires_grad=True).eval(),
        config=config.said,
        hyperparameters={
            "optimizer": "adamw",
            "fusion_dimension": FUSION_DIMENSION,
            "parts": {part: how.said for part, how in fits.items()},
        },
        history=tuple(course.history),
        elapsed_s=sum(course.seconds.values()),
        part_seconds=course.seconds,
    )


class StoryLesson(nn.Module):
    """The story decoder, taught which columns a story should tell and in which band they are."""

    def __init__(self, story: StoryDecoder) -> None:
        super().__init__()
        self.story = story

    def forward(self, vectors: Tensor, rows: Tensor, relevance: Tensor, bands: Tensor) -> Tensor:
        """Return the mean loss of a batch; see :func:`focus_mode.storynode.story_loss`."""
        decoded, decoded_bands = self.story(vectors, rows)
        return story_loss(decoded, decoded_bands, relevance, bands)


class _Course:
    """The fits in turn: their seconds and one history."""

    def __init__(self, fits: Mapping[str, Fit]) -> None:
        self.fits = fits
        self.seconds: dict[str, float] = {}
        self.history: list[tuple[int, float]] = []
        self._steps = 0

    def fit(
        self, part: str, build: Callable[[], nn.Module], rows: tuple[Tensor, ...], name: str = ""
    ) -> None:
        how = self.fits[part]
        _, history, elapsed_s = fit(build, lambda lesson, batch: lesson(*batch), rows, how)
        self.seconds[name or part] = elapsed_s
        self.history += [(self._steps + step, loss) for step, loss in history]
        self._steps += how.step_count


def _teach_domain(
    course: _Course,
    model: FocusModel,
    domain: str,
    features: Tensor,
    truth: tuple[Tensor, ...],
) -> None:
    own = features[..., model.encoders.slices[domain]].contiguous()
    encoder = model.encoders.of[domain]
    course.fit(
        ENCODERS,
        lambda: DomainLesson(
            encoder, domain, width=model.encoders.width, feature_count=own[0].numel()
        ),
        (own, *truth),
        f"{ENCODERS}.{domain}",
    )
