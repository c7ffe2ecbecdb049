"""Masking modes and the finest H3 resolution that each promises.

In H3 a larger number is finer, so every number here and in a regions file is a *ceiling*: no
finer than. The source documents name the modes without numbers; the one number that they give
for all sensitive places is "no detail finer than H3 r7", so every ``h3-<domain>-generalized``
promises 7. ``h3_r<N>`` promises N.
"""

from __future__ import annotations

import re

MAX_H3_RESOLUTION = 15
DEFAULT_CEILING = 7
"""Ceiling of a region that names none, and of a generalised mode."""

_DOMAINS = (
    "climate",
    "embedding",
    "focus",
    "hazard",
    "hydro",
    "index",
    "narrative",
    "spatial",
    "watershed",
)
MODES: dict[str, int | None] = {
    "h3-generalized": DEFAULT_CEILING,
    **{f"h3-{domain}-generalized": DEFAULT_CEILING for domain in _DOMAINS},
    "none_required": None,
}
"""Mode -> finest resolution that it lets through; None masks nothing."""

_NUMBERED = re.compile(r"h3_r(\d{1,2})")


def is_known_mode(mode: str) -> bool:
    """Return whether a masking mode is one that the source documents use."""
    return mode in MODES or mode_resolution(mode) is not None


def mode_resolution(mode: str) -> int | None:
    """Return the finest H3 resolution that a mode lets through.

    Returns:
        0 (coarsest) to 15; None when the mode masks nothing or is unknown, which a screening must
        take for unmasked.
    """
    match = _NUMBERED.fullmatch(mode)
    if match:
        resolution = int(match.group(1))
        return resolution if resolution <= MAX_H3_RESOLUTION else None
    return MODES.get(mode)
