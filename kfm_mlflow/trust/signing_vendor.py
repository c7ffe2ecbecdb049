"""Making a bundle with model-signing, from digests that we computed ourselves.

The library reads the whole directory before it signs. We have read it already, so it is given the
digests in its own form and makes statement and signature from them: each byte is read once.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import SignatureError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["make_bundle"]


class _Hashed:
    """Stands for ``model_signing.hashing.Config``, of which signing asks for ``hash`` alone."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        self._digests = digests

    def hash(self, model_path: Path) -> Any:
        """Return the vendor's manifest: whole files, SHA-256, no links, nothing ignored."""
        from model_signing import manifest

        kind = manifest.SerializationType.from_args(
            {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
        )
        items = [
            kind.new_item(
                path,
                # The class has no other name outside of the library's private modules.
                manifest.hashing.Digest("sha256", bytes.fromhex(digest.removeprefix("sha256:"))),
            )
            for path, digest in self._digests.items()
        ]
        return manifest.Manifest(Path(model_path).name, items, kind)


def make_bundle(
    release_dir: Path, digests: Mapping[str, str], configure: Callable[[Any], Any]
) -> bytes:
    """Let model-signing sign a release whose files have these digests; return its bundle.

    Args:
        release_dir: The release; only its name is used.
        digests: Path -> ``sha256:<hex>`` of every file.
        configure: Chooses the signer on a ``model_signing.signing.Config``.

    Raises:
        SignatureError: The vendor failed.
    """
    from model_signing import signing

    with tempfile.TemporaryDirectory(prefix="kfm-sign-") as folder:
        target = Path(folder) / "model.sig"
        try:
            chosen = configure(signing.Config()).set_hashing_config(_Hashed(digests))
            chosen.sign(release_dir, target)
        except Exception as exc:
            # The vendor lets through whatever its dependencies raise and documents no type.
            raise SignatureError(
                f"model-signing failed ({type(exc).__name__}: {exc})", where=str(release_dir)
            ) from exc
        return target.read_bytes()
