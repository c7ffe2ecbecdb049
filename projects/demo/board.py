"""What the demo shows while it runs, and the table of what it observed."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Board:
    """Steps as they happen, and one row per claim with what was seen."""

    console: Console = field(default_factory=Console)
    rows: list[tuple[str, str, bool]] = field(default_factory=list)
    started_s: float = field(default_factory=time.monotonic)

    @contextmanager
    def step(self, title: str, proves: str) -> Iterator[None]:
        """Show a step while it runs, and how long it took."""
        began_s = time.monotonic()
        self.console.print(f"[bold]{title}[/bold]\n  [dim]proves: {proves}[/dim]")
        with self.console.status("  working"):
            yield
        self.console.print(f"  [dim]{time.monotonic() - began_s:.1f} s[/dim]")

    def say(self, text: str) -> None:
        """Show a line below the present step."""
        self.console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)

    def observe(self, claim: str, seen: object, *, holds: bool) -> None:
        """Write a row: what is claimed, what was seen, whether that is so."""
        self.rows.append((claim, str(seen), holds))
        mark = "ok" if holds else "NOT SO"
        self.console.print(
            f"  {mark}: {claim}: {seen}",
            style=None if holds else "bold red",
            markup=False,
            soft_wrap=True,
        )

    @property
    def holds(self) -> bool:
        """Whether there are rows and every one of them holds."""
        return bool(self.rows) and all(row[2] for row in self.rows)

    def print_table(self) -> None:
        """Print all rows."""
        table = Table(title=f"What was observed in {time.monotonic() - self.started_s:.0f} s")
        table.add_column("claim", overflow="fold")
        table.add_column("observed", overflow="fold")
        table.add_column("")
        for claim, seen, holds in self.rows:
            table.add_row(
                claim, seen, "[green]ok[/green]" if holds else "[bold red]NOT SO[/bold red]"
            )
        self.console.print(table)
