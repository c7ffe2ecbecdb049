"""``kfm ledger``: show, verify, date and export the decisions of a governed MLflow server.

Every command reads a server's ledger page by page, or an exported file row by row.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfm_mlflow.canonical import canonical_bytes, load_json, write_json
from kfm_mlflow.cli.ledger_text import entry_lines, list_line, tenure_lines
from kfm_mlflow.errors import EvidenceError, InputError, LedgerError
from kfm_mlflow.policy.levels import parse_level
from kfm_mlflow.registry.history import history_of, read_entry
from kfm_mlflow.registry.snapshot import (
    FILE_NAME,
    Cover,
    snapshot_document,
    snapshot_rows,
    verify_snapshot,
    write_snapshot,
)
from kfm_mlflow.rollout.model_uri import parse_registered_model
from kfm_mlflow.rollout.remote import RemoteRegistry
from kfm_mlflow.trust.instants import is_future, parse_instant
from kfm_mlflow.trust.keys import load_public_key, parse_public_key
from kfm_mlflow.trust.ledger_head import head_signature_problem, parse_head
from kfm_mlflow.trust.ledger_rows import checked_rows, verify_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kfm_mlflow.trust.keys import PublicKey
    from kfm_mlflow.trust.ledger_head import LedgerHead
    from kfm_mlflow.trust.ledger_rows import LedgerReport

_PATH = click.Path(path_type=Path, dir_okay=False)
_SERVER = click.option("--server", envvar="MLFLOW_TRACKING_URI", help="URL of the MLflow server.")
_FILE = click.option("--file", "file", type=_PATH, help="Read an exported ledger instead.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_KEYS = click.option(
    "--key",
    "key_files",
    type=_PATH,
    multiple=True,
    help="The registry's public key; again for a former one.",
)
_TOLD_EVERY = 10_000


@click.group()
def ledger() -> None:
    """Show and verify the ledger."""


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1, sort_keys=True))


def _rows(server: str | None, file: Path | None, model: str | None) -> Iterator[dict[str, Any]]:
    if file is None:
        yield from RemoteRegistry(server).ledger_rows(model)
        return
    for row in snapshot_rows(file):
        if model is None or row.get("model") == model:
            yield row


@ledger.command("list")
@click.argument("model", required=False)
@_SERVER
@_FILE
def list_rows(model: str | None, server: str | None, file: Path | None) -> None:
    """List decisions, oldest first."""
    for row in _rows(server, file, model):
        try:
            line = list_line(read_entry(row))
        except EvidenceError as exc:
            line = str(exc)
        click.echo(f"{row['seq']:>5}  {row['at']}  {line}")


@ledger.command()
@click.argument("number", type=click.IntRange(min=1))
@_SERVER
@_FILE
@_JSON
def show(number: int, *, server: str | None, file: Path | None, as_json: bool) -> None:
    """Show one row: who, what, when, why, and on what evidence. Does not verify it."""
    if file is None:
        row = RemoteRegistry(server).ledger_row(number)
    else:
        found = (row for row in snapshot_rows(file) if row.get("seq") == number)
        row = next(found, {})
        if not row:
            raise InputError(f"has no row {number}", where=str(file))
    entry = read_entry(row)
    if as_json:
        _print_json(entry.to_dict())
        return
    for line in entry_lines(entry):
        click.echo(line)


def _instant(text: str) -> datetime:
    try:
        at = parse_instant(text, where="TIME")
    except EvidenceError as exc:
        raise InputError(
            str(exc), remedy="write ISO 8601 with a zone, as 2026-11-08T22:20:00Z"
        ) from exc
    if is_future(at, datetime.now(UTC)):
        raise InputError(f"{text} has not come yet", where="TIME")
    return at


@ledger.command("at")
@click.argument("time")
@click.argument("model_uri")
@click.option("--level", help="Only candidate, staging, canary or production.")
@_SERVER
@_FILE
@_JSON
def levels_at(
    time: str,
    model_uri: str,
    *,
    level: str | None,
    server: str | None,
    file: Path | None,
    as_json: bool,
) -> None:
    """Say what of models:/NAME was at each level at TIME (ISO 8601 with a zone), and why."""
    at = _instant(time)
    name = parse_registered_model(model_uri)
    wanted = None if level is None else parse_level(level)
    rows = _rows(server, file, name)
    history = history_of((read_entry(row) for row in rows), name)
    found = [tenure for tenure in history.at(at) if wanted in (None, tenure.level)]
    if as_json:
        _print_json(
            {
                "model": name,
                "at": time,
                "level": level,
                "versions": [tenure.to_dict() for tenure in found],
            }
        )
        return
    for tenure in found:
        for line in tenure_lines(tenure):
            click.echo(line)
    if not found:
        click.echo(f"nothing of {name} was at {wanted or 'any level'} at {time}")


def _told(count: int) -> None:
    if count % _TOLD_EVERY == 0 and sys.stderr.isatty():
        click.echo(f"kfm: {count} rows", err=True)


def _keys(files: Iterable[Path], otherwise: Callable[[], PublicKey]) -> tuple[PublicKey, ...]:
    return tuple(load_public_key(path) for path in files) or (otherwise(),)


def _kept_head(file: Path | None, keys: tuple[PublicKey, ...]) -> LedgerHead | None:
    if file is None:
        return None
    document = load_json(file, where=str(file))
    head = parse_head(document, where=str(file))
    if "signature" in document:
        problems = [head_signature_problem(document, key) for key in keys]
        if None not in problems:
            raise LedgerError(str(problems[0]), where=str(file))
    return head


@ledger.command("verify")
@click.argument("file", type=_PATH, required=False)
@_SERVER
@_KEYS
@click.option("--head", "head_file", type=_PATH, help="A head that was kept elsewhere.")
@_JSON
def verify_all(
    file: Path | None,
    *,
    server: str | None,
    key_files: tuple[Path, ...],
    head_file: Path | None,
    as_json: bool,
) -> int:
    """Verify every row: chain, signature, and columns; names the first bad one.

    FILE is a snapshot that `kfm ledger export` wrote; without it the server's ledger is read.
    """
    problems: list[str] = []
    if file is None:
        registry = RemoteRegistry(server)
        keys = _keys(key_files, registry.registry_key)
        origin = f"as {registry.server} itself says"
        kept = _kept_head(head_file, keys)
        report = verify_rows(registry.ledger_rows(), keys=keys, kept=kept, progress=_told)
    else:
        document = snapshot_document(file)
        keys = _keys(
            key_files,
            lambda: parse_public_key(str(document["registry_key"]["public_key"]), where=str(file)),
        )
        origin = "as the file itself says"
        kept = _kept_head(head_file, keys)
        report, problems = verify_snapshot(file, keys=keys, kept=kept, progress=_told)
    _tell(report, problems, keys, "" if key_files else origin, kept=kept, as_json=as_json)
    return 1 if report.finding or problems else 0


def _tell(
    report: LedgerReport,
    problems: list[str],
    keys: tuple[PublicKey, ...],
    origin: str,
    *,
    kept: LedgerHead | None,
    as_json: bool,
) -> None:
    if as_json:
        finding = report.finding
        bad = {"row": finding.number, "problem": str(finding)} if finding else None
        _print_json(
            {
                "good_row_count": report.row_count,
                "head": report.head.to_dict(),
                "first_bad_row": bad,
                "problems": problems,
                "key_ids": [key.key_id for key in keys],
                "key_source": origin or "--key",
                "head_compared": kept is not None,
            }
        )
        return
    for key in keys:
        click.echo(f"registry key {key.key_id}, {origin or 'given by --key'}")
    if origin:
        click.echo("keep that key elsewhere and give it as --key: whoever lies names their own")
    for problem in problems:
        click.echo(f"the snapshot {problem}")
    if report.finding is not None:
        click.echo(str(report.finding))
        return
    head = report.head
    click.echo(f"{report.row_count} rows, chain intact, every row signed by the registry")
    if kept is not None:
        click.echo(f"holds to the head that was kept, row {kept.seq}")
    else:
        click.echo("rows cut off the end show only against a head kept elsewhere: --head FILE")
    click.echo(f"head {head.seq} {head.hash}")


@ledger.command("head")
@_SERVER
@click.option("-o", "--output", type=_PATH, help="Write it to this file.")
def show_head(server: str | None, output: Path | None) -> None:
    """Print or save the last row's number and hash, signed; keep it where the ledger is not."""
    registry = RemoteRegistry(server)
    document = registry.ledger_head()
    parse_head(document, where=registry.server)
    if output is None:
        click.echo(canonical_bytes(document).decode("utf-8"))
        return
    write_json(output, document)
    click.echo(f"{output}: head of {document['seq']} rows")


@ledger.command("export")
@click.option(
    "-o", "--output", type=_PATH, default=Path(FILE_NAME), show_default=True, help="The file."
)
@click.option("--auditor", help="Who vouches for it.  [default: the registry's key]")
@click.option("--name", default="registry", show_default=True, help="What it is a ledger of.")
@_SERVER
@_KEYS
def export(
    *,
    output: Path,
    auditor: str | None,
    name: str,
    server: str | None,
    key_files: tuple[Path, ...],
) -> None:
    """Verify the ledger and write all of it to a file that anybody can verify offline."""
    registry = RemoteRegistry(server)
    stated = registry.registry_key()
    keys = _keys(key_files, lambda: stated)
    document = registry.ledger_head()
    head = parse_head(document, where=registry.server)
    rows = takewhile(lambda row: row["seq"] <= head.seq, registry.ledger_rows())
    cover = Cover(
        name=name,
        auditor=auditor or f"registry key {stated.key_id[:16]}",
        at=datetime.now(UTC),
        head=document,
        key=stated,
    )
    count = write_snapshot(output, checked_rows(rows, keys, head), cover)
    click.echo(f"{output}: {count} rows; verify it with `kfm ledger verify {output}`")
