"""What is told about a freeze while it runs."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from registry.made_bundle import make_bundle

from kfm_mlflow.release.freeze import ArtifactArea, freeze
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.release.progress import Meter, Progress


@pytest.fixture
def mlflow_log(caplog, monkeypatch):
    # MLflow's logger does not propagate; its handler is what a server's operator reads.
    monkeypatch.setattr(logging.getLogger("mlflow"), "propagate", True)
    caplog.set_level(logging.INFO, "mlflow.kfm.freeze")
    return caplog


def test_a_meter_speaks_at_most_once_per_interval_and_at_the_end(mlflow_log):
    now_s = 0.0
    told: list[Progress] = []
    meter = Meter("sha256:ab", 100_000_000, told.append, every_s=5.0, clock=lambda: now_s)
    meter.begin("copying")
    for _ in range(100):
        now_s += 0.25
        meter.add(1_000_000)
    meter.end()
    assert [p.done_bytes // 1_000_000 for p in told] == [20, 40, 60, 80, 100, 100]
    assert {p.total_bytes for p in told} == {100_000_000}
    assert [p.bytes_per_s for p in told] == [4_000_000] * 6
    assert mlflow_log.messages[0] == "sha256:ab: copying 20.0 MB of 100.0 MB, 4.0 MB/s"
    assert len(mlflow_log.messages) == 6


def test_a_freeze_tells_of_every_byte_copied_and_read_back(tmp_path, mlflow_log):
    bundle = make_bundle(tmp_path / "source", large_bytes=2**20)
    manifest, told = build_manifest(bundle.release_dir), []
    area = ArtifactArea(str(tmp_path / "artifacts"), proxied=True)
    freeze(bundle, manifest, area, told.append)
    freeze(bundle, manifest, area, told.append)
    assert [p.phase for p in told] == ["copying", "reading back", "reading back"]
    assert {p.done_bytes for p in told} == {manifest.size_bytes}
    assert len(mlflow_log.messages) == 3


def test_memory_does_not_grow_with_the_size_of_a_release(tmp_path):
    size_bytes = 300 * 2**20
    bundle = make_bundle(tmp_path / "source")
    with (bundle.release_dir / "model.pt").open("wb") as sparse:
        sparse.truncate(size_bytes)
    script = (
        "import sys; from pathlib import Path\n"
        "from kfm_mlflow.release.bundle import bundle_at\n"
        "from kfm_mlflow.release.freeze import ArtifactArea, freeze\n"
        "from kfm_mlflow.release.manifest import build_manifest\n"
        "bundle = bundle_at(Path(sys.argv[1])); manifest = build_manifest(bundle.release_dir)\n"
        "freeze(bundle, manifest, ArtifactArea(sys.argv[2], True))\n"
        # Not ru_maxrss, which a child inherits from its parent.
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, bundle.release_dir, tmp_path / "artifacts"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert int(done.stdout) * 1024 < size_bytes / 2
