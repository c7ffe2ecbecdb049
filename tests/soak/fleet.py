"""Drive random schedules of failures against the step of a fleet's rolling update.

``python tests/soak/fleet.py [--size small|full|COUNT] [--first SEED]`` prints each violation with
the seed that shows it again; its last line says schedules run and violations found. Exit status
1: there was one. Most schedules have 12 to 40 agents; every 300th has 1,000.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from soak.fleet_schedules import Result, run_schedule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SIZES = {"small": 30, "full": 3000}
LARGE_EVERY = 300
LARGE_FLEET = 1000


def run_seed(seed: int) -> Result:
    """Run one schedule; some are of a thousand agents."""
    large = seed % LARGE_EVERY == LARGE_EVERY - 1
    return run_schedule(seed, agent_count=LARGE_FLEET if large else None)


def _results(seeds: Sequence[int], processes: int) -> Iterator[Result]:
    if processes == 1:
        yield from map(run_seed, seeds)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(run_seed, seeds, chunksize=10)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="full", help="small, full, or a number of schedules")
    parser.add_argument("--first", type=int, default=0, help="seed of the first schedule")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    count = SIZES.get(options.size) or int(options.size)
    seeds = range(options.first, options.first + count)
    phases: Counter[str] = Counter()
    violation_count = pass_count = 0
    for result in _results(seeds, options.processes):
        phases.update(result.phases)
        pass_count += result.pass_count
        violation_count += len(result.violations)
        for text in result.violations:
            print(f"seed {result.seed}: {text}", flush=True)
    told = ", ".join(f"{phase} {n}" for phase, n in sorted(phases.items()))
    print(f"{pass_count} passes; schedules that saw a phase: {told}")
    print(f"fleet soak: {count} schedules run, {violation_count} violations found")
    return 1 if violation_count else 0


if __name__ == "__main__":
    sys.exit(main())
