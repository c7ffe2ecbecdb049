"""Reading current inputs: tables, rows and grids, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from kfm_mlflow.errors import DataError
from kfm_mlflow.monitor import drift_files
from kfm_mlflow.monitor.drift_baseline import build_baseline
from kfm_mlflow.monitor.drift_files import Reading, load_sample
from kfm_mlflow.monitor.drift_sample import DriftSample, FieldRows

RNG = np.random.Generator(np.random.PCG64(9))
TABLE = build_baseline(DriftSample({n: FieldRows(RNG.normal(size=40)) for n in ("a", "b")}))
PATCH = build_baseline(DriftSample({"t": FieldRows(RNG.normal(size=(40, 2, 3)))}))
FRAME = pd.DataFrame({"a": [1.0, None, 3.0], "b": [4, 5, 6], "day": ["mo", "tu", "mo"]})
GRID = xr.Dataset(
    {"temp": (("lon", "month", "lat"), RNG.normal(size=(8, 2, 5)), {"units": "K"})},
    coords={"lon": np.arange(8) * 10.0, "lat": 60.0 - np.arange(5) * 10.0, "month": [1, 7]},
)


def netcdf(folder, dataset):
    path = folder / "now.nc"
    dataset.to_netcdf(path, engine="h5netcdf")
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_gives_columns_with_what_is_missing_and_the_blocks(tmp_path, suffix):
    path = tmp_path / f"now.{suffix}"
    FRAME.to_csv(path, index=False) if suffix == "csv" else FRAME.to_parquet(path)
    found = load_sample(path, TABLE, Reading(block="day"))
    np.testing.assert_array_equal(found.fields["a"].rows, [1.0, np.nan, 3.0])
    np.testing.assert_array_equal(found.fields["b"].rows, [4.0, 5.0, 6.0])
    np.testing.assert_array_equal(found.blocks, [0, 1, 0])


def test_a_grid_is_cut_into_rows_in_the_order_of_latitude_and_longitude(tmp_path):
    found = load_sample(netcdf(tmp_path, GRID), PATCH, Reading({"t": "temp"}))
    rows = found.fields["t"]
    plain = GRID.temp.transpose("month", "lat", "lon").to_numpy()
    assert (rows.unit, rows.rows.shape) == ("K", (8, 2, 3))
    np.testing.assert_array_equal(rows.rows[0], plain[0, :2, :3])
    np.testing.assert_array_equal(rows.rows[3], plain[0, 2:4, 3:6])
    # Neighbours are alike: without a distance a whole month is one block.
    np.testing.assert_array_equal(found.blocks, [0] * 4 + [1] * 4)


def test_squares_of_degrees_are_blocks_within_a_time_step(tmp_path):
    found = load_sample(netcdf(tmp_path, GRID), PATCH, Reading({"t": "temp"}, block_deg=30.0))
    # Rows begin at 60 N and 40 N, at 0 E and 30 E: four squares of 30 degrees per month.
    assert len(set(found.blocks)) == 8
    whole = load_sample(tmp_path / "now.nc", PATCH, Reading({"t": "temp"}, block_deg=90.0))
    assert len(set(whole.blocks)) == 2


def test_coarsening_averages_cells(tmp_path):
    small = build_baseline(DriftSample({"t": FieldRows(RNG.normal(size=(40, 1, 2)))}))
    found = load_sample(netcdf(tmp_path, GRID), small, Reading({"t": "temp"}, coarsen=2))
    plain = GRID.temp.transpose("month", "lat", "lon").to_numpy()
    assert found.fields["t"].rows[0, 0, 1] == pytest.approx(plain[0, :2, 2:4].mean())


def test_rows_as_the_model_takes_them_are_blocks_of_their_own(tmp_path):
    rows = xr.Dataset({"t": (("n", "y", "x"), RNG.normal(size=(7, 2, 3)))})
    found = load_sample(netcdf(tmp_path, rows), PATCH)
    assert (found.fields["t"].rows.shape, found.blocks) == ((7, 2, 3), None)


def swapped():
    renamed = GRID.rename(lat="lon", lon="lat")
    return renamed.assign_coords(lat=np.arange(8) * 30.0)


@pytest.mark.parametrize(
    ("dataset", "names", "remedy"),
    [
        (GRID, {}, "--field t=NAME"),
        (GRID, {"t": "wind"}, "it has temp"),
        (GRID, {"u": "temp"}, "its fields are t"),
        (swapped(), {"t": "temp"}, "may be swapped"),
        (GRID.isel(lat=slice(1)), {"t": "temp"}, "larger grid"),
        (GRID.astype(str), {"t": "temp"}, "not numbers"),
    ],
    ids=["nothing", "variable", "field", "swapped", "small", "text"],
)
def test_a_file_that_does_not_fit_is_refused_with_the_remedy(tmp_path, dataset, names, remedy):
    with pytest.raises(DataError, match=remedy):
        load_sample(netcdf(tmp_path, dataset), PATCH, Reading(names))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("now.csv", b""),
        ("now.csv", b"a,b\n1,cold\n2,3\n"),
        ("now.csv", b"x\n1\n"),
        ("now.csv", b"a,b\n"),
        ("now.csv", b"\xff\xfe\x00"),
        ("now.parquet", b"PAR1 and no more"),
        ("now.nc", b"no grid"),
        ("now.txt", b"a,b\n1,2\n"),
        ("now", b""),
    ],
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"now|a, b"):
        load_sample(path, TABLE)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_sample(tmp_path / "gone.nc", PATCH)


def test_files_beyond_the_limits_are_refused_before_they_are_read(tmp_path, monkeypatch):
    path = tmp_path / "now.csv"
    FRAME.to_csv(path)
    monkeypatch.setattr(drift_files, "MAX_TABLE_BYTES", 10)
    with pytest.raises(DataError, match="at random"):
        load_sample(path, TABLE)
    monkeypatch.setattr(drift_files, "MAX_CELL_COUNT", 10)
    with pytest.raises(DataError, match="time steps"):
        load_sample(netcdf(tmp_path, GRID), PATCH, Reading({"t": "temp"}))
