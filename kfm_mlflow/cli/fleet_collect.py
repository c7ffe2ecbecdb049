"""``kfm fleet collect``: fetch every provider's artifacts, verify them, and register them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfm_mlflow.cli.fleet_options import (
    find_manifests,
    manifests_option,
    registering_options,
    registering_terms,
)

if TYPE_CHECKING:
    from kfm_mlflow.fleet.collect import Collection
    from kfm_mlflow.fleet.manifest import Finding
    from kfm_mlflow.fleet.registering import Registration


@click.command()
@manifests_option
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of all artifacts; each lies under its digest.",
)
@click.option(
    "--store",
    "stores",
    multiple=True,
    metavar="PREFIX",
    help="Where artifacts may come from, as s3://BUCKET/PATH; may be repeated. Nothing else is.",
)
@click.option(
    "--policy-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Whose signatures of artifacts to trust: signers of family fleet.",
)
@click.option(
    "--unsafe-unsigned", is_flag=True, help="Take artifacts without a signature; it is recorded."
)
@click.option("--max-artifact-bytes", type=click.IntRange(1), default=20 * 2**30, show_default=True)
@click.option(
    "--probes",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Probe tasks to put into every registered release.",
)
@registering_options
def collect(  # one parameter per option
    patterns: tuple[str, ...],
    more: tuple[str, ...],
    *,
    into: Path,
    stores: tuple[str, ...],
    policy_dir: Path | None,
    unsafe_unsigned: bool,
    max_artifact_bytes: int,
    probes: Path | None,
    register: bool,
    key: Path | None,
    bbox: str | None,
    server: str | None,
) -> int:
    """Fetch the artifacts of all manifests, check digests and signatures, and register them.

    Prints a line per artifact. Exit code 1 when anything was refused; what is good is kept all the
    same. Running it again changes nothing.
    """
    from kfm_mlflow.fleet.collect import artifact_finding
    from kfm_mlflow.fleet.collect import collect as collect_artifacts
    from kfm_mlflow.fleet.manifest import load_manifests
    from kfm_mlflow.fleet.stores import parse_stores
    from kfm_mlflow.fleet.stores_fetch import FetchLimits, Trust
    from kfm_mlflow.gates.evidence import trusted_signers
    from kfm_mlflow.policy.load import load_policies

    terms = registering_terms(key, bbox, server, probes) if register else None
    allowed = parse_stores(stores)
    signers = trusted_signers(load_policies(policy_dir).policy("fleet").trust)
    found = collect_artifacts(
        load_manifests(find_manifests(patterns, more)),
        allowed,
        into,
        Trust(signers, datetime.now(UTC), unsafe_unsigned),
        FetchLimits(max_artifact_bytes),
    )
    versions: dict[str, Registration] = {}
    findings = list(found.findings)
    if terms is not None:
        from kfm_mlflow.errors import KfmError
        from kfm_mlflow.fleet.registering import register_artifact

        for one in found.fetched:
            try:
                versions[one.artifact.digest] = register_artifact(one, terms)
            except KfmError as exc:
                findings.append(artifact_finding(one.artifact, exc, "REGISTER"))
    _print(found, versions, findings)
    return 1 if findings else 0


def _print(found: Collection, versions: dict[str, Registration], findings: list[Finding]) -> None:
    for one in found.fetched:
        artifact = one.artifact
        parts = [
            f"{artifact.provider:3}  {artifact.role:7}  {artifact.id}  {artifact.digest[:19]}…",
            "fetched" if one.is_new else "there already",
            f"signed by {one.signer}" if one.signer else "UNSIGNED, taken all the same",
        ]
        made = versions.get(artifact.digest)
        if made is not None:
            parts.append(f"{'registered' if made.is_new else 'is'} {made.name} v{made.version}")
        click.echo(", ".join(parts))
    for finding in findings:
        click.echo(f"refused: {finding}", err=True)
