"""Finding places in texts: pairs of numbers that may be a latitude and a longitude.

Decimal degrees with signs, hemisphere letters or words on either side; degrees, minutes and
seconds; ISO 6709; numbers under keys that say latitude and longitude, also scaled integers (E5 to
E7); decimal commas; and the codes of :mod:`~kfm_mlflow.care.passages_grids`. A pair without
hemispheres is tried both ways. Nothing found here may be quoted.
"""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.care.passages_grids import KM_PER_DEGREE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

_MAX_GAP, _MAX_KEYED_GAP = 40, 400
_HEMISPHERE = r"([NSEWnsew])\b|(?i:(north|south|east|west)\b)"
_NUMBER = re.compile(
    r"(?:(?<![A-Za-z])([NSEW])\s{0,2}|(?<![^\W_])(?<!\.))"
    # Whole degrees alone fix no place; with a sign or a hemisphere they are meant as one.
    r"([+-]?\d{1,3}(?:\.\d{1,20}|(?=\s?(?:°|deg|[NSEWnsew]\b|[eE][+-]?\d))))"
    r"([eE][+-]?\d{1,2})?(?!\d)(?!\.\d)"
    # "N 38.5 W 97.4": with a letter before, the one behind belongs to the next number.
    rf"(?:\s?(?:°|deg(?:rees?)?\b\.?))?(?(1)|(?:\s*(?:{_HEMISPHERE}))?)(?!\w)"
)
_STEPS = tuple(10.0**-count for count in range(32))
_DEGREE_SIGN = re.compile(r"\d\s?(?:°|deg)")
_HEMISPHERE_SIGN = re.compile(r"\d\s?[NSEW]\b|\b[NSEW]\s{0,2}\d")
_UNITS = (
    r"(\d{1,3})\s*%s\s*(\d{1,2}(?:\.\d{1,8})?)\s*%s"
    r"(?:\s*(\d{1,2}(?:\.\d{1,8})?)\s*%s)?"
)
_DEGREES = _UNITS % ("(?:°|deg\\.?)", "(?:'|min\\.?)", "(?:\"|''|sec\\.?)?")
_LOOSE = _UNITS % ("[:\\s]", "[:\\s]?", "")
_DMS = re.compile(
    rf"(?:(?<![A-Za-z])([NSEWnsew])\s{{0,2}})?(?<![\d.])([+-]?){_DEGREES}(?(1)|\s*([NSEWnsew]\b)?)"
)
_LOOSE_DMS = re.compile(
    rf"(?:(?<![A-Za-z\d])([NSEW])\s{{0,2}}()(?<![\d.]){_LOOSE}()|()()(?<![\d.:]){_LOOSE}\s?([NSEW])\b)"
)
_ISO_6709 = re.compile(r"([+-])(\d{2,6})(\.\d+)?([+-])(\d{3,7})(\.\d+)?(?=[+\-/\s\"',;)]|CRS|$)")
_COMMAS = re.compile(
    r"(?<![\d.,])([+-]?\d{1,3}),(\d{2,20})\s?°?\s?([NSEWnsew]\b)?(?:\s*[;/|]\s*|\s+)"
    r"([+-]?\d{1,3}),(\d{2,20})(?![\d,])\s?°?\s?([NSEWnsew]\b)?"
)
_KEYED = re.compile(
    r"(?i)(?<![a-z])(lat|lon|lng)(?:itude|gitude|g)?(?:[_ ]?(?:deg(?:rees)?|dd|wgs_?84))?_?"
    r"(e[567])?(?![a-z])(?=\W|_)[^\w+\-]{0,4}(?:is\s|of\s)?([+-]?\d+(?:\.\d+)?)"
)
_SAYS_LAT = re.compile("(?i)lat")
_LAT_KEYS = frozenset({"lat", "latitude", "y", "lat_deg", "decimallatitude"})
_LON_KEYS = frozenset({"lon", "lng", "long", "longitude", "x", "lon_deg", "decimallongitude"})


@dataclass(frozen=True)
class Place:
    """A pair of coordinates in a text.

    Attributes:
        lat_deg: Latitude.
        lon_deg: Longitude.
        precision_km: How closely the text fixes the place (geometric mean of both directions).
    """

    lat_deg: float
    lon_deg: float
    precision_km: float


def find_pairs(text: str) -> NDArray[np.float64]:
    """Return every pair of numbers in a text that may be a latitude and a longitude.

    Args:
        text: As :func:`~kfm_mlflow.care.passages_fold.plain` returns it.

    Returns:
        float64 [n, 3]: latitude, longitude in degrees, precision in km. A pair that may be read
        two ways is there twice.
    """
    ways = (_iso_pairs, _comma_pairs, _keyed_pairs, _column_pairs)
    rows = [row for way in ways for row in way(text)]
    return np.concatenate([_pairs(text), np.array(rows, dtype=np.float64).reshape(-1, 3)])


