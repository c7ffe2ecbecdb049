"""Sampled explanations: their stability of models known by arithmetic, and how it travels."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import helper
from serving.driving import eventually

from kfm_mlflow.authoring.evidence_files import drift_baseline
from kfm_mlflow.canonical import digest_file, write_json
from kfm_serving.explained import Explained, compare_explanations, load_explained, load_explainer
from kfm_serving.replica import Replica
from kfm_serving.session import OnnxModel

WIDTH = 20
numbers = arrays(np.float64, 7, elements=st.floats(-100, 100, width=16))


def squares(row):
    return float((row**2).sum()), 1e-9


def table(count, seed=1):
    rng = np.random.Generator(np.random.PCG64(seed))
    return (5 + 2 * rng.normal(size=(count, WIDTH))).astype(np.float32)


def write_evidence(directory, baseline, inputs, outputs):
    write_json(directory / "xai" / "summary.json", {"baseline": baseline})
    write_json(directory / "drift" / "baseline.json", drift_baseline(inputs, outputs))
    return directory


def linear(models, directory):
    """Y = w x, explained from the means of its columns."""
    weights = np.linspace(-1, 1, WIDTH, dtype=np.float32)[:, None]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    shapes = {"shape": ("n", WIDTH), "out_shape": ("n", 1)}
    models.write_model(directory, [node], constants={"w": weights}, **shapes)
    return write_evidence(directory, "sample-mean", table(40), table(40) @ weights)


def rough(models, directory):
    """Y = sum of sin(1000 x): noise of 0.1 turns every term by many times a whole circle."""
    nodes = [
        helper.make_node("Mul", ["x", "thousand"], ["fast"]),
        helper.make_node("Sin", ["fast"], ["waves"]),
        helper.make_node("ReduceSum", ["waves", "axis"], ["y"], keepdims=1),
    ]
    constants = {"thousand": np.float32(1000), "axis": np.array([1], dtype=np.int64)}
    shapes = {"shape": ("n", WIDTH), "out_shape": ("n", 1)}
    models.write_model(directory, nodes, constants=constants, **shapes)
    return write_evidence(directory, "sample-mean", table(40), np.sin(table(40)))


def field(models, directory):
    """Y = 2 x on fields, explained from each field's own mean."""
    models.times(directory, 2, ("n", 1, 8, 8))
    rows = np.random.Generator(np.random.PCG64(3)).normal(size=(40, 1, 8, 8)).astype(np.float32)
    return write_evidence(directory, "patch-mean", rows, 2 * rows)


def model_of(directory):
    return OnnxModel(
        directory / "model.onnx", digest_file(directory / "model.onnx"), wants_gpu=False
    )


def stabilities(directory, rows):
    explain = load_explainer(directory, model_of(directory))
    return [explain({"x": rows[i : i + 1]}, i) for i in range(len(rows))]


# -- the measure -----------------------------------------------------------------------------------


def test_the_number_is_pearsons_correlation_of_what_leaving_each_block_out_does():
    row, noise = np.array([1.0, 2.0, 3.0]), np.array([0.5, -0.5, 0.0])
    found = compare_explanations(squares, row, np.zeros(3), noise)
    # x^2 without noise, and (x + e)^2 - e^2 with it.
    assert found == pytest.approx(np.corrcoef([1, 4, 9], [2, 2, 9])[0, 1])


@given(numbers, numbers, numbers, numbers)
def test_no_noise_changes_the_explanation_of_a_linear_model(weights, row, reference, noise):
    def answer(values):
        return float(weights @ values), 1e-9 * float(np.abs(weights * values).sum())

    found = compare_explanations(answer, row, reference, noise)
    assert found is None or found == pytest.approx(1.0, abs=1e-6)


def test_nothing_is_said_of_a_model_that_ignores_its_input_and_zero_where_only_one_side_speaks():
    row, zero = np.array([1.0, 2.0, 3.0]), np.zeros(3)
    assert compare_explanations(lambda _: (5.0, 1e-9), row, zero, row) is None
    for value in (np.nan, np.inf):
        broken = compare_explanations(lambda r, v=value: (v if r[0] else 1.0, 1e-9), row, zero, row)
        assert broken is None

    def awake_above_five(values):
        return (float(values[0] + 9 * values[2]) if values.sum() > 5 else 0.0), 1e-9

    assert compare_explanations(awake_above_five, row, row - 0.1, -row) == 0.0


