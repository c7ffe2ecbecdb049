"""The planes that are installed, by name: entry points of a group for each kind of plane."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from kfm_mlflow.errors import InputError

TRAFFIC = "kfm_mlflow.traffic_plane"
FLEET = "kfm_mlflow.fleet_plane"


def load_plane(name: str, *, where: str, group: str = TRAFFIC) -> Any:
    """Return what opens a plane for the length of a block.

    Args:
        name: Its name, e.g. ``portable``.
        where: How the user said it.
        group: Which kind of plane: :data:`TRAFFIC` or :data:`FLEET`.

    Raises:
        InputError: There is no such plane.
    """
    found = {point.name: point for point in entry_points(group=group)}
    if name not in found:
        raise InputError(
            f"there is no {group.rsplit('.', maxsplit=1)[-1].replace('_', ' ')} {name!r}",
            where=where,
            remedy=f"installed: {', '.join(sorted(found)) or 'none'}",
        )
    return found[name].load()