_EITHER, _LAT, _LON = 0, 1, 2
_KIND = {"": _EITHER, "N": _LAT, "S": _LAT, "E": _LON, "W": _LON}
_SOUTHWEST = frozenset("SW")

# Columns of the angles of a text: value, step in degrees, kind, start, end.
_Angles = tuple[list[float], list[float], list[int], list[int], list[int]]


def _pairs(text: str) -> NDArray[np.float64]:
    """Pair neighbouring angles, both ways; vectorised, for tables hold them by the million."""
    angles: _Angles = ([], [], [], [], [])
    covered: set[int] = set()
    for sign, pattern in ((_DEGREE_SIGN, _DMS), (_HEMISPHERE_SIGN, _LOOSE_DMS)):
        if not sign.search(text):
            continue
        for match in pattern.finditer(text):
            if match.start() not in covered:
                _add_sexagesimal(match, angles)
                covered.update(range(match.start(), match.end()))
    _add_decimals(text, angles, covered)
    value, step, kind, start, end = map(np.array, angles)
    if len(value) < 2:  # noqa: PLR2004 - a pair
        return np.zeros((0, 3))
    order = np.argsort(start, kind="stable")
    value, step, kind, start, end = (column[order] for column in (value, step, kind, start, end))
    gap = start[1:] - end[:-1]
    first = np.flatnonzero((gap >= 0) & (gap <= _MAX_GAP))
    lat = np.concatenate([first, first + 1])
    lon = np.concatenate([first + 1, first])
    good = (kind[lat] != _LON) & (kind[lon] != _LAT) & (np.abs(value[lat]) <= 90.0)  # noqa: PLR2004
    good &= (value[lon] >= -180.0) & (value[lon] <= 360.0)  # noqa: PLR2004 - some count to 360
    lat, lon = lat[good], lon[good]
    wrapped = np.where(value[lon] > 180.0, value[lon] - 360.0, value[lon])  # noqa: PLR2004
    return np.stack([value[lat], wrapped, np.sqrt(step[lat] * step[lon]) * KM_PER_DEGREE], axis=1)


def _add(angles: _Angles, value: float, step: float, side: str, span: tuple[int, int]) -> None:
    values, steps, kinds, starts, ends = angles
    values.append(-abs(value) if side in _SOUTHWEST else value)
    steps.append(step)
    kinds.append(_KIND[side])
    starts.append(span[0])
    ends.append(span[1])


def _add_decimals(text: str, angles: _Angles, covered: set[int]) -> None:
    values, steps, kinds, starts, ends = angles
    for match in _NUMBER.finditer(text):
        before, number, exponent = match.group(1, 2, 3)
        start, end = match.span(2)
        if start in covered:
            continue
        if match.lastindex == 2 and before is None and "." in number:  # noqa: PLR2004 - most are bare
            values.append(float(number))
            steps.append(_STEPS[end - start - number.index(".") - 1])
            kinds.append(_EITHER)
            starts.append(start)
            ends.append(end)
            continue
        after, word = match.group(4, 5)
        side = (before or after or (word[0] if word else "")).upper()
        end = match.end()
        decimals = len(number.partition(".")[2])
        if not (decimals or side or exponent or "°" in match.group() or "deg" in match.group()):
            continue
        power = int(exponent[1:]) if exponent else 0
        _add(
            angles, float(number + (exponent or "")), 10.0 ** (power - decimals), side, (start, end)
        )


def _add_sexagesimal(match: re.Match[str], angles: _Angles) -> None:
    groups = match.groups()
    if len(groups) > 6:  # noqa: PLR2004 - the loose form says it in one of two orders
        groups = groups[:6] if groups[2] is not None else groups[6:]
    before, sign, degrees, minutes, seconds, after = groups
    value = int(degrees) + float(minutes) / 60 + float(seconds or 0) / 3600
    finest, unit = (seconds, 3600) if seconds is not None else (minutes, 60)
    step = 10.0 ** -len(finest.partition(".")[2]) / unit
    side = (before or after or "").upper()
    _add(angles, -value if sign == "-" else value, step, side, match.span())


def _iso_pairs(text: str) -> Iterator[tuple[float, float, float]]:
    for match in _ISO_6709.finditer(text):
        lat_sign, lat, lat_rest, lon_sign, lon, lon_rest = match.groups()
        if len(lon) != len(lat) + 1 or len(lat) % 2:
            continue
        found = [
            _iso_angle(sign, digits, rest or "", width)
            for sign, digits, rest, width in (
                (lat_sign, lat, lat_rest, 2),
                (lon_sign, lon, lon_rest, 3),
            )
        ]
        if abs(found[0][0]) <= 90 and abs(found[1][0]) <= 180:  # noqa: PLR2004 - the Earth
            yield found[0][0], found[1][0], math.sqrt(found[0][1] * found[1][1]) * KM_PER_DEGREE


