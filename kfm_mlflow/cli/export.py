"""``kfm export``: a release and everything signed about it, to be checked anywhere, offline.

An export is gathered in a hidden folder beside its target, verified there as a stranger would, and
only then given its name: there are no half-written exports, and none that does not verify.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfm_mlflow.canonical import digest_bytes, digest_file, write_bytes, write_json
from kfm_mlflow.errors import InputError, IntegrityError, RefusedError
from kfm_mlflow.gates.evidence import trusted_signers
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.load import load_policies
from kfm_mlflow.registry.deployed_prov import read_deployed
from kfm_mlflow.registry.export_keys import index_keys, signer_of
from kfm_mlflow.registry.export_parts import fixed_parts
from kfm_mlflow.registry.exported import OWN_WORD, ExportReport, verify_export
from kfm_mlflow.registry.history import History, read_entry
from kfm_mlflow.registry.snapshot import Cover, write_snapshot
from kfm_mlflow.release.archive import TAR_SUFFIX, is_archive, unpack_tar, write_tar
from kfm_mlflow.release.bundle import ENVELOPE_SUFFIX, bundle_at
from kfm_mlflow.release.export import (
    ATTESTATIONS_FOLDER,
    DEPLOYED_FILE,
    INDEX_FILE,
    LEDGER_FILE,
    SIGNED_DEPLOYED_FILE,
    SIGNED_FILE,
    archive_name,
    export_facts,
    finish_export,
)
from kfm_mlflow.rollout.model_uri import parse_model_uri
from kfm_mlflow.rollout.remote import RemoteRegistry
from kfm_mlflow.trust.instants import format_instant
from kfm_mlflow.trust.keys import load_public_key
from kfm_mlflow.trust.ledger_head import parse_head
from kfm_mlflow.trust.ledger_rows import checked_rows
from kfm_mlflow.trust.signing import verify_release

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.trust.keys import PublicKey
    from kfm_mlflow.trust.ledger_head import LedgerHead

_SHOWN = 3


@dataclass
class _Ledger:
    """The ledger up to one head, and what it says of one version."""

    remote: RemoteRegistry
    keys: tuple[PublicKey, ...]
    name: str
    version: int
    now: datetime

    def write(self, root: Path) -> dict[str, Any]:
        """Verify and write the ledger; return head, rows and level for the index."""
        document = self.remote.ledger_head()
        head = parse_head(document, where=self.remote.server)
        history, mine = History(self.name), list[int]()

        def watched(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
            for row in rows:
                if row["model"] == self.name:
                    history.add(read_entry(row))
                    mine.extend([row["seq"]] if row["version"] == self.version else [])
                yield row

        key = self.keys[0]
        cover = Cover(
            name="registry",
            auditor=f"registry key {key.key_id[:16]}",
            at=self.now,
            head=document,
            key=key,
        )
        write_snapshot(root / LEDGER_FILE, watched(self._rows(head)), cover)
        return {
            "ledger_head": head.to_dict(),
            "ledger_rows": mine,
            "level": str(history.levels().get(self.version, Level.CANDIDATE)),
        }

    def _rows(self, head: LedgerHead) -> Iterator[dict[str, Any]]:
        rows = takewhile(lambda row: row["seq"] <= head.seq, self.remote.ledger_rows())
        return checked_rows(rows, self.keys, head)


def _gather(
    remote: RemoteRegistry, name: str, version: int, keys: tuple[PublicKey, ...], root: Path
) -> None:
    """Write every part of an export into an empty folder."""
    now = datetime.now(UTC)
    remote.require_current(name)
    if remote.version(name, version)["release"] is None:
        raise InputError(
            "was never frozen", where=f"models:/{name}/{version}", remedy="move it to Staging first"
        )
    # The ledger first: statements that its rows rest on are then there to be fetched.
    told = _Ledger(remote, keys, name, version, now).write(root)
    known = remote.version(name, version)
    release, policy = known["release"], remote.policy(known["family"])
    said = export_facts(
        model_name=name,
        version=version,
        family=known["family"],
        release_version=release["version"],
        release_id=release["id"],
        policy_digest=policy.digest,
    )
    path = said["release_path"]
    bundle = bundle_at(root / path)
    bundle.release_dir.parent.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        found = remote.download(release["frozen_uri"], Path(folder))
        found.release_dir.rename(bundle.release_dir)
        found.evidence_dir.rename(bundle.evidence_dir)
    beside = {digest_file(file) for file in bundle.evidence_dir.iterdir() if file.is_file()}
    for text in known["attestations"]:
        digest = digest_bytes(text.encode())
        if digest not in beside:
            file = f"{digest.removeprefix('sha256:')[:32]}{ENVELOPE_SUFFIX}"
            write_bytes(root / ATTESTATIONS_FOLDER / file, text.encode())
    _lineage(remote, name, version, keys, root)
    for file, data in fixed_parts(policy, keys, remote.regions(known["family"])).items():
        write_bytes(root / file, data)
    facts = {
        **said,
        **told,
        "exported_at": format_instant(now),
        "signer": _signer(root, path, policy, now),
        "keys": index_keys(policy.trust, keys),
    }
    index = finish_export(root, facts)
    write_json(root / SIGNED_FILE, remote.sign_export(name, version, index))


def _lineage(
    remote: RemoteRegistry, name: str, version: int, keys: tuple[PublicKey, ...], root: Path
) -> None:
    """Write the lineage up to the deployment, if there is one; server and `verify` know, too."""
    try:
        envelope = remote.deployed_prov(name, version)
    except (InputError, RefusedError):
        return
    found = read_deployed(envelope, keys, datetime.now(UTC))
    write_bytes(root / DEPLOYED_FILE, found.document)
    write_bytes(root / SIGNED_DEPLOYED_FILE, envelope)


def _signer(root: Path, path: str, policy: Policy, now: datetime) -> dict[str, str]:
    """Return who signed the release."""
    bundle = bundle_at(root / path)
    signers = trusted_signers(policy.trust)
    report = verify_release(bundle.release_dir, bundle.signature_path, signers, now)
    if not report.ok:
        raise IntegrityError("; ".join(report.problems[:_SHOWN]), where=path)
    return signer_of(policy.trust, report.signer)


@click.command()
@click.argument("model_uri")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="A new directory, or a new file NAME.tar.",
)
@click.option("--server", envvar="MLFLOW_TRACKING_URI", help="URL of the MLflow server.")
@click.option(
    "--key",
    "key_files",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="The registry's public key; again for a former one.  [default: as the server says]",
)
def export(
    model_uri: str, *, output: Path, server: str | None, key_files: tuple[Path, ...]
) -> None:
    """Write models:/NAME/VERSION with all evidence, to be checked anywhere, offline.

    Release, signature, statements, votes, policy, ledger and keys, with a README that says how to
    check each part with other people's tools. `kfm verify` checks all of it.
    """
    name, version = parse_model_uri(model_uri)
    if output.exists() or output.is_symlink():
        raise InputError("exists already", where=str(output), remedy="choose another name")
    remote = RemoteRegistry(server)
    stated = remote.registry_key()
    keys = tuple(load_public_key(path) for path in key_files) or (stated,)
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        root = Path(folder) / "export"
        root.mkdir()
        _gather(remote, name, version, keys, root)
        report = verify_export(root, now=datetime.now(UTC))
        if not report.ok:
            raise IntegrityError(
                "; ".join(report.problems[:_SHOWN]), where=f"{model_uri} is not exported"
            )
        whole = root
        if output.suffix == TAR_SUFFIX:
            whole = Path(folder) / output.name
            write_tar(root, whole, archive_name(name, version))
        if output.exists():
            raise InputError("exists already", where=str(output), remedy="choose another name")
        whole.rename(output)
    _tell_notes(report)
    click.echo(f"{output}: {report.index['release_id']}; check it with `kfm verify`")


def _tell_notes(report: ExportReport) -> None:
    for note in report.notes:
        click.echo(f"note: {note}")


def verify_path(
    path: Path, policy_dir: Path | None, key_files: tuple[Path, ...], *, as_json: bool
) -> int:
    """Verify an export or an archive of one, print what was found, and return the exit code."""
    if not is_archive(path):
        return _tell(path, _verified(path, policy_dir, key_files), as_json=as_json)
    with tempfile.TemporaryDirectory(prefix="kfm-verify-") as folder:
        try:
            report = _verified(unpack_tar(path, Path(folder)), policy_dir, key_files)
        except IntegrityError as exc:
            report = ExportReport((str(exc),))
    return _tell(path, report, as_json=as_json)


def _verified(root: Path, policy_dir: Path | None, key_files: tuple[Path, ...]) -> ExportReport:
    keys = tuple(load_public_key(path) for path in key_files)
    trust = None
    if policy_dir is not None:
        family = _stated_family(root)
        trust = load_policies(policy_dir).policy(family).trust if family else None
    return verify_export(root, now=datetime.now(UTC), registry_keys=keys, trust=trust)


def _tell(path: Path, report: ExportReport, *, as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=1, sort_keys=True))
        return 0 if report.ok else 1
    for problem in report.problems:
        click.echo(problem)
    _tell_notes(report)
    if not report.ok:
        click.echo(f"FAIL  {path}")
        return 1
    index: Mapping[str, Any] = report.index
    click.echo(
        f"models:/{index['model_name']}/{index['version']} ({index['release_version']}) was "
        f"{index['level']}: {len(index['files'])} files, {report.statement_count} statements, "
        f"{report.row_count} ledger rows"
    )
    click.echo(f"keys as {report.key_source} says")
    if report.key_source == OWN_WORD:
        click.echo("keep the registry's key elsewhere and give it as --key: whoever lies names own")
    click.echo(f"PASS  {index['release_id']}")
    return 0


def _stated_family(root: Path) -> str:
    from kfm_mlflow.canonical import load_json
    from kfm_mlflow.errors import EvidenceError

    try:
        value = load_json(root / INDEX_FILE)
    except EvidenceError:
        return ""
    return str(value.get("family", "")) if isinstance(value, dict) else ""
