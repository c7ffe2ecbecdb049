"""How alike a served release's explanations stay, measured on a few of the rows that it answers.

**The measure.** An explanation of a row is what each of at most 16 fixed blocks of its elements
does to the answer: the answer, less the answer with that block put to a reference (occlusion:
Zeiler and Fergus, ECCV 2014). It is made twice, of the row as it is and of the row under a small
seeded perturbation; stability is the Pearson correlation of the two. That an explanation should
hardly change where the input hardly does is the robustness that Alvarez-Melis and Jaakkola ask for
("On the Robustness of Interpretability Methods", WHI 2018); correlation in place of their Lipschitz
ratio is how ``xai/summary.json`` says it, so that one floor can be read beside the other. The
perturbation moves the reference, too: the explanation of a linear model does not change at all, and
what shows is the model's own roughness.

**Reference and noise** are the release's own (``baseline`` of ``xai/summary.json``): its own mean
and 5 % of its own deviation for a ``patch-mean``; for a ``sample-mean`` the means of the columns of
``drift/baseline.json``, and 5 % of their deviations. The target is the standard deviation of an
answered field, as there, or the mean of the answered numbers where columns are explained.

**Rules kept here.** Nothing waits for it: one row at a time, in a thread of its own, at most one
per interval; what comes meanwhile is not explained. The model runs on single rows, so no more
memory is asked for than by a request. No row, input, place or explanation is kept, logged or sent;
the correlation is all that is left, in millionths, so that sums are exact.
"""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.canonical import load_json
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.monitor.drift_baseline import load_baseline
from kfm_mlflow.monitor.gradients import NOISE_RATIO, correlation
from kfm_mlflow.rollout.counts import FULL_PPM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from kfm_mlflow.monitor.drift_baseline import DriftBaseline
    from kfm_mlflow.monitor.gradients import Baseline
    from kfm_serving.session import OnnxModel

    Feeds = Mapping[str, NDArray[Any]]
    Row = NDArray[np.float64]

SUMMARY_PATH = "xai/summary.json"
MAX_BLOCK_COUNT = 16
MIN_BLOCK_COUNT = 3
"""Two numbers always correlate perfectly."""
_ROUNDING_STEPS = 100
"""Effects of fewer of the answer's last digits may be what a model rounds away."""


def compare_explanations(
    answer: Callable[[Row], tuple[float, float]], row: Row, reference: Row, noise: Row
) -> float | None:
    """Return how alike a row's explanations are without and with noise.

    Args:
        answer: Row -> the target, and how exactly it is known.
        row: What was asked, of any shape.
        reference: What a block is put to, of the same shape.
        noise: What is added to both, of the same shape.

    Returns:
        Their Pearson correlation, -1..1; 0 when only one of them says anything, None when neither
        does or an answer is not finite.
    """
    found = [_explain(answer, row + shift, reference + shift) for shift in (0.0 * noise, noise)]
    if not all(np.isfinite(effects).all() for effects, _ in found):
        return None
    said = [float(np.ptp(effects)) > rounding for effects, rounding in found]
    if not all(said):
        return 0.0 if any(said) else None
    return correlation(found[0][0], found[1][0])


def _explain(
    answer: Callable[[Row], tuple[float, float]], row: Row, reference: Row
) -> tuple[NDArray[np.float64], float]:
    """Return what each block does to the target, and how exactly that is known."""
    whole, rounding = answer(row)
    effects = []
    for block in np.array_split(np.arange(row.size), min(MAX_BLOCK_COUNT, row.size)):
        without = row.copy()
        without.flat[block] = reference.flat[block]
        target, own_rounding = answer(without)
        effects.append(whole - target)
        rounding = max(rounding, own_rounding)
    return np.array(effects), rounding


