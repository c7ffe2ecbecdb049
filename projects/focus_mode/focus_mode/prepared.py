"""How training and validation come to the same rows: the world, its regions, its split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from focus_mode.reserved import without_reserved
from focus_mode.tables import read_world
from focus_mode.world import generate_world
from kfm_mlflow import Dataset
from kfm_mlflow.care.regions import load_regions
from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from focus_mode.world import World
    from kfm_mlflow.care.regions import RegionSet

GENERATED = "generated"
SIZES = ("default", "small")


@dataclass(frozen=True)
class Prepared:
    """Rows of a release, the same for who trains and who validates.

    Attributes:
        whole: All rows.
        world: Those whose cells no region touches.
        regions: The policy's.
        regions_path: Their file; None for the packaged, illustrative extents.
        uri: What the data are called.
    """

    whole: World
    world: World
    regions: RegionSet
    regions_path: Path | None
    uri: str

    def datasets(self) -> tuple[Dataset, Dataset]:
        """Return what was trained and validated on, as the records name it."""
        training, validation = (
            Dataset(
                role,
                self.whole.name,
                self.uri,
                self.whole.digest,
                license="MIT" if self.uri.startswith(f"{GENERATED}:") else "NOASSERTION",
                bbox=self.whole.bbox,
                selection=selection,
                variables=(),
            )
            for role, selection in self.selections.items()
        )
        return training, validation

    @property
    def selections(self) -> dict[Literal["training", "validation"], str]:
        """What training and validation rows are, in words."""
        return {
            "training": "cells that no region touches, two of three H3 parents at resolution 4",
            "validation": "cells that no region touches, every third H3 parent at resolution 4",
        }


def prepare(data: str, *, size: str, seed: int, regions: str) -> Prepared:
    """Return the rows of a world, reserved cells left out.

    Args:
        data: ``generated``, or a CSV file (see :mod:`focus_mode.tables`).
        size: One of :data:`SIZES`; of a generated world.
        seed: Of a generated world.
        regions: ``packaged``, or the policy's regions file.

    Raises:
        DataError: There is no such file or size, or the rows are not what they should be.
    """
    if size not in SIZES:
        raise DataError(f"{size!r} is no size", where="--size", remedy="use default or small")
    path = None if regions == "packaged" else Path(regions)
    if path is not None and not path.is_file():
        raise DataError(
            "no such regions file",
            where=path.name,
            remedy="give packaged, or the file that the policy names as regions_file",
        )
    found = load_regions(path)
    if data == GENERATED:
        whole = generate_world(seed=seed, size=cast("Any", size))
        uri = f"{GENERATED}:{whole.name}?seed={seed}&size={size}"
    else:
        whole, uri = read_world(Path(data)), Path(data).name
    world = without_reserved(whole, found)
    return Prepared(whole, world, found, path.resolve() if path else None, uri)


def prepare_again(split: Mapping[str, Any], data: str, regions: str) -> Prepared:
    """Return the rows as a release recorded them.

    Args:
        split: ``hyperparameters.split`` of ``model_metadata.json``.
        data: The data, as the validator names them.
        regions: As for :func:`prepare`.

    Raises:
        DataError: A field is missing or of the wrong type.
    """
    try:
        size, seed = str(split["size"]), int(split["seed"])
    except (KeyError, TypeError, ValueError) as exc:
        raise DataError(
            f"does not say how the rows were made ({exc})", where="model_metadata.json"
        ) from exc
    return prepare(data, size=size, seed=seed, regions=regions)
