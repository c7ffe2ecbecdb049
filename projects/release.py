"""Hand a release over to the project of its family: projects/<family>/release.py.

Families differ in what they can be asked. What the family's own MLproject does not declare is left
out where it stands at its default, and refused where somebody set it.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent


def main(arguments: list[str]) -> None:
    """Run the release script of a family in this process, as if it had been called itself."""
    names, values = arguments[::2], arguments[1::2]
    asked = dict(zip((name.removeprefix("--") for name in names), values, strict=True))
    family = asked.pop("family")
    folder = HERE / family.replace("-", "_")
    script = folder / "release.py"
    if not script.is_file():
        known = sorted(path.parent.name.replace("_", "-") for path in HERE.glob("*/release.py"))
        sys.exit(f"kfm: family: there is no {family!r}; use one of {', '.join(known)}")
    declared, defaults = _parameters(folder), _parameters(HERE.parent)
    passed = [str(script)]
    for name, value in asked.items():
        key = name.replace("-", "_")
        if key in declared:
            passed += [f"--{name}", value]
        elif value != str(defaults[key]["default"]):
            sys.exit(f"kfm: {key}: family {family} has no such parameter; leave it out")
    sys.argv, sys.path[0] = passed, str(folder)
    runpy.run_path(str(script), run_name="__main__")


def _parameters(folder: Path) -> dict[str, Any]:
    project = yaml.safe_load((folder / "MLproject").read_text(encoding="utf-8"))
    found: dict[str, Any] = project["entry_points"]["release"]["parameters"]
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
