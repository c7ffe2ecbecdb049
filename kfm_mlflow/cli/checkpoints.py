"""``kfm checkpoints``: list, verify, vote on, certify and prune the checkpoints of a training."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfm_mlflow.canonical import digest_bytes, digest_json, load_json, write_bytes
from kfm_mlflow.checkpoints.approval import approve
from kfm_mlflow.checkpoints.directory import verify_directory
from kfm_mlflow.checkpoints.records import (
    CERTIFICATE,
    MANIFEST,
    CheckpointsManifest,
    ManifestEntry,
    read_record,
    registered_name_of,
)
from kfm_mlflow.checkpoints.retention import choose_prunable, prune
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.gates.certificates import (
    Candidate,
    build_certificate,
    certificate_problems,
    sign_vote,
)
from kfm_mlflow.policy.load import load_policy
from kfm_mlflow.rollout.remote import RemoteRegistry
from kfm_mlflow.trust.keys import load_private_key
from kfm_mlflow.trust.model_key import current_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kfm_mlflow.checkpoints.verify import Certified, VerifiedCheckpoints
    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.trust.quorum import Choice

VOTES = "votes"
FOLDER = "checkpoints"
_RUN = re.compile(rf"(?:runs:/)?(?P<run_id>[0-9a-f]{{32}})(?:/{FOLDER})?/?")
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_DIRECTORY = click.Path(path_type=Path, file_okay=False)


@click.group()
def checkpoints() -> None:
    """List, verify, vote on, certify and prune the checkpoints of a training."""


@contextmanager
def _opened(place: str) -> Iterator[Path]:
    """Give a directory as it is; fetch an MLflow run's checkpoints into a temporary one.

    Raises:
        InputError: It is neither.
    """
    if Path(place).is_dir():
        yield Path(place)
        return
    match = _RUN.fullmatch(place)
    if match is None:
        raise InputError(
            "is neither a directory here nor a run id",
            where=place,
            remedy="name the folder of the checkpoints",
        )
    import mlflow
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory(prefix="kfm-checkpoints-") as folder:
        try:
            path = mlflow.artifacts.download_artifacts(
                f"runs:/{match['run_id']}/{FOLDER}", dst_path=folder
            )
        except (MlflowException, OSError) as exc:
            raise InputError(
                f"no run with {FOLDER}/ could be read ({type(exc).__name__})",
                where=place,
                remedy="set MLFLOW_TRACKING_URI to the server that has the run",
            ) from exc
        yield Path(path)


def _listed(root: Path) -> CheckpointsManifest:
    return read_record(CheckpointsManifest, root / MANIFEST)


@checkpoints.command("list")
@click.argument("place", metavar="DIR-OR-RUN")
def list_(place: str) -> None:
    """Show every listed checkpoint, in the order of training."""
    with _opened(place) as root:
        manifest = _listed(root)
        certified = _certified_digest(root)
    click.echo(f"{manifest.model_id} {manifest.version}: {len(manifest.checkpoints)} checkpoints")
    click.echo("epoch  auc     faircare  energy Wh  digest           checkpoint")
    for entry in manifest.checkpoints:
        auc = entry.auc if entry.auc is not None else entry.validation_accuracy
        mark = "  certified" if manifest.approved and entry.checksum_sha256 == certified else ""
        click.echo(
            f"{entry.epoch:>5}  {'-' if auc is None else format(auc, '.4f'):6}  "
            f"{entry.faircare_score:8.1f}  {entry.energy_wh:9.4f}  "
            f"{entry.checksum_sha256[:16]}  {entry.id}{mark}"
        )


def _certified_digest(root: Path) -> str:
    path = root / CERTIFICATE
    return str(load_json(path).get("checksum_sha256")) if path.is_file() else ""


def _certified(root: Path, policy: Policy) -> Certified | None:
    """Return what counts the votes of a directory's certificate again."""
    try:
        path = root / CERTIFICATE
        certificate = load_json(path) if path.is_file() else None
    except EvidenceError:
        # Verification names the document that cannot be read.
        return None
    now = datetime.now(UTC)

    def why_not(found: VerifiedCheckpoints, entry: ManifestEntry) -> tuple[str, ...]:
        candidate = Candidate(found.model_id, found.version, entry.id, entry.checksum_sha256)
        return certificate_problems(certificate, candidate, policy, now)

    return why_not


@checkpoints.command()
@click.argument("place", metavar="DIR-OR-RUN")
@click.option("--policy", type=_FILE, help="Count the certificate's votes under this policy.")
@click.option(
    "--against",
    type=_FILE,
    multiple=True,
    help="Another manifest that must say the same.",
)
def verify(place: str, *, policy: Path | None, against: tuple[Path, ...]) -> int:
    """Look for missing, changed, unlisted, unsafe and contradicting checkpoints."""
    terms = None if policy is None else load_policy(policy)
    with _opened(place) as root:
        found = verify_directory(
            root,
            other_manifests=against,
            certified=None if terms is None else _certified(root, terms),
        )
    for finding in found.findings:
        click.echo(str(finding))
    count = f"{len(found.entries)} checkpoints"
    if found.findings:
        click.echo(f"{count}, {len(found.findings)} findings")
        return 1
    if not found.approved:
        approval = "not certified"
    elif terms is None:
        approval = "approved; give --policy to count the votes again"
    else:
        approval = "certified"
    click.echo(f"{count} of {found.model_id} {found.version} are whole; {approval}")
    return 0


