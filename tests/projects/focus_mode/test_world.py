"""The made-up world keeps its formulas, and what it hides can be learned from what it shows."""

from __future__ import annotations

import os
import subprocess
import sys

import h3
import numpy as np
import pytest

from focus_mode.evidence import ANOMALIES, PATTERNS, decide, responses
from focus_mode.geography import lay_land
from focus_mode.months import READING_NOISE, see, severity, simulate
from focus_mode.world import generate_world
from kfm_mlflow.focus.columns import (
    COLUMN_NAMES,
    COLUMNS,
    DOMAINS,
    SITUATIONS,
    TOLD,
    domain_slice,
)

JANUARY, JULY = 0, 6


def column(world, name):
    return world.rows[:, COLUMN_NAMES.index(name)].astype(np.float64)


def generator(seed=7):
    return np.random.Generator(np.random.PCG64(seed))


@pytest.fixture(scope="module")
def hidden():
    """Return land, hidden anomalies of 24 months, and what is seen of them."""
    rng = generator()
    land = lay_land(rng, is_small=True)
    states = simulate(rng, land, 24)
    return land, states, see(rng, land, states)


def test_the_same_seed_gives_the_same_bytes_in_another_process(small_world):
    script = "from focus_mode.world import generate_world as g; print(g(size='small').digest)"
    environment = os.environ | {"PYTHONHASHSEED": "5", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == small_world.digest


def test_another_seed_gives_another_world_on_the_same_cells(small_world):
    other = generate_world(seed=1, size="small")
    assert other.digest != small_world.digest
    assert other.cells == small_world.cells


def test_a_row_is_a_cell_of_resolution_five_in_a_month(world):
    assert len(set(zip(world.cells, world.times, strict=True))) == len(world) == len(world.cells)
    assert {h3.get_resolution(cell) for cell in set(world.cells)} == {5}
    assert world.times[0] == "2023-01"
    assert world.times[-1] == "2024-12"
    west, south, east, north = world.bbox
    for cell in set(world.cells):
        latitude, longitude = h3.cell_to_latlng(cell)
        assert south <= latitude <= north
        assert west <= longitude <= east


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_value_is_one_that_its_column_allows(seed):
    world = generate_world(seed=seed, size="small")
    assert world.rows.dtype == np.float32
    for k, one in enumerate(COLUMNS):
        assert one.low <= world.rows[:, k].min(), one.name
        assert world.rows[:, k].max() <= one.high, one.name
    assert np.all(world.rows * 1024 == np.rint(world.rows * 1024))
    assert not np.signbit(world.rows[world.rows == 0]).any()
    assert 0 <= world.next_hazard.min() <= world.next_hazard.max() <= 1


def test_no_h3_parent_has_cells_on_both_sides_of_the_split(world):
    sides = {}
    for cell, is_held_out in zip(world.cells, world.is_held_out.tolist(), strict=True):
        sides.setdefault(h3.cell_to_parent(cell), set()).add(is_held_out)
    assert all(len(found) == 1 for found in sides.values())
    assert 0.28 < world.is_held_out.mean() < 0.4


def test_what_comes_next_is_what_the_cell_has_a_month_later(world):
    count = len(set(world.cells))
    assert world.cells[:count] == world.cells[count : 2 * count]
    for k, name in enumerate(("temperature_c", "precipitation_mm")):
        assert np.array_equal(world.next_climate[:-count, k], column(world, name)[count:])
    for k, name in enumerate(("soil_moisture_ratio", "streamflow_percentile")):
        assert np.array_equal(world.next_hydrology[:-count, k], column(world, name)[count:])


def test_a_cells_classes_and_land_never_change(world):
    count = len(set(world.cells))
    for part in (world.region, world.terrain, world.watershed, world.rows[:, :10]):
        months = part.reshape(24, count, -1)
        assert (months == months[0]).all()
    assert [len(set(part.tolist())) for part in (world.region, world.terrain, world.watershed)] == [
        6,
        4,
        6,
    ]


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_pattern_in_one_domain_makes_it_lead_and_its_situation_stand(domain, situation):
    anomalies = {name: np.zeros((1, len(names))) for name, names in ANOMALIES.items()}
    pattern = PATTERNS[domain][SITUATIONS.index(situation)]
    anomalies[domain] = 2.0 * pattern[None] / np.linalg.norm(pattern)
    leading, found = decide(responses(anomalies, np.array([JULY])))
    assert (DOMAINS[leading[0]], SITUATIONS[found[0]]) == (domain, situation)


def test_nothing_is_a_heat_in_january():
    anomalies = {name: np.zeros((1, len(names))) for name, names in ANOMALIES.items()}
    anomalies["hazards"][0, ANOMALIES["hazards"].index("heat")] = 9.0
    for month, heats in ((JANUARY, False), (JULY, True)):
        _, situation = decide(responses(anomalies, np.array([month])))
        assert (SITUATIONS[situation[0]] == "heat") is heats
    assert "heat" not in {
        SITUATIONS[k]
        for world in (generate_world(size="small"),)
        for k in world.situation[world.months % 12 == JANUARY]
    }


def test_severity_rises_with_a_hazard_from_near_nothing_to_near_one():
    flood = np.zeros((3, 6))
    flood[:, ANOMALIES["hazards"].index("flood")] = [0.0, 1.2, 4.0]
    low, middle, high = severity(flood)
    assert low < 0.2 < middle < 0.6
    assert high > 0.95


@pytest.mark.parametrize(
    ("domain", "after", "causes"),
    [
        ("climate", "temperature", {"temperature": 0.35, "humidity": -0.45, "wind": 0.35}),
        ("hydrology", "soil", {"soil": 0.45, "groundwater": -0.45}),
        ("hydrology", "streamflow", {"streamflow": 0.25, "runoff": 0.60, "snow": 0.60}),
        ("hazards", "storm", {"storm": 0.15, "cape": 0.75}),
        ("hazards", "fire", {"fire": 0.35, "drought": 0.50}),
    ],
)
def test_next_months_follow_from_this_month_as_documented(hidden, domain, after, causes):
    """Least squares on the hidden anomalies finds the coefficients that the text states."""
    _, states, _ = hidden
    names = ANOMALIES[domain]
    c = np.cos(2.0 * np.pi * np.arange(23) / 12.0)[:, None, None]
    before = states[domain][:-1].copy()
    seasonal = {"wind": c, "snow": np.maximum(c, 0.0)}
    for name, factor in seasonal.items():
        if name in names:
            before[:, :, [names.index(name)]] *= factor
    known = np.stack([before[:, :, names.index(name)].ravel() for name in causes], axis=1)
    known = np.column_stack([known, np.ones(len(known))])
    seen = states[domain][1:, :, names.index(after)].ravel()
    fitted, *_ = np.linalg.lstsq(known, seen, rcond=None)
    assert fitted[:-1] == pytest.approx(list(causes.values()), abs=0.07)


def test_columns_show_the_hidden_anomalies_with_the_stated_noise(hidden):
    _, states, seen = hidden
    climate, hydrology, hazards = seen["climate"], seen["hydrology"], seen["hazards"]
    shown = {
        ("climate", 0): climate[:, :, 1] / 2.6,
        ("climate", 1): np.log(climate[:, :, 3]) / 0.45,
        ("hydrology", 1): np.log(hydrology[:, :, 1] / (100.0 - hydrology[:, :, 1])) / 1.1,
        ("hazards", 3): np.log(hazards[:, :, 3] / 0.55) / 0.32,
    }
    for (domain, k), values in shown.items():
        noise = values - states[domain][:, :, k]
        assert noise.std() == pytest.approx(READING_NOISE, rel=0.1)
        assert abs(noise.mean()) < 0.01
    assert np.allclose(seen["narrative"].sum(axis=2), 1.0)


def test_terrain_is_read_off_the_hidden_roughness_and_wetness(hidden):
    land, _, _ = hidden
    rough, wet = land.anomalies[:, 0], land.anomalies[:, 1]
    assert np.array_equal(land.terrain == 3, wet > 0.8)
    assert np.array_equal(land.terrain == 2, (wet <= 0.8) & (rough > 0.8))


def test_told_quantities_are_low_and_high_in_about_a_fifth_of_held_out_rows(world):
    assert set(world.thresholds) == {one.name for one in TOLD}
    for name, (low, high) in world.thresholds.items():
        values = column(world, name)[world.is_held_out]
        assert 0.1 < (values > high).mean() < 0.3, name
        has_floor = low == 0 or name == "storm_day_count"
        assert (values < low).mean() < 0.3, name
        assert has_floor or (values < low).mean() > 0.1, name


# What follows fits plain ridge regressions on training cells and asks held-out ones.


def ridge(world, inputs, wanted):
    """Return predictions of every row from a ridge regression on the training rows."""
    train = ~world.is_held_out
    inputs = (inputs - inputs[train].mean(axis=0)) / (inputs[train].std(axis=0) + 1e-9)
    inputs = np.column_stack([inputs, np.ones(len(inputs))])
    known = inputs[train]
    square = known.T @ known + 1e-2 * len(known) ** 0.5 * np.eye(inputs.shape[1])
    return inputs @ np.linalg.solve(square, known.T @ wanted[train])


def accuracy(world, inputs, classes):
    """Return the share of held-out rows whose class a ridge classifier finds."""
    found = ridge(world, inputs, np.eye(classes.max() + 1)[classes]).argmax(axis=1)
    return (found == classes)[world.is_held_out].mean()


def curved(inputs):
    """Return the inputs, their squares and their products."""
    scaled = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    k, m = np.triu_indices(inputs.shape[1])
    return np.column_stack([scaled, scaled[:, k] * scaled[:, m]])


def test_the_land_tells_classes_of_held_out_cells_better_than_coordinates_do(world):
    spatial = curved(world.rows[:, domain_slice("spatial")].astype(np.float64))
    latitude, longitude = world.rows[:, :2].astype(np.float64).T
    bends = [latitude**k * longitude**m for k in range(4) for m in range(4 - k)]
    place = np.column_stack(bends)
    gains = [
        accuracy(world, spatial, classes) - accuracy(world, place, classes)
        for classes in (world.region, world.terrain, world.watershed)
    ]
    assert min(gains) > 0.05
    assert np.mean(gains) > 0.2


@pytest.mark.parametrize(
    ("domain", "targets"),
    [
        ("climate", ("temperature_c", "precipitation_mm")),
        ("hydrology", ("soil_moisture_ratio", "streamflow_percentile")),
        ("hazards", (None,)),
    ],
)
def test_a_domain_tells_its_next_month_beyond_persistence_and_climatology(world, domain, targets):
    after = {"climate": world.next_climate, "hydrology": world.next_hydrology}
    wanted = after.get(domain, world.next_hazard[:, None]).astype(np.float64)
    found = ridge(world, world.rows[:, domain_slice(domain)].astype(np.float64), wanted)
    held, month = world.is_held_out, world.months % 12
    for k, name in enumerate(targets):
        of_month = np.array([wanted[~held & (month == m), k].mean() for m in range(12)])
        plain = [of_month[month]] + ([column(world, name)] if name else [])
        least = min(np.sqrt(np.mean((p - wanted[:, k])[held] ** 2)) for p in plain)
        assert np.sqrt(np.mean((found - wanted)[held, k] ** 2)) < 0.92 * least


def test_routing_and_situation_are_learnable_but_neither_by_guessing_nor_by_a_line(world):
    rows = world.rows.astype(np.float64)
    bent = np.column_stack([curved(rows[:, domain_slice(name)]) for name in DOMAINS])
    for truth, line, curve in ((world.leading_domain, 0.55, 0.65), (world.situation, 0.65, 0.65)):
        counts = np.bincount(truth)
        assert counts.min() > 0.08 * len(world)
        assert 0.2 < counts.max() / len(world) < 0.3
        assert accuracy(world, rows, truth) < line
        assert accuracy(world, bent, truth) > curve
    assert (world.situation == SITUATIONS.index("calm")).mean() < 0.2


def test_neighbours_by_raw_columns_share_a_situation_no_better_than_every_other_time(world):
    held = np.flatnonzero(world.is_held_out)
    rows = world.rows[held].astype(np.float64)
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    asked = rows[:500]
    far = (asked**2).sum(axis=1)[:, None] - 2.0 * asked @ rows.T + (rows**2).sum(axis=1)
    far[np.arange(500), np.arange(500)] = np.inf
    near = np.argpartition(far, 10, axis=1)[:, :10]
    situation = world.situation[held]
    assert 0.2 < (situation[near] == situation[:500, None]).mean() < 0.52
