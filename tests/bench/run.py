"""Measure what is promised and what is stated, each against a peer in the same run.

``python tests/bench/run.py [--size small|full] [--only NAME] [--output FILE] [--no-goals]``
prints one Markdown table. Exit status 1: a promised ratio was missed. A number that noise leaves
undecided is named as such and does not fail the run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from processes import QUIET, stop_on_terminate
from report import Outcome, write_table

if TYPE_CHECKING:
    from registries import GovernedServer
    from report import Row

BENCHES = (
    "import_mlflow",
    "verify_release",
    "trust",
    "ledger",
    "care",
    "care_mask",
    "care_screen",
    "focus",
    "rollout_analysis",
    "climate_training",
    "focus_training",
    "checkpoints",
    "fleet_plan",
    "fleet_roll",
    "transition",
    "serving",
    "traffic",
)

_OF_A_FOLDER = {
    "care": "mask points, cover regions",
    "care_mask": "mask served answers",
    "care_screen": "screen a release of many cells",
    "focus": "answer rows and tell stories of a Focus Mode model",
}
"""Benches that ask for nothing but a folder -> what they do."""

_OF_NOTHING = {
    "rollout_analysis": "canary analysis: false aborts and samples to detection, simulated",
    "climate_training": "train the climate models, and measure them against their baselines",
    "focus_training": "train a Focus Mode model, and measure it against what knows less",
    "fleet_plan": "plan a step of a fleet of 1,000 agents",
    "fleet_roll": "roll a fleet of agents on a cluster of four nodes, under load",
}
"""Benches that ask for nothing -> what they do."""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=("small", "full"), default="full")
    parser.add_argument("--only", choices=BENCHES, help="run one bench")
    parser.add_argument("--output", type=Path, help="write the table here, too")
    parser.add_argument("--no-goals", action="store_true", help="exit 0 even if a goal is missed")
    return parser.parse_args()


def _tell(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _without_servers(wanted: tuple[str, ...], size: str, work_dir: Path) -> list[Row]:
    rows: list[Row] = []
    if "import_mlflow" in wanted:
        import import_mlflow

        _tell("import mlflow, in fresh processes")
        (work_dir / "import").mkdir()
        rows += import_mlflow.measure(size, work_dir / "import")
    if "verify_release" in wanted:
        import verify_release

        _tell("verify a release")
        rows += verify_release.measure(size, work_dir / "verify")
    if "trust" in wanted:
        import trust

        _tell("sign, verify, attest and search")
        rows += trust.measure(size, work_dir / "trust")
    if "ledger" in wanted:
        import ledger

        _tell("verify a ledger")
        (work_dir / "ledger").mkdir()
        rows += ledger.measure(size, work_dir / "ledger")
    for name, told in _OF_A_FOLDER.items():
        if name in wanted:
            _tell(told)
            rows += import_module(name).measure(size, work_dir)
    for name, told in _OF_NOTHING.items():
        if name in wanted:
            _tell(told)
            rows += import_module(name).measure(size)
    if "checkpoints" in wanted:
        import checkpoints

        _tell("save checkpoints beside training, and verify a directory of them")
        rows += checkpoints.measure(size, work_dir / "checkpoints")
    return rows


def _transitions(size: str, work_dir: Path, governed: GovernedServer, kind: str) -> list[Row]:
    """Move the same release on a governed and a plain server that keep their rows alike."""
    import registries
    import transition

    database = None if kind == "SQLite" else _postgresql("plain")
    with registries.plain_server(work_dir, database) as plain:
        registries.register_copy(plain.port, work_dir / "release")
        _tell(f"stage transitions, governed and plain, {kind}")
        return [
            *transition.measure(size, governed.port, plain.port, kind),
            *transition.measure_crowded(size, governed, plain, kind),
        ]


def _postgresql(name: str) -> str:
    """Return the URI of an empty database of a PostgreSQL server that stops with this process."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import postgres

    cluster = postgres.start()
    return cluster.url(cluster.create(name))


def _with_servers(wanted: tuple[str, ...], size: str, work_dir: Path) -> list[Row]:
    import registries

    rows: list[Row] = []
    with registries.governed_server(work_dir) as governed:
        _tell("train, sign, validate and register a small release")
        release_dir = registries.make_release(governed, work_dir)
        if "transition" in wanted:
            rows += _transitions(size, work_dir, governed, "SQLite")
    if "transition" in wanted:
        other_dir = work_dir / "postgresql"
        with registries.governed_server(other_dir, _postgresql("governed")) as governed:
            registries.make_release(governed, other_dir)
            rows += _transitions(size, other_dir, governed, "PostgreSQL")
    if "serving" in wanted:
        import serving

        _tell("serving: router and canary, mlflow models serve, bare Ray Serve")
        rows += serving.measure(size, release_dir, work_dir)
    if "traffic" in wanted:
        import traffic

        _tell("traffic: changed weights, verdicts and copies, on two routers")
        rows += traffic.measure(size, release_dir, work_dir)
    return rows


def main() -> int:
    """Run the benches that were asked for, and print the table."""
    options = _options()
    os.environ.update(QUIET)
    stop_on_terminate()
    wanted = (options.only,) if options.only else BENCHES
    load_average, started_s = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kfm-bench-") as folder:
        rows = _without_servers(wanted, options.size, Path(folder))
        if {"transition", "serving", "traffic"} & set(wanted):
            rows += _with_servers(wanted, options.size, Path(folder))
    table = write_table(
        rows, size=options.size, load_average=load_average, wall_s=time.monotonic() - started_s
    )
    print(table)
    if options.output:
        options.output.write_text(table, encoding="utf-8")
    for row in rows:
        if row.outcome not in (None, Outcome.KEPT):
            _tell(f"goal {row.goal} of {row.what}: {row.ratio.median:.3f}, {row.outcome}")
    is_missed = any(row.outcome is Outcome.MISSED for row in rows)
    return 1 if is_missed and not options.no_goals else 0


if __name__ == "__main__":
    sys.exit(main())
