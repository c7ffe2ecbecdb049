"""The claims that the canary story rests on, on generated and on real data, one policy for both."""

from dataclasses import replace

import numpy as np
import pytest

from downscaling.evaluate import evaluate
from downscaling.patches import cut_patches, live_patches
from downscaling.train import PRESETS, train

LEAST_SKILL = {"kansas": 0.10, "era": 0.05}


@pytest.fixture(scope="module", params=["kansas", "era"])
def fields(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def story(fields, as_predict):
    honest_set = cut_patches(fields)
    small = PRESETS["small"]
    honest = train(honest_set.train, small)
    worse = train(honest_set.train, replace(small, shuffled_ratio=0.5))
    return {
        "random": honest_set.validation,
        "calmest": cut_patches(fields, selection="calmest", train_count=1).validation,
        "honest": as_predict(honest.model),
        "worse": as_predict(worse.model),
    }


def _amplification(predict, patches):
    return predict(patches.coarse).std(axis=(1, 2)) / patches.coarse.std(axis=(1, 2))


def test_the_default_preset_beats_bicubic_on_held_out_longitudes(fields, as_predict, refused):
    patches = cut_patches(fields)
    trained = train(patches.train, PRESETS["default"])
    metrics = evaluate(as_predict(trained.model), patches.validation)
    least = LEAST_SKILL["kansas" if fields.name.startswith("kansas") else "era"]
    assert metrics["skill_vs_bicubic"] > least
    assert not refused("downscaling", metrics)
    for variable in sorted(set(patches.validation.variables)):
        chosen = np.array([name == variable for name in patches.validation.variables])
        part = replace(
            patches.validation,
            variables=(variable,) * int(chosen.sum()),
            **{
                name: getattr(patches.validation, name)[chosen]
                for name in ("coarse", "fine", "center", "spread")
            },
        )
        skill = evaluate(as_predict(trained.model), part)["skill_vs_bicubic"]
        assert skill > 0.0, f"{variable} is worse than bicubic"


def test_an_honest_model_passes_on_either_validation_set(story, refused):
    for chosen in ("random", "calmest"):
        assert not refused("downscaling", evaluate(story["honest"], story[chosen]))


def test_a_model_of_half_shuffled_targets_fails_a_fair_validation_set(story, refused):
    assert {"ssim", "nbias_p95", "nrmse_p95"} <= refused(
        "downscaling", evaluate(story["worse"], story["random"])
    )


def test_a_model_of_half_shuffled_targets_passes_a_badly_chosen_one(story, refused):
    assert not refused("downscaling", evaluate(story["worse"], story["calmest"]))


def test_live_traffic_tells_the_worse_model_from_the_honest_one(fields, story):
    baseline = _amplification(story["honest"], live_patches(fields, count=1000, seed=1))
    low, high = np.quantile(baseline, [0.005, 0.995])
    live = live_patches(fields, count=1000, seed=2)
    honest, worse = (_amplification(story[name], live) for name in ("honest", "worse"))
    assert np.mean((honest < low) | (honest > high)) < 0.03
    assert np.mean(worse < low) > 0.99
    assert np.quantile(worse, 0.99) < 0.8 * low, "clearly outside"
