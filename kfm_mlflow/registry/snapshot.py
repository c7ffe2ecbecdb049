"""``ledger_snapshot.json``: the whole ledger in one file that anybody can verify offline.

Rules kept here:

1. The five fields of the source documents' governance record (``ledger_id``, ``auditor``,
   ``reviewed_by``, ``status``, ``timestamp``) stand at the top, and in one record per version that
   is released now. All but auditor and instant follow from the rows, and are compared with them
   when the file is verified.
2. ``approved`` is said only where a council's quorum approved; what passed its gates without one
   is ``admitted``.
3. The file is canonical JSON, written and read row by row: it may be larger than memory.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfileobj
from typing import IO, TYPE_CHECKING, Any

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry.history import History, read_entry
from kfm_mlflow.trust.instants import parse_instant
from kfm_mlflow.trust.keys import parse_public_key
from kfm_mlflow.trust.ledger import MOVED
from kfm_mlflow.trust.ledger_head import LedgerHead, head_signature_problem, parse_head
from kfm_mlflow.trust.ledger_rows import LedgerReport, verify_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from kfm_mlflow.registry.history import Tenure
    from kfm_mlflow.trust.keys import PublicKey

SCHEMA_VERSION = "1"
FILE_NAME = "ledger_snapshot.json"
_ROWS = "rows"
_CHUNK = 2**20
_MAX_PIECE = 64 * 2**20
"""Longest single value that is read, in characters; a row is some 10,000."""


class Releases:
    """What is released now, of every model; feed it every row of a ledger, in order."""

    def __init__(self) -> None:
        """Begin before the first row."""
        self._models: dict[str, History] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in a row as the API holds it.

        Raises:
            EvidenceError: It is a move that cannot be read.
        """
        if row["kind"] != MOVED:
            return
        model = str(row["model"])
        history = self._models.setdefault(model, History(model))
        history.add(read_entry(row))
        history.past.clear()  # A snapshot tells of the present only.

    def tenures(self) -> Iterator[tuple[str, Tenure]]:
        """Return (model, tenure) of every version above candidate, in order."""
        for model in sorted(self._models):
            for tenure in self._models[model].present:
                if tenure.level is not Level.CANDIDATE:
                    yield model, tenure


def ledger_id(at: datetime, *names: str) -> str:
    """Return ``ledger_<yyyy>q<n>_<names>`` as the source documents write it."""
    text = "_".join(names)
    return f"ledger_{at.year}q{(at.month + 2) // 3}_{re.sub(r'[^A-Za-z0-9]+', '_', text)}"


def _record(model: str, tenure: Tenure, auditor: str) -> dict[str, Any]:
    decision = tenure.by
    at = parse_instant(decision.at, where=f"row {decision.seq}")
    return {
        "ledger_id": ledger_id(at, model, f"v{tenure.version}"),
        "auditor": auditor,
        "reviewed_by": ", ".join(decision.approving),
        "status": "approved" if decision.votes.get("outcome") == "reached" else "admitted",
        "timestamp": decision.at,
        "model": model,
        "version": tenure.version,
        "release_version": decision.release_version,
        "release_id": decision.release_id,
        "level": str(tenure.level),
        "row": decision.seq,
    }


def governance(releases: Releases, auditor: str, at: datetime, name: str) -> dict[str, Any]:
    """Return what a snapshot says besides its rows, head and key.

    Args:
        releases: After the last row.
        auditor: Who vouches for the snapshot.
        at: When it is made (aware).
        name: What it is a ledger of, for its id.
    """
    found = [_record(model, tenure, auditor) for model, tenure in releases.tenures()]
    live = [record for record in found if record["level"] == Level.PRODUCTION]
    status = "admitted" if found else "empty"
    if live and all(record["status"] == "approved" for record in live):
        status = "approved"
    reviewers = {member for _, tenure in releases.tenures() for member in tenure.by.approving}
    return {
        "ledger_id": ledger_id(at, name),
        "auditor": auditor,
        "reviewed_by": ", ".join(sorted(reviewers)),
        "status": status,
        "records": found,
    }


@dataclass(frozen=True)
class Cover:
    """What is known before the rows are read.

    Attributes:
        name: What it is a ledger of.
        auditor: Who vouches for it.
        at: When it is made (aware).
        head: The head, in JSON.
        key: The registry's public key.
    """

    name: str
    auditor: str
    at: datetime
    head: Mapping[str, Any]
    key: PublicKey

    def document(self, releases: Releases) -> dict[str, Any]:
        """Return the whole snapshot but its rows."""
        return {
            "schema_version": SCHEMA_VERSION,
            **governance(releases, self.auditor, self.at, self.name),
            "name": self.name,
            "timestamp": self.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "head": dict(self.head),
            "registry_key": {"key_id": self.key.key_id, "public_key": self.key.pem},
        }


