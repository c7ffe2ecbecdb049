"""One dry July in a made-up place, told by a story that is safe; and how to change it."""

from __future__ import annotations

import copy

import numpy as np

from kfm_mlflow.focus.answers import ANSWER_WIDTH, PART_SLICES, split_answers
from kfm_mlflow.focus.columns import COLUMN_NAMES, SITUATIONS, TOLD
from kfm_mlflow.focus.lexicon import build_lexicon
from kfm_mlflow.focus.story import tell

THRESHOLDS = {
    "temperature_c": (0.0, 26.0),
    "precipitation_mm": (20.0, 110.0),
    "soil_moisture_ratio": (0.18, 0.34),
    "streamflow_percentile": (20.0, 80.0),
    "runoff_mm": (2.0, 25.0),
    "evapotranspiration_mm": (20.0, 130.0),
    "snow_water_mm": (0.0, 8.0),
    "groundwater_depth_m": (8.0, 40.0),
    "drought_index": (-1.5, 1.5),
    "heat_day_count": (0.0, 6.0),
    "storm_day_count": (0.0, 3.0),
    "flood_stage_ratio": (0.2, 0.8),
    "fire_danger_index": (15.0, 50.0),
    "cape_j_kg": (300.0, 1800.0),
}
LEXICON = build_lexicon(THRESHOLDS)
CELL, FINER_CELL = "8526e297fffffff", "8826e29691fffff"
TIME, CEILING = "2024-07", 5
USUAL = {
    "temperature_c": 24.1,
    "precipitation_mm": 61.0,
    "soil_moisture_ratio": 0.25,
    "streamflow_percentile": 50.0,
    "runoff_mm": 9.0,
    "evapotranspiration_mm": 80.0,
    "snow_water_mm": 0.0,
    "groundwater_depth_m": 21.0,
    "drought_index": 0.2,
    "heat_day_count": 3.0,
    "storm_day_count": 1.0,
    "flood_stage_ratio": 0.4,
    "fire_danger_index": 30.0,
    "cape_j_kg": 900.0,
}
DRY = {
    "soil_moisture_ratio": 0.112,
    "precipitation_mm": 11.7,
    "streamflow_percentile": 9.2,
    "drought_index": 2.13,
    "temperature_c": 24.14,
    "cape_j_kg": 1234.0,
}


def make_row(**values):
    """Return a row that is usual but for some columns."""
    row = np.zeros(len(COLUMN_NAMES), np.float32)
    for name, value in {**USUAL, **values}.items():
        row[COLUMN_NAMES.index(name)] = value
    return row


def make_answers(*, situation="drought", probability=0.7, told=(), bands=None, count=1):
    """Return answers that find a situation likely, some columns worth telling, and given bands."""
    tensor = np.zeros((count, ANSWER_WIDTH), np.float32)
    others = (1 - probability) / (len(SITUATIONS) - 1)
    tensor[:, PART_SLICES["situation"]] = [
        probability if name == situation else others for name in SITUATIONS
    ]
    order = {name: k for k, name in enumerate(told)}
    tensor[:, PART_SLICES["relevance"]] = [
        0.9 - 0.01 * order[column.name] if column.name in order else 0.1 for column in TOLD
    ]
    likely = np.full((len(TOLD), 3), [0.1, 0.8, 0.1], np.float32)
    for j, column in enumerate(TOLD):
        if bands and column.name in bands:
            likely[j] = bands[column.name]
    tensor[:, PART_SLICES["bands"]] = likely.ravel()
    return split_answers(tensor)


DRY_ROW = make_row(**DRY)
TOLD_OF_DRY = ("soil_moisture_ratio", "precipitation_mm", "streamflow_percentile", "temperature_c")


def dry_story():
    """Return the story of the dry July; a new one every time."""
    answers = make_answers(told=TOLD_OF_DRY)
    return tell(answers, 0, DRY_ROW, cell=CELL, time=TIME, lexicon=LEXICON)


def changed(part, value):
    """Return the dry story with one part changed; ``part`` is a path of keys and places."""
    story = copy.deepcopy(dry_story())
    place = story
    for key in part[:-1]:
        place = place[key]
    place[part[-1]] = value
    return story


EXAMPLES = {
    "A dry July": (TIME, DRY, make_answers(told=TOLD_OF_DRY)),
    "High water in May": (
        "2024-05",
        {
            "precipitation_mm": 188.0,
            "streamflow_percentile": 93.0,
            "flood_stage_ratio": 1.12,
            "runoff_mm": 61.0,
            "temperature_c": 17.3,
        },
        make_answers(
            situation="flood",
            probability=0.93,
            told=("flood_stage_ratio", "streamflow_percentile", "precipitation_mm", "runoff_mm"),
        ),
    ),
    "A stormy June": (
        "2023-06",
        {"storm_day_count": 6.0, "cape_j_kg": 2313.0, "precipitation_mm": 97.0},
        make_answers(
            situation="storm",
            probability=0.52,
            told=("storm_day_count", "cape_j_kg", "precipitation_mm"),
        ),
    ),
    "An ordinary October": (
        "2023-10",
        {"temperature_c": 13.8, "precipitation_mm": 44.0},
        make_answers(
            situation="calm", probability=0.81, told=("temperature_c", "precipitation_mm")
        ),
    ),
    "A network that sees fire where no reading does": (
        "2024-03",
        {"temperature_c": 9.2, "soil_moisture_ratio": 0.15, "fire_danger_index": 41.0},
        make_answers(
            situation="fire",
            probability=0.88,
            told=("fire_danger_index", "soil_moisture_ratio", "temperature_c"),
        ),
    ),
}


def told_example(name):
    """Return an example's row and the story that is told of it."""
    time, values, answers = EXAMPLES[name]
    row = make_row(**values)
    return row, tell(answers, 0, row, cell=CELL, time=time, lexicon=LEXICON)