@checkpoints.command()
@click.argument("root", metavar="DIR", type=_DIRECTORY)
@click.argument("checkpoint_id", metavar="CHECKPOINT")
@click.option("--policy", type=_FILE, required=True, help="Policy whose council votes.")
@click.option("--key", type=_FILE, required=True, help="The member's private key.")
@click.option("--approve", "choice", flag_value="approve", help="Approve.")
@click.option("--deny", "choice", flag_value="deny", help="Deny; of a veto role, this stops it.")
@click.option("--veto", "choice", flag_value="veto", help="Stop it; needs a veto role.")
@click.option("--reason", required=True, help="Why; stands in the signed vote.")
@click.option("--valid-days", default=7.0, show_default=True, help="How long the vote holds.")
def vote(
    root: Path,
    checkpoint_id: str,
    *,
    policy: Path,
    key: Path,
    choice: Choice | None,
    reason: str,
    valid_days: float,
) -> None:
    """Sign a vote on exactly this checkpoint's bytes, into DIR/votes/."""
    if choice is None:
        raise click.UsageError("give --approve, --deny or --veto")
    manifest = _listed(root)
    found = verify_directory(root)
    if not found.ok:
        raise EvidenceError(
            f"{found.findings[0]}", where=str(root), remedy="kfm checkpoints verify says it all"
        )
    candidate = Candidate.of(manifest, manifest.entry(checkpoint_id))
    now = datetime.now(UTC)
    envelope = sign_vote(
        candidate,
        load_policy(policy),
        load_private_key(key),
        choice=choice,
        reason=reason,
        now=now,
        expires_at=now + timedelta(days=valid_days),
    )
    digest = digest_bytes(envelope)
    path = root / VOTES / f"{digest.removeprefix('sha256:')[:16]}.intoto.json"
    write_bytes(path, envelope)
    click.echo(f"{choice} of {checkpoint_id} ({candidate.digest}): {path.name}")


@checkpoints.command()
@click.argument("root", metavar="DIR", type=_DIRECTORY)
@click.argument("checkpoint_id", metavar="CHECKPOINT")
@click.option("--policy", type=_FILE, required=True, help="Policy whose council votes.")
@click.option("--votes", type=_DIRECTORY, help="Folder of signed votes; DIR/votes by default.")
@click.option("--auditor", default="@kfm-governance", show_default=True, help="Who counts.")
@click.option("--server", help="URL of a governed server whose ledger is to have it, too.")
@click.option("--model", help="Registered model there; the training's model id by default.")
def certify(
    root: Path,
    checkpoint_id: str,
    *,
    policy: Path,
    votes: Path | None,
    auditor: str,
    server: str | None,
    model: str | None,
) -> None:
    """Count the votes; with a quorum, write the certificate and that the checkpoint is approved.

    What was certified with the same votes before stays as it is, and is only sent.
    """
    registry = None if server is None else RemoteRegistry(server)
    manifest = _listed(root)
    found = verify_directory(root)
    wrong = [finding for finding in found.findings if finding.code != "NOT_CERTIFIED"]
    if wrong:
        raise EvidenceError(f"{wrong[0]}", where=str(root))
    folder = votes or root / VOTES
    envelopes = [path.read_bytes() for path in sorted(folder.glob("*.json"))]
    candidate = Candidate.of(manifest, manifest.entry(checkpoint_id))
    terms, now = load_policy(policy), datetime.now(UTC)
    certificate = build_certificate(envelopes, candidate, terms, now, auditor=auditor)
    known = load_json(root / CERTIFICATE) if (root / CERTIFICATE).is_file() else {}
    is_known = known.get("votes") == certificate["votes"]
    if is_known and not certificate_problems(known, candidate, terms, now):
        certificate = known
    approve(root, certificate)
    record = certificate["record"]
    click.echo(
        f"certified {checkpoint_id} ({candidate.digest}), reviewed by {record['reviewed_by']}: "
        f"{record['ledger_id']}, certificate {digest_json(certificate)}"
    )
    if registry is not None:
        name = current_key(model or registered_name_of(manifest.model_id), os.environ)
        kept = registry.send_certificate(name, certificate)
        was = "is row" if kept["recorded"] else "was row"
        click.echo(f"{was} {kept['seq']} of the ledger of {registry.server}, model {name}")


@checkpoints.command("prune")
@click.argument("root", metavar="DIR", type=_DIRECTORY)
@click.option("--keep", default=3, show_default=True, help="Latest checkpoints to keep.")
@click.option("--keep-digest", multiple=True, help="Digest that a release or somebody else names.")
@click.option("--yes", is_flag=True, help="Remove them; without it they are only named.")
def prune_(root: Path, *, keep: int, keep_digest: tuple[str, ...], yes: bool) -> None:
    """Let old checkpoints go; never a certified, a referenced, the best or a phase's last one."""
    found = verify_directory(root)
    if not found.ok:
        raise EvidenceError(f"{found.findings[0]}", where=str(root))
    certified = _certified_digest(root)
    leaving = choose_prunable(
        found.entries,
        keep_count=keep,
        certified=(certified,) if certified else (),
        referenced=keep_digest,
    )
    if yes:
        prune(root, leaving)
    for entry in leaving:
        click.echo(f"{'removed' if yes else 'would remove'} {entry.file_name}")
    left = len(found.entries) - len(leaving)
    click.echo(f"{len(leaving)} go, {left} stay" + ("" if yes else "; give --yes to remove them"))
