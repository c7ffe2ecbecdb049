"""What a part of an answer is by its form: columns of one kind, axes of a grid, fields on it."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.care.mask_geometry import place_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHORTEST_AXIS, _UNEVEN_RATIO = 3, 1e-3


def kinds_of(column: Sequence[Any]) -> set[type]:
    """Return the types in a column; most have one, which is sooner counted than collected."""
    if not column:
        return set()
    first = type(column[0])
    alike = operator.countOf(map(type, column), first) == len(column)
    return {first} if alike else set(map(type, column))


def is_axis(value: Any) -> bool:
    """Return whether a list is the evenly spaced axis of a grid: others are places."""
    if not isinstance(value, list) or len(value) < _SHORTEST_AXIS:
        return False
    if not set(map(type, value)) <= {int, float}:
        return False
    steps = np.diff(np.array(value, dtype=np.float64))
    return bool(np.ptp(steps) <= _UNEVEN_RATIO * np.abs(steps).max() and np.abs(steps).min() > 0)


def holds_more(value: Any) -> bool:
    """Return whether a value is a list or an object."""
    return isinstance(value, list | tuple | Mapping)


def may_place(group: Mapping[Any, Sequence[Any]]) -> bool:
    """Return whether columns may hold a place: coordinates by name, or texts."""
    return bool(place_keys(group)) or any(isinstance(column[0], str) for column in group.values())


def field_of(item: list[Any], shape: tuple[int, ...]) -> Any:
    """Return a nested list as an array [..., lat, lon], None where it is no such field."""
    if not isinstance(item[0] if item else None, list):
        return None
    try:
        array = np.array(item, dtype=np.float64)  # null becomes NaN
    except (TypeError, ValueError):
        return None
    return array if array.ndim >= 2 and array.shape[-2:] == shape else None  # noqa: PLR2004 - a field
