"""``kfm care``: sovereign regions, where they come from and what holds in them."""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

import click

from kfm_mlflow.canonical import write_bytes
from kfm_mlflow.care.hub import build_regions, fetch_document, load_document
from kfm_mlflow.care.regions import RegionSet, load_regions
from kfm_mlflow.cli.care_authority import approve, veto
from kfm_mlflow.cli.care_mask import mask
from kfm_mlflow.cli.care_screen import screen
from kfm_mlflow.errors import InputError

KEY_VARIABLE = "LOCAL_CONTEXTS_API_KEY"


@click.group()
def care() -> None:
    """Load sovereign regions and look at their rules."""


care.add_command(screen)
care.add_command(approve)
care.add_command(veto)
care.add_command(mask)


@care.group()
def regions() -> None:
    """Make and show regions files."""


@regions.command("import")
@click.argument("source", metavar="URL|FILE")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--authority", help="Who has authority where SOURCE names nobody.")
@click.option("--id-property", default="id", show_default=True, help="Property that becomes id.")
@click.option("--name-property", default="name", show_default=True, help="And the name.")
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=f"Holds the Local Contexts Hub's API key; else {KEY_VARIABLE} is read.",
)
def import_regions(
    *,
    source: str,
    output: Path,
    authority: str | None,
    id_property: str,
    name_property: str,
    api_key_file: Path | None,
) -> None:
    """Make a regions file of a Local Contexts Hub project or of a GeoJSON of boundaries.

    The Hub gives a project at https://localcontextshub.org/api/v2/projects/UNIQUE_ID/. What SOURCE
    does not say (consent, ceilings, names that may not be shown), write into the file afterwards,
    as its authority tells you.
    """
    if output.exists():
        raise InputError("exists already", where=str(output), remedy="choose another file")
    if "://" in source:
        key = api_key_file.read_text(encoding="utf-8") if api_key_file else ""
        key = key.strip() or os.environ.get(KEY_VARIABLE, "")
        data, where = fetch_document(source, api_key=key or None), source.partition("?")[0]
    else:
        data, where = load_document(Path(source)), Path(source).name
    written = build_regions(
        data,
        where=where,
        salt=secrets.token_hex(16),
        authority=authority,
        id_property=id_property,
        name_property=name_property,
    )
    write_bytes(output, written, mode=0o600)
    click.echo(output)
    _tell(load_regions(output))


@regions.command()
@click.argument(
    "path", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
def show(path: Path | None) -> None:
    """Print what holds now in each region of PATH; without it, of the packaged regions."""
    _tell(load_regions(path))


def _tell(found: RegionSet) -> None:
    now = datetime.now(UTC)
    click.echo(found.digest)
    for region in found.regions:
        rule = region.rule_at(now)
        limit = "withheld" if rule.is_withheld else f"no finer than r{rule.ceiling}"
        k_min = f", k {rule.k_min}" if rule.k_min > 1 else ""
        asked = "" if region.authority else ", no authority"
        click.echo(
            f"  {found.shown(region.id)}: {limit}{k_min}, consent {region.consent.status}{asked}, "
            f"{len(region.labels)} labels, {region.cover.size} cells"
        )
        for reason in rule.reasons:
            click.echo(f"    {reason}")
    if found.source.startswith("packaged"):
        click.echo(
            "  illustrative boxes, no boundaries; load authoritative ones with "
            "`kfm care regions import URL|FILE -o regions.geojson`"
        )
