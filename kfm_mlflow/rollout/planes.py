"""The traffic planes that are installed, by name: entry points of ``kfm_mlflow.traffic_plane``."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from kfm_mlflow.errors import InputError

_GROUP = "kfm_mlflow.traffic_plane"


def load_plane(name: str, *, where: str) -> Any:
    """Return what opens a traffic plane for the length of a block.

    Args:
        name: Its name, e.g. ``portable``.
        where: How the user said it.

    Raises:
        InputError: There is no such plane.
    """
    found = {point.name: point for point in entry_points(group=_GROUP)}
    if name not in found:
        raise InputError(
            f"there is no traffic plane {name!r}",
            where=where,
            remedy=f"installed: {', '.join(sorted(found)) or 'none'}",
        )
    return found[name].load()