def test_a_linear_model_is_stable_and_a_rough_one_is_not(models, tmp_path):
    rows = table(40, seed=2)
    assert stabilities(linear(models, tmp_path / "l"), rows) == pytest.approx([1.0] * 40, abs=1e-4)
    # Independent waves correlate by chance: 16 blocks, 40 rows, a standard error of 0.04.
    assert abs(np.mean(stabilities(rough(models, tmp_path / "r"), rows))) < 0.25


def test_a_field_is_explained_from_its_own_mean_and_a_flat_one_not_at_all(models, tmp_path):
    directory = field(models, tmp_path / "f")
    rows = np.random.Generator(np.random.PCG64(4)).normal(280, 5, size=(10, 1, 8, 8))
    rows = rows.astype(np.float32)
    assert min(stabilities(directory, rows)) > 0.9
    assert stabilities(directory, np.full_like(rows[:1], 280)) == [None]


@pytest.mark.parametrize("summary", [None, {"baseline": "zero"}, {"baseline": "sample-mean"}, []])
def test_a_release_that_does_not_say_from_what_is_not_explained(models, tmp_path, summary):
    directory = models.times(tmp_path / "v1", 2)
    if summary is not None:
        write_json(directory / "xai" / "summary.json", summary)
    assert load_explained(directory, model_of(directory), 1.0) is None


# -- now and then, beside the requests -------------------------------------------------------------


def test_one_row_at_a_time_is_taken_and_none_before_its_time():
    now, waiting, seeds = [0.0], [], []

    def explain(_, seed):
        seeds.append(seed)
        return 0.25

    explained = Explained(explain, 10.0, clock=lambda: now[0], submit=waiting.append)
    assert [explained.offer({}), explained.offer({})] == [(), ()]
    assert len(waiting) == 1  # the second came while the first was under way
    now[0] = 100.0
    waiting.pop()()
    assert explained.offer({}) == (750_000,)
    now[0] = 109.9
    assert (explained.offer({}), waiting) == ((), [])
    now[0] = 110.0
    explained.offer({})
    waiting.pop()()
    assert seeds == [0, 1]


def test_a_row_that_the_model_fails_on_is_one_without_an_explanation():
    def explain(_feeds, _seed):
        raise ValueError("38.5123 97.4432")

    explained = Explained(explain, 1.0, clock=lambda: 0.0, submit=lambda work: work())
    assert [explained.offer({}), explained.offer({})] == [(), (None,)]


def test_a_replica_gives_the_next_answer_what_it_found_and_explains_only_when_asked(
    models, tmp_path, monkeypatch
):
    from kfm_serving.cluster import _import_ray

    ray, _ = _import_ray()
    monkeypatch.setattr(ray, "get_gpu_ids", list)
    directory = linear(models, tmp_path / "v1")
    digest = digest_file(directory / "model.onnx")
    body = json.dumps({"inputs": table(1).tolist()}).encode()
    silent = Replica(str(directory), digest)
    replica = Replica(str(directory), digest, explain_interval_s=0.001)
    found = []

    def explained():
        assert silent.score(body, "application/json").explained == ()
        assert replica.score(b"{}", "application/json").explained == ()
        found.extend(replica.score(body, "application/json").explained)
        return len(found) >= 2

    eventually(explained)
    assert max(found) < 100


@pytest.mark.ray
def test_what_replicas_explain_shows_in_what_the_plane_observes(fleet, client, models):
    fleet.catch_up()
    release = fleet.release(43, lambda directory: rough(models, directory))
    fleet.plane.deploy(replace(release, explain_interval_s=0.001), timeout_s=60)
    fleet.split(43)
    body = json.dumps({"inputs": table(1).tolist()})

    def seen():
        assert client.score(body=body)[0] == 200
        return fleet.plane.observe().arms[43].explained_count >= 5

    eventually(seen)
    arms = fleet.plane.observe().arms
    fleet.split(1)
    fleet.plane.remove(43)
    assert (arms[43].unexplained_count, arms[1].explained_count) == (0, 0)
    assert arms[43].instability_ppm > 0.5e6 * arms[43].explained_count
    assert arms[43].worst_instability_ppm <= 2e6
