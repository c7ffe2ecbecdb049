"""``kfm care approve`` and ``kfm care veto``: the word of a region's authority, signed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfm_mlflow.care.authority import COVERS, MAX_REASON, Scope
from kfm_mlflow.care.regions import parse_expiry
from kfm_mlflow.errors import DataError, InputError
from kfm_mlflow.rollout.model_uri import parse_model_uri
from kfm_mlflow.rollout.remote import RemoteRegistry
from kfm_mlflow.trust.keys import load_private_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from kfm_mlflow.care.authority import Choice, Covers

APPROVAL_HOLDS = timedelta(days=365)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what both commands take."""
    for add in (
        click.option("--server", envvar="MLFLOW_TRACKING_URI", help="URL of the MLflow server."),
        click.option("--reason", required=True, help="Why; stands in the signed statement."),
        click.option(
            "--expires",
            help="YYYY-MM-DD, or an RFC 3339 instant. Without it, an approval holds "
            "a year and a veto for ever.",
        ),
        click.option("--use", "uses", multiple=True, help="Only for this care.scope; repeatable."),
        click.option(
            "--masking", "modes", multiple=True, help="Only under this masking mode; repeatable."
        ),
        click.option(
            "--scope",
            "covers",
            type=click.Choice(COVERS),
            default="release",
            show_default=True,
            help="These bytes, or every release of the model.",
        ),
        click.option(
            "--key",
            type=click.Path(path_type=Path, dir_okay=False),
            required=True,
            help="Private key of the authority; the region names its public half.",
        ),
        click.option("--region", required=True, help="Id of the region, as findings call it."),
        click.argument("model_uri", metavar="models:/NAME/VERSION"),
    ):
        command = add(command)
    return command


@click.command()
@_options
def approve(**given: Any) -> None:
    """Approve a release over a region, as its authority.

    It holds for what the region's rules are now, until it expires or the authority vetoes.
    """
    _say("approve", **given)


@click.command()
@_options
def veto(**given: Any) -> None:
    """Veto a release over a region, as its authority; takes back an approval.

    It stops every move up, a canary, and what is served, whatever the council voted.
    """
    _say("veto", **given)


def _say(
    choice: Choice,
    *,
    model_uri: str,
    region: str,
    key: Path,
    covers: Covers,
    modes: tuple[str, ...],
    uses: tuple[str, ...],
    expires: str | None,
    reason: str,
    server: str | None,
) -> None:
    name, version = parse_model_uri(model_uri)
    if not reason.strip() or len(reason) > MAX_REASON:
        raise InputError(f"must have 1 to {MAX_REASON} characters", where="--reason")
    now = datetime.now(UTC)
    expires_at = now + APPROVAL_HOLDS if choice == "approve" else None
    if expires is not None:
        try:
            expires_at = parse_expiry(expires, where="--expires")
        except DataError as exc:
            raise InputError(str(exc)) from exc
    scope = Scope(covers, modes, uses)
    digest = RemoteRegistry(server).say_as_authority(
        name,
        version,
        choice,
        region=region,
        scope=scope,
        reason=reason.strip(),
        signer=load_private_key(key),
        now=now,
        expires_at=expires_at,
    )
    until = f", until {expires_at:%Y-%m-%d %H:%M} UTC" if expires_at else ""
    click.echo(f"{choice} of {name} v{version} for region {region} ({scope}){until}: {digest}")
