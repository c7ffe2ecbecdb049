"""A release on disk: the directory, and what lies beside it.

``<name>/`` is the release; ``<name>.evidence/`` holds what is said about it and can therefore
not be inside: the signature over the directory and the attestations of other parties, one DSSE
envelope per file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kfm_mlflow.errors import EvidenceError

if TYPE_CHECKING:
    from pathlib import Path

EVIDENCE_SUFFIX = ".evidence"
SIGNATURE_FILE = "release.sig"
ENVELOPE_SUFFIX = ".intoto.json"
MAX_ENVELOPE_BYTES = 4 * 2**20
MAX_ENVELOPE_COUNT = 1000
ITEM_PATH = "stac/model-item.json"
"""Where a release keeps its STAC item, unless its family's source document names another place."""
FOCUS_ITEM_PATH = "stac/focusmodel-item.json"
ITEM_PATHS = (ITEM_PATH, FOCUS_ITEM_PATH)


@dataclass(frozen=True)
class Bundle:
    """Where the two halves of a release lie."""

    release_dir: Path
    evidence_dir: Path

    @property
    def signature_path(self) -> Path:
        """The OpenSSF Model Signing bundle over the directory."""
        return self.evidence_dir / SIGNATURE_FILE

    def read_envelopes(self) -> tuple[tuple[str, bytes], ...]:
        """Return (file name, bytes) of every attestation beside the release, sorted by name.

        Raises:
            EvidenceError: A file is too large or cannot be read, or there are too many.
        """
        if not self.evidence_dir.is_dir():
            return ()
        paths = sorted(self.evidence_dir.glob(f"*{ENVELOPE_SUFFIX}"))
        if len(paths) > MAX_ENVELOPE_COUNT:
            raise EvidenceError(
                f"more than {MAX_ENVELOPE_COUNT} attestations", where=str(self.evidence_dir)
            )
        found = []
        for path in paths:
            if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_ENVELOPE_BYTES:
                raise EvidenceError(
                    f"is not a file of at most {MAX_ENVELOPE_BYTES} bytes", where=path.name
                )
            found.append((path.name, path.read_bytes()))
        return tuple(found)


def bundle_at(release_dir: Path) -> Bundle:
    """Return the bundle whose release lies at a path."""
    return Bundle(release_dir, release_dir.with_name(release_dir.name + EVIDENCE_SUFFIX))


def evidence_uri(release_uri: str) -> str:
    """Return where the evidence of a release at a URI lies."""
    return release_uri.rstrip("/") + EVIDENCE_SUFFIX
