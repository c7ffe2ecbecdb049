"""Reading the values of one Focus Mode column: numbers, in the column's unit, none left blank."""

from __future__ import annotations

import math
import re
from numbers import Real
from typing import TYPE_CHECKING

from kfm_mlflow.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from kfm_mlflow.focus.columns import Column

_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
_COORDINATES = ("latitude_deg", "longitude_deg")  # never quoted
_BLANKS = frozenset({"", "na", "n/a", "nan", "null", "none", "-"})
_UNITS = {
    "deg": "decimal degrees",
    "degC": "degrees Celsius",
    "K": "kelvin, as a difference from normal",
    "m": "metres",
    "km": "kilometres",
    "mm": "millimetres",
    "m/s": "metres per second",
    "d": "days of the month",
    "J/kg": "joules per kilogram",
    "percentile": "a percentile from 0 to 100",
    "1": "a number without unit, no percentage",
}


def numbers_of_column(
    column: Column, values: Sequence[Any], *, where: str, is_text: bool = False
) -> list[float]:
    """Check the values of one column and return them as numbers.

    Args:
        column: What its values may be.
        values: One per row.
        where: What to call the table in a refusal.
        is_text: Whether numbers are written as text.

    Raises:
        DataError: One is blank, no number or beyond what the column allows.
    """
    blank = [number for number, value in enumerate(values, start=1) if _is_blank(value)]
    if blank:
        raise DataError(
            f"{column.name} is blank in {_rows_named(blank)}",
            where=where,
            remedy="fill it or leave the rows out: no value is made up for it",
        )
    found = []
    for number, value in enumerate(values, start=1):
        read = _number(value, is_text=is_text)
        if read is None:
            shown = _shown(column, shown_briefly(value))
            raise DataError(
                f"{column.name} is {shown} in row {number}, not a number",
                where=where,
                remedy=f"give {_UNITS[column.unit]} as a plain number",
            )
        if not column.low <= read <= column.high:
            raise _misfit(column, read, number, where)
        found.append(read)
    return found


def shown_briefly(value: object) -> str:
    """Return what a refusal quotes: 40 characters of a text, of anything else its type."""
    return f"{value!r:.40}" if isinstance(value, str) else type(value).__name__


def _is_blank(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in _BLANKS
    return value is None or (isinstance(value, Real) and value != value)  # noqa: PLR0124 NaN alone


def _number(value: object, *, is_text: bool) -> float | None:
    if isinstance(value, str) and is_text and _NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, bool) or not hasattr(value, "__float__") or isinstance(value, str):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _misfit(column: Column, value: float, number: int, where: str) -> DataError:
    side, end = ("least", column.low) if value < column.low else ("most", column.high)
    unit = "" if column.unit == "1" else f" {column.unit}"
    return DataError(
        f"{column.name} is {_shown(column, f'{value:g}')} in row {number}, at {side} {end:g}{unit}",
        where=where,
        remedy=f"give {_UNITS[column.unit]}",
    )


def _shown(column: Column, text: str) -> str:
    return "a value" if column.name in _COORDINATES else text


def _rows_named(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"row {numbers[0]}"
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"rows {numbers[0]} to {numbers[-1]}"
    return f"{len(numbers)} rows, first in row {numbers[0]}"
