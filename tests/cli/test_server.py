"""``kfm server`` when it may not start: one line, exit 2, and nothing left behind."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from registry.server import environment


@pytest.fixture
def taken_port():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_a_port_in_use_is_one_line_and_makes_no_folder(tmp_path, taken_port):
    done = subprocess.run(
        [sys.executable, "-m", "kfm_mlflow.cli", "server", "--port", str(taken_port)],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"kfm: --port: port {taken_port} on 127.0.0.1 cannot be used")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--registry-store-uri", "sqlite:///x.db"), "is not governed"),
        (("--policy-dir", "no-such-folder"), "no such folder"),
        (("--host", "no.such.host.invalid"), "cannot be used"),
    ],
)
def test_a_server_that_would_not_be_governed_is_not_started(
    kfm, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = kfm("server", "--port", port, *arguments)
    done.fails_in_one_line(2, words)
    assert list(tmp_path.iterdir()) == []


def test_a_policy_with_an_unknown_field_stops_the_start_and_leaves_nothing(
    kfm, tmp_path, monkeypatch
):
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "x.yaml").write_text("extends: climate\nwrong: 1\n")
    monkeypatch.chdir(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = kfm("server", "--port", port, "--policy-dir", policies)
    done.fails_in_one_line(2, "x.yaml: wrong")
    assert [path.name for path in tmp_path.iterdir()] == ["policies"]


@pytest.mark.parametrize("port", ["0", "-1", "65536", "http"])
def test_a_number_that_is_no_port_is_wrong_usage(kfm, tmp_path, monkeypatch, port):
    monkeypatch.chdir(tmp_path)
    done = kfm("server", f"--port={port}")
    assert done.code == 2
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []
