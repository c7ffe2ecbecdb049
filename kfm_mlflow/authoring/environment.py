"""The environment that a release was made in: compared with this one, or built again.

The bill of materials of a release lists every installed package by name and version, and the
signed provenance names the digest of that list. It is restored without resolving anything: every
package in the recorded version, and the project's own from the checkout.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfm_mlflow.authoring.lock import own_name
from kfm_mlflow.authoring.training_run import packages_digest
from kfm_mlflow.errors import EvidenceError, InputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SBOM = "sbom.spdx.json"
_PURL = "pkg:pypi/"
_SHOWN = 5
_TAIL_LINES = 8
_REMEDY_LOCAL = "install the recorded versions, or leave --env-manager local out"


def recorded_packages(sbom: Any, digest: str | None) -> dict[str, str]:
    """Return name -> version of every package that was installed when a release was made.

    Args:
        sbom: ``sbom.spdx.json`` of the release.
        digest: ``sha256:<hex>`` of the list, from the signed provenance.

    Raises:
        EvidenceError: The list is not there, or has another digest.
    """
    found = {}
    for package in sbom.get("packages", ()) if isinstance(sbom, dict) else ():
        places = [ref.get("referenceLocator", "") for ref in package.get("externalRefs", ())]
        if any(place.startswith(_PURL) for place in places):
            found[str(package["name"])] = str(package["versionInfo"])
    if digest is None or packages_digest(found) != digest:
        raise EvidenceError(
            "does not list the packages whose digest the signed provenance names", where=_SBOM
        )
    return found


def require_same_python(recorded: str) -> None:
    """Refuse to rebuild under another minor version of Python than the recorded one.

    Raises:
        InputError: They differ; the error names both.
    """
    mine = platform.python_version()
    if mine.split(".")[:2] != recorded.split(".")[:2]:
        raise InputError(
            f"is {mine}, the release was made with {recorded or 'an unknown one'}",
            where="python",
            remedy=f"run kfm with Python {'.'.join(recorded.split('.')[:2])}",
        )


def require_same_packages(recorded: Mapping[str, str], installed: Mapping[str, str]) -> None:
    """Refuse an environment that is not the recorded one.

    Args:
        recorded: Name -> version.
        installed: The same of this environment.

    Raises:
        InputError: Something is missing, added or of another version; the error names it.
    """
    problems = [
        f"{name} {installed.get(name, 'is missing')} (recorded {recorded.get(name, 'none')})"
        for name in sorted(recorded.keys() | installed.keys())
        if recorded.get(name) != installed.get(name)
    ]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(
            f"{', '.join(problems[:_SHOWN])}{more}",
            where="installed packages",
            remedy=_REMEDY_LOCAL,
        )


def requirements_of(recorded: Mapping[str, str], own: str | None) -> str:
    """Return the requirements file that restores a list of packages, but for the project's own."""
    return "".join(f"{name}=={recorded[name]}\n" for name in sorted(recorded) if name != own)


def build_environment(folder: Path, recorded: Mapping[str, str], checkout: Path) -> Path:
    """Build a virtual environment with exactly the recorded packages.

    Args:
        folder: Must not exist yet.
        recorded: Name -> version.
        checkout: Whose own package, if it is one of them, is installed from there.

    Returns:
        Its folder of programs.

    Raises:
        StorageError: A package cannot be installed; the error ends with what pip said.
    """
    venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
    programs = folder / "bin"
    own = own_name(checkout)
    listed = folder / "recorded.txt"
    listed.write_text(requirements_of(recorded, own), encoding="utf-8")
    _pip(programs, "--no-deps", "--requirement", str(listed))
    if own in recorded:
        _pip(programs, "--no-deps", "--no-build-isolation", "--editable", str(checkout))
    return programs


def _pip(programs: Path, *arguments: str) -> None:
    done = subprocess.run(  # noqa: S603 - our own arguments
        [str(programs / "python"), "-m", "pip", "install", "--quiet", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"},
        check=False,
    )
    if done.returncode:
        text = done.stdout.decode(errors="replace").splitlines()[-_TAIL_LINES:]
        raise StorageError(
            f"pip failed ({' '.join(' '.join(text).split())})",
            where="recorded packages",
            remedy="name the index that has them: PIP_EXTRA_INDEX_URL",
        )


def this_environment() -> Path:
    """Return the folder of programs of the environment that this process runs in."""
    return Path(sys.executable).parent
