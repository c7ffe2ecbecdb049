from dataclasses import replace

import numpy as np
import pytest
import torch

from focus_mode.model import FocusModel
from focus_mode.routing import MAX_CONTAMINATION, CrossDomainFusion
from focus_mode.train import PRESETS, train
from kfm_mlflow.authoring.export import export_onnx, onnx_difference
from kfm_mlflow.focus.answers import ANSWER_WIDTH, PART_SLICES, split_answers
from kfm_mlflow.focus.columns import COLUMN_NAMES, DOMAINS, domain_slice

BRIEF = {part: replace(fit, step_count=2) for part, fit in PRESETS["small"].items()}


def _answers(model, rows):
    with torch.no_grad():
        return split_answers(model(torch.from_numpy(rows)).numpy())


@pytest.fixture(scope="module")
def held_rows(small_world):
    return small_world.rows[small_world.is_held_out]


def _weights(trained):
    return {name: value.numpy().tobytes() for name, value in trained.model.state_dict().items()}


def test_two_trainings_give_the_same_bytes_whatever_went_before(small_world):
    first = train(small_world, size="small", fits=BRIEF)
    torch.manual_seed(7)
    torch.rand(3)
    again = train(small_world, size="small", fits=BRIEF)
    other = train(small_world, size="small", fits=BRIEF, seed=43)
    assert _weights(first) == _weights(again)
    assert first.history == again.history
    assert _weights(first) != _weights(other)


def test_training_does_not_see_held_out_rows(small_world):
    rows = small_world.rows.copy()
    rows[small_world.is_held_out] *= -3.0
    blanked = replace(small_world, rows=rows)
    kept, same = (train(world, size="small", fits=BRIEF) for world in (small_world, blanked))
    assert _weights(kept) == _weights(same)


def test_a_training_says_how_long_each_part_took_and_lowers_each_loss(small_trained):
    parts = small_trained.part_seconds
    assert set(parts) == {f"encoders.{domain}" for domain in DOMAINS} | {
        "router",
        "fusion",
        "story",
    }
    assert small_trained.elapsed_s == pytest.approx(sum(parts.values()))
    steps = [step for step, _ in small_trained.history]
    assert steps == sorted(set(steps))
    per_part, start = [], 0
    for part in [*["encoders"] * len(DOMAINS), "router", "fusion", "story"]:
        end = start + PRESETS["small"][part].step_count
        per_part.append([loss for step, loss in small_trained.history if start < step <= end])
        start = end
    assert all(losses[-1] < 0.8 * losses[0] for losses in per_part)


def test_a_model_is_built_again_from_its_config_and_state(small_trained, held_rows):
    again = FocusModel(**small_trained.config)
    again.load_state_dict(small_trained.model.state_dict(), strict=True)
    ours, theirs = (
        model.eval()(torch.from_numpy(held_rows[:9])) for model in (small_trained.model, again)
    )
    assert torch.equal(ours, theirs)
    assert set(again.parts()) == {"context_router.pt", "storynode_v3.pt"}


def test_onnx_answers_as_torch_does(small_trained, held_rows):
    proto = export_onnx(small_trained.model, (len(COLUMN_NAMES),))
    assert onnx_difference(small_trained.model, proto.SerializeToString(), held_rows[:64]) < 1e-5


def test_every_part_of_an_answer_is_what_it_says(small_trained, held_rows):
    answers = _answers(small_trained.model, held_rows)
    for part in (answers.context_weights, answers.situation, answers.bands, answers.attribution):
        assert part.min() >= 0.0
        np.testing.assert_allclose(part.sum(-1), 1.0, atol=1e-5)
    for part in (answers.relevance, answers.attention_entropy):
        assert 0.0 <= part.min() <= part.max() <= 1.0


def test_nothing_is_attributed_where_nothing_moves(small_trained):
    mean = small_trained.model.scaling.mean.numpy()[None]
    np.testing.assert_array_equal(_answers(small_trained.model, mean).attribution, 0.0)


def test_attribution_is_leaving_one_domain_out(small_trained, held_rows):
    """Redone from the answers of changed rows and the numbers of the situation head."""
    model, rows = small_trained.model, held_rows[:40]
    weight, bias = (p.detach().numpy().astype(np.float64) for p in model.situation.parameters())

    def logits(asked):
        return _answers(model, asked).fusion @ weight.T + bias

    whole = logits(rows)
    likeliest, each = whole.argmax(1), np.arange(len(rows))
    moved = []
    for domain in DOMAINS:
        without = rows.copy()
        without[:, domain_slice(domain)] = model.scaling.mean.numpy()[domain_slice(domain)]
        moved.append(np.abs(whole - logits(without))[each, likeliest])
    expected = np.stack(moved, axis=1)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(_answers(model, rows).attribution, expected, atol=1e-4)


def test_a_row_is_answered_alike_in_whichever_batch_it_is(small_trained, held_rows):
    model, rows = small_trained.model, torch.from_numpy(held_rows[:50])
    with torch.no_grad():
        together = model(rows)
        alone = torch.cat([model(row[None]) for row in rows])
        mixed = model(rows.flip(0)).flip(0)
    # The vector has unit deviation: what is allowed is a few units of float32's last place.
    assert (together - alone).abs().max() < 1e-5
    assert (together - mixed).abs().max() < 1e-5
    with torch.no_grad():
        assert torch.equal(model(rows), together)


def test_no_values_of_a_domain_move_the_shares_of_the_others_beyond_the_bound(small_trained):
    rng = np.random.default_rng(3)
    model = small_trained.model
    mean, std = model.scaling.mean.numpy(), model.scaling.std.numpy()
    rows = (mean + 8.0 * std * rng.standard_normal((200, len(mean)))).astype(np.float32)
    before = _answers(model, rows).context_weights
    for d, domain in enumerate(DOMAINS):
        changed = rows.copy()
        own = domain_slice(domain)
        changed[:, own] = rng.permutation(rows[:, own]) * -3.0
        after = _answers(model, changed).context_weights
        others = [k for k in range(len(DOMAINS)) if k != d]
        shares = [
            part[:, others] / part[:, others].sum(1, keepdims=True) for part in (before, after)
        ]
        assert np.abs(shares[0] - shares[1]).max() <= MAX_CONTAMINATION + 1e-6


def test_what_a_row_cannot_be_still_has_a_finite_answer(small_trained):
    rows = np.concatenate([np.full((1, 36), v, np.float32) for v in (-1e6, 0.0, 1e6)])
    with torch.no_grad():
        tensor = small_trained.model(torch.from_numpy(rows))
    assert tensor.shape == (3, ANSWER_WIDTH)
    assert torch.isfinite(tensor).all()


def test_the_fused_vector_is_the_last_part(small_trained, held_rows):
    model, rows = small_trained.model, torch.from_numpy(held_rows[:5])
    with torch.no_grad():
        _, vectors, _ = model.fuse(model.tokens(rows))
        torch.testing.assert_close(model(rows)[:, PART_SLICES["fusion"]], vectors)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="head_count 3"):
        CrossDomainFusion(width=16, head_count=3, hidden=8)


def test_an_unknown_size_is_refused(small_world):
    with pytest.raises(ValueError, match="huge"):
        train(small_world, size="huge")
