import hashlib
import json
from datetime import UTC, datetime

import numpy as np
import pytest

from downscaling.fields import generate_kansas


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    first, again = generate_kansas(seed=3, day_count=5), generate_kansas(seed=3, day_count=5)
    other = generate_kansas(seed=4, day_count=5)
    assert first.values.tobytes() == again.values.tobytes()
    assert first.digest == again.digest
    assert first.digest != other.digest


def test_the_digest_is_of_the_documented_canonical_form():
    fields = generate_kansas(day_count=2)
    head = {"labels": list(fields.labels), "shape": [2, 100, 248], "units": "degC"}
    expected = hashlib.sha256(json.dumps(head, separators=(",", ":")).encode() + b"\n")
    for part, kind in ((fields.lat, "<f8"), (fields.lon, "<f8"), (fields.values, "<f4")):
        expected.update(part.astype(kind).tobytes())
    assert fields.digest == f"sha256:{expected.hexdigest()}"


def test_it_looks_like_kansas(kansas):
    assert kansas.values.dtype == np.float32
    assert np.isfinite(kansas.values).all()
    assert kansas.bbox == (-102.05, 37.0, -94.6, 40.0)
    assert (np.diff(kansas.lat) > 0).all()
    assert (np.diff(kansas.lon) > 0).all()
    west, south, east, north = kansas.bbox
    assert west < kansas.lon[0] < kansas.lon[-1] < east
    assert south < kansas.lat[0] < kansas.lat[-1] < north
    mean = kansas.values.mean(axis=0)
    assert mean[:, :60].mean() < mean[:, -60:].mean() - 3.0, "the high west is cooler"
    months = np.array([label[5:7] for label in kansas.labels])
    july, january = kansas.values[months == "07"], kansas.values[months == "01"]
    assert 20.0 < july.mean() - january.mean() < 32.0
    assert kansas.values.min() > -40.0
    assert kansas.values.max() < 50.0


def test_the_terrain_is_the_same_under_every_seed(kansas):
    # The median day's step between neighbouring cells is mostly terrain: weather has either sign,
    # and a front stands on a cell on few days. Mirrored, the same fields share nothing.
    ours, other = (
        np.median(np.diff(fields.values), axis=0) for fields in (kansas, generate_kansas(seed=7))
    )
    assert np.corrcoef(ours.ravel(), other.ravel())[0, 1] > 0.7
    assert abs(np.corrcoef(ours.ravel(), other[::-1].ravel())[0, 1]) < 0.2


def test_its_days_span_the_year_and_are_named():
    fields = generate_kansas(day_count=365)
    assert fields.labels[0] == "2001-01-01"
    assert fields.labels[-1] == "2001-12-31"
    assert fields.start_at == datetime(2001, 1, 1, 12, tzinfo=UTC)
    assert fields.end_at == datetime(2001, 12, 31, 12, tzinfo=UTC)
    assert len(set(fields.labels)) == 365


@pytest.mark.parametrize("day_count", [0, 366, -1])
def test_a_year_has_1_to_365_days(day_count):
    with pytest.raises(ValueError, match=r"1\.\.365"):
        generate_kansas(day_count=day_count)
