"""Story Node v3: what it should tell, that it learns to, and that it can be released."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from focus_mode.storynode import StoryDecoder, story_loss, targets
from focus_mode.world import generate_world
from kfm_mlflow.focus.answers import BANDS, FUSION_DIMENSION
from kfm_mlflow.focus.columns import COLUMN_NAMES, SITUATIONS, TOLD
from kfm_mlflow.focus.lexicon import build_lexicon
from kfm_mlflow.focus.story import SIGNS, supported_situations


@pytest.fixture(scope="module")
def world():
    return generate_world(size="small")


@pytest.fixture(scope="module")
def wanted(world):
    return targets(world)


def test_bands_of_the_targets_are_those_that_a_story_would_state(world, wanted):
    lexicon = build_lexicon(world.thresholds)
    for k in range(0, len(world), 37):
        values = world.rows[k].tolist()
        bands = [told.band(told.stated(values[told.index])) for told in lexicon.told]
        assert [BANDS[band] for band in wanted.bands[k]] == bands


def test_relevant_is_what_shows_the_true_situation(world, wanted):
    lexicon = build_lexicon(world.thresholds)
    for k in range(0, len(world), 37):
        situation = SITUATIONS[world.situation[k]]
        told = {
            (column.name, BANDS[wanted.bands[k, j]])
            for j, column in enumerate(TOLD)
            if wanted.relevance[k, j]
        }
        if SIGNS[situation] and situation in supported_situations(world.rows[k].tolist(), lexicon):
            assert told <= set(SIGNS[situation])
        else:
            assert {name for name, _ in told} == {"temperature_c", "precipitation_mm"}


def test_every_row_has_something_to_tell(wanted):
    assert wanted.relevance.any(axis=1).all()
    assert set(np.unique(wanted.relevance)) == {0.0, 1.0}


def test_it_learns_bands_and_relevance_of_places_that_it_has_not_seen(world, wanted):
    generator = torch.Generator().manual_seed(3)
    rows = torch.from_numpy((world.rows - world.rows.mean(0)) / (world.rows.std(0) + 1e-6))
    # A fused vector that holds the situation among as much noise.
    directions = torch.randn(len(SITUATIONS), FUSION_DIMENSION, generator=generator)
    noise = torch.randn(len(world), FUSION_DIMENSION, generator=generator)
    fused = directions[torch.from_numpy(world.situation)] + noise
    relevance, bands = torch.from_numpy(wanted.relevance), torch.from_numpy(wanted.bands)
    held = torch.from_numpy(world.is_held_out)
    seen = torch.nonzero(~held)[:, 0]
    torch.manual_seed(1)
    decoder = StoryDecoder()
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=3e-3)
    for _ in range(100):
        some = seen[torch.randint(len(seen), (64,), generator=generator)]
        optimiser.zero_grad()
        story_loss(*decoder(fused[some], rows[some]), relevance[some], bands[some]).backward()
        optimiser.step()
    with torch.no_grad():
        told, logits = decoder(fused[held], rows[held])
    right = (logits.argmax(2) == bands[held]).float().mean()
    majority = bands[held].flatten().bincount().max() / bands[held].numel()
    assert right > 0.95 > majority
    is_relevant = relevance[held] > 0
    found = (told[is_relevant] >= 0.5).float().mean(), (told[~is_relevant] < 0.5).float().mean()
    assert sum(found) / 2 > 0.75  # 0.5 is chance


def test_before_training_a_column_far_from_its_mean_is_low_or_high():
    decoder = StoryDecoder()
    rows = torch.zeros(3, len(COLUMN_NAMES))
    rows[0], rows[2] = -3.0, 3.0
    _, bands = decoder(torch.zeros(3, FUSION_DIMENSION), rows)
    assert bands.argmax(2).tolist() == [[0] * 14, [1] * 14, [2] * 14]


def test_it_answers_in_the_shapes_of_its_part_and_loads_from_weights_alone(tmp_path):
    decoder = StoryDecoder()
    torch.save(decoder.state_dict(), tmp_path / "storynode_v3.pt")
    other = StoryDecoder()
    other.load_state_dict(torch.load(tmp_path / "storynode_v3.pt", weights_only=True))
    fused, rows = torch.randn(2, FUSION_DIMENSION), torch.randn(2, len(COLUMN_NAMES))
    with torch.no_grad():
        relevance, bands = other(fused, rows)
        assert torch.equal(relevance, decoder(fused, rows)[0])
    assert (tuple(relevance.shape), tuple(bands.shape)) == ((2, 14), (2, 14, 3))
    assert 0 <= relevance.min() <= relevance.max() <= 1
