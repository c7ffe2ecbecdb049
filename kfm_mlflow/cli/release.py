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
@click.option("--key", type=click.Path(path_type=Path), help="Private key (PEM).")
@click.option(
    "--certificate", type=click.Path(path_type=Path), help="Certificate of the key (PEM)."
)
@click.option(
    "--chain",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Certificates between it and the root (PEM); may be repeated.",
)
@click.option("--pkcs11", "token_uri", help="PKCS#11 URI of a key in a token.")
@click.option("--public-key", type=click.Path(path_type=Path), help="That key's other half (PEM).")
@click.option("--sigstore", is_flag=True, help="Sign for an identity, without a key.")
@click.option(
    "--trust-config", type=click.Path(path_type=Path), help="The Sigstore instance (JSON)."
)
@click.option(
    "--identity-token",
    envvar="SIGSTORE_IDENTITY_TOKEN",
    help="OpenID Connect token; without it the CI system's own is taken.",
)
def sign(
    directory: Path,
    *,
    key: Path | None,
    certificate: Path | None,
    chain: tuple[Path, ...],
    token_uri: str | None,
    public_key: Path | None,
    sigstore: bool,
    trust_config: Path | None,
    identity_token: str | None,
) -> None:
    """Sign DIRECTORY (OpenSSF Model Signing); writes DIRECTORY.evidence/release.sig.

    With --key alone, with --key and --certificate, with --pkcs11 and --public-key, or with
    --sigstore and --trust-config.
    """
    from kfm_mlflow.release.manifest import build_manifest
    from kfm_mlflow.trust import signing

    ways = [key is not None, token_uri is not None, sigstore]
    if sum(ways) != 1 or ways[1:] != [public_key is not None, trust_config is not None]:
        raise click.UsageError("give --key, --pkcs11 --public-key, or --sigstore --trust-config")
    if (certificate and key is None) or (chain and certificate is None):
        raise click.UsageError("--chain goes with --certificate, and --certificate with --key")
    directory = directory.resolve()
    bundle = bundle_at(directory)
    target, now = bundle.signature_path, datetime.now(UTC)
    manifest = build_manifest(directory)
    digests = manifest.digests
    bundle.evidence_dir.mkdir(exist_ok=True)
    if trust_config is not None:
        signing.sign_release_with_sigstore(
            directory, target, trust_config, token=identity_token, now=now, digests=digests
        )
    elif token_uri is not None and public_key is not None:
        signing.sign_release_with_pkcs11(directory, target, token_uri, public_key, digests=digests)
    elif key is not None and certificate is not None:
        signing.sign_release_with_certificate(
            directory,
            target,
            key,
            certificate_path=certificate,
            chain_paths=chain,
            now=now,
            digests=digests,
        )
    elif key is not None:
        signing.sign_release(directory, target, key, digests=digests)
    click.echo(f"{target}  {manifest.release_id}")


def _download(
    target: str, server: str | None, stack: ExitStack
) -> tuple[Bundle, Sequence[bytes], int, str]:
    from kfm_mlflow.rollout.model_uri import parse_model_uri
    from kfm_mlflow.rollout.remote import RemoteRegistry

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
@click.option(
    "--key",
    "key_files",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="For an export: the registry's public key; again for a former one.",
)
@click.option("--server", envvar="MLFLOW_TRACKING_URI", help="For models:/NAME/VERSION.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--all", "everything", is_flag=True, help="Show findings that pass, too.")
def verify(
    target: str,
    *,
    policy_dir: Path | None,
    key_files: tuple[Path, ...],
    server: str | None,
    as_json: bool,
    everything: bool,
) -> int:
    """Check a release: TARGET is a directory, an export, or models:/NAME/VERSION.

    Bytes, signature, documents, CARE screening and the validator's attestation are checked with
    the keys of the policy; nothing is asked of any server beyond the download. Of an export, also
    policy, ledger, votes and index.
    """
    from kfm_mlflow.cli.export import verify_path
    from kfm_mlflow.release.archive import is_archive
    from kfm_mlflow.release.export import is_export

    path = Path(target)
    if not target.startswith("models:") and (is_archive(path) or is_export(path)):
        return verify_path(path, policy_dir, key_files, as_json=as_json)
    if key_files:
        raise click.UsageError("--key goes with an export; a release is judged by --policy-dir")
    return _verify_release(
        target, policy_dir=policy_dir, server=server, as_json=as_json, everything=everything
    )


def _verify_release(
    target: str, *, policy_dir: Path | None, server: str | None, as_json: bool, everything: bool
) -> int:
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
