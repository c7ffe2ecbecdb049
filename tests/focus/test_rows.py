"""Tables that people give: what is wrong is named by column and row, with a remedy."""

from __future__ import annotations

import math

import h3
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kfm_mlflow.errors import DataError
from kfm_mlflow.focus.columns import COLUMN_NAMES, COLUMNS
from kfm_mlflow.focus.rows import rows_of_table

CELLS = sorted(h3.grid_disk(h3.latlng_to_cell(38.5, -98.0, 5), 1))
BBOX = (-102.05, 37.0, -94.6, 40.0)


def record(k=0, **changes):
    latitude, longitude = h3.cell_to_latlng(CELLS[k % 7])
    values = {column.name: (column.low + column.high) / 4.0 for column in COLUMNS}
    placed = {"latitude_deg": latitude, "longitude_deg": longitude}
    time = f"2024-{k // 7 + 1:02d}"
    return {**values, **placed, "cell": CELLS[k % 7], "time": time} | changes


def table(count=5):
    return [record(k) for k in range(count)]


def changed(number, **changes):
    rows = table()
    rows[number - 1] |= changes
    return rows


def without(*names):
    return [{key: value for key, value in row.items() if key not in names} for row in table()]


def test_values_arrive_in_the_order_of_the_columns_whatever_the_order_of_the_keys():
    row = record()
    read = rows_of_table([dict(reversed(row.items()))], where="asked")
    assert read.rows.dtype == np.float32
    assert read.rows[0].tolist() == [np.float32(row[name]) for name in COLUMN_NAMES]
    assert (read.cells, read.times, len(read)) == ((CELLS[0],), ("2024-01",), 1)


def test_records_and_columns_are_the_same_table():
    records = table(20)
    columns = {name: [row[name] for row in records] for name in records[0]}
    arrays = {name: np.array(values) for name, values in columns.items()}
    read = rows_of_table(records, where="records")
    for other in (columns, arrays):
        again = rows_of_table(other, where="columns")
        assert again.rows.tobytes() == read.rows.tobytes()
        assert (again.cells, again.times) == (read.cells, read.times)


