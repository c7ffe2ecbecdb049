"""Energy and carbon: what is recorded adds up, says where it comes from, and stays quiet."""

from __future__ import annotations

import threading
import time

import pytest

from kfm_mlflow.errors import InputError
from kfm_mlflow.metadata.schemas import load_schema, schema_problems
from kfm_mlflow.monitor.energy import grid_intensity, measure_energy


def _work(duration_s: float) -> None:
    end = time.perf_counter() + duration_s
    while time.perf_counter() < end:
        sum(range(1000))


@pytest.fixture(scope="module")
def measured():
    with measure_energy(pue=1.2) as running:
        _work(0.3)
    return running.report


def test_parts_add_up_and_carbon_follows_the_recorded_factor(measured):
    parts = measured.cpu_wh + measured.gpu_wh + measured.ram_wh
    assert measured.energy_wh == pytest.approx(parts, rel=1e-12)
    grams = measured.energy_wh / 1000 * measured.intensity_g_per_kwh
    assert measured.carbon_gco2e == pytest.approx(grams, rel=1e-12)
    assert measured.energy_wh > 0
    assert measured.duration_s >= 0.3


def test_kansas_factor_is_that_of_the_epa_table():
    # EPA eGRID rate for Kansas, as CodeCarbon ships it: 733.284 lb/MWh; 1 lb = 453.59237 g.
    grams, source = grid_intensity("USA", "kansas")
    assert grams == pytest.approx(733.284 * 453.59237 / 1000, rel=1e-4)
    assert "codecarbon" in source
    assert "regional" in source


def test_report_names_region_tool_hardware_and_method(measured):
    assert measured.region == "USA/kansas"
    assert measured.tool_name == "codecarbon"
    assert measured.method in {"estimated", "measured"}
    assert measured.cpu_model
    assert measured.ram_gb > 0
    assert measured.pue == 1.2


def test_json_form_satisfies_the_energy_part_of_the_telemetry_schema(measured):
    added = {"metrics": {}, "otel": {"trace_id": None, "span_name": "train", "latency_ms": 1.0}}
    document = {**measured.to_dict(), **added}
    assert set(load_schema("telemetry-training")["required"]) <= set(document)
    assert schema_problems("telemetry-training", document) == []


def test_given_intensity_is_used_and_said_to_be_given():
    with measure_energy(intensity_g_per_kwh=50.0) as running:
        pass
    report = running.report
    assert report.intensity_g_per_kwh == 50.0
    assert report.intensity_source == "given by the caller"
    assert report.carbon_gco2e == pytest.approx(report.energy_wh * 0.05)


def test_report_is_there_after_an_error_and_the_error_goes_on():
    with pytest.raises(RuntimeError, match="training"), measure_energy() as running:
        raise RuntimeError("training failed")
    assert running.report.duration_s > 0


def test_report_before_the_end_is_refused():
    with measure_energy() as running, pytest.raises(InputError, match="has not ended"):
        _ = running.report


def test_blocks_may_be_nested_and_run_in_threads(capfd, caplog):
    reports = []

    def run() -> None:
        with measure_energy() as running:
            _work(0.1)
        reports.append(running.report)

    threads = [threading.Thread(target=run) for _ in range(2)]
    with measure_energy() as outer:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(reports) == 2
    assert all(outer.report.duration_s > report.duration_s > 0 for report in reports)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
    assert not caplog.records


def test_nothing_is_left_on_disk_or_running(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(threading.enumerate())
    with measure_energy():
        pass
    assert not list(tmp_path.iterdir())
    started = set(threading.enumerate()) - before
    for thread in started:  # a cancelled timer may still be on its way out
        thread.join(timeout=5)
    assert not [thread for thread in started if thread.is_alive()]


def test_configuration_of_the_user_can_not_send_numbers_anywhere(monkeypatch, measured):
    monkeypatch.setenv("CODECARBON_EMISSIONS_ENDPOINT", "http://127.0.0.1:9/")
    monkeypatch.setenv("CODECARBON_OUTPUT_METHODS", "csv,api")
    monkeypatch.setenv("CODECARBON_ELECTRICITYMAPS_API_TOKEN", "token")
    with measure_energy() as running:
        pass
    assert running.report.intensity_g_per_kwh == measured.intensity_g_per_kwh


@pytest.mark.parametrize(
    "options",
    [
        {"country_iso_code": "XXX", "region": None},
        {"region": "atlantis"},
        {"country_iso_code": "DEU", "region": "bavaria"},
        {"pue": 0.9},
        {"interval_s": 0},
        {"intensity_g_per_kwh": -1},
    ],
)
def test_what_has_no_factor_is_refused_before_the_block_runs(options):
    with pytest.raises(InputError), measure_energy(**options):
        pytest.fail("the block ran")


def test_country_mean_is_taken_when_no_region_is_given():
    grams, source = grid_intensity("deu", None)
    assert 100 < grams < 1000
    assert "national" in source
