"""Telling: what a story may state, in which words, and how a lexicon limits it."""

from __future__ import annotations

import json
import os
import time as clock
from pathlib import Path

import numpy as np
import pytest
from focus.made_stories import (
    CEILING,
    CELL,
    DRY_ROW,
    EXAMPLES,
    LEXICON,
    THRESHOLDS,
    TIME,
    TOLD_OF_DRY,
    dry_story,
    make_answers,
    make_row,
    told_example,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.errors import DataError, EvidenceError
from kfm_mlflow.focus.answers import ANSWER_WIDTH, split_answers
from kfm_mlflow.focus.columns import COLUMNS, TOLD
from kfm_mlflow.focus.lexicon import Lexicon, build_lexicon, parse_lexicon
from kfm_mlflow.focus.narrative import check_story
from kfm_mlflow.focus.story import SIGNS, month_words, spoken_value, tell
from kfm_mlflow.metadata.schemas import schema_problems

PAGE = Path(__file__).parents[2] / "docs" / "story-node.md"
BEGIN, END = "<!-- examples: begin -->\n", "<!-- examples: end -->\n"
TOLD_BY_NAME = {told.column.name: told for told in LEXICON.told}


LOW, HIGH = (np.array([getattr(column, end) for column in COLUMNS]) for end in ("low", "high"))


def any_row():
    """Rows within the bounds of their columns: at an end, at a threshold, or anywhere."""
    return st.integers(0, 2**32 - 1).map(_row_of)


def _row_of(seed):
    rng = np.random.default_rng(seed)
    ends = np.array([THRESHOLDS.get(column.name, (0, 1)) for column in COLUMNS])
    choices = np.stack([LOW, HIGH, *ends.T, rng.uniform(LOW, HIGH), rng.uniform(*ends.T)])
    return np.clip(rng.choice(6, 36).choose(choices), LOW, HIGH).astype(np.float32)


def any_answers():
    """Answers of a network that may believe anything."""
    return st.integers(0, 2**32 - 1).map(
        lambda seed: split_answers(
            np.random.default_rng(seed).random((1, ANSWER_WIDTH)).astype(np.float32)
        )
    )


@settings(max_examples=25, deadline=None)
@given(row=any_row(), answers=any_answers(), month=st.integers(1, 12), most=st.integers(1, 14))
def test_a_constrained_story_is_safe_and_true_whatever_the_network_believes(
    row, answers, month, most
):
    lexicon = LEXICON.model_copy(update={"max_claim_count": most})
    story = tell(answers, 0, row, cell=CELL, time=f"2024-{month:02d}", lexicon=lexicon)
    assert check_story(story, row, lexicon, max_resolution=CEILING) == ()
    assert schema_problems("storynode", json.loads(canonical_bytes(story))) == []
    assert 1 <= len(story["claims"]) <= most


@settings(max_examples=5, deadline=None)
@given(row=any_row(), answers=any_answers())
def test_the_same_answer_gives_the_same_bytes(row, answers):
    first, second = (
        canonical_bytes(tell(answers, 0, row, cell=CELL, time=TIME, lexicon=LEXICON)) for _ in "ab"
    )
    assert first == second


def test_a_story_states_what_is_relevant_in_that_order():
    assert tuple(claim["subject"] for claim in dry_story()["claims"]) == TOLD_OF_DRY


def test_values_are_the_inputs_own_as_precisely_as_the_lexicon_allows():
    values = {claim["subject"]: claim["value"] for claim in dry_story()["claims"]}
    assert values == {
        "soil_moisture_ratio": 0.11,
        "precipitation_mm": 12.0,
        "streamflow_percentile": 9.0,
        "temperature_c": 24.1,
    }


def test_one_claim_is_told_even_when_the_network_finds_nothing_relevant():
    story = tell(make_answers(), 0, DRY_ROW, cell=CELL, time=TIME, lexicon=LEXICON)
    assert len(story["claims"]) == 1


def test_drivers_are_what_is_unusual_of_climate_and_water():
    assert dry_story()["climate_drivers"] == [
        "soil moisture below its usual range",
        "precipitation below its usual range",
        "streamflow below its usual range",
    ]


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        (0.95, "very likely reflect"),
        (0.7, "likely reflect"),
        (0.4, "may reflect"),
        (0.2, "might reflect"),
    ],
)
def test_likelihood_is_told_in_calibrated_words(probability, words):
    answers = make_answers(probability=probability, told=TOLD_OF_DRY)
    story = tell(answers, 0, DRY_ROW, cell=CELL, time=TIME, lexicon=LEXICON)
    assert story["hazard_context"] == f"Taken together, these readings {words} a drought."


