"""Masking modes and what each promises, in one table.

In H3 a larger number is finer, so every resolution here and in a regions file is a *ceiling*: no
finer than. The source documents name the modes without numbers; the one number that they give
for all sensitive places is "no detail finer than H3 r7", so every ``h3-<domain>-generalized``
promises 7. ``h3_r<N>`` promises N. Where a mode shows sites or texts, a published cell in a region
stands for at least 3 of them (their heritage standard's "3 sites per hex"). How steep a field may
be at a region's border is said nowhere; a quarter of the range outside is this package's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kfm_mlflow.errors import InputError

MAX_H3_RESOLUTION = 15
DEFAULT_CEILING = 7
"""Ceiling of a region that names none, and of a generalised mode."""


@dataclass(frozen=True)
class MaskingMode:
    """What a mode promises of everything that is published under it.

    Attributes:
        ceiling: Finest H3 resolution, everywhere; None masks nothing outside regions.
        k_min: Smallest number of records that a published cell in a region stands for.
        max_border_step_ratio: Largest difference between neighbouring cells of a raster, one in a
            region and one outside, as a ratio of the range of the values outside; None sets none.
    """

    ceiling: int | None
    k_min: int = 1
    max_border_step_ratio: float | None = None


_FIELD = MaskingMode(DEFAULT_CEILING, k_min=1, max_border_step_ratio=0.25)
_SITES = MaskingMode(DEFAULT_CEILING, k_min=3)
MODES: dict[str, MaskingMode] = {
    "h3-generalized": MaskingMode(DEFAULT_CEILING),
    "h3-climate-generalized": _FIELD,
    "h3-hazard-generalized": _FIELD,
    "h3-hydro-generalized": _FIELD,
    "h3-watershed-generalized": _FIELD,
    "h3-embedding-generalized": _SITES,
    "h3-focus-generalized": _SITES,
    "h3-index-generalized": _SITES,
    "h3-narrative-generalized": _SITES,
    "h3-spatial-generalized": _SITES,
    "none_required": MaskingMode(None),
}
"""Mode -> what it promises."""

_NUMBERED = re.compile(r"h3_r(\d{1,2})")


def find_mode(name: str) -> MaskingMode:
    """Return what a mode promises.

    Args:
        name: A key of :data:`MODES`, or ``h3_r0`` to ``h3_r15``.

    Raises:
        InputError: Nobody knows the mode, so nobody knows what it masks.
    """
    resolution = mode_resolution(name)
    if name not in MODES and resolution is None:
        raise InputError(
            f"unknown masking mode {name[:40]!r}", remedy=f"use one of {', '.join(sorted(MODES))}"
        )
    return MODES.get(name, MaskingMode(resolution))


def k_min_of_mode(mode: object) -> int:
    """Return the fewest records that a published cell in a region stands for; 1 when unknown.

    Args:
        mode: What ``care.masking`` says; that it is no mode is another check's to say.
    """
    try:
        return find_mode(str(mode)).k_min
    except InputError:
        return 1


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
    return MODES[mode].ceiling if mode in MODES else None
