"""What the drivers task learns from and is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from prepared import Source

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Days:
    """Rows and what they drive, with the peers' answers.

    Attributes:
        rows: float32 [n, channel, lat, lon].
        truth: float64 [n, k].
        peers: Name -> what it says, [n, k]; the first is the climatology, whose departures count.
    """

    rows: Floats
    truth: Doubles
    peers: Mapping[str, Doubles]


@dataclass(frozen=True)
class Case:
    """Both sides of a split, and the names of what is predicted.

    Attributes:
        learned: Training rows.
        held: Held-out rows.
        quantities: Names of what is predicted.
        source: Where they come from.
        selections: What the two are, in words.
        training_places: Latitude and longitude of every value of every training row; None when
            rows have no place.
    """

    learned: Days
    held: Days
    quantities: tuple[str, ...]
    source: Source
    selections: tuple[str, str]
    training_places: tuple[Doubles, Doubles] | None = None
