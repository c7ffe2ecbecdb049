"""``kfm rebuild``: make a release again from its signed provenance, and compare."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfm_mlflow.errors import InputError, KfmError

if TYPE_CHECKING:
    from kfm_mlflow.authoring.rebuild import EnvManager, Rebuilt
    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.release.bundle import Bundle

_WIDTH = 60


@click.command()
@click.argument("target")
@click.option(
    "--policy-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Whose signatures to trust.  [default for models:/: the server's policy]",
)
@click.option("--server", envvar="MLFLOW_TRACKING_URI", help="For models:/NAME/VERSION.")
@click.option("--source", help="A clone of the repository.  [default: as recorded]")
@click.option(
    "-P",
    "parameters",
    metavar="NAME=VALUE",
    multiple=True,
    help="Where a path that the run was given lies on this machine; may be repeated.",
)
@click.option(
    "--env-manager",
    type=click.Choice(["virtualenv", "local"]),
    default="virtualenv",
    show_default=True,
    help="Build the recorded environment, or use this one if it is the same.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def rebuild(
    target: str,
    *,
    policy_dir: Path | None,
    server: str | None,
    source: str | None,
    parameters: tuple[str, ...],
    env_manager: EnvManager,
    as_json: bool,
) -> int:
    """Make a release again: TARGET is models:/NAME/VERSION or a release directory.

    Runs the code of the recorded commit, which a trusted signer must have vouched for, and compares
    every byte. Exit code 0: the same release id; 1: it differs; 2: it could not be made.
    """
    from kfm_mlflow.authoring.rebuild import read_record
    from kfm_mlflow.authoring.rebuild import rebuild as rebuild_release
    from kfm_mlflow.gates.evidence import keys_of_duty

    try:
        given = dict(_pair(text) for text in parameters)
        with tempfile.TemporaryDirectory(prefix="kfm-recorded-") as folder:
            bundle, policy = _open(target, policy_dir, server, Path(folder))
            trusted = keys_of_duty(policy.trust, "signers")
            record = read_record(bundle, trusted, datetime.now(UTC))
            found = rebuild_release(
                record, source=source, parameters=given, env_manager=env_manager
            )
    except KfmError as exc:
        click.echo(f"kfm: {exc}", err=True)
        return 2
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, sort_keys=True))
    else:
        _print(found)
    return 1 if found.differences else 0


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise InputError(
            f"{text!r} is not NAME=VALUE", where="-P", remedy="for example -P data=era.nc"
        )
    return name, value


def _open(
    target: str, policy_dir: Path | None, server: str | None, folder: Path
) -> tuple[Bundle, Policy]:
    """Return a release on local disk, and the policy that says whom to trust."""
    from kfm_mlflow.canonical import load_json
    from kfm_mlflow.policy.load import load_policies
    from kfm_mlflow.release.bundle import bundle_at
    from kfm_mlflow.rollout.model_uri import parse_model_uri
    from kfm_mlflow.rollout.remote import RemoteRegistry

    if target.startswith("models:"):
        name, version = parse_model_uri(target)
        remote = RemoteRegistry(server)
        known = remote.version(name, version)
        uri = known["release"]["frozen_uri"] if known["release"] else known["source_uri"]
        bundle = remote.download(uri, folder)
        if policy_dir is None:
            return bundle, remote.policy(known["family"])
        return bundle, load_policies(policy_dir).policy(known["family"])
    bundle = bundle_at(Path(target).resolve())
    if not bundle.release_dir.is_dir():
        raise InputError(
            "no such directory",
            where=target,
            remedy="give a release directory or models:/NAME/VERSION",
        )
    stated: Any = load_json(bundle.release_dir / "model_metadata.json")
    family = stated.get("family", "baseline") if isinstance(stated, dict) else "baseline"
    return bundle, load_policies(policy_dir).policy(str(family))


def _print(found: Rebuilt) -> None:
    record = found.record
    click.echo(
        f"{record.model_name} {record.release_version} from commit "
        f"{str(record.provenance.git_commit)[:12]}, vouched for by {record.signer}"
    )
    click.echo(f"recorded  {record.release_id}")
    click.echo(f"rebuilt   {found.release_id}")
    own = [one for one in found.differences if not one.follows]
    for one in own:
        click.echo(f"  {one.path}  {one.field}")
        click.echo(f"    recorded  {_capped(one.recorded)}")
        click.echo(f"    rebuilt   {_capped(one.rebuilt)}")
    if not found.differences:
        click.echo("SAME  every byte, with run, instants, signer's key and energy of the record")
        return
    rest = len(found.differences) - len(own)
    more = f", and {rest} fields that only repeat digests or sizes of these" if rest else ""
    click.echo(f"DIFFERS  in {len({one.path for one in own})} files, {len(own)} places{more}")


def _capped(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"
