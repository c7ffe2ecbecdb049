"""The heads: tasks are what they are said to be, training is softmax regression, growth is judged."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, minimize
from sklearn.linear_model import LogisticRegression

from fleet_project.growth import judge_growth
from fleet_project.settings import Settings
from fleet_project.softmax import Score, gradient, score, train_softmax
from fleet_project.table import read_tasks
from fleet_project.tasks import (
    RESTRICTED_TERMS,
    Task,
    generate_tasks,
    judged_set,
    probe_set,
    urgent_tasks,
)
from fleet_project.training import (
    METRICS_FILE,
    SUMMARY_FILE,
    split_tasks,
    train_fleet,
    write_training,
)
from kfm_mlflow.canonical import write_json
from kfm_mlflow.errors import DataError, InputError
from kfm_mlflow.fleet.embedder import HashedEmbedder, term_digest, text_tokens
from kfm_mlflow.fleet.heads import SPECIALTIES
from kfm_mlflow.fleet.probes import measure_unit, parse_probes
from kfm_mlflow.fleet.units import load_unit
from kfm_mlflow.metadata.schemas import schema_problems

TERMS = frozenset(term_digest(term) for term in RESTRICTED_TERMS)
EMBEDDER = HashedEmbedder(320, None, TERMS)
SETTINGS = Settings()


@pytest.fixture(scope="module")
def tasks():
    return generate_tasks(1000, seed=42)


@pytest.fixture(scope="module")
def fleet(tasks):
    return train_fleet(tasks, SETTINGS, EMBEDDER)


def test_the_settings_are_those_of_the_source():
    assert dataclasses.astuple(SETTINGS) == (12, 320, 0.16, 0.2, 42, 120, 50_000, 0.01, 0.02)


def test_tasks_are_different_balanced_and_the_same_for_the_same_seed(tasks):
    assert generate_tasks(1000, seed=42) == tasks
    assert generate_tasks(1000, seed=43) != tasks
    assert len({task.task for task in tasks}) == 1000
    for name in SPECIALTIES:
        kinds = [(t.decision, t.is_unsafe) for t in tasks if t.specialty == name]
        assert 300 < len(kinds) < 370
        assert set(kinds) == {("act", False), ("hold", False), ("hold", True)}


def test_probes_are_unseen_in_their_phrasings_and_in_their_pairs_of_words(tasks):
    probes = probe_set(300, seed=1)
    assert parse_probes(probes.to_dict(), where="probes") == probes
    assert not {probe.task for probe in probes.probes} & {task.task for task in tasks}
    seen = {task.text for task in tasks if task.decision == "act"}
    asked = {probe.text for probe in probes.probes if probe.decision == "act"}
    assert not asked & seen
    # Yet every word of an answer is one that training has.
    words = {word for task in tasks for word in task.text.split()}
    assert {word for probe in probes.probes for word in probe.text.split()} <= words


def test_the_screen_finds_the_unsafe_tasks_and_no_others(tasks):
    probes = judged_set(tasks)
    found = [probes.finds_unsafe(task.task) for task in tasks]
    assert found == [task.is_unsafe for task in tasks]
    assert any(task.is_unsafe for task in tasks)
    for task in tasks:
        assert probes.is_refusal(task.text) == task.is_unsafe
        assert not probes.shows_restricted(task.text)
    assert any(probes.shows_restricted(task.task) and not task.is_unsafe for task in tasks)
    urgent = urgent_tasks(20, seed=3)
    assert len(urgent) == 20
    assert all(task.task.startswith("urgent ") and task.is_unsafe for task in urgent)


def test_the_gradient_is_that_of_the_loss():
    rng = np.random.default_rng(0)
    weights, bias, vector = rng.normal(size=(4, 3)), rng.normal(size=3), rng.normal(size=4)

    def loss(flat):
        return score(flat[:12].reshape(4, 3), flat[12:], vector[None], np.array([2])).loss

    by_weights, by_bias = gradient(weights, bias, vector, 2)
    expected = approx_fprime(np.concatenate([weights.ravel(), bias]), loss, 1e-7)
    assert np.allclose(np.concatenate([by_weights.ravel(), by_bias]), expected, atol=1e-5)


def test_score_is_the_share_of_right_ones_and_the_mean_log_loss():
    x, y = np.array([[1.0], [1.0], [0.0]]), np.array([0, 1, 1])
    found = score(np.array([[np.log(3.0), 0.0]]), np.zeros(2), x, y)
    # Shares of class 0: 3/4, 3/4, 1/2; a tie goes to the first class.
    assert found.accuracy == pytest.approx(1 / 3)
    assert found.loss == pytest.approx(-(np.log(3 / 4) + np.log(1 / 4) + np.log(1 / 2)) / 3)


def test_training_long_ends_where_scikit_learn_does():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 3))
    y = (x @ [2.0, -1.0, 0.5] + rng.logistic(size=200) > 0).astype(int)
    slow = dataclasses.replace(SETTINGS, epochs=60, learning_rate=0.01)
    found = train_softmax((x, y), (x, y), 2, slow)
    best = LogisticRegression(C=np.inf).fit(x, y)
    assert np.allclose(found.weights[:, 1] - found.weights[:, 0], best.coef_[0], atol=0.15)

    def mean_loss(flat):
        return score(flat[:6].reshape(3, 2), flat[6:], x, y).loss

    assert found.scores[-1].loss == pytest.approx(minimize(mean_loss, np.zeros(8)).fun, abs=0.003)


@pytest.mark.parametrize(
    ("first", "last", "confirmed"),
    [
        (Score(0.5, 0.5), Score(0.5, 0.5), False),
        (Score(0.5, 0.5), Score(0.625, 0.75), True),
        (Score(0.5, 0.5), Score(0.25, 0.25), True),
        # At the threshold is not above it.
        (Score(0.0, 1.0), Score(0.01, 1.0), False),
        (Score(0.5, 0.02), Score(0.5, 0.0), False),
        (Score(0.5, 0.0201), Score(0.5, 0.0), True),
        (Score(0.9, 0.1), Score(0.8, 0.3), False),
    ],
)
def test_growth_needs_more_than_its_threshold_of_accuracy_or_loss(first, last, confirmed):
    assert judge_growth([Score(0, 9), first, last], SETTINGS).confirmed is confirmed


@given(st.integers(120, 200), st.integers(0, 9))
def test_a_split_loses_none_and_shares_none(count, seed):
    tasks = [Task(f"task {k}", "doc_plan", "act", is_unsafe=False) for k in range(count)]
    train, held = split_tasks([*tasks, tasks[0]], dataclasses.replace(SETTINGS, seed=seed))
    assert sorted(t.task for t in [*train, *held]) == sorted(t.task for t in tasks)
    assert len(held) == round(count * 0.2)


def test_more_than_the_most_are_drawn_and_fewer_than_the_least_refused(tasks):
    few = dataclasses.replace(SETTINGS, max_samples=200)
    train, held = split_tasks(tasks, few)
    assert (len(train), len(held)) == (160, 40)
    with pytest.raises(DataError, match="119 different tasks are fewer than 120; bring more"):
        split_tasks(tasks[:119], SETTINGS)


def test_trained_heads_hold_the_unsafe_and_know_tasks_they_have_never_seen(fleet, tmp_path):
    write_training(fleet, tmp_path)
    write_json(
        tmp_path / "unit.json", {"schema_version": "1", "format": "linear-heads", "dimension": 320}
    )
    unit = load_unit(tmp_path)
    found = measure_unit("runtime", unit, probe_set(200, seed=1), usd_per_cpu_hour=0.05)
    assert found["quality"] >= 0.85
    assert found["safety"] >= 0.95


def test_outputs_state_their_thresholds_and_say_what_was_measured(fleet, tmp_path):
    write_training(fleet, tmp_path)
    metrics = json.loads((tmp_path / METRICS_FILE).read_text())
    assert schema_problems("fleet_training_metrics", metrics) == []
    assert metrics["growth_confirmed"] is fleet.has_grown is True
    head = metrics["models"]["doc_plan"]
    assert len(head["scores"]) == 13
    assert head["scores"][0]["loss"] == pytest.approx(np.log(2))
    assert metrics["models"]["coordinator"]["scores"][0]["loss"] == pytest.approx(np.log(3))
    assert head["growth"]["loss_drop"] == pytest.approx(
        head["scores"][1]["loss"] - head["scores"][-1]["loss"]
    )
    page = (tmp_path / SUMMARY_FILE).read_text()
    assert "rises by more than 0.01 or validation loss falls by more than 0.02" in page
    assert "**confirmed**" in page


def test_the_same_tasks_give_the_same_bytes(tasks, tmp_path):
    short = dataclasses.replace(SETTINGS, epochs=2)
    for name in ("a", "b"):
        write_training(train_fleet(tasks[:300], short, EMBEDDER), tmp_path / name)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def _csv(path, rows, columns=("task", "specialty", "decision", "is_unsafe")):
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def test_a_users_own_table_is_read_as_it_is_written(tmp_path):
    path = _csv(
        tmp_path / "tasks.csv",
        [("run, then stop", "code_execute", "act", "no"), ("erase it", "doc_plan", "hold", "TRUE")],
    )
    assert read_tasks(path) == [
        Task("run, then stop", "code_execute", "act", is_unsafe=False),
        Task("erase it", "doc_plan", "hold", is_unsafe=True),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("", "doc_plan", "act", "no"), "line 2: task: must be a text"),
        (("x", "cooking", "act", "no"), "line 2: specialty: 'cooking' is no specialty; use one of"),
        (("x", "doc_plan", "wait", "no"), "line 2: decision: 'wait' is no decision"),
        (("x", "doc_plan", "act", "maybe"), "line 2: is_unsafe: 'maybe' is neither"),
        (("x", "doc_plan", "act", "yes"), "line 2: decision: is unsafe and not to be held"),
        (("x", "doc_plan"), "line 2: decision: '' is no decision"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read_tasks(_csv(tmp_path / "tasks.csv", [row]))


def test_a_table_that_is_none_or_contradicts_itself_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no column decision, is_unsafe"):
        read_tasks(_csv(tmp_path / "a.csv", [], columns=("task", "specialty")))
    with pytest.raises(DataError, match="'x' stands there with two answers"):
        read_tasks(
            _csv(
                tmp_path / "b.csv",
                [("x", "doc_plan", "act", "0"), ("x", "doc_plan", "hold", "0")],
            )
        )
    (tmp_path / "c.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("c.csv", "none.csv"):
        with pytest.raises(DataError, match=f"{name}: cannot be read"):
            read_tasks(tmp_path / name)


def test_a_specialty_without_both_decisions_cannot_be_trained(tasks):
    acts = [t for t in tasks if t.decision == "act" or t.specialty != "doc_plan"]
    with pytest.raises(DataError, match="specialty doc_plan: needs tasks to act on and tasks to"):
        train_fleet(acts, SETTINGS, EMBEDDER)


def test_more_tasks_than_there_are_is_refused(monkeypatch):
    monkeypatch.setattr("fleet_project.tasks._PROBE_BEGINNINGS", ("kindly",))
    monkeypatch.setattr("fleet_project.tasks._PROBE_ENDINGS", ("",))
    with pytest.raises(InputError, match="there are hardly 5000 different tasks; ask for fewer"):
        generate_tasks(5000, seed=1, held_out=True)


def test_tokens_of_terms_never_stay_in_a_masked_task():
    masked = judged_set(generate_tasks(60, seed=5)).masked_text("at Grey Heron Knoll today")
    assert text_tokens(masked) == ["at", "masked", "today"]
