"""Releases of a few bytes, as freezing sees them: a directory and what lies beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfm_mlflow.release.bundle import Bundle, bundle_at

if TYPE_CHECKING:
    from pathlib import Path


def make_bundle(folder: Path, *, large_bytes: int = 0) -> Bundle:
    """Write a release of three files, one of them as large as wanted, with a signature."""
    root = folder / "release"
    (root / "xai").mkdir(parents=True)
    (root / "MLmodel").write_bytes(b"m")
    (root / "xai" / "a.json").write_bytes(b"{}")
    (root / "xai" / "empty").write_bytes(b"")
    if large_bytes:
        (root / "model.pt").write_bytes(bytes(range(256)) * (large_bytes // 256))
    found = bundle_at(root)
    found.evidence_dir.mkdir()
    found.signature_path.write_bytes(b"sig")
    return found
