"""Coverage-guided fuzzing of the same targets, by atheris (libFuzzer) when it is installed.

Hypothesis turns libFuzzer's bytes into the input that a target's strategy would draw, so targets
are written once. Our own modules are instrumented, vendors' are not: they are large, and what is
asked is whether we let through what they raise. Each target runs in a process of its own, for
libFuzzer ends the process that it runs in.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAX_INPUT_BYTES = 4096
_PACKAGES = (
    *("kfm_mlflow.canonical", "kfm_mlflow.release", "kfm_mlflow.trust"),
    *("kfm_mlflow.metadata", "kfm_mlflow.care", "kfm_mlflow.registry.history"),
)


def is_available() -> bool:
    """Say whether atheris is installed."""
    return find_spec("atheris") is not None


@contextmanager
def instrumented() -> Iterator[None]:
    """Count branches in what is imported meanwhile."""
    import atheris

    with atheris.instrument_imports(include=list(_PACKAGES)):
        yield


def _child(ask: Callable[[bytes], object], seconds: float, seed: int, log: Path) -> None:
    """Fuzz in this process until the time is over; never returns."""
    import atheris

    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    limits = [
        f"-max_total_time={max(1, round(seconds))}",
        f"-seed={seed}",
        f"-max_len={_MAX_INPUT_BYTES}",
        "-len_control=0",
        f"-artifact_prefix={log.parent}/",
    ]
    atheris.Setup([sys.argv[0], *limits], ask)
    atheris.Fuzz()
    os._exit(1)


def fuzz_guided(ask: Callable[[bytes], object], *, seconds: float, seed: int) -> tuple[bool, str]:
    """Fuzz one target in a process of its own.

    Args:
        ask: Hypothesis's ``fuzz_one_input`` of the target.
        seconds: For how long.
        seed: Of libFuzzer.

    Returns:
        Whether nothing was found, and what libFuzzer said last.
    """
    with tempfile.TemporaryDirectory(prefix="kfm-fuzz-guided-") as folder:
        log = Path(folder) / "log"
        child = os.fork()
        if child == 0:
            try:
                _child(ask, seconds, seed, log)
            finally:
                os._exit(1)
        ends_at = time.monotonic() + 2 * seconds + 60
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if time.monotonic() > ends_at:
                os.kill(child, 9)
                os.waitpid(child, 0)
                return False, "did not end in its time"
            time.sleep(0.05)
        said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        return os.waitstatus_to_exitcode(status) == 0, said
