"""Cut patches for training, validation, live traffic and drift baselines.

Every draw is seed-locked (NumPy's PCG64) and comes from one side of the longitude split of
:mod:`downscaling.geometry`: training patches from the western part, everything else from the
eastern part, a patch width apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from downscaling.fieldset import GLOBAL_SPAN_DEG
from downscaling.geometry import FACTOR, FINE_SIZE, block_mean, split_longitudes
from kfm_mlflow.errors import DataError
from prepared import Placed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from downscaling.fieldset import FieldSet

Selection = Literal["random", "calmest"]

CALM_POOL_FACTOR = 24
"""The calmest selection looks at this many times the patches that it keeps."""

_TRAIN, _VALIDATION, _LIVE = 1, 2, 3  # streams of one seed
_FIELD_COUNT = 128


@dataclass(frozen=True)
class Patches:
    """Coarse and fine patches of the same places, with what normalises them.

    Attributes:
        coarse: float32 [n, 8, 8], physical units.
        fine: float32 [n, 32, 32], physical units.
        center: float32 [n]; mean of the patch's own field over the training longitudes.
        spread: float32 [n]; standard deviation of the training fine field of the patch's
            variable: over the training longitudes, about each field's own mean, pooled over the
            fields of that variable.
        variables: Variable and level of each patch.
        units: Unit of ``rmse``, ``mae`` and ``bias``; ``1`` where variables differ in unit, and
            these are then in units of ``spread``.
    """

    coarse: NDArray[np.float32]
    fine: NDArray[np.float32]
    center: NDArray[np.float32]
    spread: NDArray[np.float32]
    variables: tuple[str, ...]
    units: str

    def __len__(self) -> int:
        """Return the number of patches."""
        return len(self.fine)


@dataclass(frozen=True)
class PatchSplit:
    """What one training run works on."""

    train: Patches
    validation: Patches


@dataclass(frozen=True)
class _Normalisation:
    center: NDArray[np.float32]  # [sample]
    spread: NDArray[np.float32]  # [sample]


def cut_patches(
    fields: FieldSet,
    *,
    seed: int = 42,
    train_count: int = 4096,
    validation_count: int = 512,
    selection: Selection = "random",
) -> PatchSplit:
    """Cut training and validation patches.

    Args:
        fields: Where to cut; at least 32 latitudes and three patch widths of longitudes.
        seed: Of all draws; training patches do not depend on ``selection``.
        train_count: Training patches, uniformly random over fields and western places.
        validation_count: Validation patches from the eastern places.
        selection: ``random`` is honest. ``calmest`` is the badly chosen set: of 24 times as many
            random patches it keeps those with the least variance inside the patch relative to
            ``spread``, on which almost any model looks good.

    Raises:
        ValueError: A count is below 1, the selection is unknown, or the grid is too small.
        DataError: A variable is constant over the training longitudes.
    """
    if selection not in get_args(Selection):
        raise ValueError(f"selection {selection!r} is neither of {get_args(Selection)}")
    norm = _normalisation(fields)
    train = _cut(fields, norm, _draw(fields, seed, _TRAIN, train_count))
    if selection == "random":
        places = _draw(fields, seed, _VALIDATION, validation_count)
        return PatchSplit(train, _cut(fields, norm, places))
    places = _draw(fields, seed, _VALIDATION, validation_count * CALM_POOL_FACTOR)
    spread = norm.spread[places[:, 0]]
    roughness = np.array([_window(fields, place).std() for place in places]) / spread
    calm = np.argsort(roughness, kind="stable")[:validation_count]
    return PatchSplit(train, _cut(fields, norm, places[np.sort(calm)]))


def live_patches(fields: FieldSet, *, count: int = 512, seed: int = 7) -> Patches:
    """Draw fair random patches from the validation longitudes.

    For live traffic and for the drift baseline: another stream than the validation patches, so
    that equal seeds do not give equal patches.

    Raises:
        ValueError: ``count`` is below 1 or the grid is too small.
        DataError: A variable is constant over the training longitudes.
    """
    return _cut(fields, _normalisation(fields), _draw(fields, seed, _LIVE, count))


def training_places(
    fields: FieldSet, *, seed: int, train_count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return latitude and longitude of every fine value of the training patches, [n, 32, 32]."""
    places = _draw(fields, seed, _TRAIN, train_count)
    side = np.arange(FINE_SIZE)
    shape = (train_count, FINE_SIZE, FINE_SIZE)
    lat = np.broadcast_to(fields.lat[places[:, 1, None] + side][:, :, None], shape)
    lon = np.broadcast_to(fields.lon[places[:, 2, None] + side][:, None, :], shape)
    return lat, lon


