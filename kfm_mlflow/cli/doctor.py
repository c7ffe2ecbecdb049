"""``kfm doctor``: look at a governed server's defences, on the machine where it runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfm_mlflow.cli.ledger_text import plain
from kfm_mlflow.errors import KfmError
from kfm_mlflow.registry.doctor import Installation, ServerSays, examine
from kfm_mlflow.registry.doctor_machine import processes
from kfm_mlflow.registry.settings import (
    ARTIFACTS_VARIABLE,
    POLICY_DIR_VARIABLE,
    REGISTRY_KEY_VARIABLE,
)
from kfm_mlflow.rollout.remote import RemoteRegistry
from kfm_mlflow.trust.keys import load_public_key
from kfm_mlflow.trust.ledger_head import parse_head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kfm_mlflow.registry.doctor_finding import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red", "skipped": "cyan"}
_FOLDER = click.Path(path_type=Path, file_okay=False)


def _ask(url: str | None) -> ServerSays | None:
    if url is None:
        return None
    try:
        registry = RemoteRegistry(url)
        head = parse_head(registry.ledger_head(), where=url)
        return ServerSays(url, head=head, key_id=registry.registry_key().key_id)
    except KfmError as exc:
        return ServerSays(url, problem=str(exc))


def _print(findings: Sequence[Finding]) -> None:
    for finding in findings:
        status = click.style(f"{finding.status:<8}", fg=_COLOURS[finding.status])
        click.echo(f"{status} {finding.check}: {plain(finding.detail)}")
        if finding.remedy and finding.status != "ok":
            click.echo(f"         → {finding.remedy}")
    count = sum(finding.status == "problem" for finding in findings)
    click.echo(f"{count} problems" if count != 1 else "1 problem")


@click.command()
@click.option("--data-dir", type=_FOLDER, default=Path("kfm-data"), show_default=True)
@click.option("--policy-dir", type=_FOLDER, help="Folder of policy files.")
@click.option("--backend-store-uri", help="Default: SQLite in the data folder.")
@click.option("--registry-store-uri", help="Default: the backend store, governed (kfm+…).")
@click.option("--artifacts-destination", help="Default: the data folder.")
@click.option("--server", help="URL of the running server, to be asked, too.")
@click.option(
    "--former-key",
    "former_keys",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="A public key that the registry signed with before.",
)
@click.option("--hash", "hashed", is_flag=True, help="Read every byte of every frozen release.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(
    *,
    data_dir: Path,
    policy_dir: Path | None,
    backend_store_uri: str | None,
    registry_store_uri: str | None,
    artifacts_destination: str | None,
    server: str | None,
    former_keys: tuple[Path, ...],
    hashed: bool,
    as_json: bool,
) -> int:
    """Check a governed server's defences: give it the options of `kfm server`. Mends nothing.

    Exit code 1 when there is a problem; warnings and what cannot be seen from here are none.
    """
    environ = os.environ
    backend = backend_store_uri or f"sqlite:///{(data_dir / 'mlflow.db').resolve()}"
    policies = environ.get(POLICY_DIR_VARIABLE, "")
    found = Installation(
        registry_uri=registry_store_uri or f"kfm+{backend}",
        artifacts_destination=artifacts_destination
        or environ.get(ARTIFACTS_VARIABLE)
        or str((data_dir / "artifacts").resolve()),
        key=Path(environ.get(REGISTRY_KEY_VARIABLE) or data_dir / "registry.pem"),
        policy_dir=policy_dir or (Path(policies) if policies else None),
        former_keys=tuple(load_public_key(path) for path in former_keys),
        environ=environ,
        folder=Path.cwd(),
    )
    findings = examine(found, seen=processes(), server=_ask(server), hashed=hashed)
    if as_json:
        click.echo(json.dumps([finding.to_dict() for finding in findings], indent=1))
    else:
        _print(findings)
    return 1 if any(finding.status == "problem" for finding in findings) else 0
