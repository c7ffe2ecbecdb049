"""Judging stories: what is found, where, and what the rates of many stories mean."""

# ruff: noqa: RUF001 - characters that look like others are what is tried here

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from focus.made_stories import (
    CEILING,
    CELL,
    DRY_ROW,
    LEXICON,
    THRESHOLDS,
    TIME,
    TOLD_OF_DRY,
    changed,
    dry_story,
    make_answers,
    make_row,
)
from focus.red_team_stories import LATER_UNSAFE, LATEST_UNSAFE
from hypothesis import given, settings
from hypothesis import strategies as st

from kfm_mlflow.errors import DataError
from kfm_mlflow.focus.columns import TOLD
from kfm_mlflow.focus.lexicon import CONTEXTS, OUTLOOKS, TITLES, build_lexicon
from kfm_mlflow.focus.narrative import CHECKS, check_story, narrative_metrics
from kfm_mlflow.focus.narrative_words import PLAIN, is_known, lists_of
from kfm_mlflow.focus.story import SIGNS, tell


def judged(story, row=DRY_ROW, ceiling=CEILING):
    return check_story(story, row, LEXICON, max_resolution=ceiling)


def said(text):
    return {f.check for f in judged(changed(("summary",), text))}


def test_what_was_written_to_get_past_the_lists_is_refused():
    assert (len(LATER_UNSAFE), len(LATEST_UNSAFE)) == (68, 60)
    assert [text for text in (*LATER_UNSAFE, *LATEST_UNSAFE) if not said(text)] == []


@pytest.mark.parametrize("text", ["Drought, drought, drought.", "Snow water may follow."])
def test_what_is_named_as_passing_does_pass(text):
    assert said(text) == set()


def test_a_finding_names_its_part():
    story = changed(("climate_drivers",), ["soil moisture below its usual range", "severe drought"])
    (found,) = judged(story)
    assert (found.check, found.text_part) == ("exaggerated-severity", "climate_drivers[1]")
    assert found.sentence == "the text is stronger than low, moderate or high"


def test_every_check_has_a_prohibition_and_a_source():
    assert all(prohibition and source for prohibition, source in CHECKS.values())


def test_the_same_story_of_another_row_is_unsupported():
    assert {f.check for f in judged(dry_story(), make_row())} == {"unsupported-claim"}


def test_a_finer_ceiling_lets_the_same_place_pass_and_a_coarser_one_refuses_it():
    assert judged(dry_story(), ceiling=15) == ()
    (found,) = judged(dry_story(), ceiling=4)
    assert (found.check, found.text_part) == ("over-precision", "geospatial_context")


@pytest.mark.parametrize("place", [None, "withheld", "H3-842a9b5ffffffff"])
def test_a_place_that_was_masked_is_no_finding(place):
    story = {**changed(("geospatial_context",), place), "sovereignty_masked": True}
    assert judged(story) == ()


def test_a_text_that_masking_took_away_is_no_finding():
    assert judged(changed(("summary",), None)) == ()
    assert judged({}) != ()  # but a story has a month


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from([*dry_story(), "other"]),
)
def test_a_broken_document_is_judged_and_not_raised_about(value, part):
    assert isinstance(judged({**dry_story(), part: value}), tuple)
    assert isinstance(judged({**dry_story(), "claims": [value]}), tuple)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([word for word in PLAIN.split() if word not in {"a", "i"}]),
    st.sampled_from("аеорсухіѕ\u200b\u00ad\u0301ø"),
    st.integers(0, 12),
)
def test_a_foreign_character_in_any_word_is_refused_or_read_as_the_word(word, char, place):
    disguised = word[:place] + char + word[place:]
    found = said(f"Dryness {disguised}.")
    assert found >= said(f"Dryness {word}.") if char == "\u0301" else "unreadable-text" in found


def test_every_phrase_of_the_lexicon_is_in_words_that_the_checks_know():
    text = " ".join([*TITLES.values(), *CONTEXTS.values(), *OUTLOOKS.values()]).lower()
    words = [word.strip(".,") for word in text.split() if "{" not in word]
    assert [word for word in words if not is_known(word)] == []