def patches_around(fields: FieldSet, lat_deg: float, lon_deg: float) -> Placed | None:
    """Return one place of every field, with a point as near its middle as the grid allows.

    Returns:
        At most 128 fields; None when the point lies off the grid, or there is one field only.
    """
    lon_deg = lon_deg + GLOBAL_SPAN_DEG if lon_deg < fields.lon[0] else lon_deg
    inside = (
        fields.lat[0] <= lat_deg <= fields.lat[-1] and fields.lon[0] <= lon_deg <= fields.lon[-1]
    )
    if not inside or len(fields.values) < 2:  # noqa: PLR2004 - to compare
        return None
    top, left = (
        int(np.clip(np.searchsorted(axis, at) - FINE_SIZE // 2, 0, len(axis) - FINE_SIZE))
        for axis, at in ((fields.lat, lat_deg), (fields.lon, lon_deg))
    )
    lat, lon = fields.lat[top : top + FINE_SIZE], fields.lon[left : left + FINE_SIZE]
    size_deg = abs(float(lat[1] - lat[0]))
    fine = fields.values[:_FIELD_COUNT, top : top + FINE_SIZE, left : left + FINE_SIZE]
    blocks = [axis.reshape(-1, FACTOR).mean(axis=1) for axis in (lat, lon)]
    return Placed(
        rows=block_mean(fine),
        inputs=_mesh(*blocks),
        outputs=_mesh(lat, lon),
        cell_sizes_deg=(size_deg * FACTOR, size_deg),
    )


def _mesh(
    lat: NDArray[np.float64], lon: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    lat_of, lon_of = np.meshgrid(lat, lon, indexing="ij")
    return lat_of, lon_of


def _normalisation(fields: FieldSet) -> _Normalisation:
    split = split_longitudes(len(fields.lon), is_global=fields.is_global)
    west = fields.values[:, :, split.train_start : split.train_stop]
    center = west.mean(axis=(1, 2), dtype=np.float64)
    variance = west.var(axis=(1, 2), dtype=np.float64)
    names = np.array(fields.variables)
    spread = np.empty_like(center)
    for name in np.unique(names):
        spread[names == name] = np.sqrt(variance[names == name].mean())
        if not (spread[names == name] > 0.0).all():
            raise DataError(
                f"{name} is the same everywhere in the training longitudes",
                where=fields.name,
                remedy="leave this variable out",
            )
    return _Normalisation(center.astype(np.float32), spread.astype(np.float32))


def _draw(fields: FieldSet, seed: int, stream: int, count: int) -> NDArray[np.int64]:
    """Return [count, 3]: field, first row, first column."""
    if count < 1:
        raise ValueError(f"{count} patches cannot be cut")
    if len(fields.lat) < FINE_SIZE:
        raise ValueError(f"{len(fields.lat)} latitudes are fewer than {FINE_SIZE}")
    split = split_longitudes(len(fields.lon), is_global=fields.is_global)
    start, stop = split.validation_start, split.validation_stop
    if stream == _TRAIN:
        start, stop = split.train_start, split.train_stop
    rng = np.random.Generator(np.random.PCG64([seed, stream]))
    field = rng.integers(0, len(fields.values), count)
    row = rng.integers(0, len(fields.lat) - FINE_SIZE + 1, count)
    column = rng.integers(start, stop - FINE_SIZE + 1, count)
    return np.stack([field, row, column], axis=1)


def _window(fields: FieldSet, place: NDArray[np.int64]) -> NDArray[np.float32]:
    field, row, column = (int(part) for part in place)
    return fields.values[field, row : row + FINE_SIZE, column : column + FINE_SIZE]


def _cut(fields: FieldSet, norm: _Normalisation, places: NDArray[np.int64]) -> Patches:
    fine = np.stack([_window(fields, place) for place in places])
    sample = places[:, 0]
    one_unit = ": " not in fields.units
    coarse = block_mean(fine)
    return Patches(
        coarse=coarse,
        fine=fine,
        center=norm.center[sample],
        spread=norm.spread[sample],
        variables=tuple(fields.variables[k] for k in sample),
        units=fields.units if one_unit else "1",
    )
