"""``kfm policy``: write a policy that trusts your keys, check policies, print a resolved one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
import yaml

from kfm_mlflow.canonical import write_bytes
from kfm_mlflow.errors import InputError
from kfm_mlflow.policy.lint import lint_policy
from kfm_mlflow.policy.load import load_policies, load_policy, packaged_families
from kfm_mlflow.trust.keys import load_public_key


@click.group()
def policy() -> None:
    """Write, check and show policies."""


def _named(folder: Path, prefix: str) -> list[dict[str, str]]:
    return [
        {"name": path.name.removesuffix(".pem.pub"), "public_key": load_public_key(path).pem}
        for path in sorted(folder.glob(f"{prefix}*.pem.pub"))
    ]


@policy.command()
@click.option("--family", type=click.Choice(packaged_families()), required=True)
@click.option(
    "--keys",
    "keys_dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
)
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("policies"),
    show_default=True,
)
def init(family: str, keys_dir: Path, folder: Path) -> None:
    """Write FOLDER/<family>.yaml that extends the packaged policy and trusts keys by their names.

    In the key folder, trainer*.pem.pub become signers, validator* validators, controller*
    controllers, council* members of the council; a council member whose name ends in
    -indigenous-representative or -sovereignty-authority gets that role.
    """
    members = []
    for member in _named(keys_dir, "council"):
        roles = [
            r
            for r in ("indigenous-representative", "sovereignty-authority")
            if member["name"].endswith(r)
        ]
        members.append({**member, "roles": roles} if roles else member)
    overlay = {
        "schema_version": "1",
        "extends": family,
        "trust": {
            "signers": _named(keys_dir, "trainer"),
            "validators": _named(keys_dir, "validator"),
            "controllers": _named(keys_dir, "controller"),
            "council": {"members": members},
        },
    }
    path = folder / f"{family}.yaml"
    if path.exists():
        raise InputError(
            "exists already", where=str(path), remedy="edit it, or choose another folder"
        )
    write_bytes(path, yaml.safe_dump(overlay, sort_keys=False).encode())
    found = load_policy(path)
    click.echo(f"{path}  {found.digest}")
    for note in lint_policy(found, datetime.now(UTC)):
        click.echo(f"  note: {note}")


@policy.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--strict", is_flag=True, help="Exit 1 when there are notes.")
def lint(paths: tuple[Path, ...], strict: bool) -> int:  # noqa: FBT001 - click passes flags so
    """Check policy files or folders; without PATHS, the packaged policies."""
    noted, now = False, datetime.now(UTC)
    for path in paths or (None,):
        found = (
            {str(path): load_policy(path)}
            if path and path.is_file()
            else load_policies(path).policies
        )
        for name, value in sorted(found.items()):
            notes = lint_policy(value, now)
            noted |= bool(notes)
            click.echo(f"{name}: valid, {value.digest}")
            for note in notes:
                click.echo(f"  note: {note}")
    return 1 if strict and noted else 0


@policy.command()
@click.argument("family")
@click.option("--policy-dir", type=click.Path(path_type=Path, exists=True, file_okay=False))
def show(family: str, policy_dir: Path | None) -> None:
    """Print a family's complete policy as YAML."""
    found = load_policies(policy_dir).policy(family)
    click.echo(f"# {found.digest}")
    click.echo(
        yaml.safe_dump(
            found.model_dump(mode="json", by_alias=True, exclude_none=True), sort_keys=False
        ),
        nl=False,
    )
