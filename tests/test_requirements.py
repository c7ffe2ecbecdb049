import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def _required(lines: list[str]) -> set[str]:
    """Return every package that requirements lead to, as far as they are installed."""
    asked = [(Requirement(line), "") for line in lines]
    seen: set[tuple[str, str]] = set()
    while asked:
        wanted, extra = asked.pop()
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(wanted.name)
        for inner in {"", *wanted.extras}:
            if (name, inner) in seen:
                continue
            seen.add((name, inner))
            try:
                found = requires(wanted.name) or []
            except PackageNotFoundError:
                continue
            asked += [(Requirement(line), inner) for line in found]
    return {name for name, _ in seen}


def test_no_requirement_makes_every_process_build_the_grammar_of_iris():
    # Ray imports jsonschema in each of its processes, and where rfc3987-syntax is installed,
    # jsonschema imports that: 1.3 s of processor time. Nothing of ours asks for formats.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    lines = [line for group in groups for line in group]
    names = _required(lines)
    assert {"jsonschema", "ray", "cyclonedx-python-lib"} <= names
    assert "rfc3987-syntax" not in names