def test_no_word_is_refused_always_and_plain_too():
    # These may be said where the clause hedges or denies them, or the check says so only then.
    sometimes = {"becoming", "trends", "certainty"}
    assert [w for w in PLAIN.split() if set(lists_of(w)) - sometimes] == []


def test_signs_are_of_told_columns():
    told = {column.name for column in TOLD}
    assert {name for signs in SIGNS.values() for name, _ in signs} <= told


def measured(lexicon=LEXICON, *, relevant=None, **asked):
    answers = make_answers(told=TOLD_OF_DRY, count=4, **asked)
    if relevant is None:
        relevant = np.array([[column.name in TOLD_OF_DRY for column in TOLD]] * 4)
    return narrative_metrics(
        answers,
        np.stack([DRY_ROW] * 4),
        cells=[CELL] * 4,
        times=[TIME] * 4,
        lexicon=lexicon,
        max_resolution=CEILING,
        relevant=relevant.astype(np.float32),
    )


def test_rates_of_true_stories():
    assert measured() == {
        "supported_ratio": 1.0,
        "hallucination_ratio": 0.0,
        "unsafe_ratio": 0.0,
        "relevance_agreement": 1.0,
    }


def test_one_wrong_band_of_four_makes_a_quarter_of_the_claims_and_every_story_wrong():
    # The network says "moderate" of four columns; only the temperature is.
    found = measured(build_lexicon(THRESHOLDS, constrained=False))
    assert found["supported_ratio"] == 0.25
    assert found["hallucination_ratio"] == 1.0
    assert found["unsafe_ratio"] == 0.0


def test_an_outlook_that_knows_the_future_makes_every_story_unsafe_and_no_claim_wrong():
    outlooks = {**LEXICON.outlooks, "drought": "Rain will return."}
    found = measured(LEXICON.model_copy(update={"outlooks": outlooks}))
    assert (found["unsafe_ratio"], found["supported_ratio"]) == (1.0, 1.0)


def test_a_copied_lexicon_judges_by_its_new_thresholds():
    assert LEXICON.told[2].low == 0.18
    wider = {**THRESHOLDS, "soil_moisture_ratio": (0.05, 0.34)}
    assert LEXICON.model_copy(update={"thresholds": wider}).told[2].low == 0.05


def test_relevance_that_is_told_of_everything_or_nothing_agrees_by_chance_only():
    rng = np.random.default_rng(7)
    relevant = rng.random((4, len(TOLD))) < 0.4
    everything = make_answers(told=[column.name for column in TOLD], count=4)
    found = narrative_metrics(
        everything,
        np.stack([DRY_ROW] * 4),
        cells=[CELL] * 4,
        times=[TIME] * 4,
        lexicon=LEXICON,
        max_resolution=CEILING,
        relevant=relevant,
    )
    assert found["relevance_agreement"] == 0.5


def test_no_rows_is_a_data_error():
    with pytest.raises(DataError, match="0 rows"):
        narrative_metrics(
            make_answers(),
            np.zeros((0, 36), np.float32),
            cells=[],
            times=[],
            lexicon=LEXICON,
            max_resolution=CEILING,
            relevant=np.zeros((0, 14), np.float32),
        )


def test_judging_changes_nothing():
    story = dry_story()
    before = copy.deepcopy(story)
    judged(story)
    assert json.dumps(story) == json.dumps(before)


def test_a_story_of_unconstrained_bands_is_judged_by_the_row_and_not_by_itself():
    lexicon = build_lexicon(THRESHOLDS, constrained=False)
    answers = make_answers(told=("runoff_mm",), bands={"runoff_mm": (0.9, 0.1, 0.0)})
    story = tell(answers, 0, DRY_ROW, cell=CELL, time=TIME, lexicon=lexicon)
    assert "claims[0]" in {f.text_part for f in judged(story)}
