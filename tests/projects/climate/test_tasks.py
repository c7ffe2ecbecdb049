"""Four climate tasks on generated data: each learns what its peers do not, the same way twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stac_model.base import TaskEnum

import task as tasks
from kfm_mlflow.authoring.export import save_state
from kfm_mlflow.errors import DataError
from restore import load_torch

PEERS = {
    "anomaly": ("skill_vs_zscore",),
    "drivers": ("skill_vs_climatology", "skill_vs_persistence"),
    "hazard": ("skill_vs_climatology", "skill_vs_statewide"),
    "hydrology": ("skill_vs_linear",),
}


def predict_with(model):
    def predict(rows):
        with torch.no_grad():
            return model(torch.from_numpy(rows)).numpy()

    return predict


def prepare(name, data="generated", **options):
    return tasks.prepare(name, data, size="small", seed=42, **options)


@pytest.fixture(scope="module")
def trained():
    """Task -> (prepared, trained), each trained once."""
    made = {}

    def get(task):
        if task not in made:
            prepared = prepare(task)
            made[task] = prepared, prepared.train()
        return made[task]

    return get


@pytest.mark.parametrize("task", sorted(PEERS))
def test_task_beats_its_peers_on_what_it_has_not_seen(task, trained):
    prepared, made = trained(task)
    found = prepared.evaluate(predict_with(made.model))
    assert {name: found[name] > 0 for name in PEERS[task]} == dict.fromkeys(PEERS[task], True)
    assert all(np.isfinite(list(found.values())))
    assert prepared.headline(found)


@pytest.mark.parametrize("task", ["drivers", "hazard", "anomaly"])
def test_training_twice_gives_the_same_weights_bit_by_bit(task, trained):
    _, first = trained(task)
    second = prepare(task).train()
    theirs = second.model.state_dict()
    assert first.history == second.history
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("task", sorted(PEERS))
def test_data_are_the_same_every_time(task):
    assert prepare(task).source == prepare(task).source


@pytest.mark.parametrize("task", sorted(PEERS))
def test_module_is_read_back_from_the_file_of_its_release(task, trained, tmp_path):
    _, made = trained(task)
    save_state(made.model, made.config, tmp_path / "model.pt")
    again = load_torch(tmp_path / "model.pt", task)
    rows = torch.from_numpy(prepare(task).baseline_rows[:4])
    assert torch.equal(again(rows), made.model(rows))


@pytest.mark.parametrize("task", sorted(PEERS))
def test_answer_that_is_not_finite_never_looks_good(task, trained):
    prepared, made = trained(task)
    sound = predict_with(made.model)

    def broken(rows):
        answer = sound(rows).copy()
        answer[::3] = np.nan
        return answer

    found = prepared.evaluate(broken)
    assert not any(found[name] > 0 for name in PEERS[task])


@pytest.mark.parametrize("task", sorted(PEERS))
def test_prediction_of_another_shape_is_refused(task):
    with pytest.raises(ValueError, match="the prediction is"):
        prepare(task).evaluate(lambda rows: np.zeros((len(rows), 7), np.float32))


def test_hydrology_says_that_it_reads_no_file():
    with pytest.raises(DataError, match="reads no file"):
        prepare("hydrology", data="era.nc")


def test_no_held_out_day_reaches_the_eofs():
    from drivers.model import DriverNetwork
    from drivers.task import _generated

    case = _generated()
    shape = tuple(case.learned.rows.shape[1:])
    model = DriverNetwork(shape=shape, eof_count=6)
    model.learn_eofs(case.learned.rows, case.learned.truth.astype(np.float32))
    values = case.learned.rows.astype(np.float64)
    values -= values.mean(axis=0)
    values /= values.std(axis=(0, 2, 3))[:, None, None]
    _, _, vectors = np.linalg.svd(values.reshape(len(values), -1), full_matrices=False)
    overlap = np.abs(vectors[:6] @ model.eofs.numpy().astype(np.float64))
    assert np.allclose(overlap, np.eye(6), atol=1e-4)


def test_water_of_the_made_up_world_is_neither_made_nor_lost():
    from hydrology.world import generate_water_years

    years = generate_water_years()
    change = np.diff(years.storage_mm, axis=1)
    left = (years.precipitation_mm - years.runoff_mm - years.et_mm)[:, 1:] - change
    assert np.abs(left).max() < 1e-9
    assert years.soil_mm.min() >= 0.0
    assert years.soil_mm.max() <= 160.0 + 1e-9


def test_water_balance_of_the_bucket_network_closes_on_any_weather(trained):
    _, made = trained("hydrology")
    rng = np.random.default_rng(7)
    rows = np.stack(
        [rng.gamma(0.4, 20.0, (64, 60)), rng.normal(5.0, 15.0, (64, 60))], axis=2
    ).astype(np.float32)
    said = predict_with(made.model)(rows).astype(np.float64)
    gained = said[:, -1, 3] - said[:, 0, 3]
    falls = rows[:, 31:, 0].sum(axis=1)
    spent = (said[:, 1:, 1] + said[:, 1:, 2]).sum(axis=1)
    assert np.abs(falls - spent - gained).max() < 0.01 * falls.mean()
    assert said[..., :3].min() >= 0.0


def test_average_precision_is_that_of_scikit_learn():
    from sklearn.metrics import average_precision_score

    from anomaly.task import average_precision

    rng = np.random.default_rng(3)
    for _ in range(20):
        score = rng.integers(0, 12, 60).astype(float)  # with ties
        marked = rng.random(60) < 0.3
        assert average_precision(score, marked) == pytest.approx(
            average_precision_score(marked, score)
        )


def test_anomalies_are_weaker_than_ordinary_weather_and_hide_from_cell_by_cell_scores(trained):
    prepared, made = trained("anomaly")
    found = prepared.evaluate(predict_with(made.model))
    assert found["average_precision_zscore"] < 0.2


def test_scores_of_anomalies_are_explained_alike_under_noise_in_release_and_validation(trained):
    from explanation import contents_of
    from kfm_mlflow.monitor.attribution import integrated_gradients_summary

    prepared, made = trained("anomaly")
    summary = contents_of(prepared, made.model, seed=42).documents["xai/summary.json"]
    again = integrated_gradients_summary(
        made.model, prepared.explained.held[:16], seed=47, baseline=prepared.explained_from
    )
    assert summary["notes"][-1] == "Explained: fields with an anomaly put in."
    for explained in (summary, again):
        assert explained["stability"]["min_correlation"] >= 0.8  # the limit of gate xai
        assert explained["convergence_delta"] <= 0.05


def test_fields_that_are_explained_are_not_what_was_learned_from():
    prepared = prepare("anomaly")
    known = {row.tobytes() for row in prepared.baseline_rows}
    assert not any(row.tobytes() in known for row in prepared.explained.learned)
    held = {row.tobytes() for row in prepared.validation_rows}
    assert all(row.tobytes() in held for row in prepared.explained.held)


def test_what_one_cell_says_against_its_neighbours_counts_less_than_what_they_share():
    from anomaly.model import Reconstruction

    rows = np.zeros((2, 3, 12, 20), np.float32)
    rows[0, 0, 5, 8:10] = 1.0
    rows[1, 0, 5, 8], rows[1, 0, 5, 9] = 1.0, -1.0
    plain, smooth = (
        Reconstruction(shape=(12, 20), smoothing_cells=cells).eval() for cells in (0.0, 0.5)
    )
    for model in (plain, smooth):
        for layer in (model.squeeze, model.spread_out):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        torch.nn.init.zeros_(model.bend[2].weight)
    alike, torn = predict_with(plain)(rows)[:, 0]
    assert alike == torn == pytest.approx(2.0 / 240.0)
    alike, torn = predict_with(smooth)(rows)[:, 0]
    assert torn < 0.8 * alike


def test_hazard_comes_near_the_probability_that_the_days_were_drawn_from(trained):
    from hazard.world import true_probability

    prepared, made = trained("hazard")
    rows = prepared.baseline_rows
    said = predict_with(made.model)(rows)[:, 0]
    truth = np.array([true_probability(*map(float, row[:2]), int(row[2])) for row in rows])
    assert np.corrcoef(said, truth)[0, 1] > 0.95
    assert said.sum() == pytest.approx(truth.sum(), rel=0.15)


def test_brier_score_from_counts_is_the_mean_over_days():
    from datetime import date

    from hazard.records import count_days
    from hazard.task import cell_months, evaluate

    cell = "842658bffffffff"
    days = count_days(
        {(cell, date(2000, 5, 1)), (cell, date(2001, 5, 3)), (cell, date(2001, 5, 9))},
        name="three",
        digest="sha256:" + "0" * 64,
    )
    rows = cell_months(days)
    at = days.cells.index(cell) * 12 + 4
    said = np.full((len(rows), 1), 0.01)
    said[at] = 0.25
    found = evaluate(lambda _: said, days)
    outcome = np.zeros((len(days.cells), 365))
    chance = np.full((len(days.cells), 365), 0.01)
    outcome[days.cells.index(cell), [122, 128]] = 1  # 3 and 9 May
    chance[days.cells.index(cell), 120:151] = 0.25
    assert found["brier"] == pytest.approx(np.square(chance - outcome).mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"slat": "75"}, "row 3, columns yr, slat, slon"),
        ({"mo": "13"}, "row 3, columns yr, mo, dy"),
        ({"slon": "west"}, "row 3, column slon"),
        ({"yr": "nan"}, "row 3"),
    ],
)
def test_bad_tornado_row_is_named(tmp_path, change, said):
    from hazard.records import load_tornadoes

    good = {"yr": "1950", "mo": "4", "dy": "28", "slat": "38.1", "slon": "-95.8"}
    path = tmp_path / "days.csv"
    lines = [",".join(good), ",".join(good.values()), ",".join((good | change).values())]
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        load_tornadoes(path)
    assert said in str(caught.value)


def test_table_without_places_is_refused(tmp_path):
    from hazard.records import load_tornadoes

    path = tmp_path / "days.csv"
    path.write_text("yr,mo,dy\n1950,4,28\n")
    with pytest.raises(DataError, match="has no column slat, slon"):
        load_tornadoes(path)


@pytest.mark.parametrize(
    ("task", "caught_by"),
    [
        ("drivers", {"skill", "nrmse", "correlation", "nbias_p95"}),
        ("anomaly", {"average_precision", "skill_vs_zscore"}),
        ("hydrology", {"skill_vs_linear", "nrmse", "runoff_ratio_shift", "correlation"}),
        ("hazard", {"skill_vs_climatology", "correlation"}),
    ],
)
def test_honest_release_passes_its_limits_and_shuffled_targets_fail_them(
    task, caught_by, trained, refused
):
    prepared, honest = trained(task)
    assert refused(task, prepared.evaluate(predict_with(honest.model))) == set()
    shuffled = prepare(task, shuffled_ratio=1.0).train()
    assert caught_by <= refused(task, prepared.evaluate(predict_with(shuffled.model)))


@pytest.mark.parametrize("task", tasks.TASKS)
def test_what_a_task_does_is_said_in_words_that_mlm_knows(task):
    assert prepare(task).mlm_task in {word.value for word in TaskEnum}


def test_a_task_that_does_not_exist_is_refused():
    with pytest.raises(Exception, match="is no task"):
        prepare("weather")
