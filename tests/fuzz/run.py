"""Fuzz every parser for a while: ``python tests/fuzz/run.py --seconds 60``.

Rounds of Hypothesis examples, each from a seed of its own, until the time is over. A finding is
shrunk, printed with the seed that gives it again, and makes the exit status 1. Where atheris is
installed, half of the time goes to it: the same targets, led by coverage.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz import guided
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

# Only here: the suite imports this module too, and wants no instrumented code.
is_guided = __name__ == "__main__" and guided.is_available()
with guided.instrumented() if is_guided else nullcontext():
    from fuzz.targets_files import TARGETS, Target

_ROUND_COUNT = 20
_SHOWN_CHARACTERS = 6000
_FIRST_SEED = 1


def fuzz(target: Target, *, example_count: int, seed: int) -> int:
    """Break the input of one parser many times; return how often.

    Raises:
        Exception: Whatever a parser raised that it should not have.
    """
    asked = 0

    def tell() -> None:
        nonlocal asked
        asked += 1

    _property(target, example_count=example_count, seed=seed, tell=tell)()
    return asked


def _property(target: Target, *, example_count: int, seed: int, tell: Callable[[], None]) -> Any:
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
        tell()
        target.run(broken)

    return once


def fuzz_guided(name: str, *, seconds: float) -> bool:
    """Fuzz one parser by coverage, and tell; return whether nothing was found."""
    fuzz(TARGETS[name], example_count=1, seed=_FIRST_SEED)  # makes good input and imports vendors
    asked = _property(TARGETS[name], example_count=1, seed=_FIRST_SEED, tell=lambda: None)
    is_good, said = guided.fuzz_guided(
        asked.hypothesis.fuzz_one_input, seconds=seconds, seed=_FIRST_SEED
    )
    if not is_good:
        sys.stdout.write(f"{name}: by coverage\n{said[-_SHOWN_CHARACTERS:]}\n")
    done = [line for line in said.splitlines() if line.startswith(("Done ", "stat::number"))]
    sys.stdout.write(f"{name:24} by coverage: {done[-1] if done else 'FOUND'}\n")
    return is_good


def main() -> int:
    """Fuzz all parsers in turn and report; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", choices=sorted(TARGETS), action="append")
    options = parser.parse_args()
    # Vendors log what they stumble over; here only what they raise is asked for.
    logging.disable(logging.CRITICAL)
    names = options.only or list(TARGETS)
    counts, found = dict.fromkeys(names, 0), set()
    seconds = options.seconds
    if is_guided:
        seconds /= 2
        found |= {n for n in names if not fuzz_guided(n, seconds=seconds / len(names))}
    ends_at = time.monotonic() + seconds
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
