"""What commands of ``kfm fleet`` share: which manifests, and how a release is registered."""

from __future__ import annotations

from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kfm_mlflow.fleet.registering import Terms


def manifests_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Take manifests as a pattern, or as the names that a shell makes of one."""
    option = click.option(
        "--manifests",
        "patterns",
        multiple=True,
        required=True,
        metavar="GLOB",
        help="Provider manifests (JSON); may be repeated.",
    )
    # A shell that expands the pattern leaves all but the first name behind the option.
    rest = click.argument("more", nargs=-1, metavar="")
    return option(rest(command))


def registering_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Take what registering needs."""
    for option in (
        click.option("--server", envvar="MLFLOW_TRACKING_URI", help="URL of the MLflow server."),
        click.option(
            "--bbox",
            metavar="W,S,E,N",
            help="Where the model is used, in degrees; needed with --register.",
        ),
        click.option(
            "--key", type=click.Path(path_type=Path, dir_okay=False), help="Signs the release."
        ),
        click.option("--register", is_flag=True, help="Register what was found, governed."),
    ):
        command = option(command)
    return command


def find_manifests(patterns: tuple[str, ...], more: tuple[str, ...]) -> tuple[Path, ...]:
    """Return the files that patterns name, each once, sorted.

    Raises:
        InputError: A pattern names none.
    """
    found: set[Path] = set()
    for pattern in (*patterns, *more):
        matches = [pattern] if Path(pattern).is_file() else glob(pattern)  # noqa: PTH207 - any root
        files = [Path(match) for match in matches if Path(match).is_file()]
        if not files:
            raise InputError("names no file", where=pattern, remedy="give 'FOLDER/*.json'")
        found.update(files)
    return tuple(sorted(found))


def registering_terms(
    key: Path | None, bbox: str | None, server: str | None, probes: Path | None
) -> Terms:
    """Return on which terms releases are registered, and choose the server.

    Raises:
        InputError: Something is missing or wrong.
    """
    import mlflow

    from kfm_mlflow.fleet.registering import Terms

    if key is None or bbox is None or server is None or probes is None:
        raise InputError(
            "needs --key, --bbox, --probes and --server", where="--register", remedy="give all"
        )
    try:
        west, south, east, north = (float(part) for part in bbox.split(","))
    except ValueError as exc:
        raise InputError("must be four numbers", where="--bbox", remedy="write W,S,E,N") from exc
    mlflow.set_tracking_uri(server)
    return Terms(key, (west, south, east, north), probes)
