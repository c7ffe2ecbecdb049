"""``kfm sign`` and ``kfm verify``: releases on disk or in a registry, checked offline."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfm_mlflow.errors import InputError, StorageError
from kfm_mlflow.release.bundle import bundle_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kfm_mlflow.release.bundle import Bundle


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--key", type=click.Path(path_type=Path), required=True, help="Private key (PEM).")
def sign(directory: Path, key: Path) -> None:
    """Sign DIRECTORY (OpenSSF Model Signing); writes DIRECTORY.evidence/release.sig."""
    from kfm_mlflow.release.manifest import build_manifest
    from kfm_mlflow.trust.signing import sign_release

    directory = directory.resolve()
    manifest = build_manifest(directory)
    bundle = bundle_at(directory)
    bundle.evidence_dir.mkdir(exist_ok=True)
    sign_release(directory, bundle.signature_path, key)
    click.echo(f"{bundle.signature_path}  {manifest.release_id}")


def _download(
    target: str, server: str | None, stack: ExitStack
) -> tuple[Bundle, Sequence[bytes], int, str]:
    from kfm_mlflow.rollout.remote import RemoteRegistry, parse_model_uri

    name, version = parse_model_uri(target)
    remote = RemoteRegistry(server)
    known = remote.version(name, version)
    release = known["release"]
    uri = release["frozen_uri"] if release else known["source_uri"]
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kfm-verify-")))
    bundle = remote.download(uri, folder)
    return (
        bundle,
        [text.encode() for text in known["attestations"]],
        version,
        release["id"] if release else "",
    )


@click.command()
@click.argument("target")
@click.option(
    "--policy-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Whose keys to trust.",
)
@click.option("--server", envvar="MLFLOW_TRACKING_URI", help="For models:/NAME/VERSION.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--all", "everything", is_flag=True, help="Show findings that pass, too.")
def verify(
    target: str, *, policy_dir: Path | None, server: str | None, as_json: bool, everything: bool
) -> int:
    """Check a release: TARGET is a directory, or models:/NAME/VERSION.

    Bytes, signature, documents, CARE screening and the validator's attestation are checked with
    the keys of the policy; nothing is asked of any server beyond the download.
    """
    from kfm_mlflow.cli.show import print_report
    from kfm_mlflow.gates.engine import evaluate
    from kfm_mlflow.gates.evidence import EvidenceReader
    from kfm_mlflow.gates.findings import Move
    from kfm_mlflow.policy.levels import Level
    from kfm_mlflow.policy.load import load_policies

    with ExitStack() as stack:
        version, recorded = 1, ""
        envelopes: Sequence[bytes] = ()
        if target.startswith("models:"):
            bundle, envelopes, version, recorded = _download(target, server, stack)
        else:
            # Resolved, for the evidence lies beside the directory, which `.` does not name.
            bundle = bundle_at(Path(target).resolve())
            if not bundle.release_dir.is_dir():
                raise InputError(
                    "no such directory",
                    where=target,
                    remedy="give a release directory or models:/NAME/VERSION",
                )
        content = _stated(bundle.release_dir)
        policies = load_policies(policy_dir)
        policy = policies.policy(str(content.get("family", "baseline")))
        now = datetime.now(UTC)
        evidence = EvidenceReader().read(
            bundle, policy, now=now, envelopes=envelopes, recorded_release_id=recorded
        )
        name = str(content.get("model_name", target))
        report = evaluate(
            evidence, policy, Move(name, version, Level.CANDIDATE, Level.STAGING, 0, None, now)
        )
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=1, sort_keys=True))
    else:
        print_report(report.to_dict(), everything=everything)
        click.echo(f"{report.verdict}  {report.release_id or 'no release'}")
    return 0 if report.verdict == "PASS" else 1


def _stated(release_dir: Path) -> dict[str, Any]:
    from kfm_mlflow.canonical import load_json
    from kfm_mlflow.errors import EvidenceError

    try:
        value = load_json(release_dir / "model_metadata.json")
    except (EvidenceError, StorageError):
        return {}
    return value if isinstance(value, dict) else {}
