"""What a release says, read once from its bytes.

Everything here follows from the bytes of the release alone: not from keys, time or policy. It
is therefore computed once per release id and remembered. Problems are values; nothing raises on
bad evidence.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from kfm_mlflow.canonical import MAX_JSON_BYTES, digest_bytes, parse_json
from kfm_mlflow.errors import EvidenceError, ManifestError
from kfm_mlflow.release.scan import scan_release
from kfm_mlflow.release.texts import is_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from kfm_mlflow.release.manifest import FileEntry, Manifest

T = TypeVar("T")
_REMEMBERED = 64


@dataclass(frozen=True)
class Document:
    """A JSON document: its value, or why there is none."""

    value: Any = None
    problem: str = ""


@dataclass(frozen=True)
class ReleaseContent:
    """What the files of a release hold.

    Attributes:
        documents: Path -> parsed JSON document.
        texts: Path -> text, for screening.
        problems: Check name -> sentences, for checks that follow from the bytes alone.
    """

    documents: Mapping[str, Document]
    texts: Mapping[str, str]
    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    _judged: dict[tuple[str, str], tuple[Any, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def document(self, path: str) -> Document:
        """Return a document, or one that says it is missing."""
        return self.documents.get(path, Document(problem=f"{path}: missing"))

    def schema_problems(self, path: str, schema: str) -> tuple[str, ...]:
        """Return why a document does not satisfy one of our schemas; empty when it does.

        Asked once per document and schema, for it follows from the bytes alone.
        """
        from kfm_mlflow.metadata.schemas import schema_problems

        document = self.document(path)
        if document.problem:
            return (document.problem,)
        return self.once((path, schema), lambda: tuple(schema_problems(schema, document.value)))

    def once(self, key: tuple[str, str], judge: Callable[[], tuple[T, ...]]) -> tuple[T, ...]:
        """Return a judgement that follows from these bytes alone; it is made once per release.

        Args:
            key: What is judged, and by what.
            judge: Makes the judgement.
        """
        if key not in self._judged:
            self._judged[key] = judge()
        return self._judged[key]

    def mapping(self, path: str) -> dict[str, Any]:
        """Return a document's value when it is an object, else an empty one."""
        value = self.document(path).value
        return value if isinstance(value, dict) else {}


def _read_file(root: Path, entry: FileEntry) -> bytes:
    """Return the bytes that the manifest describes, and no others."""
    try:
        with (root / entry.path).open("rb") as stream:
            data = stream.read(entry.size_bytes + 1)
    except OSError as exc:
        raise ManifestError(f"cannot be read ({exc.strerror})", where=entry.path) from exc
    if digest_bytes(data) != entry.digest:
        # Remembering it under the release id would vouch for bytes that are not the release's.
        raise ManifestError("changed while it was read", where=entry.path, remedy="try again")
    return data


def _parse_document(data: bytes, path: str) -> Document:
    try:
        return Document(parse_json(data, where=path))
    except EvidenceError as exc:
        return Document(problem=str(exc))


def _asked(judge: Callable[[], Iterable[str]]) -> tuple[str, ...]:
    try:
        return tuple(judge())
    except Exception as exc:  # noqa: BLE001 - a judge that trips over a document has refused it
        return (f"could not be judged ({type(exc).__name__}: {exc})",)


def read_content(root: Path, manifest: Manifest) -> ReleaseContent:
    """Read and check the documents of a release.

    Args:
        root: The release directory that the manifest describes.
        manifest: Its manifest.

    Raises:
        ManifestError: A file is no longer what the manifest says.
    """
    from kfm_mlflow.metadata.prov import evaluate_prov
    from kfm_mlflow.metadata.sbom import evaluate_sbom
    from kfm_mlflow.metadata.stac import evaluate_item

    documents: dict[str, Document] = {}
    texts: dict[str, str] = {}
    unreadable: list[str] = []
    problems: dict[str, tuple[str, ...]] = {}
    facts = file_facts(manifest)
    for entry in manifest.files:
        path = entry.path
        if not is_text(path):
            continue
        if entry.size_bytes > MAX_JSON_BYTES:
            unreadable.append(f"{path}: {entry.size_bytes} bytes of text is too large to screen")
            documents[path] = Document(problem=f"{path}: larger than {MAX_JSON_BYTES} bytes")
            continue
        data = _read_file(root, entry)
        try:
            texts[path] = data.decode("utf-8")
        except UnicodeDecodeError:
            unreadable.append(f"{path}: is not UTF-8 and cannot be screened")
        if path.endswith(".json"):
            documents[path] = _parse_document(data, path)
        if path.endswith(".spdx.json"):
            problems[f"sbom:{path}"] = _asked(partial(evaluate_sbom, data, facts))
    metadata = ReleaseContent(documents, texts).mapping("model_metadata.json")
    weights, datasets = _weights_digest(manifest, metadata), _dataset_digests(metadata)
    for path, document in documents.items():
        value = document.value
        if path.startswith("stac/") and isinstance(value, dict):
            problems[f"stac:{path}"] = _asked(partial(evaluate_item, value, facts))
        if path.startswith("provenance/") and isinstance(value, dict):
            judge = partial(evaluate_prov, value, weights_sha256=weights, dataset_sha256s=datasets)
            problems[f"prov:{path}"] = _asked(judge)
    scan = scan_release(root, {entry.path: entry.size_bytes for entry in manifest.files})
    return ReleaseContent(
        documents,
        texts,
        {**problems, "texts": tuple(unreadable), "pickles": scan.pickles, "formats": scan.formats},
    )


def file_facts(manifest: Manifest) -> tuple[Any, ...]:
    """Return the manifest's files as the metadata room's facts."""
    from kfm_mlflow.metadata.facts import FileFact

    return tuple(
        FileFact(path=entry.path, size_bytes=entry.size_bytes, sha256=entry.digest)
        for entry in manifest.files
    )


def _weights_digest(manifest: Manifest, metadata: Mapping[str, Any]) -> str:
    weights = metadata.get("weights")
    path = weights.get("path") if isinstance(weights, dict) else None
    return manifest.digests.get(str(path), "")


def _dataset_digests(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    listed = metadata.get("data")
    if not isinstance(listed, list):
        return ()
    return tuple(
        str(item["digest"]) for item in listed if isinstance(item, dict) and "digest" in item
    )


class ContentMemory:
    """Remembers the content of releases by release id; safe between threads."""

    def __init__(self, size: int = _REMEMBERED) -> None:
        """Remember at most ``size`` releases, the least recently used forgotten first."""
        self._size = size
        self._known: OrderedDict[str, ReleaseContent] = OrderedDict()
        self._lock = Lock()

    def read(self, root: Path, manifest: Manifest) -> ReleaseContent:
        """Return the content of a release, reading it when it is not known."""
        key = manifest.release_id
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        content = read_content(root, manifest)
        with self._lock:
            self._known[key] = content
            while len(self._known) > self._size:
                self._known.popitem(last=False)
        return content
