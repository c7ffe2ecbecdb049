"""Check the documentation: every schema has its page, every relative link leads to a file."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from kfm_mlflow.metadata.schemas import schema_names

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"\[[^\]]*\]\((?!https?:|#)([^)#]+)[^)]*\)")


def problems() -> list[str]:
    """Return everything that is missing, as sentences."""
    pages = {path.stem.replace("_", "-") for path in (ROOT / "docs" / "formats").glob("*.md")}
    found = [
        f"docs/formats: no page for {name}"
        for name in schema_names()
        if name.replace("_", "-") not in pages
    ]
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        found += [
            f"{page.relative_to(ROOT)}: {target} leads nowhere"
            for target in _LINK.findall(page.read_text(encoding="utf-8"))
            if not (page.parent / target.strip()).exists()
        ]
    return found


if __name__ == "__main__":
    found = problems()
    sys.stdout.write("\n".join(found) + "\n" if found else "documentation is complete\n")
    sys.exit(bool(found))
