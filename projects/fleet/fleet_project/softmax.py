"""Softmax regression by stochastic gradient descent: a linear model, its loss and its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kfm_mlflow.fleet.heads import softmax

if TYPE_CHECKING:
    from fleet_project.settings import Settings


@dataclass(frozen=True)
class Score:
    """How good a model is on some tasks.

    Attributes:
        accuracy: Share of tasks whose likeliest class is right.
        loss: Mean negative logarithm of the share given to the right class, nats.
    """

    accuracy: float
    loss: float


@dataclass(frozen=True)
class Trained:
    """A linear model and how it came about.

    Attributes:
        weights: [dimension, classes].
        bias: [classes].
        scores: On the validation tasks: before training, then after each epoch.
        train_count: Tasks that it was trained on.
        val_count: Tasks held back.
    """

    weights: np.ndarray
    bias: np.ndarray
    scores: tuple[Score, ...]
    train_count: int
    val_count: int


def score(weights: np.ndarray, bias: np.ndarray, x: np.ndarray, y: np.ndarray) -> Score:
    """Return accuracy and loss of a model on vectors [n, dimension] with classes [n]."""
    shares = softmax(x @ weights + bias)
    right = shares[np.arange(len(y)), y]
    loss = -np.log(np.maximum(right, np.finfo(float).tiny)).mean()
    return Score(float((shares.argmax(axis=1) == y).mean()), float(loss))


def gradient(
    weights: np.ndarray, bias: np.ndarray, vector: np.ndarray, label: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradient of one task's loss by weights and bias: shares minus what is right."""
    error = softmax(vector @ weights + bias)
    error[label] -= 1
    return np.outer(vector, error), error


def train_softmax(
    train: tuple[np.ndarray, np.ndarray],
    held: tuple[np.ndarray, np.ndarray],
    class_count: int,
    settings: Settings,
) -> Trained:
    """Train a model from zero; equal arguments give equal bytes.

    Args:
        train: Vectors [n, dimension] and classes [n].
        held: The same of the validation tasks.
        class_count: How many classes there are.
        settings: Epochs, learning rate and seed.
    """
    x, y = train
    weights, bias = np.zeros((x.shape[1], class_count)), np.zeros(class_count)
    order = np.random.default_rng(settings.seed)
    scores = [score(weights, bias, *held)]
    for _ in range(settings.epochs):
        for at in order.permutation(len(y)):
            by_weights, by_bias = gradient(weights, bias, x[at], int(y[at]))
            weights -= settings.learning_rate * by_weights
            bias -= settings.learning_rate * by_bias
        scores.append(score(weights, bias, *held))
    return Trained(weights, bias, tuple(scores), len(y), len(held[1]))
