from dataclasses import replace

import numpy as np
import pytest
import torch

from downscaling.evaluate import evaluate
from downscaling.train import PRESETS, TrainConfig, choose_device, train

SHORT = replace(PRESETS["small"], step_count=25)


def _weights(trained):
    return {name: value.numpy().tobytes() for name, value in trained.model.state_dict().items()}


def test_the_same_seed_gives_bitwise_the_same_weights_whatever_went_before(few_patches):
    first = train(few_patches.train, SHORT)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the global state is what must not matter
    again = train(few_patches.train, SHORT)
    other = train(few_patches.train, replace(SHORT, seed=43))
    assert _weights(first) == _weights(again)
    assert first.history == again.history
    assert _weights(first) != _weights(other)


def test_the_number_of_threads_does_not_change_the_weights(few_patches):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = train(few_patches.train, SHORT)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        one = train(few_patches.train, SHORT)
    finally:
        torch.set_num_threads(before)
    assert _weights(one) == _weights(two)


def test_torch_is_left_as_it_was(few_patches):
    random_state = torch.random.get_rng_state()
    train(few_patches.train, replace(SHORT, step_count=1))
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_the_small_preset_already_beats_bicubic(few_patches, small_model, as_predict):
    assert evaluate(as_predict(small_model), few_patches.validation)["skill_vs_bicubic"] > 0.03


def test_training_lowers_the_loss_and_says_how_it_went(few_patches):
    trained = train(few_patches.train, PRESETS["small"])
    steps, losses = zip(*trained.history, strict=True)
    assert losses[-1] < losses[0]
    assert steps[-1] <= trained.config.step_count
    assert trained.elapsed_s > 0.0
    assert trained.config.device == "cpu"
    assert not trained.model.training


def test_shuffled_targets_make_a_worse_model_from_the_same_patches(few_patches, as_predict):
    worse = train(few_patches.train, replace(PRESETS["small"], shuffled_ratio=1.0))
    assert evaluate(as_predict(worse.model), few_patches.validation)["skill_vs_bicubic"] < -1.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_fails_loudly_and_auto_takes_the_cpu(few_patches):
    with pytest.raises(RuntimeError, match="sees no GPU"):
        train(few_patches.train, replace(SHORT, device="cuda"))
    assert choose_device("auto") == "cpu"
    assert (
        train(few_patches.train, replace(SHORT, step_count=1, device="auto")).config.device == "cpu"
    )


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="tpu"):
        choose_device("tpu")


@pytest.mark.parametrize("field", ["step_count", "batch_size", "width", "depth", "learning_rate"])
def test_numbers_that_train_nothing_are_refused(field):
    with pytest.raises(ValueError, match=field):
        TrainConfig(**{field: 0})


def test_a_loss_that_is_not_finite_stops_the_training(few_patches):
    fine = few_patches.train.fine.copy()
    fine[:, 0, 0] = np.nan
    with pytest.raises(FloatingPointError, match="loss"):
        train(replace(few_patches.train, fine=fine), SHORT)
