"""Generalised fields: one value per block, no cliff at a border, and twice is once."""

from __future__ import annotations

import h3
import numpy as np
import pytest
import xarray as xr
from care.made_regions import NOW, box, feature, region_set
from hypothesis import given, settings
from hypothesis import strategies as st

from kfm_mlflow.care.raster import blocks_of_grid, generalise_raster
from kfm_mlflow.errors import DataError, InputError

SIX = region_set(feature(box(-98, 38, -97.8, 38.2), h3_max_resolution=6))
COVERAGE = SIX.coverage(NOW, mode="h3-generalized")
FIELDS = SIX.coverage(NOW, mode="h3-climate-generalized")


def field(step=0.02, *, west=-98.2, south=37.8, size=(30, 30), values=None, dtype="float32"):
    lat = south + step * np.arange(size[0])
    lon = west + step * np.arange(size[1])
    if values is None:
        values = np.random.default_rng(5).normal(size=size)
    return xr.DataArray(
        np.asarray(values, dtype=dtype), dims=("lat", "lon"), coords={"lat": lat, "lon": lon}
    )


def values_by_cell(value, resolution):
    found: dict[str, set[float]] = {}
    for lat in value.lat.values:
        for lon in value.lon.values:
            at = float(value.sel(lat=lat, lon=lon))
            if np.isfinite(at):
                found.setdefault(h3.latlng_to_cell(lat, lon, resolution), set()).add(at)
    return found


def test_a_field_finer_than_the_ceiling_shows_one_value_per_cell():
    found = generalise_raster(field(0.005, west=-97.95, south=38.05), COVERAGE)
    assert all(len(values) == 1 for values in values_by_cell(found.value, 7).values())
    # Cells of the H3 tree do not hold their children exactly, so r6 is asked of r7's parents.
    inside: dict[str, set[float]] = {}
    for cell, values in values_by_cell(found.value, 7).items():
        if SIX.touching(cell):
            inside.setdefault(h3.cell_to_parent(cell, 6), set()).update(values)
    assert inside
    assert all(len(values) == 1 for values in inside.values())
    assert found.masked_count + found.withheld_count == found.record_count == 900


def test_a_block_shows_the_mean_of_its_pixels():
    given = field(0.005, west=-97.0, dtype="float64")
    found = generalise_raster(given, COVERAGE).value
    cell = h3.latlng_to_cell(float(given.lat[15]), float(given.lon[15]), 7)
    held = [
        float(given.sel(lat=lat, lon=lon))
        for lat in given.lat.values
        for lon in given.lon.values
        if h3.latlng_to_cell(lat, lon, 7) == cell
    ]
    assert float(found[15, 15]) == pytest.approx(np.mean(held), rel=1e-12)


def test_a_field_coarser_than_the_ceiling_is_left_alone():
    given = field(0.25, size=(6, 6))
    found = generalise_raster(given, COVERAGE)
    assert found.value.identical(given)
    assert (found.masked_count, found.withheld_count) == (0, 0)


def test_a_mode_that_masks_nothing_leaves_a_fine_field_alone_outside_regions():
    given = field(0.0005, west=-97.0)
    assert generalise_raster(given, SIX.coverage(NOW, mode="none_required")).value.identical(given)
    near = field(0.005, west=-97.95, south=38.05)
    found = generalise_raster(near, SIX.coverage(NOW, mode="none_required"))
    assert found.masked_count == near.size


def test_a_pixel_that_overlaps_a_region_is_blocked_though_its_centre_lies_outside():
    # r3 cells are some 110 km wide, the pixels half of it; the region lies in a corner of one.
    tiny = region_set(feature(box(-97.74, 38.01, -97.73, 38.02), h3_max_resolution=3))
    given = field(0.5, west=-99.5, south=36.25, size=(8, 8))
    coverage = tiny.coverage(NOW)
    blocks = blocks_of_grid(given.lat.values, given.lon.values, coverage)
    row, column = 4, 4  # latitude 38.25, longitude -97.5
    assert abs(given.lat.values[row] - 38.25) < 0.01
    in_region = blocks.in_region[blocks.block].reshape(8, 8)
    assert in_region[row, column]
    centre = h3.latlng_to_cell(38.25, -97.5, 7)
    assert not tiny.touching(centre)


def test_a_sliver_at_the_edge_of_a_grid_shows_no_single_pixel():
    assert np.isnan(generalise_raster(field(0.001, size=(3, 3)), COVERAGE).value).all()


def test_a_block_with_few_values_left_shows_none():
    values = np.random.default_rng(5).normal(size=(30, 30))
    values[:] = np.where(np.indices((30, 30)).sum(axis=0) % 20, np.nan, values)
    given = field(0.002, values=values)
    assert np.isnan(generalise_raster(given, COVERAGE).value).all()


