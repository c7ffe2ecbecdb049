"""Synthetic regions of synthetic authorities, and columns of cells, for the tests of this room."""

from __future__ import annotations

from datetime import UTC, datetime

import h3
from hypothesis import strategies as st

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.care.geojson import parse_regions

NOW = datetime(2026, 6, 15, tzinfo=UTC)


def box(west, south, east, north):
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def feature(geometry=None, **properties):
    stated = {"id": "a", "authority": "Example Council", **properties}
    kept = {key: value for key, value in stated.items() if value is not None}
    return {
        "type": "Feature",
        "properties": kept,
        "geometry": geometry or box(-98, 38, -97.5, 38.5),
    }


def region_set(*features):
    value = {"type": "FeatureCollection", "features": list(features)}
    return parse_regions(canonical_bytes(value), where="made")


def overlapping(**stricter):
    """Two regions that overlap, the first with a k_min; `stricter` is added to the second."""
    return region_set(
        feature(h3_max_resolution=5, k_min=10),
        feature(box(-97.7, 38.2, -97.2, 38.7), id="b", **{"h3_max_resolution": 6, **stricter}),
    )


def cell_tables(finest=10):
    places = st.builds(
        h3.latlng_to_cell, st.floats(37.5, 39), st.floats(-98.5, -96.7), st.integers(1, finest)
    )
    return st.dictionaries(places, st.integers(1, 12), max_size=25)
