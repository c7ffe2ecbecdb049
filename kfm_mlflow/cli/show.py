"""How reports look on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping

_STYLES = {"PASS": "green", "INCONCLUSIVE": "yellow", "ERROR": "red", "FAIL": "bold red"}

_STATUS_STYLES = {
    "holds": "green",
    "break-glass": "magenta",
    "stale": "yellow",
    "recall": "bold red",
}


def verdict_text(verdict: str) -> Text:
    """Return a verdict in its colour."""
    return Text(verdict, style=_STYLES.get(verdict, ""))


def _sentence(finding: Mapping[str, Any]) -> str:
    """Return what a finding says, and who passes over it, why and until when."""
    waiver = finding.get("waiver")
    if not waiver:
        return str(finding["detail"])
    return (
        f"{finding['detail']} (waived by {waiver['by']} of {waiver['owner']} until "
        f"{waiver['until']}: {waiver['reason']})"
    )


def print_recheck(found: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Print what recheck found: one line per version, and why it does not simply hold.

    Args:
        found: The server's answer.
        console: Where to print; standard output by default.
    """
    out = console or Console()
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for entry in found["versions"]:
        lines = [
            f"{item['gate']}: {item['detail']}" + (f" ({item['why']})" if item["why"] else "")
            for item in entry["remarks"]
        ]
        lines += [
            f"{item['by']} of {item['owner']} ended {item['expired_at']}: {item['reason']}"
            for item in entry["ended"]
        ]
        table.add_row(
            f"{entry['model_name']} v{entry['version']}",
            entry["level"],
            Text(entry["status"], style=_STATUS_STYLES.get(entry["status"], "")),
            Text(lines[0] if lines else ""),
        )
        for line in lines[1:]:
            table.add_row("", "", "", Text(line))
        for remedy in dict.fromkeys(item["remedy"] for item in entry["remarks"] if item["remedy"]):
            table.add_row("", "", "", Text(f"→ {remedy}", style="cyan"))
    out.print(table)
    out.print(f"{len(found['versions'])} promoted, {found['recall_count']} to recall")


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
            Text((_sentence(first) if first else "no finding") + quiet),
        )
        for finding in shown[1:]:
            table.add_row("", "", Text(_sentence(finding)))
        for remedy in dict.fromkeys(f["remedy"] for f in shown if f["remedy"]):
            table.add_row("", "", Text(f"→ {remedy}", style="cyan"))
    out.print(table)
