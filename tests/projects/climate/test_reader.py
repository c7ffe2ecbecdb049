import hashlib
from datetime import UTC, datetime

import numpy as np
import pytest
import xarray as xr

from downscaling.fields import load_fields
from kfm_mlflow.errors import DataError

CF_LAT, CF_LON = {"standard_name": "latitude"}, {"standard_name": "longitude"}


@pytest.mark.parametrize(
    ("names", "lat_attrs", "lon_attrs"),
    [
        (("lat", "lon"), {}, {}),
        (("Latitude", "LONGITUDE"), {}, {}),
        (("a", "b"), CF_LAT, CF_LON),
        (("a", "b"), {"units": "degrees_north"}, {"units": "degrees_east"}),
        (("a", "b"), {"units": "degreeN"}, {"units": "degree_E"}),
        (("a", "b"), {"units": "degrees", "axis": "Y"}, {"units": "degrees", "axis": "X"}),
        (("b", "a"), CF_LAT, {"units": "degrees_east"}),
    ],
)
def test_coordinates_are_recognised(tmp_path, make_dataset, names, lat_attrs, lon_attrs):
    dataset = make_dataset(
        lat_name=names[0], lon_name=names[1], lat_attrs=lat_attrs, lon_attrs=lon_attrs
    )
    path = tmp_path / "f.nc"
    dataset.to_netcdf(path, engine="h5netcdf")
    fields = load_fields(path)
    assert fields.values.shape == (1, 40, 100)
    np.testing.assert_allclose(fields.lat[[0, -1]], [30.0, 45.0])
    np.testing.assert_allclose(fields.lon[[0, -1]], [-110.0, -80.0])


@pytest.mark.parametrize("kind", ["h5netcdf", "scipy", "zarr", "zarr2", "zarr-consolidated"])
def test_every_format_gives_the_same_fields(tmp_path, make_dataset, kind):
    dataset = make_dataset()
    path = tmp_path / "f"
    if kind == "zarr-consolidated":
        dataset.to_zarr(path, consolidated=True, zarr_format=2)
    elif kind.startswith("zarr"):
        dataset.to_zarr(path, consolidated=False, zarr_format=2 if kind == "zarr2" else 3)
    else:
        dataset.to_netcdf(path, engine=kind)
    fields = load_fields(path)
    np.testing.assert_array_equal(fields.values[0], dataset["t"].values)
    assert (fields.units, fields.labels, fields.variables) == ("K", ("t",), ("t",))
    assert (fields.start_at, fields.end_at) == (None, None)


def test_descending_latitudes_and_transposed_fields_come_out_ascending(tmp_path, make_dataset):
    straight = make_dataset()
    straight.isel(lat=slice(None, None, -1)).transpose("lon", "lat").to_netcdf(
        tmp_path / "f.nc", engine="h5netcdf"
    )
    fields = load_fields(tmp_path / "f.nc")
    np.testing.assert_array_equal(fields.values[0], straight["t"].values)
    np.testing.assert_array_equal(fields.lat, straight["lat"].values)


def test_longitudes_from_0_to_360_are_turned_to_minus_180_to_180(tmp_path, make_dataset):
    lon = np.arange(0.0, 360.0, 2.0)
    make_dataset(lon=lon).to_netcdf(tmp_path / "f.nc", engine="h5netcdf")
    fields = load_fields(tmp_path / "f.nc")
    assert fields.is_global
    np.testing.assert_array_equal(fields.lon, np.arange(-180.0, 180.0, 2.0))
    # The field was 1000 lat + lon before: each column still carries the longitude it came with.
    np.testing.assert_allclose(fields.values[0, 0] - 30000.0, fields.lon % 360.0, atol=0.01)


def test_a_grid_across_the_antimeridian_stays_in_one_piece(tmp_path, make_dataset):
    lon = np.concatenate([np.arange(150.0, 180.0, 0.5), np.arange(-180.0, -150.0, 0.5)])
    make_dataset(lon=lon).to_netcdf(tmp_path / "f.nc", engine="h5netcdf")
    fields = load_fields(tmp_path / "f.nc")
    np.testing.assert_array_equal(fields.lon, np.arange(150.0, 210.0, 0.5))
    assert (fields.bbox[0], fields.bbox[2]) == (150.0, -150.5)
    assert not fields.is_global


def test_other_dimensions_are_stacked_and_named(tmp_path, make_dataset):
    flat = make_dataset()["t"]
    times = np.array(["2001-07-04T00:00", "2001-07-04T06:00"], dtype="datetime64[ns]")
    t = flat.expand_dims(time=times, level=[200, 850]).copy()
    t["level"].attrs["units"] = "millibars"
    t.values[1, 1] += 5.0
    xr.Dataset({"t": t, "u": flat.assign_attrs(units="m s**-1"), "note": ((), 1.0)}).to_netcdf(
        tmp_path / "f.nc", engine="h5netcdf"
    )
    fields = load_fields(tmp_path / "f.nc")
    assert fields.labels == (
        "t/200hPa/2001-07-04",
        "t/850hPa/2001-07-04",
        "t/200hPa/2001-07-04T06:00",
        "t/850hPa/2001-07-04T06:00",
        "u",
    )
    assert fields.variables == ("t/200hPa", "t/850hPa", "t/200hPa", "t/850hPa", "u")
    assert fields.units == "t: K, u: m s**-1"
    np.testing.assert_array_equal(fields.values[3], flat.values + np.float32(5.0))
    assert fields.start_at == datetime(2001, 7, 4, tzinfo=UTC)
    assert fields.end_at == datetime(2001, 7, 4, 6, tzinfo=UTC)


