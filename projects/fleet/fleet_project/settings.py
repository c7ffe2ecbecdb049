"""The numbers of the training, in one place; all but the seed are the source's."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Settings:
    """How heads and coordinator are trained, and when they have grown.

    Attributes:
        epochs: Passes over the training tasks.
        dimension: Of the vectors.
        learning_rate: Of plain gradient descent, one task at a time.
        val_ratio: Share of the tasks that is held back, 0..1.
        seed: Of the split and the order.
        min_samples: Fewer tasks are refused.
        max_samples: Of more, this many are drawn.
        min_accuracy_gain: Growth is confirmed when validation accuracy rises by more than this,
        min_loss_drop: or when validation loss falls by more than this.
    """

    epochs: int = 12
    dimension: int = 320
    learning_rate: float = 0.16
    val_ratio: float = 0.2
    seed: int = 42
    min_samples: int = 120
    max_samples: int = 50_000
    min_accuracy_gain: float = 0.01
    min_loss_drop: float = 0.02

    def to_dict(self) -> dict[str, float]:
        """Return the settings by name."""
        return asdict(self)
