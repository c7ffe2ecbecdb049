"""A governed server that starts in a moment: everything is imported once, then forked.

``python forked_server.py PORT MODEL`` reads lines from its input; for each it forks a process that
serves the same application as ``kfm server`` under uvicorn, and writes that process's id. The
settings come from the environment, as MLflow hands them to its workers.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _warm_up(model_name: str) -> None:
    """Import what a move imports, with a store of our own, so that the forks need not."""
    from kfm_mlflow.policy.levels import Level
    from kfm_mlflow.registry.plugin import build_store

    store = build_store(os.environ["_MLFLOW_SERVER_REGISTRY_STORE"])
    for version in sorted(store.levels(model_name)):
        for level in Level:
            try:
                store.check(model_name, version, level)
            except Exception as exc:  # noqa: BLE001 - some moves have no answer; only imports count
                sys.stderr.write(f"warm-up: v{version} to {level}: {exc}\n")
    store._dispose_engine()


def main() -> None:
    """Serve until the input ends."""
    warnings.simplefilter("ignore")
    port, model_name = int(sys.argv[1]), sys.argv[2]
    import uvicorn

    from kfm_mlflow.registry.app import create_app

    application = create_app()
    _warm_up(model_name)
    # Children are killed, not waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _tell("ready")
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            uvicorn.run(application, host="127.0.0.1", port=port, log_level="warning")
            os._exit(0)
        _tell(str(child))


if __name__ == "__main__":
    main()