def test_a_calendar_that_cannot_be_decoded_is_no_reason_to_refuse(tmp_path, make_dataset):
    dataset = make_dataset().expand_dims(time=[0.0, 1.0]).copy()
    dataset["time"].attrs = {"units": "fortnights since the flood"}
    dataset.to_netcdf(tmp_path / "f.nc", engine="h5netcdf")
    assert load_fields(tmp_path / "f.nc").start_at is None


def test_a_long_series_is_thinned_evenly(tmp_path, make_dataset):
    member = np.arange(732)
    dataset = make_dataset(lat=np.arange(32.0), lon=np.arange(96.0)).expand_dims(member=member)
    (dataset * 0 + dataset["member"]).astype("float32").to_netcdf(
        tmp_path / "f.nc", engine="h5netcdf"
    )
    fields = load_fields(tmp_path / "f.nc")
    np.testing.assert_array_equal(fields.values[:, 0, 0], member[::2])


def test_the_digest_of_a_file_is_of_its_bytes_and_of_a_store_of_its_listing(tmp_path, make_dataset):
    file, store = tmp_path / "f.nc", tmp_path / "f.zarr"
    make_dataset().to_netcdf(file, engine="h5netcdf")
    make_dataset().to_zarr(store, consolidated=False)
    assert load_fields(file).digest == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    before = load_fields(store).digest
    chunk = max((p for p in store.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    listing = "".join(
        f"{hashlib.sha256((store / name).read_bytes()).hexdigest()}  {name}\n"
        for name in sorted(p.relative_to(store).as_posix() for p in store.rglob("*") if p.is_file())
    )
    assert before == f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"
    chunk.rename(chunk.with_name("moved"))
    from downscaling.fields import digest_path

    assert digest_path(store) != before


def _without(dataset, *names):
    return dataset.drop_vars(names).rename({name: f"dim_{name}" for name in names})


def _curvilinear(dataset):
    plain = _without(dataset, "lat", "lon")
    shape = (("dim_lat", "dim_lon"), np.ones((40, 100)))
    return plain.assign(lat=shape, lon=shape)


def _with_hole(dataset):
    dataset["t"].values[3, 4] = np.nan
    return dataset


REFUSALS = {
    "no-latitude": (
        lambda d: _without(d, "lat"),
        r"has no latitude coordinate .*add .*latitude \(units degrees_north\)",
    ),
    "no-longitude": (lambda d: _without(d, "lon"), r"has no longitude coordinate .*degrees_east"),
    "neither": (
        lambda d: _without(d, "lat", "lon"),
        r"has no latitude and no longitude coordinate .*degrees_north.*degrees_east",
    ),
    "projected": (
        lambda d: _without(d, "lat", "lon").assign_coords(
            dim_lat=("dim_lat", np.arange(40.0), {"axis": "Y", "units": "m"}),
            dim_lon=("dim_lon", np.arange(100.0), {"axis": "X", "units": "m"}),
        ),
        r"has no latitude and no longitude",
    ),
    "curvilinear": (_curvilinear, r"lat has 2 dimensions, not one; regrid"),
    "hole": (_with_hole, r"t has 1 of 4000 cells without a value; fill them"),
    "few-latitudes": (
        lambda d: d.isel(lat=slice(31)),
        r"31 latitudes by 100 .*at least 32 .* by 96",
    ),
    "few-longitudes": (
        lambda d: d.isel(lon=slice(95)),
        r"40 latitudes by 95 .*at least 32 .* by 96",
    ),
    "one-point": (lambda d: d.isel(lat=[0], lon=[0]), r"1 latitudes by 1 longitudes"),
    "repeated": (lambda d: d.assign_coords(lat=np.full(40, 5.0)), r"lat repeats a value"),
    "nan-coordinate": (
        lambda d: d.assign_coords(lon=np.where(np.arange(100) == 3, np.nan, d["lon"])),
        r"lon repeats a value or has one that is not a number",
    ),
    "no-variable": (lambda d: d.drop_vars("t"), r"has no numeric variable on \(lat, lon\)"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_file_that_lacks_something_is_refused_with_its_name(tmp_path, make_dataset, case):
    spoil, message = REFUSALS[case]
    path = tmp_path / "mine.nc"
    spoil(make_dataset()).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(DataError, match=message) as caught:
        load_fields(path)
    assert caught.value.where == "mine.nc"
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "neither NetCDF nor Zarr"),
        (b"a,b\n1,2\n", "neither NetCDF nor Zarr"),
        (b"\x89HDF\r\n\x1a\n" + b"\x00" * 40, "cannot be opened by h5netcdf"),
        (b"CDF\x01\x00\x00", "cannot be opened by scipy"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path, content, message):
    path = tmp_path / "mine.nc"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_fields(path)
    assert caught.value.where == "mine.nc"
    assert "\n" not in str(caught.value)


def test_a_directory_that_is_no_store_is_refused(tmp_path):
    with pytest.raises(DataError, match="neither NetCDF nor Zarr"):
        load_fields(tmp_path)


def test_the_era_interim_file_is_read_whole(era):
    assert era.values.shape == (12, 81, 480)
    assert era.lat[0] == 15.0
    assert era.lat[-1] == 75.0
    assert era.is_global
    assert set(era.variables) == {f"{v}/{p}hPa" for v in "zu" for p in (200, 500, 850)}
    assert "z/200hPa/Jan" in era.labels
    assert era.units == "z: m**2 s**-2, u: m s**-1"
    high = era.values[era.labels.index("z/200hPa/Jul")]
    assert high[0].mean() > high[-1].mean(), "geopotential falls towards the pole"
