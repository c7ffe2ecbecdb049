import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.ray
@pytest.mark.timeout(1500)  # two minutes on quiet cores
def test_one_release_goes_from_training_to_production_and_a_worse_one_back(plain_environ) -> None:
    claims = run_demo(plain_environ, "--size", "small")
    for claim in (
        "Production is refused to a candidate",
        "v1 passes its gates into Staging",
        "v1 as canary answers 10 % of the keys",
        "the canary's page shows phase, share and every metric",
        "three of four votes make v1 Production",
        "v1 answers 100 %",
        "the registry is back at v1",
        "traffic is back at v1",
        "no request failed since v1 is Production",
        "the verdict has numbers",
        "the page tells of the rollback and links its reports",
        "kfm rollout status says the same",
        "trained again from its commit, v1 is the same release",
    ):
        assert any(line.startswith(f"  ok: {claim}") for line in claims), claim


def run_demo(plain_environ, *options: str) -> list[str]:
    """Run a demo to its end, in which every row holds and nothing is left; return its rows."""
    before = demo_processes()
    done = subprocess.run(
        [sys.executable, ROOT / "projects" / "demo" / "demo.py", *options],
        env={**plain_environ, "COLUMNS": "200", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "NOT SO" not in done.stdout
    assert demo_processes() - before == set()
    return [line for line in done.stdout.splitlines() if line.startswith("  ok: ")]


def demo_processes():
    """Return the processes that work below a demo's folder."""
    return {
        process
        for process in psutil.process_iter(["cmdline"])
        if any("kfm-demo-" in part for part in process.info["cmdline"] or ())
    }


def test_data_without_coordinates_stops_the_demo_before_anything_is_started(tmp_path) -> None:
    import numpy as np
    import xarray as xr

    path = tmp_path / "bare.nc"
    xr.Dataset({"t": (("y", "x"), np.zeros((64, 128), "float32"))}).to_netcdf(
        path, engine="h5netcdf"
    )
    done = subprocess.run(
        [sys.executable, ROOT / "projects" / "demo" / "demo.py", "--data", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("kfm: ")
    assert "bare.nc" in done.stderr
    assert "latitude" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.ray
@pytest.mark.timeout(1500)  # four minutes on quiet cores
def test_a_fleet_takes_two_releases_stops_a_bad_one_and_goes_back(plain_environ) -> None:
    claims = run_demo(plain_environ, "--family", "fleet")
    for claim in (
        "what is below a gate is rejected, with each gate's value",
        "Staging is refused to v1 without votes",
        "the first batch of v1 is one agent per specialty, and healthy",
        "every agent serves v1, and the registry says so",
        "every agent serves v2, and the registry says so",
        "v3 is stopped after its first batch",
        "every agent is back at v2, registry and tasks together",
        "three reports are written",
        "rollback puts every agent from v2 to v1",
        "kfm fleet status shows agents and fleet",
        "no task failed during two rolls and two ways back",
    ):
        assert any(line.startswith(f"  ok: {claim}") for line in claims), claim
