"""Releases that are broken in one way each, as an honest trainer might break them before signing.

Nothing is forged: the release is composed, signed and validated like any other, and signatures
hold. What must refuse it is the gate that asks about what is broken, and no gate that asks about
something else; where one thing rests on another, the gates of both are named.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from focus_mode.encoders import DomainEncoder
from kfm_mlflow.authoring.evidence_files import drift_baseline
from kfm_mlflow.focus.columns import COLUMN_NAMES, DOMAINS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from focus_mode.draft import Draft
    from focus_mode.model import FocusModel


@dataclass(frozen=True)
class Defect:
    """One way to get a release wrong.

    Attributes:
        what: What the trainer did.
        gates: The gates that must refuse it; all others must not.
        apply: Draft to broken draft.
    """

    what: str
    gates: frozenset[str]
    apply: Callable[[Draft], Draft]


def _of_model(change: Callable[[FocusModel], None]) -> Callable[[Draft], Draft]:
    """Return a defect of a copy of the model; everything measured on it is measured anew."""

    def apply(draft: Draft) -> Draft:
        model = copy.deepcopy(draft.model)
        with torch.no_grad():
            change(model)
        return replace(draft, model=model)

    return apply


def _linear(layers: nn.Module, place: int) -> nn.Linear:
    """Return a linear layer of a sequence."""
    assert isinstance(layers, nn.Sequential)
    found = layers[place]
    assert isinstance(found, nn.Linear)
    return found


def _collapse_fusion(model: FocusModel) -> None:
    """Leave the projection one direction in which all domains move the vector."""
    last = _linear(model.fusion.projection, 2)
    left, sizes, right = torch.linalg.svd(last.weight, full_matrices=False)
    sizes[1:] *= 0.02
    last.weight.copy_(left * sizes @ right)


def _swap_router(model: FocusModel) -> None:
    """Load the scores of climate and of hazards each at the other's place."""
    order = list(range(len(DOMAINS)))
    one, other = DOMAINS.index("climate"), DOMAINS.index("hazards")
    order[one], order[other] = other, one
    model.router.own = nn.ModuleList(model.router.own[k] for k in order)


def _sharpen(model: FocusModel) -> None:
    """Lose the temperature of the situation head, so that it is always wholly sure."""
    model.situation.weight.mul_(30.0)
    model.situation.bias.mul_(30.0)


def _blind_geography(model: FocusModel) -> None:
    """Let the spatial encoder see nothing: its token is the same everywhere."""
    encoder = model.encoders.of["spatial"]
    assert isinstance(encoder, DomainEncoder)
    _linear(encoder.layers, 0).weight.zero_()


def _contaminate_fusion(model: FocusModel) -> None:
    """Score a domain little by its own token, and much by those of the others."""
    noise = torch.randn(model.router.cross.weight.shape, generator=torch.Generator().manual_seed(1))
    model.router.cross.weight.copy_(0.3 * noise)
    for score in model.router.own:
        _linear(score, 2).weight.mul_(0.1)
        _linear(score, 2).bias.mul_(0.1)


def _leak(draft: Draft) -> Draft:
    outlooks = dict.fromkeys(
        draft.lexicon.outlooks,
        "A flood will hit the north bank of the river on 3 May, 200 m below the bridge.",
    )
    return replace(draft, lexicon=draft.lexicon.model_copy(update={"outlooks": outlooks}))


def _unconstrain(draft: Draft) -> Draft:
    return replace(draft, lexicon=draft.lexicon.model_copy(update={"constrained": False}))


def _lose_telemetry(draft: Draft) -> Draft:
    return replace(draft, replaced={**draft.replaced, "telemetry/training.json": None})


def _shift_baseline(draft: Draft) -> Draft:
    """Freeze a drift baseline of temperatures in Fahrenheit, less than anybody would notice."""
    rows = draft.baseline_rows.copy()
    where = COLUMN_NAMES.index("temperature_c")
    rows[:, where] = rows[:, where] * 1.8 + 32.0
    document = drift_baseline(rows, draft.predict(draft.baseline_rows))
    return replace(draft, replaced={**draft.replaced, "drift/baseline.json": document})


def _unmask(draft: Draft) -> Draft:
    return replace(draft, care={**draft.care, "masking": "none_required", "h3_max_resolution": 12})


DEFECTS: Mapping[str, Defect] = {
    "collapsed-fusion": Defect(
        "a projection of rank one", frozenset({"fusion"}), _of_model(_collapse_fusion)
    ),
    "swapped-router": Defect(
        "the scores of two domains stand at each other's place",
        frozenset({"routing"}),
        _of_model(_swap_router),
    ),
    "leaking-narrative": Defect(
        "an outlook that says what will happen, and where", frozenset({"narrative"}), _leak
    ),
    "unconstrained-narrative": Defect(
        "stories state what the network says, not what the row shows",
        frozenset({"narrative"}),
        _unconstrain,
    ),
    "unstable-attribution": Defect(
        "the temperature of the situation head was lost",
        frozenset({"attribution_quality", "xai"}),
        _of_model(_sharpen),
    ),
    "missing-telemetry": Defect(
        "nobody copied the telemetry folder",
        frozenset({"completeness", "telemetry"}),
        _lose_telemetry,
    ),
    "shifted-baseline": Defect(
        "a drift baseline of temperatures in Fahrenheit", frozenset({"drift"}), _shift_baseline
    ),
    "geo-blind-encoder": Defect(
        "the spatial encoder was exported without its first layer",
        frozenset({"geo_awareness"}),
        _of_model(_blind_geography),
    ),
    "contaminated-fusion": Defect(
        "every domain is weighed by what the others say",
        frozenset({"fusion"}),
        _of_model(_contaminate_fusion),
    ),
    "broken-masking": Defect("the CARE block promises no masking", frozenset({"care"}), _unmask),
}
"""Name -> defect."""
