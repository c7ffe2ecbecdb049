"""What may be given out of a Focus Mode answer.

Rules kept here:

1. Places and stories are masked as JSON, those of one answer together, and each row is one record:
   its place stands in it once while it is masked. The rest are numbers under fixed names.
2. What is about a place that was made coarser has no fused vector: it would tell where a row lies.
3. A story says of itself whether masking changed anything about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from kfm_mlflow.care.masking import Masked

_ROW = "row"
_PLACE = "geospatial_context"


def publish(
    predictions: Sequence[Mapping[str, Any]],
    fusion: NDArray[np.float32] | None,
    *,
    max_resolution: int,
    mask: Callable[[Any], Masked] | None,
) -> tuple[list[dict[str, Any]], Masked | None]:
    """Return what may be given out, and what masking said of it.

    Args:
        predictions: One JSON object per row, with ``cell`` and ``story``.
        fusion: Their fused vectors [n, 2048]; None when nobody asked for them.
        max_resolution: Finest H3 resolution that a story may name.
        mask: Masks JSON; None shows everything.

    Returns:
        The predictions in their order, less those that are withheld; all of them where nothing is
        masked.
    """
    if mask is None:
        return [_with_fusion(one, fusion, k) for k, one in enumerate(predictions)], None
    masked = mask([_one_place(k, one) for k, one in enumerate(predictions)])
    published = []
    for shown in masked.value or []:
        place = shown[_ROW]
        given = predictions[place]
        is_moved = shown["cell"] != given["cell"]
        story = _told(shown, given["story"], max_resolution, is_moved=is_moved)
        told = {**given, "cell": shown["cell"], "story": story}
        published.append(_with_fusion(told, fusion, None if is_moved else place))
    return published, masked


def coarsened(cell: str, max_resolution: int) -> str:
    """Return a cell, or the parent that a story may name in its place."""
    import h3  # type: ignore[import-untyped]  # it ships no stubs

    if h3.get_resolution(cell) <= max_resolution:
        return cell
    return str(h3.cell_to_parent(cell, max_resolution))


def _one_place(k: int, prediction: Mapping[str, Any]) -> dict[str, Any]:
    story = {key: value for key, value in prediction["story"].items() if key != _PLACE}
    return {_ROW: k, "cell": prediction["cell"], "story": story}


def _told(
    shown: Mapping[str, Any], given: Mapping[str, Any], max_resolution: int, *, is_moved: bool
) -> dict[str, Any]:
    """Return a masked story with its place again; one that was withheld has none."""
    story: dict[str, Any] = shown["story"]
    if _PLACE not in given:
        return story
    is_changed = is_moved or any(given[key] != value for key, value in story.items())
    place = f"H3-{coarsened(shown['cell'], max_resolution)}"
    return {**story, _PLACE: place, "sovereignty_masked": is_changed}


def _with_fusion(
    prediction: Mapping[str, Any], fusion: NDArray[np.float32] | None, place: int | None
) -> dict[str, Any]:
    if fusion is None:
        return dict(prediction)
    return {**prediction, "fusion": None if place is None else fusion[place].tolist()}
