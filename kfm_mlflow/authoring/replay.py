"""What a rebuild takes from the record instead of measuring it again.

A release holds three kinds of things that no second run can give again: when it was made, the
identifier of its run and of the key that signed it, and the energy that the run took. As with
``SOURCE_DATE_EPOCH`` (reproducible-builds.org/specs/source-date-epoch), the second run is told
them, computes everything else anew, and must arrive at the same bytes.

``kfm rebuild`` hands them over in a folder: ``recorded/`` holds three documents of the release,
none of which holds weights or metrics that a gate reads. What is composed so is never signed and
never logged.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kfm_mlflow.canonical import load_json, parse_json
from kfm_mlflow.errors import DataError, EvidenceError, InputError
from kfm_mlflow.monitor.energy import EnergyReport
from kfm_mlflow.trust.dsse import parse_envelope
from kfm_mlflow.trust.instants import parse_instant
from kfm_mlflow.trust.slsa import parse_predicate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from kfm_mlflow.authoring.spec import ReleaseSpec
    from kfm_mlflow.release.bundle import Bundle

VARIABLE = "KFM_REBUILD"
"""Environment variable that names the folder; set by ``kfm rebuild`` alone."""
RELEASE_FOLDER = "release"
_RECORDED, _PART = "recorded", "release.part"
_METADATA, _TELEMETRY, _PROVENANCE = (
    "model_metadata.json",
    "telemetry/training.json",
    "provenance.intoto.json",
)


@dataclass(frozen=True)
class Replay:
    """Facts of the recorded run.

    Attributes:
        folder: Where the composed release is handed over.
        model_name: Registered model.
        release_version: Version of the release.
        run_id: MLflow run.
        git_url: Repository, as recorded.
        started_at: When training began.
        ended_at: When it ended.
        released_at: When the release was composed.
        trainer: Identifier of the key that signed.
        energy: What the run took.
        data: Name of each data set -> ``sha256:<hex>``.
    """

    folder: Path
    model_name: str
    release_version: str
    run_id: str
    git_url: str | None
    started_at: datetime
    ended_at: datetime
    released_at: datetime
    trainer: str
    energy: EnergyReport
    data: Mapping[str, str]


def is_rebuild() -> bool:
    """Return whether this runs inside ``kfm rebuild``, which signs nothing and needs no key."""
    return bool(os.environ.get(VARIABLE))


def write_record(bundle: Bundle, envelope: bytes, folder: Path) -> None:
    """Put what a second run is told into a folder.

    Args:
        bundle: The recorded release.
        envelope: Its provenance, verified.
        folder: Empty.
    """
    for path in (_METADATA, _TELEMETRY):
        target = folder / _RECORDED / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.release_dir / path, target)
    (folder / _RECORDED / _PROVENANCE).write_bytes(envelope)


def load_replay(environ: Mapping[str, str]) -> Replay | None:
    """Read what the record says; None outside of ``kfm rebuild``.

    Raises:
        EvidenceError: A document is missing or malformed.
    """
    named = environ.get(VARIABLE)
    if not named:
        return None
    folder = Path(named)
    metadata, telemetry, raw = (
        load_json(folder / _RECORDED / path) for path in (_METADATA, _TELEMETRY, _PROVENANCE)
    )
    envelope = parse_envelope(raw, where=_PROVENANCE)
    provenance = parse_predicate(_predicate(envelope.payload))
    try:
        return Replay(
            folder=folder,
            model_name=metadata["model_name"],
            release_version=metadata["release_version"],
            run_id=metadata["run_id"],
            git_url=provenance.git_url,
            started_at=provenance.started_at,
            ended_at=provenance.finished_at,
            released_at=parse_instant(metadata["created_at"], where=_METADATA),
            trainer=envelope.signatures[0].key_id,
            energy=parse_energy(telemetry),
            data={used.name: used.digest for used in provenance.data},
        )
    except (KeyError, TypeError, IndexError) as exc:
        raise EvidenceError(f"lacks {exc}", where=_METADATA) from exc


def _predicate(payload: bytes) -> Any:
    statement = parse_json(payload, where=_PROVENANCE)
    return statement.get("predicate") if isinstance(statement, dict) else None


def parse_energy(telemetry: Any) -> EnergyReport:
    """Read the energy report of a release from its ``telemetry/training.json``.

    Raises:
        EvidenceError: A field is missing.
    """
    try:
        return EnergyReport(
            **{
                name: telemetry[name]
                for name in ("duration_s", "energy_wh", "carbon_gco2e", "method")
            },
            **{name: telemetry["energy"][name] for name in ("cpu_wh", "gpu_wh", "ram_wh", "pue")},
            **{
                name: telemetry["carbon"][name]
                for name in ("intensity_g_per_kwh", "intensity_source", "region")
            },
            tool_name=telemetry["tool"]["name"],
            tool_version=telemetry["tool"]["version"],
            cpu_model=telemetry["hardware"]["cpu"],
            gpu_model=telemetry["hardware"]["gpu"],
            ram_gb=telemetry["hardware"]["ram_gb"],
        )
    except (KeyError, TypeError) as exc:
        raise EvidenceError(f"is no energy report ({exc})", where=_TELEMETRY) from exc


def hand_over(spec: ReleaseSpec, replay: Replay, regions: Path | None) -> NoReturn:
    """Compose the release where ``kfm rebuild`` looks for it, and end the process.

    Raises:
        InputError: It is another release than the recorded one.
        DataError: It was made from other data.
        SystemExit: Always, with 0, once the release lies there whole.
    """
    from kfm_mlflow.authoring.compose import compose_release

    found = (spec.name, spec.version)
    if found != (replay.model_name, replay.release_version):
        raise InputError(
            f"releases {spec.name} {spec.version}, the record is of {replay.model_name} "
            f"{replay.release_version}",
            where="log_release",
            remedy="let name and version be parameters of the entry point",
        )
    check_datasets({dataset.name: dataset.sha256 for dataset in spec.datasets}, replay.data)
    part = replay.folder / _PART
    compose_release(spec, part, regions=regions)
    part.rename(replay.folder / RELEASE_FOLDER)
    raise SystemExit(0)


def check_datasets(found: Mapping[str, str], recorded: Mapping[str, str]) -> None:
    """Refuse data that is not the recorded data.

    Args:
        found: Name of each data set -> ``sha256:<hex>`` of what was read.
        recorded: The same of the recorded run.

    Raises:
        DataError: One is missing, added or has another digest.
    """
    for name in sorted(found.keys() | recorded.keys()):
        if found.get(name) != recorded.get(name):
            raise DataError(
                f"has digest {found.get(name, 'none')}, recorded is {recorded.get(name, 'none')}",
                where=f"data set {name}",
                remedy="give the recorded data, for example -P data=PATH",
            )
