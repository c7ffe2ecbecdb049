"""The lock of an MLflow project: the file of pinned versions that its environment names.

``python_env.yaml`` names it as ``-c FILE`` or ``-r FILE`` (pip's own forms). It fixes the
environment when every line pins one version with ``==`` and everything that the project requires,
directly or not, is installed in the version that stands there. The project's own package (``-e .``)
is fixed by the commit; pip, setuptools and wheel only install.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from kfm_mlflow.canonical import digest_bytes
from kfm_mlflow.errors import InputError
from kfm_mlflow.metadata.packages import resolved_packages
from kfm_mlflow.trust.slsa import UsedLock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from packaging.specifiers import SpecifierSet

MLPROJECT = "MLproject"
_INSTALLERS = frozenset({"pip", "setuptools", "wheel"})
_LOCK_LINE = re.compile(r"(?:-c|-r|--constraint|--requirement)[ =]*(\S+)")
_OWN_LINE = re.compile(r"(?:-e|--editable)[ =]*(\S+)|(\.{1,2}(?:/\S*)?)")
_SHOWN = 3


def _yaml(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def own_name(folder: Path) -> str | None:
    """Return the name of the package whose source lies in a folder."""
    try:
        told = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        return str(canonicalize_name(told["project"]["name"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_lock(project: Path, root: Path) -> UsedLock | None:
    """Read the lock of a project and compare it with what is installed.

    Args:
        project: Folder of the MLproject file.
        root: Of the repository; the lock must lie in it.

    Returns:
        The lock, with the reason when it fixes nothing; None when the project names none.
    """
    named = _yaml(project / MLPROJECT).get("python_env") or "python_env.yaml"
    environment = project / str(named)
    lines = _yaml(environment).get("dependencies")
    texts = [line.strip() for line in lines if isinstance(line, str)] if lines else []
    locks = [match[1] for line in texts if (match := _LOCK_LINE.fullmatch(line))]
    if not locks:
        return None
    path = (environment.parent / locks[0]).resolve()
    try:
        data = path.read_bytes()
        shown = path.relative_to(root.resolve()).as_posix()
    except (OSError, ValueError):
        return None
    problem = (
        f"{environment.name} names {len(locks)} locks"
        if len(locks) > 1
        else _problem(data.decode(errors="replace"), texts, environment.parent)
    )
    return UsedLock(shown, digest_bytes(data), problem)


def _problem(text: str, dependencies: list[str], folder: Path) -> str:
    """Return why a lock does not fix what is installed; empty when it does."""
    pins, problems = parse_pins(text)
    own, wanted = set[str](), list[str]()
    for line in dependencies:
        if match := _OWN_LINE.fullmatch(line):
            name = own_name(folder / (match[1] or match[2]))
            own |= {name} if name else set()
        elif not _LOCK_LINE.fullmatch(line):
            try:
                wanted.append(Requirement(line).name)
            except InvalidRequirement:
                problems.append(f"{line[:80]!r} is no requirement")
    try:
        installed = resolved_packages([*sorted(own), *(wanted or ([] if own else sorted(pins)))])
    except InputError as exc:
        return str(exc)
    for package in installed:
        if package.name in own or package.name in _INSTALLERS:
            continue
        pin = pins.get(package.name)
        if pin is None:
            problems.append(f"{package.name} is not in it")
        elif not pin.contains(package.version, prereleases=True):
            problems.append(f"{package.name} {package.version} is installed, it says {pin}")
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return "; ".join(problems[:_SHOWN]) + more


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield what stands in a requirements file, with the number of the line where it begins."""
    begun, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        begun = begun or number
        bare = re.sub(r"(^|\s)#.*", "", line)
        parts.append(bare.removesuffix("\\"))
        if bare.endswith("\\"):
            continue
        joined = re.sub(r"\s--hash[= ]\S+", "", " ".join(parts)).strip()
        if joined:
            yield begun, joined
        begun, parts = 0, []


def parse_pins(text: str) -> tuple[dict[str, SpecifierSet], list[str]]:
    """Read a file of pinned versions, with or without hashes.

    Returns:
        Name -> the one version, and one sentence per line that pins none.
    """
    pins: dict[str, SpecifierSet] = {}
    problems = []
    for number, stripped in _logical_lines(text):
        try:
            requirement = Requirement(stripped)
        except InvalidRequirement:
            problems.append(f"line {number} ({stripped[:60]!r}) pins no version")
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        versions = list(requirement.specifier)
        exact = len(versions) == 1 and versions[0].operator in {"==", "==="}
        if not exact or versions[0].version.endswith(".*"):
            problems.append(f"line {number} ({stripped[:60]!r}) pins no version")
            continue
        pins[str(canonicalize_name(requirement.name))] = requirement.specifier
    return pins, problems
