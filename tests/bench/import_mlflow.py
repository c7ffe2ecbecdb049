"""Processor time of ``import mlflow`` with our package there, hidden, and absent.

*Absent* is a folder of links to everything in site-packages but what our installation put there;
the other two arms use such a folder with everything. *Hidden* keeps the package installed and
leaves its entry points out of what MLflow finds. Each arm proves in its own process that it is what
it claims to be. Processor time (user and system, of the whole process) is compared because other
programs on the machine move wall time far more than 2 %.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from processes import QUIET
from report import Row, paired_ratio, spread_of

GOAL = 1.02
ROUNDS = {"small": (6, 8, 30.0), "full": (12, 40, 85.0)}
"""Least and most rounds, and seconds after which no new round begins."""

_HIDDEN_EVERY = 4
"""The hidden arm runs in every fourth round only; the promise rests on the other two."""

_ARMS = ("with", "hidden", "absent")
_PROGRAM = """
import importlib.metadata, json, resource, site, sys
folder, hides = sys.argv[1], sys.argv[2] == "hidden"
site.addsitedir(folder)
found = importlib.metadata.entry_points
def entry_points(**wanted):
    chosen = found(**wanted)
    if not hides:
        return chosen
    return type(chosen)(e for e in chosen if not e.value.startswith(("kfm_mlflow", "kfm_serving")))
importlib.metadata.entry_points = entry_points
def processor_s():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
import mlflow
imported_s = processor_s()
mlflow.MlflowClient("http://127.0.0.1:9")._get_registry_client()  # connects to nothing
stores = importlib.metadata.entry_points(group="mlflow.model_registry_store")
said = {
    "import": imported_s,
    "client": processor_s(),
    "seen": "kfm+sqlite" in stores.names,
    "loaded": "kfm_mlflow.registry.plugin" in sys.modules,
    "from": mlflow.__file__,
}
print(json.dumps(said))
"""


def _own_names() -> set[str]:
    """Return the top-level names in site-packages that our installation put there."""
    files = distribution("kfm-mlflow").files or []
    return {path.parts[0] for path in files if path.parts[0] not in {"..", "__pycache__"}}


def _link_packages(target: Path, *, without: set[str]) -> None:
    target.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.name not in without:
            (target / entry.name).symlink_to(entry)


def _processor_s(folder: Path, arm: str) -> tuple[float, float]:
    """Run the program once and return its processor time in seconds up to two points.

    Returns:
        Up to the end of ``import mlflow``, and up to the end of making a registry client.

    Raises:
        RuntimeError: The arm is not what it claims to be.
    """
    # -I -S -B: nothing of the user, nothing of the venv, and no byte code is written.
    command = [sys._base_executable, "-I", "-S", "-B", "-c", _PROGRAM, str(folder), arm]  # type: ignore[attr-defined]  # the interpreter behind the venv has no public name
    env = {**QUIET, "PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"arm {arm!r} failed: {done.stderr[-500:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    expected = {"seen": arm == "with", "loaded": arm == "with"}
    if not expected.items() <= said.items() or not said["from"].startswith(str(folder)):
        raise RuntimeError(f"arm {arm!r} is not what it claims to be: {said}")
    return said["import"], said["client"]


def _row(
    what: str,
    rounds: list[dict[str, tuple[float, float]]],
    peer_name: str,
    peer_arm: str,
    point: int,
    **more: Any,
) -> Row:
    ours = [found["with"][point] for found in rounds]
    theirs = [found[peer_arm][point] for found in rounds]
    return Row(
        what,
        f"{spread_of(ours).median:.3f} s CPU",
        peer_name,
        f"{spread_of(theirs).median:.3f} s CPU",
        paired_ratio(ours, theirs),
        **more,
    )


def measure(size: str, work_dir: Path) -> list[Row]:
    """Return the rows of this bench.

    Args:
        size: ``small`` or ``full``.
        work_dir: An empty folder for the links.
    """
    least, most, budget_s = ROUNDS[size]
    with_us, without_us = work_dir / "with", work_dir / "absent"
    _link_packages(with_us, without=set())
    _link_packages(without_us, without=_own_names())
    folders = {"with": with_us, "hidden": with_us, "absent": without_us}
    for arm in _ARMS:
        _processor_s(folders[arm], arm)
    rounds: list[dict[str, tuple[float, float]]] = []
    started_s = time.monotonic()
    while len(rounds) < most:
        k = len(rounds)
        if k >= least and time.monotonic() - started_s > budget_s:
            break
        arms = _ARMS if k % _HIDDEN_EVERY == 0 else ("with", "absent")
        is_forward = (k + k // _HIDDEN_EVERY) % 2  # both orders for rounds with and without it
        ordered = arms if is_forward else arms[::-1]
        rounds.append({arm: _processor_s(folders[arm], arm) for arm in ordered})
    with_hidden = [found for found in rounds if "hidden" in found]
    imported, made_client = 0, 1
    absent, hidden = "without our package", "our entry points hidden"
    how = "user + system time of a fresh process each"
    first = "`import mlflow` and its first registry client"
    hint = "the same rounds; this is where MLflow 3.17 loads our entry points"
    return [
        _row("`import mlflow`", rounds, absent, "absent", imported, goal=GOAL, note=how),
        _row("`import mlflow`", with_hidden, hidden, "hidden", imported, note="every fourth round"),
        _row(first, rounds, absent, "absent", made_client, note=hint),
    ]