@pytest.mark.parametrize("situation", [name for name in SIGNS if SIGNS[name]])
def test_a_hazard_without_a_sign_is_not_named(situation):
    answers = make_answers(situation=situation, probability=0.99)
    story = tell(answers, 0, make_row(), cell=CELL, time=TIME, lexicon=LEXICON)
    assert story["situation"] == "unclear"
    assert situation not in json.dumps(story)


@pytest.mark.parametrize("situation", [name for name in SIGNS if SIGNS[name]])
def test_any_one_sign_of_a_hazard_lets_it_be_named(situation):
    for name, band in SIGNS[situation]:
        low, high = THRESHOLDS[name]
        row = make_row(**{name: low * 0.5 - 0.01 if band == "low" else high * 1.5})
        answers = make_answers(situation=situation)
        story = tell(answers, 0, row, cell=CELL, time=TIME, lexicon=LEXICON)
        assert story["situation"] == situation


def test_without_constraint_the_network_may_state_what_is_not_so_and_is_found_out():
    lexicon = build_lexicon(THRESHOLDS, constrained=False)
    answers = make_answers(
        situation="flood", told=TOLD_OF_DRY, bands={"soil_moisture_ratio": (0.1, 0.1, 0.8)}
    )
    story = tell(answers, 0, DRY_ROW, cell=CELL, time=TIME, lexicon=lexicon)
    assert story["situation"] == "flood"
    assert story["claims"][0]["band"] == "high"
    found = check_story(story, DRY_ROW, lexicon, max_resolution=CEILING)
    assert {f.check for f in found} == {"unsupported-claim"}
    assert {"situation", "title", "hazard_context", "summary", "claims[0]"} <= {
        f.text_part for f in found
    }


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("temperature_c", -3.04, "-3.0 °C"),
        ("temperature_c", -0.04, "0.0 °C"),
        ("precipitation_mm", 1234.4, "1,234 mm"),
        ("soil_moisture_ratio", 0.1, "0.10"),
        ("streamflow_percentile", 1.2, "the 1st percentile"),
        ("streamflow_percentile", 11.0, "the 11th percentile"),
        ("streamflow_percentile", 22.0, "the 22nd percentile"),
        ("streamflow_percentile", 93.0, "the 93rd percentile"),
        ("heat_day_count", 1.0, "1"),
        ("heat_day_count", 0.0, "0"),
        ("cape_j_kg", 1234.0, "1,230 J/kg"),
    ],
)
def test_values_are_spoken_as_people_write_them(name, value, words):
    told = TOLD_BY_NAME[name]
    assert spoken_value(told, told.stated(value)) == words


def test_ends_of_the_usual_range_belong_to_it():
    told = TOLD_BY_NAME["soil_moisture_ratio"]
    assert [told.band(value) for value in (0.17, 0.18, 0.34, 0.35)] == [
        "low",
        "moderate",
        "moderate",
        "high",
    ]


def test_a_value_that_rounds_to_the_end_of_its_range_is_told_as_inside():
    answers = make_answers(told=("soil_moisture_ratio",))
    row = make_row(soil_moisture_ratio=0.1796)
    (claim,) = tell(answers, 0, row, cell=CELL, time=TIME, lexicon=LEXICON)["claims"]
    assert (claim["value"], claim["band"]) == (0.18, "moderate")


