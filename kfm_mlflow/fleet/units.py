"""The units that this software can run: which formats, in which role, and loading one.

Any other format can be fetched, verified and registered; running it is refused here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfm_mlflow.authoring.imported_spec import UNITS_FOLDER
from kfm_mlflow.errors import InputError
from kfm_mlflow.fleet.embedder import HashedEmbedder, load_embedder
from kfm_mlflow.fleet.heads import LinearHeads, load_heads
from kfm_mlflow.fleet.unit_files import UNIT_FILE, read_object, shown
from kfm_mlflow.fleet.writer import TextWriter, load_writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = [
    "FORMATS",
    "ROLES",
    "UNITS_FOLDER",
    "Unit",
    "load_unit",
    "load_units",
    "unit_format",
]

Unit = HashedEmbedder | LinearHeads | TextWriter

ROLES = ("embed", "runtime", "textgen")

_LOADERS: dict[str, Callable[[Path], Unit]] = {
    "hashed-embedder": load_embedder,
    "linear-heads": load_heads,
    "text-writer": load_writer,
}
FORMATS = tuple(_LOADERS)


def unit_format(directory: Path) -> str:
    """Return the format that a unit's ``unit.json`` states, whether it can be run or not.

    Raises:
        InputError: It states none.
        DataError: There is no such file, or it is no JSON.
    """
    path = directory / UNIT_FILE
    unit = read_object(path)
    if unit.get("schema_version") != "1":
        raise InputError('must be "1"', where=f"{shown(path)}: schema_version")
    found = unit.get("format")
    if not isinstance(found, str) or not found:
        raise InputError("must be a text", where=f"{shown(path)}: format")
    return found


def load_unit(directory: Path) -> Unit:
    """Load a unit, ready to run.

    Args:
        directory: ``units/<role>`` of a release, or an artifact's files as they were fetched.

    Raises:
        InputError: Its format cannot be run here, or a field of its files is wrong.
        DataError: A file of it is missing or wrong; names the file and the field.
    """
    found = unit_format(directory)
    if found not in _LOADERS:
        raise InputError(
            f"format {found[:80]!r} cannot be run here",
            where=shown(directory / UNIT_FILE),
            remedy=f"what can be run is {', '.join(FORMATS)}; it can be registered all the same",
        )
    return _LOADERS[found](directory)


def load_units(release_dir: Path) -> dict[str, Unit]:
    """Load every unit of a release.

    Returns:
        Role -> unit, sorted by role; one in an artifact's release, three in a fused one.

    Raises:
        InputError: There are none, a role is unknown, or a unit is of another role than its folder.
        DataError: A file is wrong.
    """
    folder = release_dir / UNITS_FOLDER
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if not names or set(names) - set(ROLES):
        raise InputError(
            f"has no units, or not only {', '.join(ROLES)}",
            where=f"{UNITS_FOLDER}/",
            remedy="give the folder of an artifact's or a fused release",
        )
    units = {}
    for role in names:
        unit = load_unit(folder / role)
        if unit.role != role:
            raise InputError(
                f"is for role {unit.role}", where=f"{UNITS_FOLDER}/{role}/{UNIT_FILE}: format"
            )
        units[role] = unit
    return units
