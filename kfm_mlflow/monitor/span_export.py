"""Where spans go: a file of JSON lines, and a collector over OTLP/HTTP.

Both get the same OTLP JSON (OpenTelemetry protocol 1.x, "JSON Protobuf Encoding"): ids in hex,
64-bit integers as text, enumerations as numbers. A line of the file is a whole request with one
span, as the collector's ``otlpjsonfile`` receiver reads it.

The collector's address comes from the standard variables: ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``
as it is, or ``OTEL_EXPORTER_OTLP_ENDPOINT`` with ``/v1/traces`` behind it; headers from
``OTEL_EXPORTER_OTLP_TRACES_HEADERS`` or ``OTEL_EXPORTER_OTLP_HEADERS``. A batch that is not taken
within 10 s is not sent again.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan

_logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 64 * 2**20
KEPT_FILES = 4
MAX_FOLDER_BYTES = 2**30
SPAN_FILES = "spans-*.jsonl*"
"""Names of span files in a folder, those that are full included."""
_TIMEOUT_S = 10.0


class Exporter(Protocol):
    """Takes batches of ended spans somewhere."""

    def export(self, spans: Sequence[ReadableSpan]) -> bool:
        """Say whether all were taken."""

    def shutdown(self) -> None:
        """Let go of what is held."""


def encode_spans(spans: Sequence[ReadableSpan]) -> dict[str, Any]:
    """Return an OTLP trace request as JSON values.

    Args:
        spans: Ended spans of one resource and scope, at least one.
    """
    first = spans[0]
    scope = first.instrumentation_scope
    named = {"name": scope.name, "version": scope.version or ""} if scope else {}
    listed = {"scope": named, "spans": [_encode(span) for span in spans]}
    resource = {"attributes": _attributes(first.resource.attributes)}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [listed]}]}


def _encode(span: ReadableSpan) -> dict[str, Any]:
    context = span.get_span_context()
    trace_id, span_id = (context.trace_id, context.span_id) if context else (0, 0)
    return {
        "traceId": f"{trace_id:032x}",
        "spanId": f"{span_id:016x}",
        "name": span.name,
        "kind": span.kind.value + 1,  # the protocol has 0 for "unspecified"
        "startTimeUnixNano": str(span.start_time or 0),
        "endTimeUnixNano": str(span.end_time or 0),
        "attributes": _attributes(span.attributes or {}),
        "status": {"code": span.status.status_code.value},
    }


def _attributes(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"stringValue": str(value)}


class FileSpanExporter:
    """Appends one line per span to a file, and starts a new one when it is full.

    A process that starts anew has a file of a new name, so the folder has a bound as well: the
    span files of all processes in it that were written longest ago are removed above that.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = MAX_FILE_BYTES,
        kept_count: int = KEPT_FILES,
        max_folder_bytes: int = MAX_FOLDER_BYTES,
    ) -> None:
        """Name the file; its folder is made with the first span.

        Args:
            path: The file that is written; full ones get ``.1`` (the newest) and so on behind it.
            max_bytes: A line that would make the file longer begins a new one.
            kept_count: Full files that are kept.
            max_folder_bytes: Most that the span files of the folder may hold when a process opens
                or fills a file of its own.
        """
        self._path, self._max_bytes, self._kept_count = path, max_bytes, kept_count
        self._max_folder_bytes = max_folder_bytes
        self._is_failing = self._has_looked = False

    def export(self, spans: Sequence[ReadableSpan]) -> bool:
        """Write spans; a disk that takes none is logged once; False then."""
        lines = [
            json.dumps(encode_spans([span]), separators=(",", ":"), allow_nan=False) + "\n"
            for span in spans
        ]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not self._has_looked:
                self._make_room()
            self._write(lines)
        except OSError as exc:
            if not self._is_failing:
                _logger.warning("spans are lost: %s: %s", self._path.name, exc.strerror)
            self._is_failing = True
            return False
        self._is_failing = False
        return True

    def shutdown(self) -> None:
        """Do nothing: no file is held open."""

    def _write(self, lines: list[str]) -> None:
        written = self._path.stat().st_size if self._path.exists() else 0
        begin = 0
        for end, line in enumerate(lines):
            if written and written + len(line) > self._max_bytes:
                self._append(lines[begin:end])
                self._rotate()
                begin, written = end, 0
            written += len(line)
        self._append(lines[begin:])

    def _append(self, lines: list[str]) -> None:
        if lines:
            with self._path.open("a", encoding="ascii") as file:
                file.write("".join(lines))

    def _rotate(self) -> None:
        def named(number: int) -> Path:
            return self._path.with_name(f"{self._path.name}.{number}")

        for number in range(self._kept_count - 1, 0, -1):
            if named(number).exists():
                named(number).replace(named(number + 1))
        if self._path.exists():
            self._path.replace(named(1))
        self._make_room()

    def _make_room(self) -> None:
        """Remove the oldest span files of the folder above its bound, and never this one."""
        self._has_looked = True
        found = []
        for path in self._path.parent.glob(SPAN_FILES):
            with suppress(FileNotFoundError):  # Another process may rotate at the same time.
                seen = path.stat()
                found.append((seen.st_mtime_ns, path, seen.st_size))
        held_bytes = sum(size for _, _, size in found)
        for _, path, size in sorted(found):
            if held_bytes <= self._max_folder_bytes:
                return
            if path != self._path:
                path.unlink(missing_ok=True)
                held_bytes -= size


