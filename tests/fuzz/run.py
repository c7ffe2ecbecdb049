"""Fuzz every parser for a while: ``python tests/fuzz/run.py --seconds 60``.

Rounds of Hypothesis examples, each from a seed of its own, until the time is over. A finding is
shrunk, printed with the seed that gives it again, and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.targets import TARGETS, Target
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

_ROUND_COUNT = 20
_FIRST_SEED = 1


def fuzz(target: Target, *, example_count: int, seed: int) -> int:
    """Break the input of one parser many times; return how often.

    Raises:
        Exception: Whatever a parser raised that it should not have.
    """
    asked = 0

    @seeded(seed)
    @settings(
        max_examples=example_count,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs())
    def once(broken: object) -> None:
        nonlocal asked
        asked += 1
        target.run(broken)

    once()
    return asked


def main() -> int:
    """Fuzz all parsers in turn and report; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", choices=sorted(TARGETS), action="append")
    options = parser.parse_args()
    # Vendors log what they stumble over; here only what they raise is asked for.
    logging.disable(logging.CRITICAL)
    names = options.only or list(TARGETS)
    ends_at = time.monotonic() + options.seconds
    counts, found = dict.fromkeys(names, 0), set()
    seed = _FIRST_SEED
    while time.monotonic() < ends_at and len(found) < len(names):
        for name in names:
            if name in found or time.monotonic() >= ends_at:
                continue
            try:
                counts[name] += fuzz(TARGETS[name], example_count=_ROUND_COUNT, seed=seed)
            except Exception:  # noqa: BLE001 - a finding is whatever a parser raised
                found.add(name)
                sys.stdout.write(f"{name}: seed {seed}\n{traceback.format_exc()}\n")
        seed += 1
    for name in names:
        sys.stdout.write(f"{name:24} {counts[name]:7} inputs{'  FOUND' if name in found else ''}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
