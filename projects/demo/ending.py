"""How a demo ends: everything stopped, or left up; the table; the exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import requests
from mlflow.exceptions import MlflowException
from processes import DemoError, remove_tree

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from board import Board
    from processes import Processes
    from traffic import Traffic


class Play(Protocol):
    """A demo, as far as its end needs it."""

    board: Board
    processes: Processes
    traffic: Traffic
    folder: Path

    def play(self) -> None:
        """Run all steps in order."""


def play_to_end(demo: Play, *, keep: bool, urls: Mapping[str, str]) -> int:
    """Run a demo and print its table; return 0 only if it came to its end and every row holds.

    Args:
        demo: What to run.
        keep: Leave everything up, and print ``urls`` and how to stop it.
        urls: What it is -> where to open it.
    """
    board, finished = demo.board, False
    try:
        demo.play()
        finished = True
    except (DemoError, MlflowException, requests.RequestException) as exc:
        board.console.print(f"stopped: {exc}", style="bold red", markup=False, soft_wrap=True)
    finally:
        demo.traffic.stop()
        if not keep:
            demo.processes.stop()
    board.print_table()
    holds = finished and board.holds
    if keep:
        pids = " ".join(str(process.pid) for process in demo.processes.running.values())
        lines = {**urls, "Keys and logs": str(demo.folder), "Stop with": f"kill {pids}"}
        for title, line in lines.items():
            board.say(f"{title + ':':<18}{line}")
    elif holds:
        remove_tree(demo.folder)
    else:
        board.say(f"Logs: {demo.folder}")
    return 0 if holds else 1
