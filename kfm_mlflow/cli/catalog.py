"""``kfm catalog``: the STAC catalog of a governed server, as files that need no server."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import click

from kfm_mlflow.canonical import digest_bytes, parse_json, write_bytes, write_json
from kfm_mlflow.errors import EvidenceError, InputError, IntegrityError, StorageError
from kfm_mlflow.metadata.stac_static import ORIGINAL_FILE, item_folder, static_documents
from kfm_mlflow.rollout.remote import TIMEOUT_S, RemoteRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

_PAGE_ITEMS = 500
_TOKEN = re.compile(r"[?&]token=([^&]+)")
_FOLDER_MODE = 0o755


class _RemoteCatalog(RemoteRegistry):
    """What a server's STAC API says."""

    def read(self, path: str, **asked: Any) -> bytes:
        """Ask for one document; links are not followed, so that no login leaves the server."""
        import requests

        url = f"{self.server}/kfm/stac/{path}"
        try:
            answer = requests.get(url, params=asked, timeout=TIMEOUT_S, **self._login.options)
        except (requests.RequestException, OSError) as exc:
            raise StorageError(
                f"cannot be reached ({type(exc).__name__})",
                where=self.server,
                remedy="is `kfm server` running there?",
            ) from exc
        if answer.ok and "json" in answer.headers.get("Content-Type", ""):
            return answer.content
        try:
            said = answer.json()
        except ValueError:
            said = None
        if isinstance(said, dict):
            said = {"message": said.get("description")}
        raise self._problem(answer.status_code, said, ok=answer.ok)

    def collections(self) -> list[dict[str, Any]]:
        """Return every collection."""
        found = parse_json(self.read("collections"), where="collections")
        listed: list[dict[str, Any]] = found["collections"]
        return listed

    def items(self) -> Iterator[dict[str, Any]]:
        """Return every item, page by page."""
        asked: dict[str, Any] = {"limit": _PAGE_ITEMS}
        while asked:
            page = parse_json(self.read("search", **asked), where="search")
            yield from page["features"]
            going_on = [each["href"] for each in page["links"] if each["rel"] == "next"]
            token = _TOKEN.search(going_on[0]) if going_on else None
            asked = {"limit": _PAGE_ITEMS, "token": unquote(token[1])} if token else {}

    def original(self, item: dict[str, Any]) -> bytes:
        """Return an item as it was signed.

        Raises:
            IntegrityError: It has another checksum than the server says.
        """
        collection, item_id = quote(item["collection"], safe=""), quote(item["id"])
        data = self.read(f"collections/{collection}/signed/{item_id}")
        said = next(each for each in item["links"] if each["rel"] == "via")["file:checksum"]
        if said != f"1220{digest_bytes(data).removeprefix('sha256:')}":
            raise IntegrityError("is not the item that was signed", where=item["id"])
        return data


@click.group()
def catalog() -> None:
    """Export the STAC catalog of all releases."""


@catalog.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder that is made; nothing may be there.",
)
@click.option("--server", envvar="MLFLOW_TRACKING_URI", help="URL of the MLflow server.")
def export(output: Path, *, server: str | None) -> None:
    """Write a static STAC catalog of every release that was Production and that you may read."""
    if output.exists() or output.is_symlink():
        raise InputError("is there already", where=str(output), remedy="name a folder that is not")
    remote = _RemoteCatalog(server)
    try:
        collections, items = remote.collections(), list(remote.items())
        documents = static_documents(collections, items)
    except (KeyError, TypeError, StopIteration) as exc:
        raise EvidenceError("is no STAC API that is known", where=remote.server) from exc
    output.parent.mkdir(parents=True, exist_ok=True)
    working = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        for path, document in documents.items():
            write_json(working / path, document)
        for item in items:
            folder = working / item_folder(item["collection"], item["id"])
            write_bytes(folder / ORIGINAL_FILE, remote.original(item))
        working.chmod(_FOLDER_MODE)
        working.rename(output)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    click.echo(f"{len(items)} releases in {len(collections)} collections: {output}/catalog.json")
