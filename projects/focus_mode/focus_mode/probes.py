"""Simple readers of vectors, the same for a model and for what it is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    Numbers = NDArray[np.floating[Any]]
    Doubles = NDArray[np.float64]

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
NEIGHBOUR_COUNT = 10


def ridge_probe(train: Numbers, truth: Numbers, others: Numbers) -> Doubles:
    """Fit a ridge regression and read other vectors with it.

    The penalty is the one of :data:`PENALTIES`, times the mean eigenvalue of the standardised
    vectors' second moment, with the least generalised cross-validation error (Golub, Heath & Wahba
    1979), so that vectors of 2 and of 2,048 numbers are both read as well as a line can.

    Args:
        train: [n, k].
        truth: [n, t].
        others: [m, k].

    Returns:
        [m, t].
    """
    mean, std = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    scale = np.where(std > 0, std, 1)
    x, z = (train - mean) / scale, (others - mean) / scale
    middle = truth.mean(0, dtype=np.float64)
    y, count = truth - middle, len(x)
    is_wide = x.shape[0] <= x.shape[1]
    values, vectors = np.linalg.eigh(x @ x.T if is_wide else x.T @ x)
    values = np.maximum(values, 0.0)
    onto = vectors.T @ (y if is_wide else x.T @ y)
    best, error = onto, np.inf
    for penalty in np.asarray(PENALTIES) * max(float(values.mean()), 1e-12):
        shrunk = values / (values + penalty)
        solved = onto / (values + penalty)[:, None]
        fitted = vectors @ (values[:, None] * solved) if is_wide else x @ (vectors @ solved)
        left = count - 1 - shrunk.sum()
        if left > 0 and (found := float(np.square(y - fitted).sum()) / left**2) < error:
            best, error = solved, found
    weights = x.T @ (vectors @ best) if is_wide else vectors @ best
    return np.asarray(middle + z @ weights)


def class_probe(train: Numbers, truth: NDArray[np.int64], others: Numbers) -> NDArray[np.int64]:
    """Return the classes that a ridge regression on one-hot classes gives other vectors."""
    classes = np.unique(truth)
    scores = ridge_probe(train, (truth[:, None] == classes).astype(np.float64), others)
    return np.asarray(classes[scores.argmax(1)])


def nearest_class(train: Numbers, truth: NDArray[np.int64], others: Numbers) -> NDArray[np.int64]:
    """Return the classes of the nearest vectors."""
    return np.asarray(truth[_squared_distances(others, train).argmin(1)])


def recall_at_10(vectors: Numbers, labels: NDArray[np.int64], groups: NDArray[np.str_]) -> float:
    """Return how many of a row's ten nearest neighbours share its label.

    Args:
        vectors: [n, k].
        labels: [n].
        groups: [n]; rows of one group are no neighbours.

    Returns:
        Hits over the hits that ten neighbours could be, averaged over rows and then over labels.
        Rows whose label no other group has are left out; 0 where none are left.
    """
    distances = _squared_distances(vectors, vectors)
    is_other = groups[:, None] != groups[None, :]
    distances[~is_other] = np.inf
    count = min(NEIGHBOUR_COUNT, len(vectors) - 1)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :count]
    is_same = labels[:, None] == labels[None, :]
    hits = np.take_along_axis(is_same & is_other, nearest, axis=1).sum(1)
    possible = np.minimum((is_same & is_other).sum(1), count)
    share = np.divide(hits, possible, out=np.zeros(len(hits)), where=possible > 0)
    means = [
        float(share[chosen].mean())
        for label in np.unique(labels)
        if (chosen := (labels == label) & (possible > 0)).any()
    ]
    return float(np.mean(means)) if means else 0.0


def _squared_distances(one: Numbers, other: Numbers) -> Doubles:
    a, b = one.astype(np.float64), other.astype(np.float64)
    square = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None] - 2.0 * a @ b.T
    return np.asarray(np.maximum(square, 0.0))
