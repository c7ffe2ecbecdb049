"""The lineage from data to deployment in an export, compared with what it follows from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfm_mlflow.canonical import MAX_JSON_BYTES
from kfm_mlflow.registry.deployed_prov import read_deployed
from kfm_mlflow.release.export import DEPLOYED_FILE, SIGNED_DEPLOYED_FILE

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from datetime import datetime
    from pathlib import Path

    from kfm_mlflow.registry.deployed_prov import DeployedProv
    from kfm_mlflow.trust.keys import PublicKey

_PATHS = (DEPLOYED_FILE, SIGNED_DEPLOYED_FILE)


def lineage_problems(
    root: Path,
    there: Container[str],
    wanted: DeployedProv | None,
    keys: Sequence[PublicKey],
    now: datetime,
) -> list[str]:
    """Compare an exported lineage with the one that follows, and check the registry's signature.

    Args:
        root: The export.
        there: Paths of its files.
        wanted: The lineage, put together again from the parts of the export; None where the
            release holds none that can be extended.
        keys: The registry's.
        now: When it is checked (aware).

    Returns:
        What is wrong, as sentences that begin with the file. Whether the lineage itself holds is
        another question (:attr:`DeployedProv.problems`).

    Raises:
        EvidenceError: The registry's statement is none, or does not verify.
    """
    if wanted is None:
        return [f"{path}: there is no lineage to extend" for path in _PATHS if path in there]
    missing = [f"{path}: is missing" for path in _PATHS if path not in there]
    if missing:
        return missing
    if (root / DEPLOYED_FILE).read_bytes() != wanted.document:
        return [f"{DEPLOYED_FILE}: does not follow from release, ledger and statements"]
    with (root / SIGNED_DEPLOYED_FILE).open("rb") as stream:
        envelope = stream.read(MAX_JSON_BYTES + 1)
    if read_deployed(envelope, keys, now) != wanted:
        return [f"{SIGNED_DEPLOYED_FILE}: was signed for another lineage"]
    return []
