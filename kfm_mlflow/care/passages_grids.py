"""Places written as codes: geohash, plus code, UTM, MGRS, map tile, H3 index, hexadecimal WKB.

Each pattern is found by its look and decoded to the middle of what it names, with the size of that
as precision. A look-alike (a digest, a serial number) decodes too, to somewhere on Earth; whether
that is where anybody minds is for the caller, and hardly ever so.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

KM_PER_DEGREE = 111.32
_GEOHASH = "0123456789bcdefghjkmnpqrstuvwxyz"
_PLUS = "23456789CFGHJMPQRVWX"
_EDGE = r"(?<![0-9A-Za-z_])"
_END = r"(?![0-9A-Za-z_])"
_TOKEN = re.compile(rf"{_EDGE}[0-9A-Za-z]{{4,}}(?:\+[{_PLUS}{_PLUS.lower()}]{{2,7}})?{_END}")
_H3_HEX = re.compile(r"(?:0[xX])?(8[0-9a-fA-F]{14})")
_H3_INTEGER = re.compile(r"(5[7-9]\d{16}|6[0-4]\d{16})")
_BARE_GEOHASH = re.compile(r"(?=[b-hjkmnp-z]*\d)(?=\d*[b-hjkmnp-z])([0-9b-hjkmnp-z]{6,12})")
_NAMED_GEOHASH = re.compile(r"(?i:geohash)\W{1,5}([0-9b-hjkmnp-zB-HJKMNP-Z]{3,12})(?![0-9A-Za-z_])")
_PLUS_CODE = re.compile(rf"(?i)([{_PLUS}]{{4,8}})\+([{_PLUS}]{{2,7}})")
_LONG_DIGITS = re.compile(r"\d{6}(?:\.\d+)?\D{1,30}\d{7}(?!\d)")
_UTM = re.compile(
    rf"(?i){_EDGE}(\d{{1,2}})\s?([C-HJ-NP-X])?\b[\s,;:]*(?:e(?:asting)?\W{{0,3}})?"
    r"(\d{6})(?:\.\d+)?\s?(?:m?\s?E\b)?[\s,;/:]+(?:n(?:orthing)?\W{0,3})?(\d{7})(?:\.\d+)?(?!\d)"
)
_MGRS = re.compile(r"(?i)(\d{1,2})([C-HJ-NP-X])([A-HJ-NP-Z])([A-HJ-NP-V])(\d{2,10})")
_SPACED_MGRS = re.compile(
    rf"(?i){_EDGE}(\d{{1,2}})([C-HJ-NP-X])\s?([A-HJ-NP-Z])([A-HJ-NP-V])\s"
    rf"(\d{{1,5}}\s\d{{1,5}}|\d{{2,10}}){_END}"
)
_TILE = re.compile(r"(?<!\d)(\d{1,2})/(\d{1,7})/(\d{1,7})(?:@2x)?\.(?:png|jpe?g|webp|pbf|mvt)")
_WKB = re.compile(r"(?:01(?:0[1-7]000000|0[1-7]000020)|000000000[1-7])[0-9a-fA-F]{32,20000}")
_PAIR_LENGTH, _MOST_TILE_ZOOM = 10, 24
_FULL_PLUS = 8

_TILE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".pbf", ".mvt")

Spot = tuple[float, float, float]
"""Latitude, longitude in degrees, and side in km of the square that is named."""


@dataclass(frozen=True)
class Codes:
    """Every code of a text that may name a place.

    Attributes:
        cells: H3 cells, however they were written.
        spots: Places that were decoded.
        short_plus: Plus codes that need a place name beside them.
    """

    cells: frozenset[str]
    spots: tuple[Spot, ...]
    short_plus: frozenset[str]


def find_codes(text: str) -> Codes:
    """Return every code in a text.

    Args:
        text: As :func:`~kfm_mlflow.care.passages_fold.plain` returns it.
    """
    import h3  # type: ignore[import-untyped]  # it ships no stubs

    tokens = set(_TOKEN.findall(text))
    cells = {cell for token in tokens for cell in _cells_of(token)}
    short = {token.upper() for token in tokens if _is_short_plus(token)}
    spots = [spot for token in tokens for spot in _spots_of(token)]
    spots += [decode_geohash(token.lower()) for token in set(_NAMED_GEOHASH.findall(text))]
    for match in _SPACED_MGRS.finditer(text):
        spots += _mgrs_spots(match)
    if _LONG_DIGITS.search(text):
        for zone, band, easting, northing in _UTM.findall(text):
            spots += _utm_spots(int(zone), band.upper(), float(easting), float(northing))
    if any(ending in text for ending in _TILE_ENDINGS):
        for zoom, x, y in _TILE.findall(text):
            if int(zoom) <= _MOST_TILE_ZOOM and max(int(x), int(y)) < 2 ** int(zoom):
                spots.append(_tile(int(zoom), int(x), int(y)))
    valid = frozenset(cell for cell in cells if h3.is_valid_cell(cell))
    return Codes(valid, tuple(dict.fromkeys(spots)), frozenset(short))


def _cells_of(token: str) -> Iterator[str]:
    if match := _H3_HEX.fullmatch(token):
        yield match.group(1).lower()
    elif _H3_INTEGER.fullmatch(token):
        yield f"{int(token):x}"


def _is_short_plus(token: str) -> bool:
    match = _PLUS_CODE.fullmatch(token)
    if match is None or len(match.group(1)) in {5, 7, _FULL_PLUS}:
        return False
    return re.search("[A-Za-z]", token) is not None


def _spots_of(token: str) -> Iterator[Spot]:
    """Yield the place that a token without spaces names, if it names one."""
    plus = _PLUS_CODE.fullmatch(token)
    if plus is not None and len(plus.group(1)) == _FULL_PLUS:
        yield decode_plus(token.upper())
    if _BARE_GEOHASH.fullmatch(token):
        yield decode_geohash(token)
    if match := _MGRS.fullmatch(token):
        yield from _mgrs_spots(match)
    if _WKB.fullmatch(token):
        yield from _wkb(token)


def _mgrs_spots(match: re.Match[str]) -> list[Spot]:
    zone, band, column, row, digits = match.groups()
    spot = decode_mgrs(int(zone), band.upper(), (column + row).upper(), digits)
    return [] if spot is None else [spot]


def _spot(lat: float, lon: float, lat_side: float, lon_side: float) -> Spot:
    width = lon_side * math.cos(math.radians(min(abs(lat), 89.0)))
    return lat, lon, math.sqrt(lat_side * width) * KM_PER_DEGREE


def decode_geohash(token: str) -> Spot:
    """Return the place of a geohash (Niemeyer 2008): bits of longitude and latitude in turn."""
    bounds = [[-180.0, 180.0], [-90.0, 90.0]]
    axis = 0
    for char in token:
        value = _GEOHASH.index(char)
        for bit in range(4, -1, -1):
            low, high = bounds[axis]
            bounds[axis][0 if value >> bit & 1 else 1] = (low + high) / 2
            axis = 1 - axis
    (west, east), (south, north) = bounds
    return _spot((south + north) / 2, (west + east) / 2, north - south, east - west)


def decode_plus(code: str) -> Spot:
    """Return the place of a full plus code (Open Location Code specification 1.0)."""
    digits = code.replace("+", "")
    south, west, step_lat, step_lon = -90.0, -180.0, 400.0, 400.0
    for index in range(0, min(len(digits), _PAIR_LENGTH), 2):
        step_lat, step_lon = step_lat / 20, step_lon / 20
        south += _PLUS.index(digits[index]) * step_lat
        if index + 1 < len(digits):
            west += _PLUS.index(digits[index + 1]) * step_lon
    for char in digits[_PAIR_LENGTH:]:
        step_lat, step_lon = step_lat / 5, step_lon / 4
        row, column = divmod(_PLUS.index(char), 4)
        south, west = south + row * step_lat, west + column * step_lon
    return _spot(south + step_lat / 2, west + step_lon / 2, step_lat, step_lon)


def recover_plus(short: str, lat: float, lon: float) -> Spot:
    """Return the place of a shortened plus code that is nearest to a reference place."""
    missing = 8 - short.index("+")
    side = 20.0 ** (2 - missing // 2)
    prefix = _encode_plus(lat, lon)[:missing]
    found = decode_plus(prefix + short)
    moved = [found[0], found[1]]
    for axis, reference in enumerate((lat, lon)):
        if reference + side / 2 < moved[axis]:
            moved[axis] -= side
        elif reference - side / 2 > moved[axis]:
            moved[axis] += side
    return moved[0], moved[1], found[2]


def _encode_plus(lat: float, lon: float) -> str:
    south, west, side, code = min(lat, 89.999) + 90, (lon + 180) % 360, 400.0, ""
    for _ in range(4):
        side /= 20
        for value in (south, west):
            code += _PLUS[int(value // side) % 20]
        south, west = south % side, west % side
    return code


# WGS 84 and UTM (Krüger's series to n^3 as in Karney, J. Geodesy 2011; metres).
_A, _F, _K0, _FALSE_EASTING, _FALSE_NORTHING = 6378137.0, 1 / 298.257223563, 0.9996, 5e5, 1e7
_N = _F / (2 - _F)
_RECTIFYING = _A / (1 + _N) * (1 + _N**2 / 4 + _N**4 / 64)
_BETA = (
    _N / 2 - 2 * _N**2 / 3 + 37 * _N**3 / 96,
    _N**2 / 48 + _N**3 / 15,
    17 * _N**3 / 480,
)
_DELTA = (
    2 * _N - 2 * _N**2 / 3 - 2 * _N**3,
    7 * _N**2 / 3 - 8 * _N**3 / 5,
    56 * _N**3 / 15,
)
_ZONES = 60


def decode_utm(
    zone: int, easting_m: float, northing_m: float, *, north: bool
) -> tuple[float, float]:
    """Return latitude and longitude of UTM coordinates on WGS 84, good to a millimetre."""
    xi = (northing_m - (0.0 if north else _FALSE_NORTHING)) / (_K0 * _RECTIFYING)
    eta = (easting_m - _FALSE_EASTING) / (_K0 * _RECTIFYING)
    terms = list(enumerate(_BETA, start=1))
    xi_0 = xi - sum(b * math.sin(2 * j * xi) * math.cosh(2 * j * eta) for j, b in terms)
    eta_0 = eta - sum(b * math.cos(2 * j * xi) * math.sinh(2 * j * eta) for j, b in terms)
    chi = math.asin(math.sin(xi_0) / math.cosh(eta_0))
    lat = chi + sum(d * math.sin(2 * j * chi) for j, d in enumerate(_DELTA, start=1))
    lon = math.degrees(math.atan2(math.sinh(eta_0), math.cos(xi_0))) + zone * 6 - 183
    return math.degrees(lat), lon


def _utm_spots(zone: int, band: str, easting: float, northing: float) -> Iterator[Spot]:
    if not 1 <= zone <= _ZONES or not 1e5 <= easting < 9e5:  # noqa: PLR2004 - the grid's range
        return
    # "S" means south to some and the band from 32 to 40 degrees north to others.
    for north in {True} if band > "S" or not band else {True, False}:
        yield (*decode_utm(zone, easting, northing, north=north), 0.001)


def decode_mgrs(zone: int, band: str, square: str, digits: str) -> Spot | None:
    """Return the place of an MGRS reference (NGA.STND.0037); None when it is none."""
    parts = digits.split()
    if len(parts) == 1:
        half, odd = divmod(len(digits), 2)
        parts = [digits[:half], digits[half:]] if not odd else []
    if len(parts) != 2 or len(parts[0]) != len(parts[1]) or not 1 <= zone <= _ZONES:  # noqa: PLR2004
        return None
    side_m = 10.0 ** (5 - len(parts[0]))
    columns = ("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")[zone % 3]
    if square[0] not in columns:
        return None
    rows = "ABCDEFGHJKLMNPQRSTUV"
    easting = (columns.index(square[0]) + 1) * 1e5 + int(parts[0]) * side_m + side_m / 2
    shift = 0 if zone % 2 else 5
    northing = ((rows.index(square[1]) - shift) % 20) * 1e5 + int(parts[1]) * side_m + side_m / 2
    south = -80.0 + 8 * "CDEFGHJKLMNPQRSTUVWX".index(band)
    is_north = band >= "N"
    # Rows repeat every 2000 km; the band says which of them is meant.
    for cycle in range(6):
        lat, lon = decode_utm(zone, easting, northing + cycle * 2e6, north=is_north)
        if south - 1 <= lat <= south + 13:
            return lat, lon, side_m / 1000
    return None


def _tile(zoom: int, x: int, y: int) -> Spot:
    count = 2**zoom
    lon = (x + 0.5) / count * 360 - 180
    lat = math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * (y + 0.5) / count))))
    side = 360 / count
    return _spot(lat, lon, side * math.cos(math.radians(lat)), side)


def _wkb(token: str) -> Iterator[Spot]:
    import shapely

    shape = shapely.from_wkb(token, on_invalid="ignore") if len(token) % 2 == 0 else None
    if shape is None or shape.is_empty:
        return
    for lon, lat in shapely.get_coordinates(shape):
        if abs(lat) <= 90 and abs(lon) <= 180:  # noqa: PLR2004 - the Earth
            yield float(lat), float(lon), 1e-6
