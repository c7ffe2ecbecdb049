"""The ``kfm`` command. Each command parses, makes one call, prints, and sets the exit code.

Exit codes: 0 done or passed, 1 refused or found wrong, 2 bad usage or input.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from kfm_mlflow.cli.lazy import LazyGroup
from kfm_mlflow.errors import InputError, KfmError

_COMMANDS = {
    "server": ("kfm_mlflow.cli.server", "server", "Start a governed MLflow server."),
    "keys": ("kfm_mlflow.cli.keys", "keys", "Make and show signing keys."),
    "policy": ("kfm_mlflow.cli.policy", "policy", "Write, check and show policies."),
    "sign": ("kfm_mlflow.cli.release", "sign", "Sign a release directory."),
    "verify": ("kfm_mlflow.cli.release", "verify", "Check a release or an export offline."),
    "export": ("kfm_mlflow.cli.export", "export", "Write a release to check anywhere, offline."),
    "rebuild": ("kfm_mlflow.cli.rebuild", "rebuild", "Make a release again and compare."),
    "sbom": ("kfm_mlflow.cli.sbom", "sbom", "Print the bill of materials of a release."),
    "check": ("kfm_mlflow.cli.registry", "check", "Evaluate a move without making it."),
    "move": ("kfm_mlflow.cli.registry", "move", "Move a version to a level."),
    "drift": ("kfm_mlflow.cli.drift", "drift", "Hold current inputs against a release."),
    "vote": ("kfm_mlflow.cli.vote", "vote", "Cast a signed vote on a move."),
    "attest": ("kfm_mlflow.cli.attest", "attest", "Send a signed statement on a version."),
    "prov": ("kfm_mlflow.cli.prov", "prov", "Write a lineage from data to deployment."),
    "recheck": ("kfm_mlflow.cli.recheck", "recheck", "Judge again what is promoted now."),
    "doctor": ("kfm_mlflow.cli.doctor", "doctor", "Check a governed server's defences."),
    "care": ("kfm_mlflow.cli.care", "care", "Load sovereign regions and look at their rules."),
    "checkpoints": (
        "kfm_mlflow.cli.checkpoints",
        "checkpoints",
        "Verify and certify the checkpoints of a training.",
    ),
    "catalog": ("kfm_mlflow.cli.catalog", "catalog", "Export the STAC catalog of all releases."),
    "ledger": ("kfm_mlflow.cli.ledger", "ledger", "Show and verify the ledger."),
    "rollout": ("kfm_mlflow.cli.rollout", "rollout", "Serve a model and run its rollouts."),
    "rollback": ("kfm_mlflow.cli.rollback", "rollback", "Put a former Production version back."),
    "fleet": ("kfm_mlflow.cli.fleet", "fleet", "From providers' artifacts to agents of a fleet."),
}


@click.group(
    cls=LazyGroup, table=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="kfm-mlflow")
def cli() -> None:
    """Governed model releases for MLflow."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; our own errors are one line, never a traceback."""
    try:
        result: Any = cli.main(args=arguments, prog_name="kfm", standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except click.Abort:
        click.echo("kfm: stopped", err=True)
        sys.exit(130)
    except KfmError as exc:
        click.echo(f"kfm: {exc}", err=True)
        sys.exit(2 if isinstance(exc, InputError) else 1)
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        click.echo(f"kfm: {where}{exc.strerror or exc}", err=True)
        sys.exit(2)
    sys.exit(result if isinstance(result, int) else 0)
