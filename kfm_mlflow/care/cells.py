"""H3 cells as columns of 64-bit numbers: reading, writing, parents, and grouping without sorting.

An H3 index holds its resolution in bits 52 to 55, its base cell in bits 45 to 51, and one digit of
three bits for each resolution below; digits finer than its own are 7 (h3geo.org, "H3Index").
So a parent is a few bit operations, the same as ``h3.cell_to_parent`` gives, for a whole column.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Cells = NDArray[np.uint64]
    Integers = NDArray[np.int64]

WITHHELD = np.uint64(0)
"""Stands where a cell would, and may not be published."""

_RESOLUTION_BIT = np.uint64(52)
_RESOLUTION_MASK = np.uint64(0xF << 52)
_MODE_BIT, _MODE = np.uint64(56), np.uint64(8)
_ONE = np.uint64(1)
_BASE_CELL_BIT = 45
_BASE_CELL_BITS = 7
_SPLIT_RESOLUTION = 4
_DENSE_FACTOR = 8
_MANY = 50_000


def parse_cells(cells: Iterable[Any], *, where: str = "cells") -> Cells:
    """Read H3 cells, as hexadecimal text or as whole numbers, into one column.

    Args:
        cells: Of any resolutions.
        where: What to name in an error.

    Raises:
        InputError: One is no H3 cell; names its row, counted from 0.
    """
    if isinstance(cells, np.ndarray) and cells.dtype == np.uint64:
        found: Cells = cells
    else:
        found = np.array(
            [_number(cell, row, where) for row, cell in enumerate(cells)], dtype=np.uint64
        )
    wrong = ~_valid(found)
    if wrong.any():
        raise _no_cell(int(np.flatnonzero(wrong)[0]), where)
    return found


def _number(cell: Any, row: int, where: str) -> int:
    try:
        number = int(cell, 16) if isinstance(cell, str) else int(cell)
    except (TypeError, ValueError) as exc:
        raise _no_cell(row, where) from exc
    if not 0 <= number < 2**64:
        raise _no_cell(row, where)
    return number


def _no_cell(row: int, where: str) -> InputError:
    return InputError(
        "is not an H3 cell", where=f"{where}: row {row}", remedy="write 15 hexadecimal digits"
    )


def _valid(cells: Cells) -> NDArray[np.bool_]:
    import h3ronpy

    if not cells.size:
        return np.ones(0, dtype=np.bool_)
    return np.asarray(h3ronpy.cells_valid(cells, booleanarray=True)).astype(np.bool_)


def format_cells(cells: Cells) -> list[str]:
    """Return cells as hexadecimal text."""
    if cells.size and ((cells >> _MODE_BIT) == _MODE).all():
        # 15 digits each, so all are written at once and cut.
        return cells.astype(">u8").tobytes().hex("|", 8)[1:].split("|0")
    return [f"{cell:x}" for cell in cells.tolist()]


def resolutions(cells: Cells) -> NDArray[np.int8]:
    """Return the resolution of each cell, 0 (coarsest) to 15."""
    return ((cells & _RESOLUTION_MASK) >> _RESOLUTION_BIT).astype(np.int8)


def parents(cells: Cells, resolution: int | NDArray[Any]) -> Cells:
    """Return the ancestor of each cell at a resolution; a cell that is no finer stays.

    Args:
        cells: Of any resolutions.
        resolution: One for all, or one per cell; 0 to 15.
    """
    own = (cells & _RESOLUTION_MASK) >> _RESOLUTION_BIT
    wanted = np.minimum(own, np.asarray(resolution).astype(np.uint64))
    # Digits of its own resolution and coarser stay; unused ones are all ones already.
    fill = (_ONE << (np.uint64(_BASE_CELL_BIT) - np.uint64(3) * wanted)) - _ONE
    found: Cells = (cells & ~_RESOLUTION_MASK) | (wanted << _RESOLUTION_BIT) | fill
    return found


def dense_keys(cells: Cells, resolution: int) -> NDArray[np.int64]:
    """Return base cell and digits down to a resolution as one small number per cell.

    It is below ``2 ** (7 + 3 * resolution)`` and means the cell's ancestor; for a coarser cell it
    means nothing.
    """
    shift = np.uint64(_BASE_CELL_BIT - 3 * resolution)
    mask = np.uint64((1 << (_BASE_CELL_BITS + 3 * resolution)) - 1)
    keys = cells >> shift
    keys &= mask
    return keys.view(np.int64)


def group_cells(cells: Cells, resolution: int) -> tuple[Cells, Integers, Integers]:
    """Group equal cells of one resolution.

    Cells near each other are counted in a table; only where they are spread so widely that it
    would be large are they sorted.

    Args:
        cells: All at ``resolution``.
        resolution: 0 to 15.

    Returns:
        The different cells (sorted), the number of each, and for each given cell the position of
        its equal among them.
    """
    if resolution > _SPLIT_RESOLUTION and cells.size > _MANY:
        coarse = dense_keys(cells, _SPLIT_RESOLUTION)
        used = np.bincount(coarse, minlength=1 << (_BASE_CELL_BITS + 3 * _SPLIT_RESOLUTION)) > 0
        fine_bits = 3 * (resolution - _SPLIT_RESOLUTION)
        table_size = int(used.sum()) << fine_bits
        if table_size <= _DENSE_FACTOR * cells.size:
            return _grouped_by_table(cells, resolution, coarse, used)
    found, position, count = np.unique(cells, return_inverse=True, return_counts=True)
    return found, count.astype(np.int64), position.astype(np.int64)


def _grouped_by_table(
    cells: Cells, resolution: int, coarse: Integers, used: NDArray[np.bool_]
) -> tuple[Cells, Integers, Integers]:
    fine_bits = 3 * (resolution - _SPLIT_RESOLUTION)
    # Ascending keys keep ascending cells: digits stand from coarse to fine.
    place = ((np.cumsum(used) - 1) << fine_bits)[coarse]
    fine = dense_keys(cells, resolution)
    fine &= (1 << fine_bits) - 1
    place |= fine
    table = np.bincount(place, minlength=int(used.sum()) << fine_bits)
    present = np.flatnonzero(table)
    order = np.zeros(table.size, dtype=np.int64)
    order[present] = np.arange(present.size)
    position = order[place]
    found = np.zeros(present.size, dtype=np.uint64)
    found[position] = cells
    return found, table[present].astype(np.int64), position


def cell_side_km(resolution: int) -> float:
    """Return the side of a square with the average area of an H3 cell, in km (r7: 2.27)."""
    import h3  # type: ignore[import-untyped]  # it ships no stubs

    return math.sqrt(h3.average_hexagon_area(resolution, unit="km^2"))
