"""``rebuild``: a release made again from its signed provenance, and compared.

Rules kept here:

1. Nothing runs that a trusted signer of releases did not vouch for: the provenance must be signed
   by one, be about exactly these bytes, and name commit, project, parameters and data.
2. A commit, not a working copy, is run, in a folder of its own that is removed afterwards.
3. The second run signs nothing, logs to a store that is thrown away, and never reaches a registry.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kfm_mlflow.authoring.checkout import check_out
from kfm_mlflow.authoring.environment import (
    build_environment,
    recorded_packages,
    require_same_packages,
    require_same_python,
    this_environment,
)
from kfm_mlflow.authoring.replay import RELEASE_FOLDER, VARIABLE, check_datasets, write_record
from kfm_mlflow.canonical import digest_path, load_json
from kfm_mlflow.errors import DataError, EvidenceError, InputError
from kfm_mlflow.metadata.packages import resolved_packages
from kfm_mlflow.release.compare import Difference, compare_releases
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.attestation import verify_envelope
from kfm_mlflow.trust.slsa import SLSA_KIND, Provenance, parse_predicate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from kfm_mlflow.release.bundle import Bundle
    from kfm_mlflow.trust.keys import TrustedKey

EnvManager = Literal["virtualenv", "local"]
_WHERE = "provenance.intoto.json"
_TAIL_LINES = 12


@dataclass(frozen=True)
class Record:
    """What a release says of its making, vouched for.

    Attributes:
        bundle: The release.
        release_id: Of its bytes.
        model_name: Registered model.
        release_version: Its version.
        provenance: The run.
        envelope: Where that is signed.
        signer: Who signed it.
    """

    bundle: Bundle
    release_id: str
    model_name: str
    release_version: str
    provenance: Provenance
    envelope: bytes
    signer: str


@dataclass(frozen=True)
class Rebuilt:
    """What came of a rebuild; the same release exactly when there are no differences."""

    record: Record
    release_id: str
    differences: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form (``docs/rebuild.md``)."""
        provenance = self.record.provenance
        return {
            "schema_version": "1",
            "model_name": self.record.model_name,
            "release_version": self.record.release_version,
            "git_commit": provenance.git_commit,
            "signer": self.record.signer,
            "recorded_release_id": self.record.release_id,
            "rebuilt_release_id": self.release_id,
            "same": not self.differences,
            "differences": [one.to_dict() for one in self.differences],
        }


def read_record(bundle: Bundle, trusted: Sequence[TrustedKey], now: datetime) -> Record:
    """Find the signed provenance of a release and check that it can be made again from it.

    Args:
        bundle: The release on local disk.
        trusted: Keys of those who sign releases.
        now: When they must hold (aware).

    Raises:
        ManifestError: The directory is no release.
        EvidenceError: There is no provenance of a trusted signer about these bytes, or it lacks
            what a second run needs; the error names it.
    """
    release_id = build_manifest(bundle.release_dir).release_id
    problems: list[str] = []
    for name, envelope in bundle.read_envelopes():
        report = verify_envelope(envelope, trusted, now, kind=SLSA_KIND)
        binding = report.binding
        if report.kind not in {None, SLSA_KIND} or (report.kind is None and name != _WHERE):
            continue
        if report.ok and binding is not None and binding.release_id == release_id:
            provenance = parse_predicate(report.claims)
            _require_whole(provenance)
            return Record(
                bundle,
                release_id,
                binding.model_name,
                binding.release_version,
                provenance,
                envelope,
                ", ".join(report.signers),
            )
        problems += report.problems or ("is about other bytes",)
    raise EvidenceError(
        f"no provenance of a trusted signer about these bytes ({'; '.join(problems) or 'none'})",
        where=_WHERE,
        remedy="name the policy that trusts its signer: --policy-dir DIR",
    )


def _require_whole(provenance: Provenance) -> None:
    """Refuse a provenance from which nobody could run again."""
    asked = {
        "a model that others made": provenance.kind == "importing",
        "no commit": provenance.git_commit is None,
        "a changed working copy, which nobody has": provenance.git_tree == "dirty",
        "no clean working copy": provenance.git_tree is None,
        "no MLflow project": provenance.project is None,
        "no list of packages": provenance.environment_lock is None,
    }
    for what, holds in asked.items():
        if holds:
            raise EvidenceError(
                f"names {what}; this release cannot be made again",
                where=_WHERE,
                remedy="release from a clean commit with `mlflow run`",
            )


