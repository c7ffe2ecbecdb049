"""Every limit of the climate policy, asked by the gate itself, and models with one known defect.

A defect is put into the perfect answer, and the task's own evaluation measures it: what the gate
then refuses is the defect's, not that of a model that happened to be trained badly.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

import task as tasks
from kfm_mlflow.policy.load import load_policies

METRICS = load_policies(None).policies["climate"].gates.metrics
SIDES = [
    pytest.param(task, limit, side, id=f"{task}-{limit.metric}-{side}")
    for task in tasks.TASKS
    for limit in METRICS.limits_of(tasks.default_name(task))
    for side in ("min", "max")
    if getattr(limit, side) is not None
]


@pytest.mark.parametrize(("task", "limit", "side"), SIDES)
def test_limit_holds_on_the_bound_and_not_beyond_it(task, limit, side, refused):
    within = {
        one.metric: one.max if one.min is None else one.min
        for one in METRICS.limits_of(tasks.default_name(task))
    }
    bound = getattr(limit, side)
    beyond = math.nextafter(bound, -math.inf if side == "min" else math.inf)
    assert refused(task, {**within, limit.metric: bound}) == set()
    assert refused(task, {**within, limit.metric: beyond}) == {limit.metric}


@cache
def drivers():
    from drivers.task import _generated, evaluate

    case = _generated()
    return lambda said: evaluate(lambda _: said, case), case


@cache
def hydrology():
    from hydrology.task import cut_windows, evaluate
    from hydrology.world import generate_water_years

    years = generate_water_years()
    learned = cut_windows(years, seed=1, stream=1, first_site=0, count=400)
    held = cut_windows(years, seed=1, stream=2, first_site=1, count=200)
    return lambda said: evaluate(lambda _: said, learned, held), held


@cache
def hazard():
    from hazard.task import cell_months, evaluate
    from hazard.world import generate_tornado_days, true_probability

    days = generate_tornado_days()
    rows = cell_months(days)
    truth = np.array([[true_probability(*map(float, row[:2]), int(row[2]))] for row in rows])
    return lambda said: evaluate(lambda _: said, days), truth


@cache
def anomaly():
    from anomaly.task import _generated, evaluate

    case = _generated(42)
    marked = np.array([bool(kind) for kind in case.kinds])

    def measure(held):
        usual = np.ones((len(case.learned), 1))
        return evaluate(lambda rows: held if rows is case.held else usual, case)

    return measure, marked


def tails(values, factor, *, beyond=95):
    """Return values whose part beyond a percentile of theirs is so many times as long."""
    edge = np.percentile(values, beyond, axis=0)
    return np.where(values > edge, edge + factor * (values - edge), values)


TAILS = {"nbias_p95", "nrmse_p95", "nbias_p99", "nrmse_p99", "amplification_p99"}


def driven(defect):
    measure, case = drivers()
    season = case.held.peers["climatology"]
    spread = (case.learned.truth - case.learned.peers["climatology"]).std(axis=0)
    unit = (case.held.truth - season) / spread
    return measure(season + spread * defect(unit))


@pytest.mark.parametrize(
    ("defect", "caught_by"),
    [
        pytest.param(lambda x: x, set(), id="none"),
        pytest.param(lambda x: x + 0.1, {"nbias"}, id="biased"),
        pytest.param(lambda x: tails(x, 0.0), TAILS, id="extremes lost"),
        pytest.param(lambda x: tails(x, 1.7), TAILS, id="extremes amplified"),
        pytest.param(
            lambda x: 0.5 * x,
            TAILS | {"skill", "nrmse", "nmae", "magnitude_ratio", "exceedance_ratio"},
            id="half as strong, signs and pattern right",
        ),
        pytest.param(
            lambda x: np.where(np.arange(len(x))[:, None] % 20 == 7, -x, x),
            {"skill", "nrmse", "correlation", "sign_agreement"}
            | {"nrmse_p95", "nbias_p99", "nrmse_p99"},
            id="the wrong sign on every twentieth day",
        ),
    ],
)
def test_defect_of_a_drivers_model_is_refused_by_the_limits_that_name_it(
    defect, caught_by, refused
):
    assert refused("drivers", driven(defect)) == caught_by


def kept(truth):
    return truth


def evaporation_lost(truth):
    said = truth.copy()
    said[..., 2] *= 0.95
    return said


def too_thirsty(truth):
    said = truth.copy()
    said[..., 2] *= 1.2
    said[..., 3] -= np.cumsum(said[..., 2] - truth[..., 2], axis=1)
    return said


def storage_a_day_late(truth):
    said = truth.copy()
    said[:, 1:, 3] = truth[:, :-1, 3]
    return said


def floods_held_back(truth):
    said = truth.copy()
    said[..., 1] = tails(truth[..., 1].ravel(), 0.0).reshape(truth.shape[:2])
    said[..., 3] += np.cumsum(truth[..., 1] - said[..., 1], axis=1)
    return said


def too_wet(truth):
    return truth + np.array([8.0, 0.0, 0.0, 8.0])


def droughts_elsewhere(truth):
    # The driest tenth of the windows and the next one trade places, by a few millimetres of soil.
    said = truth.copy()
    level = truth[..., 0].mean(axis=1)
    count = len(level) // 10
    dry = np.argsort(level, kind="stable")[: 2 * count]
    said[dry, :, 0] += (np.roll(level[dry], count) - level[dry])[:, None]
    return said


@pytest.mark.parametrize(
    ("defect", "caught_by"),
    [
        (kept, set()),
        (evaporation_lost, {"closure_ratio"}),
        (too_thirsty, {"evaporation_ratio_shift"}),
        (storage_a_day_late, {"sm_precip_shift", "closure_ratio"}),
        # Floods carry a good part of a year's water.
        (floods_held_back, TAILS | {"correlation", "runoff_ratio_shift", "rain_runoff_shift"}),
        (too_wet, {"nbias"}),
        (droughts_elsewhere, {"drought_coherence"}),
    ],
)
def test_defect_of_a_hydrology_model_is_refused_by_the_limits_that_name_it(
    defect, caught_by, refused
):
    measure, held = hydrology()
    assert refused("hydrology", measure(defect(held.truth))) == caught_by


@pytest.mark.parametrize(
    ("defect", "caught_by"),
    [
        pytest.param(lambda p: p, set(), id="none"),
        pytest.param(lambda p: p + 0.6 * p.mean(), {"bias_ratio"}, id="alarmist everywhere"),
        pytest.param(lambda p: 0.6 * p, {"bias_ratio", "magnitude_ratio"}, id="soothing"),
        pytest.param(
            lambda p: np.roll(p.reshape(-1, 12), 6, axis=1).reshape(-1, 1),
            {"skill_vs_climatology", "correlation", "sign_agreement", "amplification_p99"},
            id="half a year late",
        ),
    ],
)
def test_defect_of_a_hazard_model_is_refused_by_the_limits_that_name_it(defect, caught_by, refused):
    measure, truth = hazard()
    assert refused("hazard", measure(defect(truth))) == caught_by


@pytest.mark.parametrize(
    ("defect", "caught_by"),
    [
        pytest.param(lambda marked: 1.0 + marked, set(), id="none"),
        pytest.param(
            lambda marked: 1.5 - 0.5 * marked,
            {"average_precision", "skill_vs_zscore"},
            id="turned round",
        ),
        pytest.param(lambda marked: 3.0 + marked, {"score_shift"}, id="cries wolf"),
        pytest.param(lambda marked: 0.4 + marked, {"score_shift"}, id="asleep"),
    ],
)
def test_defect_of_an_anomaly_model_is_refused_by_the_limits_that_name_it(
    defect, caught_by, refused
):
    measure, marked = anomaly()
    assert refused("anomaly", measure(defect(marked)[:, None])) == caught_by


@pytest.mark.parametrize(
    ("defect", "caught_by"),
    [
        pytest.param(lambda x: x, set(), id="none"),
        pytest.param(lambda x: x + 0.05, {"nbias"}, id="biased"),
        pytest.param(
            lambda x: tails(x.ravel(), 0.0, beyond=90).reshape(x.shape),
            TAILS | {"nbias"},  # what is cut off a tenth of all cells is missing from the mean
            id="extremes lost",
        ),
        pytest.param(
            lambda x: tails(x.ravel(), 2.0).reshape(x.shape), TAILS, id="extremes amplified"
        ),
        pytest.param(
            lambda x: np.roll(x, 1, axis=0),
            {"nrmse", "nmae", "correlation", "pattern_correlation", "ssim"}
            | (TAILS - {"amplification_p99"}),
            id="patterns of other fields",
        ),
    ],
)
def test_defect_of_a_downscaler_is_refused_by_the_limits_that_name_it(
    defect, caught_by, few_patches, refused
):
    from downscaling.evaluate import evaluate

    patches = few_patches.validation
    center, spread = patches.center[:, None, None], patches.spread[:, None, None]
    unit = (patches.fine.astype(np.float64) - center) / spread
    found = evaluate(lambda _: center + spread * defect(unit), patches)
    assert refused("downscaling", found) == caught_by
