"""Worlds of one's own: what is written is read again, and what does not fit is named."""

from __future__ import annotations

import csv
import dataclasses
import random
from collections import Counter

import h3
import numpy as np
import pytest

from focus_mode.tables import LABELS, read_world, write_world
from kfm_mlflow.errors import DataError
from kfm_mlflow.focus.columns import TOLD


@pytest.fixture(scope="module")
def lines(small_world, tmp_path_factory):
    """Return header and rows of a written world."""
    path = tmp_path_factory.mktemp("table") / "kansas.csv"
    write_world(path, small_world)
    return list(csv.reader(path.read_text().splitlines()))


@pytest.fixture
def write(tmp_path):
    def write_lines(lines):
        path = tmp_path / "mine.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(lines)
        return path

    return write_lines


def changed(lines, number, **values):
    header, *rows = [list(line) for line in lines]
    for name, value in values.items():
        rows[number - 1][header.index(name)] = value
    return [header, *rows]


def test_a_written_world_is_read_again_value_for_value(lines, write, small_world):
    read = read_world(write(lines))
    own = ("name", "thresholds", "bbox", "digest")
    for field in dataclasses.fields(small_world):
        if field.name not in own:
            first, second = getattr(small_world, field.name), getattr(read, field.name)
            assert np.array_equal(first, second), field.name
            assert getattr(first, "dtype", None) == getattr(second, "dtype", None), field.name
    assert read.name == "mine"
    west, south, east, north = read.bbox
    assert -102.05 <= west < east <= -94.6
    assert 37.0 <= south < north <= 40.0


def test_the_order_of_rows_and_columns_makes_no_difference(lines, write):
    plain = read_world(write(lines))
    header, *rows = lines
    order = list(range(len(header)))
    random.Random(3).shuffle(order)
    random.Random(4).shuffle(rows)
    mixed = [[line[k] for k in order] for line in (header, *rows)]
    assert read_world(write(mixed)).digest == plain.digest


def test_usual_ranges_are_those_of_rows_that_are_not_held_out(lines, write):
    read = read_world(write(lines))
    assert list(read.thresholds) == [column.name for column in TOLD]
    cold, warm = read.thresholds["temperature_c"]
    train = read.rows[~read.is_held_out, 10]
    assert (train < cold).mean() == pytest.approx(0.2, abs=0.01)
    assert (train > warm).mean() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(
    ("number", "values", "said"),
    [
        (4, {"temperature_c": "300"}, "temperature_c is 300 in row 4, at most 60 degC; give degrees Celsius"),
        (4, {"temperature_c": "warm"}, "temperature_c is 'warm' in row 4, not a number"),
        (9, {"next_temperature_c": "295"}, "next_temperature_c is 295 in row 9, at most 60 degC"),
        (9, {"next_hazard_severity": ""}, "next_hazard_severity is blank in row 9"),
        (2, {"situation": "snowed in"}, "situation is 'snowed in' in row 2; give one of calm, drought"),
        (2, {"leading_domain": "2"}, "leading_domain is '2' in row 2; give one of spatial"),
        (2, {"region": "6"}, "region is 6 in row 2, at most 5"),
        (2, {"terrain": "1.5"}, "terrain is no whole number in row 2; give 0 to 3"),
        (170, {"watershed": "0"}, "watershed is another than in an earlier row of its cell in row 170"),
        (7, {"cell": "8428341ffffffff"}, "cell has H3 resolution 4 in row 7, not 5"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_named_by_column_and_row(lines, write, number, values, said):
    header = lines[0]
    if "watershed" in values:
        values = {"watershed": str((int(lines[number][header.index("watershed")]) + 1) % 6)}
    with pytest.raises(DataError, match=f"^mine.csv: .*{said}"):
        read_world(write(changed(lines[:201], number, **values)))


def test_a_table_too_small_to_train_on_is_refused(lines, write):
    with pytest.raises(DataError, match=r"mine.csv: has 1 row, at least 30 are needed"):
        read_world(write(lines[:2]))
    with pytest.raises(DataError, match=r"mine.csv: is empty"):
        read_world(write(lines[:1]))
    with pytest.raises(DataError, match=r"mine.csv: has no header"):
        read_world(write([]))


def test_cells_of_one_parent_leave_nothing_to_train_on(lines, write):
    header, *rows = lines
    parents = [h3.cell_to_parent(row[0]) for row in rows]
    whole = Counter(parents).most_common(1)[0][0]
    here = [row for row, parent in zip(rows, parents, strict=True) if parent == whole]
    with pytest.raises(DataError, match="has cells of one H3 parent only"):
        read_world(write([header, *here]))


def test_a_file_that_is_no_table_is_refused(lines, write, tmp_path):
    with pytest.raises(DataError, match=r"nowhere.csv: cannot be read"):
        read_world(tmp_path / "nowhere.csv")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\r\n\xff")
    with pytest.raises(DataError, match=r"picture.csv: cannot be read as UTF-8"):
        read_world(tmp_path / "picture.csv")
    with pytest.raises(DataError, match="row 3 has 2 values, the header 48"):
        read_world(write([*lines[:3], ["one", "two"], *lines[3:]]))
    with pytest.raises(DataError, match="has column cell twice"):
        read_world(write([[*line, line[0]] for line in lines[:40]]))
    for name in ("situation", "wind_m_s"):
        k = lines[0].index(name)
        with pytest.raises(DataError, match=f"has no column {name}"):
            read_world(write([line[:k] + line[k + 1 :] for line in lines[:40]]))
    assert len(LABELS) == 10
