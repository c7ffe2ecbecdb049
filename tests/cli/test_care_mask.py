"""``kfm care mask``: four kinds of files, and what is wrong with them in one line."""

from __future__ import annotations

import json
import re

import h3
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from care.made_regions import box, feature

LAT, LON = 38.2012, -97.7012
NAME = "Blue Heron Spring"
FIFTH = h3.latlng_to_cell(LAT, LON, 5)


@pytest.fixture
def regions(tmp_path):
    path = tmp_path / "regions.geojson"
    area = feature(h3_max_resolution=5, restricted_names=[NAME])
    closed = feature(box(-96.5, 38, -96, 38.5), id="closed", consent={"status": "denied"})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [area, closed]}))
    return path


FRAME = pd.DataFrame(
    {"lat": [LAT, 39.5, 38.25], "lon": [LON, -97.7, -96.25], "note": [f"at {NAME}", "b", "c"]}
)
MASKED = [("[withheld]", FIFTH), ("b", h3.latlng_to_cell(39.5, -97.7, 7))]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_loses_its_coordinates_its_closed_rows_and_its_names(
    kfm, tmp_path, regions, suffix
):
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    write, read = (
        (FRAME.to_csv, pd.read_csv) if suffix == ".csv" else (FRAME.to_parquet, pd.read_parquet)
    )
    write(source, index=False)
    said = kfm("care", "mask", source, "-o", target, "--regions", regions, "--json")
    assert said.code == 0, said.err
    assert list(read(target).itertuples(index=False, name=None)) == MASKED
    summary = json.loads(said.out)
    assert (summary["masked"], summary["withheld_count"]) == ({"points": 2, "texts": 1}, 1)
    again = tmp_path / f"again{suffix}"
    assert kfm("care", "mask", target, "-o", again, "--regions", regions).code == 0
    assert again.read_bytes() == target.read_bytes()


def test_geojson_keeps_its_properties_and_gets_cells(kfm, tmp_path, regions):
    source, target = tmp_path / "in.geojson", tmp_path / "out.geojson"
    spot = {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [LON, LAT]},
        "properties": {"kind": "well"},
    }
    source.write_text(json.dumps({"type": "FeatureCollection", "features": [spot]}))
    assert kfm("care", "mask", source, "-o", target, "--regions", regions).code == 0
    (found,) = json.loads(target.read_text())["features"]
    assert found == {
        "type": "Feature",
        "geometry": None,
        "properties": {"kind": "well", "h3_cells": [FIFTH]},
    }


def test_netcdf_becomes_blocks_of_the_mode(kfm, tmp_path, regions):
    source, target = tmp_path / "in.nc", tmp_path / "out.nc"
    axes = {"lat": np.linspace(38.05, 38.45, 20), "lon": np.linspace(-97.95, -97.55, 20)}
    values = np.random.default_rng(3).random((20, 20))
    xr.Dataset({"t": (("lat", "lon"), values)}, axes).to_netcdf(source, engine="h5netcdf")
    said = kfm("care", "mask", source, "-o", target, "--regions", regions, "--mode", "h3_r6")
    assert said.code == 0, said.err
    with xr.open_dataset(target, engine="h5netcdf") as found:
        shown = found["t"].to_numpy()
    cells = len({h3.latlng_to_cell(lat, lon, 5) for lat in axes["lat"] for lon in axes["lon"]})
    assert 1 <= len(np.unique(shown[np.isfinite(shown)])) <= cells
    assert re.search(r"\d+ pixels masked", said.out)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("lat,lon\n38,-97\n38.5,\n", (), ("in.csv", "lon", "row 1", "no number", "drop the row")),
        ("lat,lon\n-97.5,38.5\n", (), ("row 0", "swapped", "latitudes first")),
        ("lat,lon\n38,-970\n", (), ("row 0", "off the globe", "degrees")),
        ("a,b\n1,2\n", (), ("no column", "--lat", "the table has: a, b")),
        ("a,b\n1,2\n", ("--lat", "a", "--lon", "c"), ("c", "no such column", "a, b")),
        ("a,b\n1,2\n", ("--lat", "a"), ("one of two columns",)),
        ("lat,lon,site_lat,site_lon\n38,-97,38,-97\n", (), ("several columns", "name those")),
        ("cell\n872649\n", ("--cell", "cell"), ("cell: row 0", "not an H3 cell")),
        ("lat,lon\n38,-97\n", ("--mode", "h3-unheard-of"), ("unknown masking mode",)),
        ("", (), ("in.csv", "is empty")),
        ("lat,lon,lat,lon\n38,-97,39,-96\n", (), ("columns 0 and 2", "the same name")),
        ("lat,lon\n1,38,-97\n2,38,-97\n", (), ("rows that are longer than its header",)),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(
    kfm, tmp_path, text, options, words
):
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(text)
    kfm("care", "mask", source, "-o", target, *options).fails_in_one_line(2, *words)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("in.geojson", b"{}", ("not a GeoJSON",)),
        ("in.geojson", b"{", ("kfm: in.geojson: not valid JSON",)),
        (
            "in.geojson",
            b'{"type": "FeatureCollection", "features": null}',
            ("features: is no list",),
        ),
        ("in.csv", b"\xff\xfelat,lon", ("not UTF-8",)),
        ("in.nc", b"no", ("no NetCDF 4 file",)),
        ("in.parquet", b"no", ("no Parquet file",)),
        ("in.txt", b"no", ("no known kind", ".csv")),
    ],
)
def test_files_that_are_not_what_they_are_called_are_refused(kfm, tmp_path, name, content, words):
    source = tmp_path / name
    source.write_bytes(content)
    target = tmp_path / f"out{source.suffix}"
    kfm("care", "mask", source, "-o", target).fails_in_one_line(2, *words)
    assert not target.exists()


def test_a_swapped_position_is_named_by_its_path(kfm, tmp_path):
    source = tmp_path / "in.geojson"
    point = {"type": "Point", "coordinates": [LAT, LON]}
    spot = {"type": "Feature", "geometry": point, "properties": {}}
    source.write_text(json.dumps({"type": "FeatureCollection", "features": [spot]}))
    said = kfm("care", "mask", source, "-o", tmp_path / "out.geojson")
    said.fails_in_one_line(2, "$.features[0].geometry", "swapped")


def test_a_file_that_exists_is_not_overwritten(kfm, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text("lat,lon\n38,-97\n")
    kfm("care", "mask", source, "-o", source).fails_in_one_line(2, "exists already")
