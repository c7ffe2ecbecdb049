"""``kfm server``: ``mlflow server`` with a governed registry filled in."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import click

from kfm_mlflow.errors import InputError
from kfm_mlflow.policy.load import lint_policy, load_policies
from kfm_mlflow.registry.settings import POLICY_DIR_VARIABLE, REGISTRY_KEY_VARIABLE
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


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
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
@click.option("--workers", default=1, show_default=True)
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
) -> None:
    """Start a governed MLflow server. Every other option of `mlflow server` passes through."""
    _check_port(host, port)
    policies = load_policies(policy_dir)
    if registry_store_uri is not None and not registry_store_uri.startswith("kfm+"):
        raise InputError(
            "is not governed", where="--registry-store-uri", remedy="write kfm+ before it"
        )
    data_dir.mkdir(parents=True, exist_ok=True)
    key = Path(os.environ.get(REGISTRY_KEY_VARIABLE) or data_dir / "registry.pem")
    if not key.exists():
        generate_key(key)
        click.echo(f"kfm: made the registry's key {key}", err=True)
    for warning in load_private_key(key).findings:
        click.echo(f"kfm: {warning}", err=True)
    for family, found in sorted(policies.policies.items()):
        for note in lint_policy(found):
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
        *(
            "--artifacts-destination",
            artifacts_destination or str((data_dir / "artifacts").resolve()),
        ),
    ]
    if "--app-name" not in ctx.args:
        arguments += ["--app-name", "kfm"]
    sys.stdout.flush()
    os.execv(sys.executable, [*arguments, *ctx.args])  # noqa: S606 - replaces this process by the server
