"""One frozen release, verified and served here, as ``mlflow deployments run-local`` asks.

Nothing in the registry changes, and nobody follows it: a release is tried by itself, behind the
same router, replica and masking that would serve it.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import InputError
from kfm_mlflow.rollout.plane import Split
from kfm_mlflow.rollout.planes import load_plane

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kfm_mlflow.rollout.plane import Deployable
    from kfm_mlflow.rollout.remote import RemoteRegistry

OPTIONS = ("server", "plane", "host", "port", "gpu_share")
_READY_S = 120.0


def fetch_frozen(registry: RemoteRegistry, name: str, version: int) -> Deployable:
    """Return a verified copy of a release that the registry has frozen.

    Raises:
        InputError: It was never admitted to a level, so nothing of it is frozen.
    """
    if registry.version(name, version)["release"] is None:
        raise InputError(
            "is a candidate that was never frozen",
            where=f"{name} v{version}",
            remedy=f"kfm move models:/{name}/{version} --to staging",
        )
    return registry.fetch(name, version)


def serve_release(
    release: Deployable, options: Mapping[str, str], wait: Callable[[str], None]
) -> None:
    """Serve one release until told to stop; it gets every request.

    Args:
        release: What to serve; its bytes have been verified.
        options: ``plane``, ``host``, ``port`` and ``gpu_share``, as text.
        wait: Called with the address when the release answers; returns when it is to stop.

    Raises:
        InputError: An option makes no sense.
        PlaneError: It does not become ready.
    """
    opener = load_plane(options.get("plane", "portable"), where="config plane")
    port = int(_number(options, "port", "8000", 65535))
    gpu_share = _number(options, "gpu_share", "0", 1)
    host = options.get("host", "127.0.0.1")
    with opener(release.model_name, host=host, port=port, gpu_share=gpu_share) as opened:
        opened.deploy(release, timeout_s=_READY_S)
        opened.set_split(Split(1, release.version, None, 0.0))
        wait(opened.url)


def wait_for_signal(url: str) -> None:
    """Say where the release is served, and return at Ctrl-C or SIGTERM."""
    import click

    stopped = threading.Event()

    def stop(*_: Any) -> None:
        stopped.set()

    # Ray installs its own handlers when it starts, so ours come after.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    click.echo(f"serving at {url}; POST {url}/invocations; Ctrl-C ends it")
    stopped.wait()


def _number(options: Mapping[str, str], key: str, default: str, most: float) -> float:
    text = options.get(key, default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most or (key == "port" and not text.isdigit()):
        raise InputError(f"{text!r} is no {key} within 0..{most:g}", where=f"config {key}")
    return value