def _iso_angle(sign: str, digits: str, rest: str, width: int) -> tuple[float, float]:
    fields = [digits[:width], *re.findall("..", digits[width:])]
    fields[-1] += rest
    value = sum(float(field) / 60**index for index, field in enumerate(fields))
    step = 10.0 ** -max(len(rest) - 1, 0) / 60 ** (len(fields) - 1)
    return (-value if sign == "-" else value), step


def _comma_pairs(text: str) -> Iterator[tuple[float, float, float]]:
    for match in _COMMAS.finditer(text):
        a, a_rest, a_side, b, b_rest, b_side = match.groups()
        first = (float(f"{a}.{a_rest}"), (a_side or "").upper())
        second = (float(f"{b}.{b_rest}"), (b_side or "").upper())
        step = 10.0 ** (-(len(a_rest) + len(b_rest)) / 2)
        for lat, lon in ((first, second), (second, first)):
            if _KIND[lat[1]] != _LON and _KIND[lon[1]] != _LAT and abs(lat[0]) <= 90:  # noqa: PLR2004
                signed = [-abs(v) if side in {"S", "W"} else v for v, side in (lat, lon)]
                if abs(signed[1]) <= 180:  # noqa: PLR2004 - the Earth
                    yield signed[0], signed[1], step * KM_PER_DEGREE


def _keyed_pairs(text: str) -> Iterator[tuple[float, float, float]]:
    if _SAYS_LAT.search(text) is None:
        return
    last: dict[str, tuple[float, float, int]] = {}
    for match in _KEYED.finditer(text):
        axis, scale, digits = match.groups()
        power = int(scale[1]) if scale else 0
        value = float(digits) / 10**power
        step = 10.0 ** -(len(digits.partition(".")[2]) + power)
        axis = "lat" if axis.lower() == "lat" else "lon"
        last[axis] = (value, step, match.start())
        other = last.get("lon" if axis == "lat" else "lat")
        if other is None or match.start() - other[2] > _MAX_KEYED_GAP:
            continue
        lat, lon = (last["lat"], last["lon"])
        if abs(lat[0]) <= 90 and abs(lon[0]) <= 360:  # noqa: PLR2004 - the Earth
            lon_deg = lon[0] - 360 if lon[0] > 180 else lon[0]  # noqa: PLR2004
            yield lat[0], lon_deg, math.sqrt(lat[1] * lon[1]) * KM_PER_DEGREE


def _column_pairs(text: str) -> Iterator[tuple[float, float, float]]:
    """Pair the columns of a CSV whose header names a latitude and a longitude."""
    end = text.find("\n")
    header = text[: max(end, 0)].lower()
    if "lat" not in header or not any(mark in header for mark in ",;\t"):
        return
    delimiter = max(",;\t", key=header.count)
    names = [name.strip().strip('"') for name in header.split(delimiter)]
    lats = [i for i, name in enumerate(names) if name in _LAT_KEYS or name.endswith("_lat")]
    lons = [i for i, name in enumerate(names) if name in _LON_KEYS or name.endswith("_lon")]
    if not lats or not lons:
        return
    for row in csv.reader(io.StringIO(text[end + 1 :]), delimiter=delimiter):
        if len(row) > max(lats[0], lons[0]):
            yield from number_pairs([(row[lats[0]], row[lons[0]])])


def number_pairs(pairs: Iterable[tuple[Any, Any]]) -> Iterator[tuple[float, float, float]]:
    """Yield latitude, longitude and precision in km of pairs that somebody named so.

    Args:
        pairs: Numbers, or texts that are; others are passed over.
    """
    for lat, lon in pairs:
        written = [repr(v) if isinstance(v, float) else str(v) for v in (lat, lon)]
        try:
            values = [float(text) for text in written]
        except ValueError:
            continue
        if not (abs(values[0]) <= 90 and abs(values[1]) <= 360):  # noqa: PLR2004 - the Earth
            continue
        decimals = sum(len(text.partition(".")[2]) for text in written)
        lon_deg = values[1] - 360 if values[1] > 180 else values[1]  # noqa: PLR2004
        yield values[0], lon_deg, 10.0 ** (-decimals / 2) * KM_PER_DEGREE


def named_pairs(value: Any) -> Iterator[tuple[float, float, float]]:
    """Yield the places of one JSON object whose keys say latitude and longitude.

    Args:
        value: Parsed JSON; lists of equal length under both keys are pairs one by one.
    """
    if not isinstance(value, dict):
        return
    keys = {str(key).lower(): key for key in value}
    lat = next((value[keys[key]] for key in keys if key in _LAT_KEYS), None)
    lon = next((value[keys[key]] for key in keys if key in _LON_KEYS), None)
    if isinstance(lat, list) and isinstance(lon, list):
        yield from number_pairs(zip(lat, lon, strict=False))
    elif lat is not None and lon is not None:
        yield from number_pairs([(lat, lon)])
