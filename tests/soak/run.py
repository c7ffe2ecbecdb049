"""Drive random schedules of failures against the rollout controller.

``python tests/soak/run.py [--size small|full|COUNT] [--first SEED]`` prints each violation with
the seed that shows it again; its last line says schedules run and violations found. Exit status
1: there was one.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from soak.schedules import Result, run_schedule

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kfm_mlflow.rollout.state import Phase

SIZES = {"small": 30, "full": 5000}
_CHUNK = 50


@dataclass
class Report:
    """What a soak found: seed -> what was violated."""

    schedule_count: int = 0
    pass_count: int = 0
    violations: dict[int, tuple[str, ...]] = field(default_factory=dict)
    phases: set[Phase] = field(default_factory=set)

    def add(self, result: Result) -> None:
        """Take in one schedule."""
        self.schedule_count += 1
        self.pass_count += result.pass_count
        self.phases |= result.phases
        if result.violations:
            self.violations[result.seed] = result.violations

    @property
    def last_line(self) -> str:
        """Schedules run and violations found."""
        count = sum(len(texts) for texts in self.violations.values())
        return f"soak: {self.schedule_count} schedules run, {count} violations found"


def _quiet(seed: int) -> Result:
    log = logging.getLogger("kfm_mlflow.rollout")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        return run_schedule(seed)
    finally:
        log.setLevel(before)


def soak(seeds: Sequence[int], *, processes: int, stop_at: str | None = None) -> Report:
    """Run the schedules of many seeds.

    Args:
        seeds: One schedule each.
        processes: 1 runs in this process.
        stop_at: End at the first violation that holds this text.
    """
    report = Report()
    if processes == 1:
        _collect(report, map(_quiet, seeds), stop_at)
    else:
        with ProcessPoolExecutor(processes) as pool:
            _collect(report, pool.map(_quiet, seeds, chunksize=_CHUNK), stop_at)
    return report


def _collect(report: Report, results: Iterable[Result], stop_at: str | None) -> None:
    for result in results:
        report.add(result)
        for text in result.violations:
            print(f"seed {result.seed}: {text}", flush=True)
        if stop_at is not None and any(stop_at in text for text in result.violations):
            return


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="full", help="small, full, or a number of schedules")
    parser.add_argument("--first", type=int, default=0, help="seed of the first schedule")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    count = SIZES.get(options.size) or int(options.size)
    seeds = range(options.first, options.first + count)
    report = soak(seeds, processes=1 if count <= _CHUNK else options.processes)
    print(f"{report.pass_count} passes; phases seen: {', '.join(sorted(report.phases))}")
    print(report.last_line)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