def write_snapshot(path: Path, rows: Iterable[Mapping[str, Any]], cover: Cover) -> int:
    """Write a snapshot; it appears whole or not at all.

    Args:
        path: The file.
        rows: All rows of the ledger up to the head, in order; verified by the caller as they go by.
        cover: The rest.

    Returns:
        How many rows it holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    count, releases = 0, Releases()
    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder,
        (Path(folder) / _ROWS).open("w+b") as body,
        (Path(folder) / path.name).open("w+b") as whole,
    ):
        for row in rows:
            body.write(b"," if count else b"")
            body.write(canonical_bytes(dict(row)))
            releases.add(row)
            count += 1
        body.seek(0)
        document = {**cover.document(releases), _ROWS: None}
        for index, name in enumerate(sorted(document)):
            whole.write(b"," if index else b"{")
            whole.write(canonical_bytes(name) + b":")
            if name == _ROWS:
                whole.write(b"[")
                copyfileobj(body, whole)
                whole.write(b"]")
            else:
                whole.write(canonical_bytes(document[name]))
        whole.write(b"}")
        whole.flush()
        Path(whole.name).replace(path)
    return count


class _Reader:
    """JSON values from a stream of text, one after the other, holding only the one at hand."""

    def __init__(self, stream: IO[str], where: str) -> None:
        self._stream, self._where = stream, where
        self._text, self._at = "", 0
        self._decoder = json.JSONDecoder(parse_constant=self._refuse)

    def _refuse(self, name: str) -> Any:
        raise EvidenceError(f"{name} is not JSON", where=self._where)

    def fail(self, wanted: str) -> EvidenceError:
        return EvidenceError(
            f"is no whole snapshot of a ledger ({wanted} is missing)",
            where=self._where,
            remedy="`kfm ledger export` writes one",
        )

    def _more(self, size: int) -> bool:
        more = self._stream.read(size)
        self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)

    def peek(self) -> str:
        """Return the next character; empty at the end."""
        if self._at == len(self._text):
            self._more(_CHUNK)
        return self._text[self._at : self._at + 1]

    def token(self, *wanted: str) -> str:
        """Take one of some single characters."""
        found = self.peek()
        if not found or found not in wanted:
            raise self.fail(" or ".join(wanted))
        self._at += 1
        return found

    def value(self) -> Any:
        """Take one JSON value, behind which there is more."""
        size = _CHUNK
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
                if end < len(self._text):
                    self._at = end
                    return value
            except (ValueError, RecursionError) as exc:
                if len(self._text) - self._at > _MAX_PIECE:
                    raise self.fail("JSON") from exc
            if not self._more(size):
                raise self.fail("the end")
            size *= 2


def _pieces(path: Path) -> Iterator[tuple[str, Any]]:
    """Return (name, value) of everything in a snapshot, and (``rows``, row) of every row."""
    where, last = path.name, ""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = _Reader(stream, where)
            sign = reader.token("{")
            while sign != "}":
                name = reader.value()
                reader.token(":")
                if not isinstance(name, str) or name <= last:
                    raise reader.fail("the order of canonical JSON")
                last = name
                if name == _ROWS:
                    yield from ((_ROWS, row) for row in _rows(reader))
                else:
                    yield name, reader.value()
                sign = reader.token(",", "}")
            if reader.peek():
                raise reader.fail("the end")
    except (OSError, UnicodeDecodeError) as exc:
        raise EvidenceError(f"cannot be read ({exc})", where=where) from exc


def _rows(reader: _Reader) -> Iterator[dict[str, Any]]:
    sign = reader.token("[")
    if reader.peek() == "]":
        sign = reader.token("]")
    while sign != "]":
        row = reader.value()
        if not isinstance(row, dict):
            raise reader.fail("a row")
        yield row
        sign = reader.token(",", "]")


def snapshot_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Return the rows of a snapshot, one at a time, in order.

    Raises:
        EvidenceError: The file cannot be read, or is something else.
    """
    return (value for name, value in _pieces(path) if name == _ROWS)


def snapshot_document(path: Path) -> dict[str, Any]:
    """Return a snapshot without its rows (an empty list), whole and of the right shape.

    Raises:
        EvidenceError: The file cannot be read, or is something else; the first problem is named.
    """
    document = {name: value for name, value in _pieces(path) if name != _ROWS} | {_ROWS: []}
    problems = schema_problems(FILE_NAME.removesuffix(".json"), document)
    if problems:
        raise EvidenceError(
            problems[0], where=path.name, remedy="`kfm ledger export` writes a snapshot"
        )
    return document


def verify_snapshot(
    path: Path,
    *,
    keys: Sequence[PublicKey] = (),
    kept: LedgerHead | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[LedgerReport, list[str]]:
    """Verify a snapshot: every row, the head at its end, and what it says of the rows.

    Args:
        path: The file.
        keys: The registry's keys; none takes the one in the file, which proves only that the
            file agrees with itself.
        kept: A head that was kept elsewhere.
        progress: Told the number of every good row.

    Returns:
        The report on the rows, and what else is wrong, as sentences.

    Raises:
        EvidenceError: The file cannot be read, or is something else.
    """
    document = snapshot_document(path)
    stated = document["registry_key"]
    own = parse_public_key(stated["public_key"], where=f"{path.name}: registry_key")
    trusted = tuple(keys) or (own,)
    releases = Releases()

    def watched() -> Iterator[dict[str, Any]]:
        for row in snapshot_rows(path):
            yield row
            # Asked for the next row, the verifier has found this one good.
            releases.add(row)

    report = verify_rows(watched(), keys=trusted, kept=kept, progress=progress)
    if report.finding is not None:
        return report, []
    problems = []
    if own.key_id not in {key.key_id for key in trusted} or stated["key_id"] != own.key_id:
        problems.append(f"names another registry key: {stated['key_id'][:16]}")
    if parse_head(document["head"]) != report.head:
        problems.append(f"has another head than its last row, {report.head.seq}")
    if (fault := head_signature_problem(document["head"], own)) and "signature" in document["head"]:
        problems.append(f"head {fault}")
    at = parse_instant(document["timestamp"], where="timestamp")
    said = governance(releases, document["auditor"], at, document["name"])
    problems += [
        f"{name} does not follow from the rows"
        for name, value in said.items()
        if document[name] != value
    ]
    return report, problems
