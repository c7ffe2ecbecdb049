"""What a release says, read once from its bytes.

Everything here follows from the bytes of the release alone: not from keys, time or policy. It
is therefore computed once per release id and remembered. Problems are values; nothing raises on
bad evidence.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import MAX_JSON_BYTES, load_json
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.release.pickle_scan import scan_checkpoint
from kfm_mlflow.release.texts import is_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kfm_mlflow.release.manifest import Manifest

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

    def document(self, path: str) -> Document:
        """Return a document, or one that says it is missing."""
        return self.documents.get(path, Document(problem=f"{path}: missing"))

    def mapping(self, path: str) -> dict[str, Any]:
        """Return a document's value when it is an object, else an empty one."""
        value = self.document(path).value
        return value if isinstance(value, dict) else {}


def _read_documents(root: Path, manifest: Manifest) -> dict[str, Document]:
    found: dict[str, Document] = {}
    for entry in manifest.files:
        if entry.path.endswith(".json"):
            try:
                found[entry.path] = Document(load_json(root / entry.path, where=entry.path))
            except EvidenceError as exc:
                found[entry.path] = Document(problem=str(exc))
    return found


def _read_texts(root: Path, manifest: Manifest) -> tuple[dict[str, str], tuple[str, ...]]:
    texts: dict[str, str] = {}
    problems: list[str] = []
    for entry in manifest.files:
        if not is_text(entry.path):
            continue
        if entry.size_bytes > MAX_JSON_BYTES:
            problems.append(
                f"{entry.path}: {entry.size_bytes} bytes of text is too large to screen"
            )
            continue
        try:
            texts[entry.path] = (root / entry.path).read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            problems.append(f"{entry.path}: is not UTF-8 and cannot be screened")
    return texts, tuple(problems)


def read_content(root: Path, manifest: Manifest) -> ReleaseContent:
    """Read and check the documents of a release.

    Args:
        root: The release directory that the manifest describes.
        manifest: Its manifest.
    """
    from kfm_mlflow.metadata.prov import evaluate_prov
    from kfm_mlflow.metadata.sbom import evaluate_sbom
    from kfm_mlflow.metadata.stac import evaluate_item

    documents = _read_documents(root, manifest)
    texts, unreadable = _read_texts(root, manifest)
    content = ReleaseContent(documents, texts)
    metadata = content.mapping("model_metadata.json")
    checkpoints = [
        entry.path for entry in manifest.files if entry.path.endswith((".pt", ".pth", ".ckpt"))
    ]
    pickles = tuple(
        f"{path}: {problem}" for path in checkpoints for problem in scan_checkpoint(root / path)
    )
    problems: dict[str, tuple[str, ...]] = {"texts": unreadable, "pickles": pickles}
    facts = file_facts(manifest)
    for path, document in documents.items():
        if path.startswith("stac/") and isinstance(document.value, dict):
            problems[f"stac:{path}"] = tuple(evaluate_item(document.value, facts))
        if path.startswith("provenance/") and isinstance(document.value, dict):
            problems[f"prov:{path}"] = tuple(
                evaluate_prov(
                    document.value,
                    weights_sha256=_weights_digest(manifest, metadata),
                    dataset_sha256s=_dataset_digests(metadata),
                )
            )
        if path.endswith(".spdx.json"):
            problems[f"sbom:{path}"] = tuple(evaluate_sbom((root / path).read_bytes(), facts))
    return ReleaseContent(documents, texts, problems)


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
