"""A rollout controller that starts in a moment: everything is imported once, then forked.

``python forked_controller.py SERVER MODEL KEY FOLDER`` reads lines from its input; for each it forks
a process that runs the product's controller against a governed MLflow server and the file-backed
plane of ``FOLDER``. What a controller does is written to the output as it goes: a line per call of a
port, and one per phase that it has journaled, each after the process's id.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rollout.file_plane import FilePlane

from kfm_mlflow.policy.rollout import RolloutPolicy
from kfm_mlflow.rollout.controller import Controller
from kfm_mlflow.rollout.ports import SystemClock
from kfm_mlflow.rollout.remote import RemoteRegistry

LEASE_S = 0.5
INTERVAL_S = 0.01
PLAN_FILE, CACHE, LOG = "plan.json", "cache", "controllers.log"


def tell(text: str) -> None:
    """Write a line at once, in one piece."""
    os.write(1, f"{os.getpid()} {text}\n".encode())


class Told:
    """A port whose calls are told."""

    def __init__(self, port: Any) -> None:
        self._port = port

    def __getattr__(self, name: str) -> Any:
        """Return the port's method, told about."""
        method = getattr(self._port, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            tell(f"call {name}")
            found = method(*args, **kwargs)
            if name == "save_journal":
                tell(f"phase {args[1]['phase']}")
            return found

        return called


def carry(server: str, model_name: str, key: Path, folder: Path) -> None:
    """Run one controller for ever."""
    registry = Told(RemoteRegistry(server, controller_key=key, cache_dir=folder / CACHE))
    plane = Told(FilePlane(folder))
    plan = RolloutPolicy.model_validate(json.loads((folder / PLAN_FILE).read_text()))
    controller = Controller(registry, plane, plan, SystemClock(), model_name, lease_s=LEASE_S)
    controller.run(lambda: False, INTERVAL_S)


def main() -> None:
    """Fork controllers until the input ends."""
    warnings.simplefilter("ignore")
    server, model_name, key, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    logging.basicConfig(filename=folder / LOG, level=logging.INFO)
    import requests  # noqa: F401 - so that the forks need not import it
    from mlflow.tracking import MlflowClient

    MlflowClient(tracking_uri=server, registry_uri=server)
    # Children are killed, not waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    tell("ready")
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            carry(server, model_name, key, folder)
            os._exit(0)
        tell(f"forked {child}")


if __name__ == "__main__":
    main()
