"""The growth test: what the epochs after the first have added on tasks that were held back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fleet_project.settings import Settings
    from fleet_project.softmax import Score


@dataclass(frozen=True)
class Growth:
    """What training added, measured on the validation tasks from the first epoch to the last.

    Attributes:
        first: After the first epoch.
        last: After the last.
        confirmed: Accuracy rose, or loss fell, by more than its threshold.
    """

    first: Score
    last: Score
    confirmed: bool

    @property
    def accuracy_gain(self) -> float:
        """How much accuracy rose."""
        return self.last.accuracy - self.first.accuracy

    @property
    def loss_drop(self) -> float:
        """How much loss fell, nats."""
        return self.first.loss - self.last.loss

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "accuracy_gain": self.accuracy_gain,
            "loss_drop": self.loss_drop,
            "confirmed": self.confirmed,
        }


def judge_growth(scores: Sequence[Score], settings: Settings) -> Growth:
    """Judge a training; both comparisons are strict.

    Args:
        scores: Before training, then after each epoch; at least two.
        settings: The thresholds.
    """
    first, last = scores[1], scores[-1]
    confirmed = (
        last.accuracy - first.accuracy > settings.min_accuracy_gain
        or first.loss - last.loss > settings.min_loss_drop
    )
    return Growth(first, last, confirmed)


def summary(growth: Mapping[str, Growth], settings: Settings, *, confirmed: bool) -> str:
    """Return the growth of all models as a page of Markdown."""
    rule = (
        f"Growth is confirmed when validation accuracy rises by more than "
        f"{settings.min_accuracy_gain:g} or validation loss falls by more than "
        f"{settings.min_loss_drop:g} nats, from the first epoch to epoch {settings.epochs}."
    )
    lines = [
        "# Growth of the fleet's models",
        "",
        rule,
        "",
        "| model | accuracy, first | last | gain | loss, first | last | drop | growth |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {g.first.accuracy:.4f} | {g.last.accuracy:.4f} | {g.accuracy_gain:+.4f} "
        f"| {g.first.loss:.4f} | {g.last.loss:.4f} | {g.loss_drop:+.4f} "
        f"| {'confirmed' if g.confirmed else 'not confirmed'} |"
        for name, g in growth.items()
    ]
    verdict = "confirmed" if confirmed else "not confirmed"
    return "\n".join([*lines, "", f"Overall (all heads and the coordinator): **{verdict}**.", ""])
