"""The columns of a Focus Mode row: one place at one month, seen by five domains.

A row is float32 [36], the columns in the order of :data:`COLUMNS`. Beside it stand, outside the
model, the H3 cell and the month that it is about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Domain = Literal["spatial", "climate", "hydrology", "hazards", "narrative"]

DOMAINS: tuple[Domain, ...] = ("spatial", "climate", "hydrology", "hazards", "narrative")
SITUATIONS = ("calm", "drought", "flood", "storm", "heat", "fire")
"""What may be going on in a place; ``calm`` when nothing is."""


@dataclass(frozen=True)
class Column:
    """One number of a row.

    Attributes:
        name: ``quantity_unit``.
        domain: Which domain says it.
        unit: UCUM-like text for people; ``1`` for ratios and indices.
        low: Least value that can be; inclusive.
        high: Greatest value that can be; inclusive.
        label: The quantity in words, as a story names it.
        is_told: Whether a story may state it.
    """

    name: str
    domain: Domain
    unit: str
    low: float
    high: float
    label: str
    is_told: bool = False


COLUMNS: tuple[Column, ...] = (
    Column("latitude_deg", "spatial", "deg", -90, 90, "latitude"),
    Column("longitude_deg", "spatial", "deg", -180, 180, "longitude"),
    Column("elevation_m", "spatial", "m", -430, 8850, "elevation"),
    Column("slope_deg", "spatial", "deg", 0, 90, "slope"),
    Column("relief_m", "spatial", "m", 0, 4000, "relief"),
    Column("river_distance_km", "spatial", "km", 0, 2000, "distance to a river"),
    Column("forest_ratio", "spatial", "1", 0, 1, "share of forest"),
    Column("crop_ratio", "spatial", "1", 0, 1, "share of cropland"),
    Column("urban_ratio", "spatial", "1", 0, 1, "share of built-up land"),
    Column("wetland_ratio", "spatial", "1", 0, 1, "share of wetland"),
    Column("temperature_c", "climate", "degC", -60, 60, "mean temperature", is_told=True),
    Column("temperature_anomaly_k", "climate", "K", -30, 30, "temperature anomaly"),
    Column("precipitation_mm", "climate", "mm", 0, 3000, "precipitation", is_told=True),
    Column("precipitation_ratio", "climate", "1", 0, 20, "precipitation over its normal"),
    Column("humidity_ratio", "climate", "1", 0, 1, "relative humidity"),
    Column("wind_m_s", "climate", "m/s", 0, 60, "wind speed"),
    Column("season_sin", "climate", "1", -1, 1, "season, sine"),
    Column("season_cos", "climate", "1", -1, 1, "season, cosine"),
    Column("soil_moisture_ratio", "hydrology", "1", 0, 1, "soil moisture", is_told=True),
    Column("streamflow_percentile", "hydrology", "percentile", 0, 100, "streamflow", is_told=True),
    Column("runoff_mm", "hydrology", "mm", 0, 3000, "runoff", is_told=True),
    Column("evapotranspiration_mm", "hydrology", "mm", 0, 500, "evapotranspiration", is_told=True),
    Column("snow_water_mm", "hydrology", "mm", 0, 3000, "snow water equivalent", is_told=True),
    Column("groundwater_depth_m", "hydrology", "m", 0, 300, "depth to groundwater", is_told=True),
    Column("drought_index", "hazards", "1", -5, 5, "drought index", is_told=True),
    Column("heat_day_count", "hazards", "d", 0, 31, "days above 35 degC", is_told=True),
    Column("storm_day_count", "hazards", "d", 0, 31, "days with severe storms", is_told=True),
    Column("flood_stage_ratio", "hazards", "1", 0, 5, "river stage over flood stage", is_told=True),
    Column("fire_danger_index", "hazards", "1", 0, 100, "fire danger index", is_told=True),
    Column("cape_j_kg", "hazards", "J/kg", 0, 8000, "convective energy", is_told=True),
    Column("calm_report_ratio", "narrative", "1", 0, 1, "share of reports on nothing unusual"),
    Column("drought_report_ratio", "narrative", "1", 0, 1, "share of reports on drought"),
    Column("flood_report_ratio", "narrative", "1", 0, 1, "share of reports on floods"),
    Column("storm_report_ratio", "narrative", "1", 0, 1, "share of reports on storms"),
    Column("heat_report_ratio", "narrative", "1", 0, 1, "share of reports on heat"),
    Column("fire_report_ratio", "narrative", "1", 0, 1, "share of reports on fire"),
)
COLUMN_NAMES = tuple(column.name for column in COLUMNS)
TOLD = tuple(column for column in COLUMNS if column.is_told)
"""Quantities that a story may state, in the order in which a model scores them."""


def domain_slice(domain: Domain) -> slice:
    """Return where a domain's columns stand in a row.

    Raises:
        ValueError: There is no such domain.
    """
    places = [k for k, column in enumerate(COLUMNS) if column.domain == domain]
    if not places:
        raise ValueError(f"{domain!r} is none of {', '.join(DOMAINS)}")
    return slice(places[0], places[-1] + 1)
