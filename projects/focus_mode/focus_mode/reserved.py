"""Places of sovereign regions: kept out of training and look-up, and how their masking is measured.

A cell is *reserved* when any part of it may lie in a region of the regions file. No row of such a
cell is trained on, and no release lists one. What is measured for the validator:

* **training rows** in regions, which must be none;
* **invariance**: batches in which some rows are about places in regions; those rows are exchanged
  between months, and the answers about all other places must stay as they were;
* **masking**: stories about fine cells in every region, masked as an endpoint masks them; a leak is
  a masked story that still names a cell finer than the region's ceiling, or a place in it.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.care.mask_terms import terms_of_release
from kfm_mlflow.care.masking import mask
from kfm_mlflow.care.screen_measured import count_training_rows, measure_invariance
from kfm_mlflow.focus.answers import ANSWER_WIDTH, split_answers
from kfm_mlflow.focus.columns import COLUMN_NAMES
from kfm_mlflow.focus.story import tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from focus_mode.world import World
    from kfm_mlflow.care.regions import Region, RegionSet
    from kfm_mlflow.focus.lexicon import Lexicon

    Rows = NDArray[np.float32]
    Predict = Callable[[Rows], Rows]

_LATITUDE, _LONGITUDE = (COLUMN_NAMES.index(name) for name in ("latitude_deg", "longitude_deg"))
_FINE = (8, 9, 12)
"""H3 resolutions that nobody may ask about, and an endpoint must hide should it be asked."""
_SAMPLE_COUNT, _PUBLIC_COUNT = 8, 24
_CELL = re.compile(r"(?<![0-9a-f])8[0-9a-f]{14}(?![0-9a-f])")


def is_reserved(cells: Sequence[str], regions: RegionSet) -> NDArray[np.bool_]:
    """Return which cells a region lies in or touches.

    Args:
        cells: H3 indices, [n], often the same.
        regions: The policy's.
    """
    known = {c: any(r.touches(c) for r in regions.regions) for c in dict.fromkeys(cells)}
    return np.array([known[cell] for cell in cells], bool)


def without_reserved(world: World, regions: RegionSet) -> World:
    """Return the rows of a world whose cells no region touches; name and digest stay."""
    kept = ~is_reserved(world.cells, regions)
    parts: dict[str, Any] = {}
    for field in fields(world):
        value = getattr(world, field.name)
        if isinstance(value, np.ndarray) and len(value) == len(kept):
            parts[field.name] = value[kept]
        elif field.name in {"cells", "times"}:
            parts[field.name] = tuple(v for v, keep in zip(value, kept, strict=True) if keep)
    return replace(world, **parts)


def care_evidence(
    predict: Predict, world: World, regions: RegionSet, *, seed: int
) -> dict[str, Any]:
    """Return what gate ``care`` reads of the validator's claims.

    Args:
        predict: float32 [n, 36] to float32 [n, 2121].
        world: The one that was trained on, reserved cells left out.
        regions: The policy's.
        seed: Of the permutations.
    """
    trained = ~world.is_held_out
    rows = world.rows[trained].astype(np.float64)
    return {
        "regions_digest": regions.digest,
        "training_rows": count_training_rows(rows[:, _LATITUDE], rows[:, _LONGITUDE], regions),
        "invariance": _invariance(predict, world, regions, seed),
    }


def _invariance(predict: Predict, world: World, regions: RegionSet, seed: int) -> dict[str, Any]:
    """Ask batches of public places and of one place in each region, [sample, place, 36]."""
    reserved = [region.shape.representative_point() for region in regions.regions]
    place_count = _PUBLIC_COUNT + len(reserved)
    rng = np.random.Generator(np.random.PCG64(seed))
    chosen = rng.choice(len(world.rows), size=(_SAMPLE_COUNT, place_count))
    batches = world.rows[chosen].copy()
    for place, point in enumerate(reserved, start=_PUBLIC_COUNT):
        batches[:, place, _LATITUDE], batches[:, place, _LONGITUDE] = point.y, point.x
    is_place_reserved = np.arange(place_count) >= _PUBLIC_COUNT

    def of_batches(values: Rows) -> Rows:
        answers = predict(np.ascontiguousarray(values.reshape(-1, values.shape[2])))
        return answers.reshape(len(values), place_count, ANSWER_WIDTH)

    return measure_invariance(
        of_batches,
        batches,
        np.repeat(is_place_reserved[:, None], batches.shape[2], axis=1),
        np.repeat(~is_place_reserved[:, None], ANSWER_WIDTH, axis=1),
        seed=seed,
    )


def masking_metrics(
    predict: Predict,
    world: World,
    lexicon: Lexicon,
    *,
    block: Mapping[str, Any],
    regions: RegionSet,
    now: datetime,
) -> dict[str, float]:
    """Return how many stories about fine places in regions were masked, and how many leaked.

    Args:
        predict: float32 [n, 36] to float32 [n, 2121].
        world: From where rows come.
        lexicon: The release's.
        block: The release's CARE block.
        regions: The policy's.
        now: Decides season, embargo and consent (aware).
    """
    terms = terms_of_release(dict(block), regions)
    answers = split_answers(predict(world.rows[:1]))
    asked = leaked = 0
    for region, cell in _fine_places(regions):
        story = tell(answers, 0, world.rows[0], cell=cell, time=world.times[0], lexicon=lexicon)
        masked = mask({"cell": cell, "story": story}, terms, now=now)
        asked += 1
        leaked += not masked.withheld and _names_too_fine(str(masked.value), region, now)
    return {"masking_story_count": float(asked), "masking_leak_count": float(leaked)}


def _fine_places(regions: RegionSet) -> Iterator[tuple[Region, str]]:
    import h3

    for region in regions.regions:
        point = region.shape.representative_point()
        for resolution in _FINE:
            yield region, h3.latlng_to_cell(point.y, point.x, resolution)


def _names_too_fine(text: str, region: Region, now: datetime) -> bool:
    import h3

    ceiling = region.rule_at(now).ceiling
    named = (cell for cell in _CELL.findall(text) if h3.is_valid_cell(cell))
    return any(h3.get_resolution(cell) > ceiling and region.touches(cell) for cell in named)
