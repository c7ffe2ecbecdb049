"""Two small servers on loopback: what fsspec's clients of two stores call to list and read.

They are not Google Cloud Storage and the Hugging Face hub: only a part of their wire format.
"""

from __future__ import annotations

import base64
import hashlib
import json
from abc import ABC, abstractmethod
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

Files = dict[str, bytes]


class _Handler(BaseHTTPRequestHandler, ABC):
    """Reads from a table: path in the store -> bytes."""

    protocol_version = "HTTP/1.1"
    files: Files
    calls: list[str]

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def reply(
        self, body: bytes, status: int = 200, kind: str = "application/json", **more: str
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_json(self, value: Any, status: int = 200) -> None:
        self.reply(json.dumps(value).encode(), status)

    def reply_file(self, data: bytes, **more: str) -> None:
        wanted = self.headers.get("Range", "")
        if not wanted.startswith("bytes="):
            self.reply(data, 200, "application/octet-stream", **more)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(data) - 1), len(data) - 1)
        span = f"bytes {start}-{end}/{len(data)}"
        self.reply(
            data[start : end + 1], 206, "application/octet-stream", Content_Range=span, **more
        )

    def do_GET(self) -> None:
        self.calls.append(f"{self.command} {self.path}")
        self.answer(urlsplit(self.path))

    do_HEAD = do_POST = do_GET  # noqa: N815

    @abstractmethod
    def answer(self, url: Any) -> None:
        """Answer a request for a parsed address."""


class GoogleStorage(_Handler):
    """JSON API of Cloud Storage: list objects, metadata of one, and its bytes."""

    def answer(self, url: Any) -> None:
        """Answer a listing, metadata or bytes."""
        parts = url.path.removeprefix("/download").removeprefix("/storage/v1/b/").split("/")
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        bucket = parts[0]
        if parts[1:] == ["o"]:
            found = sorted(
                n for n in self.files if n.startswith(f"{bucket}/{query.get('prefix', '')}")
            )
            self.reply_json({"kind": "storage#objects", "items": [self._item(n) for n in found]})
            return
        name = f"{bucket}/{unquote('/'.join(parts[2:]))}"
        if name not in self.files:
            self.reply_json({"error": {"code": 404, "message": "not found"}}, 404)
        elif query.get("alt") == "media" or url.path.startswith("/download"):
            self.reply_file(self.files[name])
        else:
            self.reply_json(self._item(name))

    def _item(self, name: str) -> dict[str, Any]:
        bucket, _, key = name.partition("/")
        data = self.files[name]
        return {
            "kind": "storage#object",
            "name": key,
            "bucket": bucket,
            "size": str(len(data)),
            "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
            "generation": "1",
        }


class HuggingFaceHub(_Handler):
    """API of the hub: a model repository, its tree, information on paths, and files."""

    def answer(self, url: Any) -> None:
        """Answer a tree, information on paths or bytes."""
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if parts[0] != "api":
            owner, repository, _, _, *rest = parts
            self._file(f"{owner}/{repository}/{'/'.join(rest)}")
            return
        prefix = f"{parts[2]}/{parts[3]}/"
        inside = {n.removeprefix(prefix): d for n, d in self.files.items() if n.startswith(prefix)}
        if not inside:
            self.reply_json({"error": "Repository not found"}, 404)
        elif parts[4:5] == ["tree"]:
            folder = "/".join(parts[6:])
            below = {
                n: d for n, d in inside.items() if n.startswith(f"{folder}/" if folder else "")
            }
            if below:
                self.reply_json([self._entry(n, d) for n, d in sorted(below.items())])
            else:
                self.reply(b"{}", 404, X_Error_Code="EntryNotFound")
        elif parts[4:5] == ["paths-info"]:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked = parse_qs(body.decode()).get("paths") or json.loads(body)["paths"]
            found = [self._entry(n, inside[n]) for n in asked if n in inside]
            found += [
                {"type": "directory", "oid": "0" * 40, "size": 0, "path": n}
                for n in asked
                if any(other.startswith(f"{n}/") for other in inside)
            ]
            self.reply_json(found)
        else:
            self.reply_json({"id": prefix[:-1], "sha": "0" * 40, "siblings": []})

    def _file(self, name: str) -> None:
        if name not in self.files:
            self.reply(b"", 404, X_Error_Code="EntryNotFound")
            return
        digest = hashlib.sha256(self.files[name]).hexdigest()
        self.reply_file(self.files[name], ETag=f'"{digest}"', X_Repo_Commit="0" * 40)

    @staticmethod
    def _entry(name: str, data: bytes) -> dict[str, Any]:
        return {
            "type": "file",
            "oid": hashlib.sha1(data).hexdigest(),
            "size": len(data),
            "path": name,
        }


@contextmanager
def serve(kind: type[_Handler], files: Files) -> Iterator[tuple[str, list[str]]]:
    """Serve files, and give the server's URL and the calls that it got."""
    calls: list[str] = []
    handler = type(kind.__name__, (kind,), {"files": files, "calls": calls})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", calls
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
