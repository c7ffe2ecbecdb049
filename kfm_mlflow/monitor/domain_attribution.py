"""Which domains and columns the likeliest answer of a classifier comes from.

**What is explained.** The log-odds of the class that is likeliest for a sample, by integrated
gradients of the columns, from the mean of all samples (:mod:`kfm_mlflow.monitor.gradients`). The
class of a sample stays the same along its path. So its attributions add up to how much surer the
model is of that class than for the mean sample, and their absolute values over the columns of a
domain are that domain's part.

**What is reported.** ``importance_ratio`` is the share of the absolute attribution, over all
samples. ``completeness_error`` is the sum of absolute deviations over the sum of absolute target
differences. ``stability`` adds noise of 5 % of each column's deviation, with several seeds: the
lowest Pearson correlation with the attributions without noise, and the largest movement of the
samples' domain shares (mean total variation distance, 0..1). ``told_agreement`` is how far the
shares that the model itself tells with every answer are those found here: 1 less the mean total
variation distance. ``attention_entropy`` is the model's own.

Everything runs on a copy of the model on the CPU; equal inputs and seed give equal bytes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.monitor.gradients import (
    NOISE_RATIO,
    baselines,
    correlation,
    deterministic,
    integrate,
    noisy,
    prepare,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from numpy.typing import NDArray

    from kfm_mlflow.monitor.gradients import Target

_EPSILON = 1e-6


@dataclass(frozen=True)
class AnswerParts:
    """Where a model's answers [n, …] say what is asked here.

    Attributes:
        probabilities: To [n, k], the probability of each class.
        told_shares: To [n, d], the share of each domain that the model itself tells.
        attention_entropy: To [n], 0..1.
    """

    probabilities: Target
    told_shares: Target
    attention_entropy: Target


@dataclass(frozen=True)
class DomainAttribution:
    """What was found.

    Attributes:
        document: ``xai/domains.json``.
        shares: Share of each domain in each sample's attribution [n, d], each row summing to 1;
            0 everywhere where nothing was attributed.
        mass: Absolute attribution of each sample [n], in log-odds.
    """

    document: dict[str, Any]
    shares: NDArray[np.float64]
    mass: NDArray[np.float64]


def attribute_domains(
    model: torch.nn.Module,
    rows: Any,
    parts: AnswerParts,
    *,
    columns: Sequence[str],
    domains: Mapping[str, slice],
    seed: int,
    step_count: int = 32,
    seed_count: int = 5,
) -> DomainAttribution:
    """Explain a classifier of columns that belong to domains.

    Args:
        model: Takes float32 [n, c] and returns one tensor [n, …]; it is not changed.
        rows: Samples [n, c], in physical units.
        parts: How its answers are read.
        columns: The c columns' names.
        domains: Domain -> its columns, in the order in which the model tells shares.
        seed: First of the seeds of the noise.
        step_count: Points on the path (Gauss-Legendre).
        seed_count: How often noise is added to judge stability, at least 2.

    Raises:
        InputError: The rows are empty, not finite or of another width, or a count is too small.
        EvidenceError: The model does not answer to its input at all, or answers NaN.
    """
    inputs = prepare(rows, step_count, seed_count)
    if inputs.shape[1:] != (len(columns),):
        raise InputError(f"must be [n, {len(columns)}]", where="rows")
    copied = copy.deepcopy(model).cpu().eval()
    with deterministic():
        likeliest, told, entropy = _answers(copied, inputs, parts)

        def attributed(samples: torch.Tensor) -> tuple[NDArray[np.float64], float]:
            start = baselines(samples, "sample-mean")
            target = _log_odds(parts.probabilities)
            return integrate(copied, target, samples, start, step_count, classes=likeliest)

        attributions, error = attributed(inputs)
        shares = _domain_shares(attributions, domains)
        shaken = [
            attributed(noisy(inputs, seed + offset, "sample-mean"))[0]
            for offset in range(seed_count)
        ]
    mass = np.abs(attributions).sum(axis=1)
    if not np.isfinite(attributions).all() or not mass.any():
        raise EvidenceError(
            "attributions are all zero or not finite",
            where="domain attribution",
            remedy="give a model that answers to its columns",
        )
    document = {
        "schema_version": "1",
        "method": "integrated-gradients",
        "library": f"captum {version('captum')}",
        "target": "log-odds of the likeliest class",
        "baseline": "sample-mean",
        "step_count": step_count,
        "sample_count": len(inputs),
        "seed": seed,
        "completeness_error": error,
        "stability": {
            "seed_count": seed_count,
            "noise_ratio": NOISE_RATIO,
            "min_correlation": min(correlation(attributions, other) for other in shaken),
            "max_share_movement": max(
                _distance(shares, _domain_shares(other, domains)) for other in shaken
            ),
        },
        "told_agreement": 1.0 - _distance(shares, told),
        "attention_entropy": {
            "mean": float(entropy.mean()),
            "min": float(entropy.min()),
            "max": float(entropy.max()),
        },
        "domains": _importance(attributions, columns, domains),
    }
    return DomainAttribution(document, shares, mass)


def attribution_metrics(document: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of ``xai/domains.json`` that a policy sets limits to.

    Args:
        document: As :func:`attribute_domains` makes it.
    """
    stability = document["stability"]
    return {
        "attribution_completeness_error": float(document["completeness_error"]),
        "attribution_stability": float(stability["min_correlation"]),
        "attribution_share_movement": float(stability["max_share_movement"]),
        "attribution_agreement": float(document["told_agreement"]),
        "attention_entropy": float(document["attention_entropy"]["mean"]),
    }


def _answers(
    model: torch.nn.Module, inputs: torch.Tensor, parts: AnswerParts
) -> tuple[torch.Tensor, NDArray[np.float64], NDArray[np.float64]]:
    """Return the likeliest class, the shares that the model tells, and its attention entropy."""
    import torch

    with torch.no_grad():
        answers = model(inputs)
        told = parts.told_shares(answers).numpy().astype(np.float64)
        entropy = parts.attention_entropy(answers).numpy().astype(np.float64)
        return parts.probabilities(answers).argmax(dim=1), told, entropy


def _log_odds(probabilities: Target) -> Target:
    def log_odds(outputs: torch.Tensor) -> torch.Tensor:
        found = probabilities(outputs)
        # A float32 probability may be 1, whose log-odds are infinite.
        return (found + _EPSILON).log() - (1.0 - found + _EPSILON).log()

    return log_odds


def _domain_shares(
    attributions: NDArray[np.float64], domains: Mapping[str, slice]
) -> NDArray[np.float64]:
    parts = [np.abs(attributions[:, where]).sum(axis=1) for where in domains.values()]
    mass = np.stack(parts, axis=1)
    total = mass.sum(axis=1, keepdims=True)
    shares: NDArray[np.float64] = np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)
    return shares


def _distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the mean total variation distance of rows of shares."""
    return float(np.abs(one - other).sum(axis=1).mean() / 2)


def _importance(
    attributions: NDArray[np.float64], columns: Sequence[str], domains: Mapping[str, slice]
) -> list[dict[str, Any]]:
    mass = np.abs(attributions).sum(axis=0)
    ratios = mass / mass.sum()
    return [
        {
            "name": domain,
            "importance_ratio": float(ratios[where].sum()),
            "columns": [
                {"name": name, "importance_ratio": float(ratio)}
                for name, ratio in zip(columns[where], ratios[where], strict=True)
            ],
        }
        for domain, where in domains.items()
    ]
