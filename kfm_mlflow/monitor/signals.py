"""What a release may say of an answer to its watchers: fixed names, numbers from 0 on.

Spans and metrics carry these names and no others, so that nothing of what was asked travels under
a name that somebody made up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_DOMAINS = ("spatial", "climate", "hydrology", "hazards", "narrative")
SIGNALS = (
    "attention_entropy",
    *(f"context_weight_{domain}" for domain in _DOMAINS),
    *(f"attribution_{domain}" for domain in _DOMAINS),
    "fusion_centroid_shift",
    "fusion_norm_shift",
    "fusion_rank_ratio",
    "fusion_spread_ratio",
    "narrative_finding_count",
)
"""Means over the rows of an answer (entropy, weights, attribution), what the last fused vectors are
beside those of training, and how much narrative safety found in the stories of an answer."""
_DECIMALS = 4


def signal_attributes(signals: Mapping[str, float]) -> dict[str, float]:
    """Return the attributes of a span that tell signals; other names are left out."""
    return {
        f"kfm.signal.{name}": round(signals[name], _DECIMALS) for name in SIGNALS if name in signals
    }