@dataclass(frozen=True)
class Explainer:
    """Explains single rows of one release.

    Attributes:
        model: What answers.
        baseline: What the release is explained from.
        columns: Mean and deviation of the columns along the first axis of a row, each [k]; of all
            elements together where k is 1. Asked for by a ``sample-mean``.
    """

    model: OnnxModel
    baseline: Baseline
    columns: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def __call__(self, feeds: Feeds, seed: int) -> float | None:
        """Return how alike the explanations of the first row are; None when nothing can be said.

        Args:
            feeds: What was asked; the first input is what is explained, the others stay.
            seed: Of the noise.
        """
        name = self.model.inputs[0].name
        asked = feeds[name][:1]
        if asked.dtype.kind != "f" or asked.size < MIN_BLOCK_COUNT:
            return None
        row = np.asarray(asked[0], dtype=np.float64)
        reference, spread = self._start(row)
        rng = np.random.Generator(np.random.PCG64(seed))
        noise = NOISE_RATIO * spread * rng.standard_normal(row.shape)

        def answer(values: Row) -> tuple[float, float]:
            return self._answer({**feeds, name: values[None].astype(asked.dtype)})

        return compare_explanations(answer, row, reference, noise)

    def _start(self, row: Row) -> tuple[Row, Row]:
        """Return the reference, and the deviation of each element."""
        if self.columns is None:
            return np.full_like(row, row.mean()), np.full_like(row, row.std())
        shape = (-1, *[1] * (row.ndim - 1))
        mean, deviation = (np.broadcast_to(c.reshape(shape), row.shape) for c in self.columns)
        return mean, deviation

    def _answer(self, feeds: Feeds) -> tuple[float, float]:
        # A batch size that was fixed by tracing is filled with the same row.
        rows = {
            spec.name: np.repeat(feeds[spec.name][:1], spec.shape[0] or 1, axis=0)
            for spec in self.model.inputs
        }
        answered = np.asarray(next(iter(self.model.run(rows).values()))[:1], dtype=np.float64)
        is_field = self.baseline == "patch-mean" and answered.size > 1
        target = float(answered.std() if is_field else answered.mean())
        step_ratio = float(np.finfo(rows[self.model.inputs[0].name].dtype).eps)
        return target, _ROUNDING_STEPS * step_ratio * float(np.abs(answered).max())


def load_explainer(release_dir: Path, model: OnnxModel) -> Explainer | None:
    """Read how a release is explained; None when it does not say, or not from what."""
    with contextlib.suppress(EvidenceError):  # what a policy asks for and nobody measures, no PASS
        summary = load_json(release_dir / SUMMARY_PATH)
        baseline = summary.get("baseline") if isinstance(summary, dict) else None
        if baseline == "patch-mean":
            return Explainer(model, "patch-mean")
        if baseline == "sample-mean":
            columns = _columns(load_baseline(release_dir))
            width = model.inputs[0].shape[1] if len(model.inputs[0].shape) > 1 else None
            if columns is not None and len(columns[0]) in {1, width}:
                return Explainer(model, "sample-mean", columns)
    return None


def _columns(baseline: DriftBaseline) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return mean and deviation of each column, in order; None where one has no number."""
    means, deviations = [], []
    for _, field in sorted(baseline.fields.items(), key=lambda item: (len(item[0]), item[0])):
        centres = field.statistics.get("value", field.statistics.get("mean"))
        within = field.statistics.get("std", np.zeros(1))
        if centres is None or not np.isfinite(centres).any():
            return None
        means.append(float(np.nanmean(centres)))
        deviations.append(float(np.sqrt(np.nanvar(centres) + np.nanmean(within**2))))
    return np.array(means), np.array(deviations)


class Explained:
    """Explains a row now and then, beside the requests; safe between threads."""

    def __init__(
        self,
        explain: Callable[[Feeds, int], float | None],
        interval_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        submit: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        """Begin with the next row that is offered.

        Args:
            explain: Feeds and seed -> stability, -1..1, or None.
            interval_s: Least time between the end of one explanation and the begin of the next.
            clock: Seconds, of any origin.
            submit: Has work done elsewhere, and returns at once; None makes a thread for it.
        """
        self._submit = submit or ThreadPoolExecutor(1, thread_name_prefix="kfm-explain").submit
        self._stability, self._interval_s, self._clock = explain, interval_s, clock
        self._due_s = clock()
        self._count = 0
        self._is_busy = False
        self._found: list[int | None] = []
        self._lock = Lock()

    def offer(self, feeds: Feeds) -> tuple[int | None, ...]:
        """Offer a request that was answered; returns at once.

        Returns:
            1 - stability, in millionths, of each row that was explained since the last call; None
            for one of which nothing could be said.
        """
        with self._lock:
            found, self._found = tuple(self._found), []
            if self._is_busy or self._clock() < self._due_s:
                return found
            self._is_busy, seed = True, self._count
            self._count += 1
        with contextlib.suppress(RuntimeError):  # the process ends: no thread begins any more
            self._submit(lambda: self._explain(feeds, seed))
        return found

    def _explain(self, feeds: Feeds, seed: int) -> None:
        try:
            stability = self._stability(feeds, seed)
            found = None if stability is None else round((1 - stability) * FULL_PPM)
        except Exception:  # noqa: BLE001 whatever a model raises; its text may hold what was asked
            found = None
        with self._lock:
            self._found.append(found)
            self._due_s = self._clock() + self._interval_s
            self._is_busy = False


def load_explained(
    release_dir: Path, model: OnnxModel, interval_s: float | None
) -> Explained | None:
    """Return what explains a release's rows; None when nobody asks, or it says not how."""
    if interval_s is None:
        return None
    explainer = load_explainer(release_dir, model)
    return None if explainer is None else Explained(explainer, interval_s)
