"""Temperature and precipitation of one region, as the made-up circulation drives them.

T = 12.5 + 13 warm + 4 a1 - 2.5 a2 + 1.5 a1 a3 + noise (1.2 K), P = softplus of 0.5 + 0.8 warm +
1.2 a2 - 0.9 a4 + 0.7 a1 a2, times 3 mm, plus noise, never below 0. ``warm`` runs from -1 in mid
January to 1 in mid July; a1 … are the amplitudes of ``circulation.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from circulation import season_waves

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from circulation import Circulation

_SEED = 1854
QUANTITIES = ("temperature", "precipitation")


def regional_weather(world: Circulation) -> NDArray[np.float64]:
    """Return [day, 2]: degC and mm per day."""
    rng = np.random.Generator(np.random.PCG64(_SEED))
    noise = rng.standard_normal((len(world.fields), 2))
    warm = -season_waves(world.day_of_year)[:, 1]
    a1, a2, a3, a4 = world.amplitudes[:, :4].T
    temperature = 12.5 + 13.0 * warm + 4.0 * a1 - 2.5 * a2 + 1.5 * a1 * a3 + 1.2 * noise[:, 0]
    lifted = 0.5 + 0.8 * warm + 1.2 * a2 - 0.9 * a4 + 0.7 * a1 * a2
    precipitation = np.maximum(3.0 * np.logaddexp(0.0, lifted) + 0.8 * noise[:, 1], 0.0)
    return np.stack([temperature, precipitation], axis=1)
