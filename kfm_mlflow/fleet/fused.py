"""The files of a fused release: one unit per role, the choice, the rejections and the probes.

Every unit is taken from a folder of collected artifacts by digest, and its bytes are read again:
what does not give the digest that was chosen is not taken.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import load_json, write_json
from kfm_mlflow.errors import IntegrityError, KfmError, StorageError
from kfm_mlflow.fleet.collect import artifact_finding
from kfm_mlflow.fleet.manifest import Manifests, Metrics
from kfm_mlflow.fleet.probe_file import PROBES_PATH, load_probes
from kfm_mlflow.fleet.probes import measure_unit
from kfm_mlflow.fleet.stores_fetch import place_of
from kfm_mlflow.fleet.units import UNITS_FOLDER, load_unit
from kfm_mlflow.release.manifest import build_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kfm_mlflow.fleet.fusion import Fused
    from kfm_mlflow.fleet.manifest import Artifact

RELEASE_FILE = "fused_release.json"
REJECTIONS_FILE = "rejections.json"


@dataclass(frozen=True)
class FusedParts:
    """What a fused release is made of.

    Attributes:
        units: Role -> folder of the chosen artifact's files, sorted by role.
        documents: Path in the release -> JSON.
    """

    units: Mapping[str, Path]
    documents: Mapping[str, Any]


def artifact_folder(artifacts: Path, digest: str) -> Path:
    """Return the folder of a collected artifact, its bytes read again.

    Args:
        artifacts: What ``kfm fleet collect`` filled.
        digest: Of the artifact.

    Raises:
        StorageError: It is not there.
        IntegrityError: Its bytes are not those of the digest.
    """
    place = place_of(artifacts, digest)
    if not place.is_dir():
        raise StorageError(
            "is not among the collected artifacts",
            where=digest,
            remedy=f"kfm fleet collect --into {artifacts}",
        )
    found = build_manifest(place).release_id
    if found != digest:
        raise IntegrityError(
            f"holds {found}, not {digest}", where=str(place), remedy="collect it again"
        )
    return place


def fused_parts(fused: Fused, artifacts: Path, probes: Path | None) -> FusedParts:
    """Return what a fused release is made of.

    Args:
        fused: A complete fusion.
        artifacts: Folder of collected artifacts.
        probes: Probe tasks with reference answers; None leaves them out.

    Raises:
        InputError: The fusion is not complete.
        StorageError: A chosen artifact is not among the collected ones.
        IntegrityError: Its bytes are not those of its digest.
    """
    documents: dict[str, Any] = {
        RELEASE_FILE: fused.release_document(),
        REJECTIONS_FILE: fused.rejections_document(),
    }
    if probes is not None:
        load_probes(probes)
        documents[PROBES_PATH] = load_json(probes)
    chosen = sorted((one.artifact for one in fused.units.values()), key=lambda a: a.role)
    return FusedParts({a.role: artifact_folder(artifacts, a.digest) for a in chosen}, documents)


def build_fused(parts: FusedParts, into: Path) -> None:
    """Write the units and documents of a fused release into a folder that does not exist yet.

    This is enough to run and measure it; ``kfm fleet fuse --register`` makes a governed release.
    """
    for role, folder in parts.units.items():
        shutil.copytree(folder, into / UNITS_FOLDER / role)
    for path, value in parts.documents.items():
        write_json(into / path, value)


def measure_artifacts(
    manifests: Manifests, artifacts: Path, probes: Path, usd_per_cpu_hour: float
) -> tuple[Manifests, dict[str, Metrics]]:
    """Measure artifacts on probes; see :func:`kfm_mlflow.fleet.probes.measure_unit`.

    Args:
        manifests: What to measure.
        artifacts: Folder of collected artifacts.
        probes: Probe tasks with reference answers.
        usd_per_cpu_hour: Price of a processor, in US dollars an hour.

    Returns:
        The manifests without what could not be measured, which is a finding of theirs; and
        digest -> what was measured.

    Raises:
        InputError: The probes are wrong.
        DataError: The probes cannot be read.
    """
    asked = load_probes(probes)
    found: dict[str, Metrics] = {}
    kept: list[Artifact] = []
    findings = list(manifests.findings)
    for artifact in manifests.artifacts:
        try:
            unit = load_unit(artifact_folder(artifacts, artifact.digest))
            values = measure_unit(artifact.role, unit, asked, usd_per_cpu_hour=usd_per_cpu_hour)
        except KfmError as exc:
            findings.append(artifact_finding(artifact, exc, "MEASURE"))
            continue
        found[artifact.digest] = Metrics(**values)
        kept.append(artifact)
    return Manifests(tuple(kept), tuple(sorted(set(findings)))), found
