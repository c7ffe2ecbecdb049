"""The plan of a rollout as a picture: the canary's share over the steps, and where it stands.

What it says is on the page in words, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.registry.svg import drawing, element

if TYPE_CHECKING:
    from collections.abc import Mapping

    from markupsafe import Markup

_COLUMN, _LEAST_WIDTH, _MARGIN, _TOP, _HIGH, _FOOT = 88.0, 560.0, 44.0, 34.0, 120.0, 40.0
_GAP, _LEAST = 8.0, 2.0
_AFTER_STEPS = frozenset({"Soaking", "Succeeded"})
_TO_PRODUCTION = frozenset({"AwaitingAdmission", "Promoting"})
_MARKS = {"present": "now", "stopped": "stopped", "done": "✓", "ahead": ""}


@dataclass(frozen=True)
class _Column:
    name: str
    canary_pct: float
    mirror_pct: float
    status: str


def draw_plan(told: Mapping[str, Any]) -> Markup:
    """Draw the canary's share over the steps of a plan.

    Args:
        told: A narrative that its schema holds for.
    """
    columns = [
        _Column(str(step["number"]), step["canary_pct"], step["mirror_pct"], step["status"])
        for step in told["steps"]
    ]
    columns.append(_Column("production", 100, 0, _last_status(told)))
    wide = max(_COLUMN, _LEAST_WIDTH / len(columns))
    width = 2 * _MARGIN + wide * len(columns)
    floor = _TOP + _HIGH
    lines = [
        part
        for pct in (0, 50, 100)
        for part in (
            element(
                "line", class_="grid", x1=_MARGIN, x2=width - _MARGIN,
                y1=floor - _HIGH * pct / 100, y2=floor - _HIGH * pct / 100,
            ),
            element(
                "text", f"{pct} %", class_="grid", x=_MARGIN - 4,
                y=floor - _HIGH * pct / 100 + 4, text_anchor="end",
            ),
        )
    ]  # fmt: skip
    bars = [
        part for at, column in enumerate(columns) for part in _draw_column(at, wide, floor, column)
    ]
    present = next((c.name for c in columns if c.status in {"present", "stopped"}), "")
    where = f" It stands at {'step ' if present.isdigit() else ''}{present}." if present else ""
    return drawing(
        "kfm-plan",
        "Share of requests over the steps of the plan",
        "Steps from left to right, each as high as the candidate's share of requests: "
        + ", ".join(f"{c.name} {c.canary_pct:g} %" for c in columns)
        + f".{where}",
        width=width,
        height=floor + _FOOT,
        children=[*lines, *bars],
    )


def _last_status(told: Mapping[str, Any]) -> str:
    if told["phase"] in _AFTER_STEPS:
        return "done"
    waits = told["phase"] in _TO_PRODUCTION and told["step_number"] is None
    return "present" if waits else "ahead"


def _draw_column(at: int, wide: float, floor: float, column: _Column) -> list[Markup]:
    left, middle = _MARGIN + at * wide, _MARGIN + (at + 0.5) * wide
    high = max(_LEAST, _HIGH * column.canary_pct / 100)
    copied = column.mirror_pct and not column.canary_pct
    label = f"copies {column.mirror_pct:g} %" if copied else f"{column.canary_pct:g} %"
    return [
        element(
            "rect", class_=column.status, x=left + _GAP, y=floor - high,
            width=wide - 2 * _GAP, height=high,
        ),
        element("text", label, class_="share", x=middle, y=floor - high - 5),
        element("text", column.name, class_="step", x=middle, y=floor + 16),
        element("text", _MARKS[column.status], class_="mark", x=middle, y=floor + 33),
    ]  # fmt: skip
