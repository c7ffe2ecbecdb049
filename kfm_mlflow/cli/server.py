"""``kfm server``: ``mlflow server`` with a governed registry filled in."""

from __future__ import annotations

import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from kfm_mlflow.errors import InputError
from kfm_mlflow.policy.lint import lint_policy
from kfm_mlflow.policy.load import load_policies
from kfm_mlflow.registry.actor import is_loopback
from kfm_mlflow.registry.logins import prepare_logins
from kfm_mlflow.registry.settings import (
    POLICY_DIR_VARIABLE,
    REGISTRY_KEY_VARIABLE,
    check_destination,
)
from kfm_mlflow.trust.keys import generate_key, load_private_key


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise InputError(
                f"port {port} on {host} cannot be used ({exc.strerror})",
                where="--port",
                remedy="choose another port, or stop what uses it",
            ) from exc


def _is_open(host: str, port: int) -> bool:
    """Return whether other machines can reach what listens on a host; an unknown name counts."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return True
    return not all(is_loopback(str(address[4][0])) for address in found)


def _settle_who_may_ask(app_name: str, host: str, port: int, data_dir: Path) -> None:
    # The address in the ledger is the socket's own, not what a header says. Who trusts a proxy
    # sets this variable, or gives --uvicorn-opts.
    os.environ.setdefault("UVICORN_PROXY_HEADERS", "false")
    if app_name == "kfm-auth":
        for line in prepare_logins(data_dir, os.environ):
            click.echo(f"kfm: {line}", err=True)
    elif _is_open(host, port):
        click.echo(
            f"kfm: WARNING: other machines can reach {host}, and nobody has to log in: everybody "
            "there can read everything and write what is not governed; policies refuse moves "
            "that do not come from this machine. Use --app-name kfm-auth",
            err=True,
        )


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", "-p", type=click.IntRange(1, 65535), default=5000, show_default=True)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("kfm-data"),
    show_default=True,
    help="Database, artifacts and the registry's own key.",
)
@click.option(
    "--policy-dir", type=click.Path(path_type=Path, file_okay=False), help="Folder of policy files."
)
@click.option("--backend-store-uri", help="Default: SQLite in the data folder.")
@click.option("--registry-store-uri", help="Default: the backend store, governed (kfm+…).")
@click.option("--artifacts-destination", help="Default: the data folder.")
@click.option("--workers", "-w", default=1, show_default=True)
@click.option(
    "--app-name",
    type=click.Choice(["kfm", "kfm-auth"]),
    default="kfm",
    show_default=True,
    help="kfm-auth: everybody logs in (MLflow's basic-auth), the ledger names who asked, and the "
    "policy's access.roles decide who may move what. The first start makes the user admin with "
    "MLFLOW_AUTH_ADMIN_PASSWORD, or shows a password once. kfm: nobody logs in; for this machine.",
)
@click.pass_context
def server(
    ctx: click.Context,
    *,
    host: str,
    port: int,
    data_dir: Path,
    policy_dir: Path | None,
    backend_store_uri: str | None,
    registry_store_uri: str | None,
    artifacts_destination: str | None,
    workers: int,
    app_name: str,
) -> None:
    """Start a governed MLflow server. Every other option of `mlflow server` passes through."""
    _check_port(host, port)
    policies = load_policies(policy_dir)
    if registry_store_uri is not None and not registry_store_uri.startswith("kfm+"):
        raise InputError(
            "is not governed", where="--registry-store-uri", remedy="write kfm+ before it"
        )
    artifacts = artifacts_destination or str((data_dir / "artifacts").resolve())
    check_destination(os.environ, artifacts)
    data_dir.mkdir(parents=True, exist_ok=True)
    key = Path(os.environ.get(REGISTRY_KEY_VARIABLE) or data_dir / "registry.pem")
    if not key.exists():
        generate_key(key)
        click.echo(f"kfm: made the registry's key {key}", err=True)
    for warning in load_private_key(key).findings:
        click.echo(f"kfm: {warning}", err=True)
    for family, found in sorted(policies.policies.items()):
        for note in lint_policy(found, datetime.now(UTC)):
            click.echo(f"kfm: policy {family}: {note}", err=True)
    backend = backend_store_uri or f"sqlite:///{(data_dir / 'mlflow.db').resolve()}"
    registry = registry_store_uri or f"kfm+{backend}"
    os.environ[REGISTRY_KEY_VARIABLE] = str(key.resolve())
    if policy_dir is not None:
        os.environ[POLICY_DIR_VARIABLE] = str(policy_dir.resolve())
    arguments = [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", host, "--port", str(port), "--workers", str(workers)),
        *("--backend-store-uri", backend, "--registry-store-uri", registry),
        *("--artifacts-destination", artifacts, "--app-name", app_name),
    ]
    _settle_who_may_ask(app_name, host, port, data_dir)
    sys.stdout.flush()
    os.execv(sys.executable, [*arguments, *ctx.args])  # noqa: S606 - replaces this process by the server
