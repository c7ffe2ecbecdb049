"""What every climate task hands to training and to validation: one shape for five tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    import numpy as np
    import torch
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]
    Degrees = NDArray[np.float64]
    Predict = Callable[[Rows], Rows]
    Bbox = tuple[float, float, float, float]

GENERATED = "generated"


@dataclass(frozen=True)
class Source:
    """Where rows come from, as records name it.

    Attributes:
        name: Of the data set.
        uri: URL, or the last part of the path that was given.
        digest: ``sha256:<hex>`` of the values that were read.
        bbox: West, south, east, north in degrees.
        start_at: First instant; None when the data have no time.
        end_at: Last instant.
        variables: Names, sorted.
        cell_size_deg: Size of an output cell in degrees.
    """

    name: str
    uri: str
    digest: str
    bbox: Bbox
    start_at: datetime | None
    end_at: datetime | None
    variables: tuple[str, ...]
    cell_size_deg: float


@dataclass(frozen=True)
class Trained:
    """A trained model and how it came about.

    Attributes:
        model: On the CPU, in evaluation mode; one float32 tensor in, one out.
        config: Plain values from which the module can be built again.
        hyperparameters: What else decided the training; JSON values.
        history: (step, mean loss since the previous point).
        elapsed_s: Wall time of the training.
    """

    model: torch.nn.Module
    config: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    history: tuple[tuple[int, float], ...]
    elapsed_s: float


@dataclass(frozen=True)
class Placed:
    """Rows of one place at different times, and where their values lie.

    Attributes:
        rows: Inputs, [n, …], n >= 2.
        inputs: Latitude and longitude of the centre of each input value, each of the shape of one
            row.
        outputs: The same of each output value.
        cell_sizes_deg: Size of the cell that an input value stands for, and an output value.
    """

    rows: Rows
    inputs: tuple[Degrees, Degrees]
    outputs: tuple[Degrees, Degrees]
    cell_sizes_deg: tuple[float, float]


@dataclass(frozen=True)
class Explained:
    """Rows whose answers are worth explaining, where not every row's is.

    Attributes:
        learned: From the training rows: what the release explains, [n, …].
        held: From the held-out rows: what the validator explains, [n, …].
        what: They are, in words.
    """

    learned: Rows
    held: Rows
    what: str


@dataclass(frozen=True)
class Prepared:
    """One task on one data set, split once.

    Attributes:
        mlm_task: In MLM's vocabulary.
        source: Where the rows come from.
        selections: What training and validation rows are, in words.
        baseline_rows: Representative inputs, [n, …], n >= 30: of explanations and drift baseline.
        validation_rows: The inputs of the held-out rows, in their order.
        train: Trains on the training rows.
        evaluate: Measures on the held-out rows: every number of the task's table.
        explained_from: ``patch-mean`` for fields of one quantity, ``sample-mean`` where the
            elements of a row are different quantities.
        headline: One line for people, from the metrics.
        description: What the model does, in a sentence.
        training_places: Latitude and longitude, in degrees, of every value of every training row,
            each [n, …]; None when rows have no place that is known.
        rows_around: Rows that cover a point (latitude, longitude), all of one place; None where
            the data do not reach. None when rows do not stay at one place.
        explained: Whose answers are explained; None explains the first baseline and validation
            rows.
    """

    mlm_task: str
    source: Source
    selections: tuple[str, str]
    baseline_rows: Rows
    validation_rows: Rows
    train: Callable[[], Trained]
    evaluate: Callable[[Predict], dict[str, float]]
    headline: Callable[[Mapping[str, float]], str]
    description: str
    explained_from: Literal["patch-mean", "sample-mean"] = "sample-mean"
    training_places: tuple[Degrees, Degrees] | None = None
    rows_around: Callable[[float, float], Placed | None] | None = None
    explained: Explained | None = None