def test_a_cliff_at_a_border_is_withheld_on_the_side_of_the_region():
    given = field(0.02)
    inside = (given.lat > 38) & (given.lat < 38.2) & (given.lon > -98) & (given.lon < -97.8)
    given = given * 0.01 + xr.where(inside, 50.0, 0.0)
    soft = generalise_raster(given, COVERAGE).value
    sharp = generalise_raster(given, FIELDS).value
    assert np.isfinite(soft).all()
    blocks = blocks_of_grid(given.lat.values, given.lon.values, FIELDS)
    in_region = blocks.in_region[blocks.block].reshape(given.shape)
    outside = sharp.values[~in_region]
    assert np.isfinite(outside).all()
    limit = 0.25 * (outside.max() - outside.min())
    for first, second, a, b in (
        (sharp.values[1:], sharp.values[:-1], in_region[1:], in_region[:-1]),
        (sharp.values[:, 1:], sharp.values[:, :-1], in_region[:, 1:], in_region[:, :-1]),
    ):
        steps = np.abs(first - second)[a != b]
        assert not (steps > limit).any()
    assert np.isnan(sharp.values[in_region]).any()


@settings(deadline=None, max_examples=15)
@given(
    st.sampled_from([0.004, 0.01, 0.05, 0.3]),
    st.integers(0, 2**31),
    st.sampled_from(["float32", "float64"]),
    st.booleans(),
)
def test_twice_is_once_for_every_step_type_and_direction(step, seed, dtype, falling):
    random = np.random.default_rng(seed)
    values = random.normal(size=(24, 24)) * 10.0 ** random.integers(-3, 4)
    values[random.random((24, 24)) < 0.05] = np.nan
    given = field(step, size=(24, 24), values=values, dtype=dtype)
    if falling:
        given = given.isel(lat=slice(None, None, -1))
    once = generalise_raster(given, FIELDS)
    again = generalise_raster(once.value, FIELDS)
    assert again.value.identical(once.value)
    assert (again.masked_count, again.withheld_count) == (0, 0)


def test_longitudes_to_360_and_other_dimensions_come_out_the_same():
    given = field(0.01)
    east = given.assign_coords(lon=given.lon + 360.0)
    plain = generalise_raster(given, FIELDS).value
    assert np.array_equal(
        generalise_raster(east, FIELDS).value.values, plain.values, equal_nan=True
    )
    stacked = xr.concat([given, given * 2], "time").transpose("lon", "time", "lat")
    found = generalise_raster(stacked.to_dataset(name="rain"), FIELDS)
    assert found.value.rain.dims == ("lon", "time", "lat")
    first = found.value.rain.isel(time=0).transpose("lat", "lon").values
    assert np.array_equal(first, plain.values, equal_nan=True)
    assert found.record_count == 2 * given.size


def test_a_closed_region_is_blank_and_its_surroundings_are_not():
    closed = region_set(feature(box(-98, 38, -97.8, 38.2), consent={"status": "denied"}))
    given = field(0.02, size=(50, 50))
    value = generalise_raster(given, closed.coverage(NOW)).value
    assert np.isnan(value.sel(lat=slice(38, 38.2), lon=slice(-98, -97.8))).all()
    assert np.isfinite(value.sel(lat=slice(38.3, 38.7), lon=slice(-97.6, -97.3))).all()


def test_a_region_on_the_antimeridian_is_found_in_a_global_field():
    ring = [[179, 50], [-179, 50], [-179, 51], [179, 51], [179, 50]]
    regions = region_set(
        feature({"type": "Polygon", "coordinates": [ring]}, consent={"status": "denied"})
    )
    lat, lon = np.arange(-89.5, 90), np.arange(0.5, 360)
    world = xr.DataArray(np.ones((180, 360)), dims=("lat", "lon"), coords={"lat": lat, "lon": lon})
    value = generalise_raster(world, regions.coverage(NOW)).value
    assert np.isnan(value.sel(lat=50.5, lon=[179.5, 180.5])).all()
    assert int(np.isnan(value).sum()) <= 12


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (lambda f: f.rename(lat="y"), DataError, "lat: is no one-dimensional coordinate"),
        (lambda f: f.isel(lat=[2, 0, 1]), DataError, "lat: is not ordered; sort the field"),
        (lambda f: f.assign_coords(lat=[np.nan, *f.lat.values[1:]]), DataError, "is not ordered"),
        (lambda f: f.rename(lat="lon", lon="lat"), DataError, "look swapped"),
        (lambda f: f.astype(str), InputError, "is not of numbers"),
        (lambda f: f > 0, InputError, "is not of numbers"),
    ],
)
def test_what_is_no_field_on_the_globe_is_refused(change, error, reason):
    with pytest.raises(error, match=reason):
        generalise_raster(change(field()), COVERAGE)