class OtlpSpanExporter:
    """Posts batches of spans to a collector as OTLP JSON."""

    def __init__(self, endpoint: str, headers: Mapping[str, str]) -> None:
        """Take an address; nothing is sent before the first span.

        Args:
            endpoint: URL that takes traces.
            headers: Sent with every batch.
        """
        import requests

        self._endpoint = endpoint
        self._session = requests.Session()
        self._session.headers.update({**headers, "Content-Type": "application/json"})
        self._is_failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> bool:
        """Send spans; a collector that takes none is logged once; False then."""
        import requests

        body = json.dumps(encode_spans(spans), separators=(",", ":"), allow_nan=False)
        try:
            answer = self._session.post(
                self._endpoint, data=body, timeout=_TIMEOUT_S, allow_redirects=False
            )
            problem = "" if answer.status_code < 300 else f"HTTP {answer.status_code}"  # noqa: PLR2004 what the protocol calls success
        except requests.RequestException as exc:
            problem = type(exc).__name__
        if problem and not self._is_failing:
            _logger.warning("spans are lost: the collector did not take them (%s)", problem)
        self._is_failing = bool(problem)
        return not problem

    def shutdown(self) -> None:
        """Close the connection."""
        self._session.close()


def otlp_endpoint(environ: Mapping[str, str]) -> str | None:
    """Return the URL that takes traces, by OpenTelemetry's variables; None when none is set.

    Raises:
        InputError: It is no HTTP URL.
    """
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
    if not endpoint and (stem := environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")):
        endpoint = f"{stem.rstrip('/')}/v1/traces"
    if not endpoint:
        return None
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InputError(
            "is no HTTP URL",
            where="OTEL_EXPORTER_OTLP_ENDPOINT",
            remedy="write it as http://collector:4318",
        )
    return endpoint


def open_exporters(path: Path | None) -> list[Exporter]:
    """Return exporters to a file, and to the collector that the environment names.

    Args:
        path: The file; None for none.
    """
    exporters: list[Exporter] = [] if path is None else [FileSpanExporter(path)]
    endpoint = otlp_endpoint(os.environ)
    if endpoint is not None:
        exporters.append(OtlpSpanExporter(endpoint, _headers(os.environ)))
    return exporters


def _headers(environ: Mapping[str, str]) -> dict[str, str]:
    general = environ.get("OTEL_EXPORTER_OTLP_HEADERS", "")
    text = environ.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS", general)
    pairs = (pair.partition("=") for pair in text.split(",") if "=" in pair)
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs}
