"""``kfm vote``: a signed vote on one move, with a key here or a signer elsewhere."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kfm_mlflow.canonical import digest_bytes, write_bytes
from kfm_mlflow.errors import InputError
from kfm_mlflow.rollout.model_uri import parse_model_uri
from kfm_mlflow.rollout.remote import RemoteRegistry

if TYPE_CHECKING:
    from kfm_mlflow.trust.quorum import Choice

_FILE = click.Path(path_type=Path, dir_okay=False)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise InputError(f"cannot be read ({exc.strerror})", where=str(path)) from exc


def _require_one_way(**given: object) -> None:
    """Refuse options of which it is not clear what they ask for.

    Raises:
        UsageError: None or several of the ways to sign, or one with what belongs to another.
    """
    has = {name for name, value in given.items() if value is not None}
    ways = {"key", "voter", "signature", "envelope"} & has
    if len(ways) != 1:
        raise click.UsageError("give one of --key, --as with --unsigned, --signature, --envelope")
    if ("unsigned" in has) != bool(ways & {"voter", "signature"}):
        raise click.UsageError("--unsigned FILE goes with --as or --signature")
    if ways & {"key", "voter"} and not {"level", "choice", "reason"} <= has:
        raise click.UsageError(
            "needs --to, --reason, and --approve, --deny, --abstain, --escalate or --veto"
        )


@click.command()
@click.argument("model_uri")
@click.option("--to", "level", help="candidate, staging, canary or production.")
@click.option("--server", envvar="MLFLOW_TRACKING_URI", help="URL of the MLflow server.")
@click.option("--approve", "choice", flag_value="approve", help="Approve the move.")
@click.option("--deny", "choice", flag_value="deny", help="Deny it; of a veto role, this stops it.")
@click.option("--abstain", "choice", flag_value="abstain", help="Abstain.")
@click.option("--escalate", "choice", flag_value="escalate", help="Ask a higher body.")
@click.option("--veto", "choice", flag_value="veto", help="Stop the move; needs a veto role.")
@click.option("--reason", help="Why; stands in the signed vote.")
@click.option("--valid-days", default=7.0, show_default=True, help="How long the vote holds.")
@click.option("--key", type=_FILE, help="Sign here, with the member's private key.")
@click.option("--as", "voter", help="Sign elsewhere: the member who will; writes --unsigned.")
@click.option("--unsigned", type=_FILE, help="File with the exact bytes to sign.")
@click.option("--signature", type=_FILE, help="Signature over --unsigned, to send with it.")
@click.option("--envelope", type=_FILE, help="Send this DSSE envelope as it is.")
def vote(
    model_uri: str,
    *,
    level: str | None,
    server: str | None,
    choice: Choice | None,
    reason: str | None,
    valid_days: float,
    key: Path | None,
    voter: str | None,
    unsigned: Path | None,
    signature: Path | None,
    envelope: Path | None,
) -> None:
    """Vote on one move of exactly these bytes under this policy.

    With --key the vote is signed here and sent. With --as and --unsigned the bytes to sign are
    written for a token or key service, and sent back with --signature.
    """
    _require_one_way(
        key=key,
        voter=voter,
        signature=signature,
        envelope=envelope,
        unsigned=unsigned,
        level=level,
        choice=choice,
        reason=reason,
    )
    name, version = parse_model_uri(model_uri)
    remote = RemoteRegistry(server)
    if envelope is not None:
        digest = remote.send_vote(name, version, _read(envelope))
        click.echo(f"sent a vote on {name} v{version}: {digest}")
        return
    if signature is not None and unsigned is not None:
        digest = remote.send_signed_vote(name, version, _read(unsigned), _read(signature))
        click.echo(f"sent a vote on {name} v{version}: {digest}")
        return
    now = datetime.now(UTC)
    said = {
        "choice": choice,
        "reason": reason,
        "now": now,
        "expires_at": now + timedelta(days=valid_days),
    }
    if key is not None:
        digest = remote.cast_vote(name, version, str(level), key=key, **said)
        click.echo(f"{choice} of {name} v{version} to {level}: {digest}")
    elif unsigned is not None:
        payload = remote.prepare_vote(name, version, str(level), voter=voter, **said)
        write_bytes(unsigned, payload)
        click.echo(
            f"wrote the exact bytes that {voter} signs to {unsigned}: {digest_bytes(payload)}"
        )
        _explain(model_uri, unsigned)


def _explain(model_uri: str, unsigned: Path) -> None:
    """Print how to sign the bytes with other people's tools, and how to send the vote."""
    bytes_, sig = shlex.quote(str(unsigned)), shlex.quote(f"{unsigned}.sig")
    for line in (
        "sign them with ECDSA P-256 and SHA-256, by one of",
        f"  openssl dgst -sha256 -sign KEY.pem -out {sig} {bytes_}",
        f"  pkcs11-tool --sign --mechanism ECDSA-SHA256 --label KEY -i {bytes_} -o {sig}",
        f"  cosign sign-blob --tlog-upload=false --key KEY --output-signature {sig} {bytes_}",
        "then send the vote with",
        f"  kfm vote {shlex.quote(model_uri)} --unsigned {bytes_} --signature {sig}",
    ):
        click.echo(line)