@pytest.mark.parametrize(
    ("given_table", "said"),
    [
        (changed(4, temperature_c=300), "temperature_c is 300 in row 4, at most 60 degC; give degrees Celsius"),
        (changed(2, humidity_ratio=55), "humidity_ratio is 55 in row 2, at most 1; .* no percentage"),
        (changed(1, precipitation_mm=-1), "precipitation_mm is -1 in row 1, at least 0 mm; give millimetres"),
        (changed(5, elevation_m=1e400), "elevation_m is inf in row 5, at most 8850 m"),
        (changed(5, elevation_m=10**400), "elevation_m is inf in row 5"),
        (changed(3, wind_m_s=math.nan), "wind_m_s is blank in row 3"),
        (changed(3, wind_m_s=None), "wind_m_s is blank in row 3; fill it or leave the rows out"),
        (changed(3, wind_m_s=" "), "wind_m_s is blank in row 3"),
        (changed(3, wind_m_s="calm"), "wind_m_s is 'calm' in row 3, not a number; give metres per second"),
        (changed(3, wind_m_s="4.5"), "wind_m_s is '4.5' in row 3, not a number"),
        (changed(3, wind_m_s=True), "wind_m_s is bool in row 3, not a number"),
        (changed(3, wind_m_s=[4.5]), "wind_m_s is list in row 3, not a number"),
        (changed(2, cell="8526ad03fffffffff"), "cell is no H3 index in row 2"),
        (changed(2, cell=599686042433355775), "cell is no H3 index in row 2"),
        (changed(2, cell=None), "cell is no H3 index in row 2"),
        (changed(2, cell=h3.cell_to_parent(CELLS[1])), "cell has H3 resolution 4 in row 2, not 5"),
        (changed(2, time="July"), "time is 'July' in row 2, not a month; give it as YYYY-MM"),
        (changed(2, time="2024-13"), "time is '2024-13' in row 2"),
        (changed(2, time=202407), "time is int in row 2"),
        (changed(3, cell=record(0)["cell"], latitude_deg=record(0)["latitude_deg"], longitude_deg=record(0)["longitude_deg"]), "cell and time of row 3 are those of row 1"),
        (changed(3, latitude_deg=39.5), "latitude_deg and longitude_deg lie [0-9]+ km from .* in row 3"),
        (changed(3, latitude_deg=-98.0, longitude_deg=38.5), "latitude_deg is a value in row 3, at least -90 deg"),
        ([*table(2), 7], "row 3 is int, not an object"),
        (without("snow_water_mm", "cape_j_kg"), "has no column snow_water_mm, cape_j_kg; give all 36"),
        (without("cell"), "has no column cell"),
        (changed(1, dew_point_c=3), "has unknown columns 'dew_point_c'; leave them out"),
        ([{("temperature_C" if k == "temperature_c" else k): v for k, v in record().items()}], "is temperature_C meant to be temperature_c"),
        ([], "is empty; give at least one row"),
        ({}, "is empty"),
        ({name: [] for name in record()}, "is empty"),
        ({**{name: [value] for name, value in record().items()}, "wind_m_s": [1, 2]}, "column wind_m_s has 2 values, column cell 1"),
        ({**record()}, "is float, not a list of values|is str, not a list of values"),
        ("rows", "is str, not a table"),
        (None, "is NoneType, not a table"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_column_row_and_remedy(given_table, said):
    with pytest.raises(DataError, match=rf"^asked: .*({said})"):
        rows_of_table(given_table, where="asked", bbox=BBOX)


def test_blank_blocks_are_counted_from_their_first_row_to_their_last():
    rows = [record(k, soil_moisture_ratio=None if 3 <= k < 9 else 0.3) for k in range(12)]
    with pytest.raises(DataError, match="soil_moisture_ratio is blank in rows 4 to 9"):
        rows_of_table(rows, where="asked")
    rows[11]["soil_moisture_ratio"] = None
    with pytest.raises(DataError, match="blank in 7 rows, first in row 4"):
        rows_of_table(rows, where="asked")


def test_a_cell_outside_of_the_releases_domain_is_refused_without_naming_it():
    cell = h3.latlng_to_cell(45.0, -98.0, 5)
    latitude, longitude = h3.cell_to_latlng(cell)
    away = record(cell=cell, latitude_deg=latitude, longitude_deg=longitude)
    assert len(rows_of_table([away], where="asked")) == 1
    with pytest.raises(DataError, match="outside of the model's domain in row 2") as refused:
        rows_of_table([record(), away], where="asked", bbox=BBOX)
    assert cell not in str(refused.value)
    assert f"{latitude:.2f}" not in str(refused.value)


def test_cells_of_one_resolution_that_is_not_the_models_are_refused():
    with pytest.raises(
        DataError, match="resolution 5 in row 1, not 4; give all cells at resolution 4"
    ):
        rows_of_table(table(), where="asked", resolution=4)


def test_one_row_is_answered_but_does_not_train():
    assert len(rows_of_table([record()], where="asked")) == 1
    with pytest.raises(DataError, match="has 1 row, at least 30 are needed"):
        rows_of_table([record()], where="mine.csv", least_count=30)


def test_a_known_label_beside_the_columns_is_passed_over():
    rows = [record(situation="flood")]
    assert len(rows_of_table(rows, where="asked", beside=("situation",))) == 1
    with pytest.raises(DataError, match="unknown columns 'situation'"):
        rows_of_table(rows, where="asked")


def test_text_is_read_as_numbers_only_where_a_file_has_nothing_else():
    row = {name: str(value) for name, value in record().items()}
    read = rows_of_table([row], where="mine.csv", is_text=True)
    assert read.rows.tobytes() == rows_of_table([record()], where="asked").rows.tobytes()
    for text in ("1_0", "0x10", "inf", "1,5", "1e999", "٣"):
        with pytest.raises(DataError, match=r"wind_m_s is .* in row 1, (not a number|at most)"):
            rows_of_table([row | {"wind_m_s": text}], where="mine.csv", is_text=True)


@given(
    st.integers(0, 8), st.integers(2, len(COLUMNS) - 1), st.booleans(), st.floats(1e-3, 1e6)
)  # the first two columns are places
def test_a_value_beyond_its_column_is_found_wherever_it_stands(number, k, is_high, beyond):
    rows, column = table(9), COLUMNS[k]
    rows[number][column.name] = column.high + beyond if is_high else column.low - beyond
    with pytest.raises(DataError, match=rf"{column.name} is \S+ in row {number + 1}, at "):
        rows_of_table(rows, where="asked")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(max_examples=60)
@example(10**5000, "time")
@example("8" * 40, "cell")
@example("-1", "cell")
@given(JSON, st.sampled_from(["cell", "time", "latitude_deg", "cape_j_kg", "whole row", "table"]))
def test_whatever_json_stands_in_a_table_it_is_rows_or_a_refusal(value, place):
    rows = table(2)
    if place == "table":
        rows = value
    elif place == "whole row":
        rows[1] = value
    else:
        rows[1][place] = value
    try:
        read = rows_of_table(rows, where="asked", bbox=BBOX)
    except DataError:
        return
    assert np.isfinite(read.rows).all()