def rebuild(
    record: Record,
    *,
    source: str | None = None,
    parameters: Mapping[str, str] | None = None,
    env_manager: EnvManager = "virtualenv",
) -> Rebuilt:
    """Make a release again and compare.

    Args:
        record: From :func:`read_record`.
        source: A local clone or URL; None takes the recorded repository.
        parameters: Parameters that are paths of this machine, instead of the recorded last parts.
        env_manager: ``virtualenv`` builds the recorded environment; ``local`` takes this one if it
            is the recorded one.

    Raises:
        InputError: Source, environment, parameters or data are not the recorded ones.
        EvidenceError: The bill of materials disagrees with the provenance, or the run failed.
    """
    provenance = record.provenance
    sbom = load_json(record.bundle.release_dir / "sbom.spdx.json")
    packages = recorded_packages(sbom, provenance.environment_lock)
    require_same_python(provenance.versions.get("python", ""))
    given = merged_parameters(provenance, parameters or {})
    if env_manager == "local":
        installed = {package.name: package.version for package in resolved_packages(None)}
        require_same_packages(packages, installed)
    with tempfile.TemporaryDirectory(prefix="kfm-rebuild-") as name:
        folder = Path(name).resolve()
        checkout = folder / "source"
        check_out(source or provenance.git_url, str(provenance.git_commit), checkout)
        _check_lock(provenance, checkout)
        programs = (
            this_environment()
            if env_manager == "local"
            else build_environment(folder / "environment", packages, checkout)
        )
        write_record(record.bundle, record.envelope, folder)
        _run(folder, checkout, programs, provenance, given)
        second = folder / RELEASE_FOLDER
        differences = compare_releases(record.bundle.release_dir, second)
        return Rebuilt(record, build_manifest(second).release_id, differences)


def merged_parameters(provenance: Provenance, given: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters to run with, after checking every data set that is a local path.

    A recorded parameter that is the location of a data set and has no scheme was a path of the
    training machine, of which only the last part is told; where it lies here must be given.

    Args:
        provenance: The recorded run.
        given: Parameters of this machine.

    Raises:
        InputError: A given parameter is none of the run, or a path is not given.
        DataError: What lies at a given path has not the recorded digest.
    """
    recorded = dict(provenance.parameters)
    unknown = sorted(given.keys() - recorded.keys())
    if unknown:
        raise InputError(
            f"{unknown[0]!r} is no parameter of the recorded run",
            where="-P",
            remedy=f"it has {', '.join(sorted(recorded)) or 'none'}",
        )
    merged = {**recorded, **given}
    for used in provenance.data:
        names = [key for key, value in recorded.items() if value == used.location]
        for name in names:
            path = Path(merged[name])
            if name in given and path.exists():
                check_datasets({used.name: digest_path(path)}, {used.name: used.digest})
                merged[name] = str(path.resolve())
            elif ":" not in used.location:
                problem = "no such file" if name in given else "is a file of the training machine"
                raise DataError(
                    problem,
                    where=f"data set {used.name} ({merged[name]})",
                    remedy=f"give the data with digest {used.digest}: -P {name}=PATH",
                )
    return merged


def _check_lock(provenance: Provenance, checkout: Path) -> None:
    """Refuse a lock that is not the recorded one; the commit holds it, so it cannot differ."""
    lock = provenance.lock
    if lock is None:
        return
    path = checkout / lock.path
    if not path.is_file() or digest_path(path) != lock.digest:
        raise EvidenceError(
            f"is not the file with digest {lock.digest}", where=f"{lock.path} of the commit"
        )


def _run(
    folder: Path,
    checkout: Path,
    programs: Path,
    provenance: Provenance,
    parameters: Mapping[str, str],
) -> None:
    """Run the project as it was run, told what the record says, with a store of its own."""
    project = checkout / str(provenance.project)
    arguments = [str(programs / "python"), "-m", "mlflow", "run", str(project)]
    arguments += ["--env-manager", "local", "--entry-point", provenance.entry_point]
    for name, value in _declared(project, provenance.entry_point, parameters).items():
        arguments += ["-P", f"{name}={value}"]
    kept = {name: text for name, text in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(  # noqa: S603 - no shell; what runs is what a trusted signer vouched for
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={
            **kept,
            "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(checkout),
            "PYTHONDONTWRITEBYTECODE": "1",
            "MLFLOW_TRACKING_URI": (folder / "mlruns").as_uri(),
            # A store of files is there at once; the tables of a database take seconds to make.
            "MLFLOW_ALLOW_FILE_STORE": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            VARIABLE: str(folder),
        },
        check=False,
    )
    if done.returncode or not (folder / RELEASE_FOLDER).is_dir():
        lines = done.stdout.decode(errors="replace").strip().splitlines()
        told = [line for line in lines if line.startswith("kfm: ")]
        shown = told[-1:] or lines[-_TAIL_LINES:]
        raise EvidenceError(
            f"the second run gave no release ({' | '.join(shown)})",
            where=f"{provenance.entry_point} at {str(provenance.git_commit)[:12]}",
        )


def _declared(project: Path, entry_point: str, parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of the entry point; what else was logged, the code logs again."""
    import yaml

    try:
        described = yaml.safe_load((project / "MLproject").read_text(encoding="utf-8"))
        known = described["entry_points"][entry_point].get("parameters") or {}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as exc:
        raise EvidenceError(
            f"has no entry point {entry_point!r}", where=f"{project.name}/MLproject"
        ) from exc
    return {name: value for name, value in parameters.items() if name in known}
