"""How reports look on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping

_STYLES = {"PASS": "green", "INCONCLUSIVE": "yellow", "ERROR": "red", "FAIL": "bold red"}


def verdict_text(verdict: str) -> Text:
    """Return a verdict in its colour."""
    return Text(verdict, style=_STYLES.get(verdict, ""))


def print_report(
    report: Mapping[str, Any], *, everything: bool = False, console: Console | None = None
) -> None:
    """Print a gate report: one line per gate, and every finding that does not pass.

    Args:
        report: JSON form of a gate report.
        everything: Show passing findings too.
        console: Where to print; standard output by default.
    """
    out = console or Console()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for gate in report["gates"]:
        shown = [f for f in gate["findings"] if everything or f["verdict"] != "PASS"]
        quiet = "" if gate["mode"] == "enforce" else f" ({gate['mode']} only)"
        first = shown[0] if shown else gate["findings"][-1] if gate["findings"] else None
        table.add_row(
            gate["gate"],
            verdict_text(gate["verdict"]),
            Text((first["detail"] if first else "no finding") + quiet),
        )
        for finding in shown[1:]:
            table.add_row("", "", Text(finding["detail"]))
        for remedy in dict.fromkeys(f["remedy"] for f in shown if f["remedy"]):
            table.add_row("", "", Text(f"→ {remedy}", style="cyan"))
    out.print(table)