@pytest.mark.parametrize("time", ["2024-13", "2024-7", "2024", "July", "2024-07-01", "20x4-07"])
def test_what_is_no_month_is_refused(time):
    with pytest.raises(DataError, match="month"):
        month_words(time)


def test_a_lexicon_survives_its_file():
    assert parse_lexicon(json.loads(canonical_bytes(LEXICON.to_dict()))) == LEXICON
    assert schema_problems("storynode_lexicon", LEXICON.to_dict()) == []


def without(field, key):
    value = LEXICON.to_dict()
    del value[field][key]
    return value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (without("thresholds", "runoff_mm"), "thresholds: runoff_mm missing"),
        (without("titles", "calm"), "titles: calm missing"),
        (without("outlooks", "unclear"), "outlooks: unclear missing"),
        ({**LEXICON.to_dict(), "max_claim_count": 0}, "max_claim_count"),
        ({**LEXICON.to_dict(), "schema_version": "2"}, "schema_version"),
        (
            {**LEXICON.to_dict(), "thresholds": {**THRESHOLDS, "runoff_mm": (9, 1)}},
            "thresholds.runoff_mm: 9.0 is above 1.0",
        ),
        ({**LEXICON.to_dict(), "claim_sentence": "{quantities.__class__}"}, "is no placeholder"),
        (
            {**LEXICON.to_dict(), "outlooks": {**LEXICON.outlooks, "calm": "In {month}."}},
            "outlooks.calm: {month} is no placeholder",
        ),
        ({**LEXICON.to_dict(), "claim_sentence": "{quantities:>999999}"}, "may have no format"),
        ({**LEXICON.to_dict(), "claim_sentence": "{quantities"}, "claim_sentence"),
        ([], "valid dictionary"),
    ],
)
def test_a_lexicon_that_lacks_or_contradicts_something_is_refused_by_name(value, said):
    with pytest.raises(EvidenceError) as caught:
        parse_lexicon(value)
    assert said in str(caught.value)
    assert "storynode_lexicon.json" in str(caught.value)


def test_thresholds_that_are_missing_are_a_data_error():
    with pytest.raises(DataError, match="cape_j_kg"):
        build_lexicon({name: pair for name, pair in THRESHOLDS.items() if name != "cape_j_kg"})


def test_every_told_column_has_digits_of_its_own():
    assert set(Lexicon.model_fields["decimals"].default) == {column.name for column in TOLD}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_safe(name):
    row, story = told_example(name)
    assert check_story(story, row, LEXICON, max_resolution=CEILING) == ()


def test_the_page_shows_the_stories_as_they_are_told():
    shown = [BEGIN]
    for name in EXAMPLES:
        _, story = told_example(name)
        drivers = "; ".join(story["climate_drivers"]) or "none"
        shown.append(
            f"### {name}\n\n> **{story['title']}** (`{story['geospatial_context']}`)\n>\n"
            f"> {story['summary']}\n>\n> {story['hazard_context']}\n>\n> Drivers: {drivers}\n\n"
        )
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    wanted = head + "".join(shown) + END + tail
    if os.environ.get("KFM_WRITE_DOCS"):
        PAGE.write_text(wanted, encoding="utf-8")
    assert text == wanted, "run this test once with KFM_WRITE_DOCS=1"


def test_telling_takes_less_than_three_tenths_of_a_millisecond():
    answers = make_answers(told=TOLD_OF_DRY)
    best = min(_seconds(answers) for _ in range(20))
    assert best / 20 < 0.0003


def _seconds(answers):
    began = clock.process_time()
    for _ in range(20):
        tell(answers, 0, DRY_ROW, cell=CELL, time=TIME, lexicon=LEXICON)
    return clock.process_time() - began
