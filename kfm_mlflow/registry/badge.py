"""The badge of a version: its level and what the last decision said, as a small picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kfm_mlflow.registry.svg import drawing, element

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from markupsafe import Markup

    from kfm_mlflow.policy.levels import Level

_CHARACTER = 7.0
_HEIGHT = 20
_LEFT = "#3d444d"
# White on each has a contrast of at least 4.5 to 1 (WCAG 2.2 AA).
_COLOURS = {"good": "#116329", "bad": "#a40e26", "loud": "#8a4600", "quiet": "#57606a"}


@dataclass(frozen=True)
class Standing:
    """Where a version stands.

    Attributes:
        level: Level that it holds.
        verdict: Verdict of the last decision about it; empty when there was none.
        wanted: Level that decision was about.
        overridden: Whether somebody overrode a gate on the way to its level.
    """

    level: Level
    verdict: str = ""
    wanted: str = ""
    overridden: bool = False

    @property
    def text(self) -> str:
        """What the badge says after ``kfm``."""
        if not self.verdict:
            return f"{self.level}, not judged yet"
        if self.verdict == "PASS":
            return f"{self.level}{', break-glass' if self.overridden else ''}, PASS"
        return f"{self.level}, {self.wanted} {self.verdict}"

    @property
    def tone(self) -> str:
        """``good``, ``bad``, ``loud`` or ``quiet``."""
        if not self.verdict:
            return "quiet"
        if self.verdict != "PASS":
            return "loud" if self.verdict == "INCONCLUSIVE" else "bad"
        return "loud" if self.overridden else "good"


def standing_of(level: Level, report: Mapping[str, Any] | None, *, overridden: bool) -> Standing:
    """Return where a version stands.

    Args:
        level: Level that it holds.
        report: Report of the last decision about it, as the ledger has it.
        overridden: Whether that decision overrode a gate.
    """
    if not report:
        return Standing(level)
    return Standing(
        level, str(report.get("verdict", "")), str(report.get("to_level", "")), overridden
    )


def draw_badge(standing: Standing) -> Markup:
    """Draw the badge as a whole SVG document."""
    left = 2 * _CHARACTER + 3 * _CHARACTER
    right = 2 * _CHARACTER + len(standing.text) * _CHARACTER
    common = {"y": 14, "fill": "#fff", "font_family": "Verdana, DejaVu Sans, sans-serif"}
    return drawing(
        "kfm-badge",
        f"kfm: {standing.text}",
        "Level of this model version, and the verdict of the last decision about it.",
        width=left + right,
        height=_HEIGHT,
        children=[
            element("rect", width=left + right, height=_HEIGHT, rx=3, fill=_LEFT),
            element(
                "rect", x=left, width=right, height=_HEIGHT, rx=3, fill=_COLOURS[standing.tone]
            ),
            element("text", "kfm", x=_CHARACTER, font_size=11, **common),
            element(
                "text",
                standing.text,
                x=left + _CHARACTER,
                font_size=11,
                textLength=len(standing.text) * _CHARACTER,
                **common,
            ),
        ],
        xmlns="http://www.w3.org/2000/svg",
        **{"width_": left + right, "height_": _HEIGHT},  # noqa: PIE804 - width= is drawing's own
    )
