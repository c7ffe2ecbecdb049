"""The training run as documents tell it: without paths of this machine and without credentials."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from kfm_mlflow.canonical import digest_json
from kfm_mlflow.metadata.facts import RunFact
from kfm_mlflow.metadata.packages import resolved_packages

if TYPE_CHECKING:
    from kfm_mlflow.authoring.replay import Replay
    from kfm_mlflow.authoring.source import SourceState

PROJECT_TAG = "mlflow.project.entryPoint"
"""Tag of a run that ``mlflow run`` started."""


def placeless(text: str) -> str:
    """Return a text, of an absolute path only its last part: where it lies is nobody's business."""
    path = text.removeprefix("file://")
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(path).is_absolute():
            return kind(path).name or "path"
    return text


def public_url(url: str | None) -> str | None:
    """Return a repository's URL without credentials; None when it is a path of this machine."""
    if not url or placeless(url) != url:
        return None
    parts = urlsplit(url)
    if parts.scheme in {"http", "https"}:
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return url


def run_fact(
    run: Any,
    source: SourceState | None,
    instants: tuple[datetime, datetime | None],
    seed: int,
    replay: Replay | None,
) -> RunFact:
    """Return the value that the documents are built from.

    Args:
        run: The MLflow run.
        source: The checkout that was run; None takes what MLflow noted.
        instants: When training began and ended.
        seed: The one seed.
        replay: What a rebuild takes from the record: run, instants and repository.
    """
    tags = run.data.tags
    url = source.url if source and source.url else tags.get("mlflow.source.git.repoURL")
    started_at, ended_at = instants
    return RunFact(
        run_id=replay.run_id if replay else run.info.run_id,
        entry_point=tags.get(PROJECT_TAG)
        or tags.get("mlflow.source.name", "log_release").rsplit("/", 1)[-1],
        git_commit=source.commit if source else tags.get("mlflow.source.git.commit"),
        git_url=replay.git_url if replay else public_url(url),
        started_at=replay.started_at if replay else started_at,
        ended_at=replay.ended_at if replay else ended_at or datetime.now(UTC),
        parameters={name: placeless(value) for name, value in run.data.params.items()},
        seed=seed,
        environment_lock_sha256=packages_digest(
            {package.name: package.version for package in resolved_packages(None)}
        ),
    )


def packages_digest(packages: dict[str, str]) -> str:
    """Return ``sha256:<hex>`` of the list of [name, version] of installed packages."""
    return digest_json([[name, packages[name]] for name in sorted(packages)])
