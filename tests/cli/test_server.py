"""``kfm server`` when it may not start: one line, exit 2, and nothing left behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
from conftest import free_port
from registry.server import environment

from kfm_mlflow.cli.server import _is_open


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
        (("--artifacts-destination", "ftp://example.org/x"), "neither a folder nor s3"),
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


class _StartedError(Exception):
    """What replaces this process in `kfm server`, caught before it does."""


@pytest.fixture
def start(tmp_path, monkeypatch, capsys):
    """Return a function that runs `kfm server` up to the start of MLflow's own."""
    from kfm_mlflow.cli.main import cli

    def execv(_: str, arguments: list[str]) -> None:
        raise _StartedError(arguments)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execv", execv)

    def run(*arguments: str, **environ: str) -> tuple[list[str], dict[str, str], str]:
        seen = {**os.environ, **environ}
        given = ["server", "--port", str(free_port()), *arguments]
        with monkeypatch.context() as patch:
            patch.setattr(os, "environ", seen)
            with pytest.raises(_StartedError) as started:
                cli.main(args=given, standalone_mode=False)
        return started.value.args[0], seen, capsys.readouterr().err

    return run


def test_logins_and_warnings_are_off_on_this_machine_alone(start):
    arguments, seen, told = start()
    assert arguments[arguments.index("--app-name") + 1] == "kfm"
    assert "WARNING" not in told
    assert seen["UVICORN_PROXY_HEADERS"] == "false"
    assert "MLFLOW_AUTH_CONFIG_PATH" not in seen


def test_a_server_that_others_reach_and_nobody_logs_in_to_is_warned_of(start):
    _, _, told = start("--host", "0.0.0.0")
    assert "WARNING: other machines can reach 0.0.0.0" in told
    assert "--app-name kfm-auth" in told


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("127.0.0.1", False),
        ("127.0.0.9", False),
        ("::1", False),
        ("localhost", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.0.2.1", True),
        ("no.such.host.invalid", True),
    ],
)
def test_only_loopback_hosts_are_out_of_others_reach(host, reached):
    assert _is_open(host, 5000) is reached


def test_who_trusts_a_proxy_says_so(start):
    assert start(UVICORN_PROXY_HEADERS="true")[1]["UVICORN_PROXY_HEADERS"] == "true"


def test_an_application_without_our_guard_is_wrong_usage(kfm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = kfm("server", "--app-name", "basic-auth")
    assert done.code == 2
    assert list(tmp_path.iterdir()) == []


def test_help_says_what_kfm_auth_does(kfm):
    told = " ".join(kfm("server", "--help").out.split())
    for words in ("everybody logs in", "access.roles", "MLFLOW_AUTH_ADMIN_PASSWORD"):
        assert words in told


_PREPARE = """
import json, os, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from kfm_mlflow.errors import InputError
from kfm_mlflow.registry.logins import prepare_logins

def users():
    from mlflow.server import auth
    return [[user.username, user.is_admin] for user in auth.store.list_users()]

def start(folder, environ):
    # A process reads these once, at import; here several starts share one.
    os.environ.pop("MLFLOW_AUTH_ADMIN_PASSWORD", None)
    os.environ.update(environ)
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(folder / "basic_auth.ini")
    if "mlflow.server.auth" in sys.modules:
        from mlflow.server import auth
        from mlflow.server.auth.config import read_auth_config
        prepare_config(folder)
        auth.auth_config = read_auth_config()
    try:
        told = prepare_logins(folder, environ)
    except InputError as exc:
        told = [f"refused: {exc}"]
    return {"told": told, "environ": environ, "users": users()}

def prepare_config(folder):
    from kfm_mlflow.registry.logins import _config
    _config(folder)

root, found = Path(sys.argv[1]), {}
for name, environ in json.loads(sys.argv[2]).items():
    (root / name).mkdir()
    found[name] = [start(root / name, dict(environ)) for _ in range(2)]
print(json.dumps(found))
"""
_STARTS = {
    "100% none": {},
    "given": {"MLFLOW_AUTH_ADMIN_PASSWORD": "a password of my own"},
    "empty": {"MLFLOW_AUTH_ADMIN_PASSWORD": ""},
    "old": {"MLFLOW_AUTH_ADMIN_PASSWORD": "password1234"},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return what two starts of a server with logins found and made, for each of _STARTS."""
    folder = tmp_path_factory.mktemp("prepared")
    done = subprocess.run(
        [sys.executable, "-c", _PREPARE, str(folder), json.dumps(_STARTS)],
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_the_administrator_is_made_once_and_every_start_has_the_same_keys(prepared):
    folder, (first, second) = prepared[0] / "100% none", prepared[1]["100% none"]
    assert len(first["told"]) == 1
    assert "made the administrator admin with the password" in first["told"][0]
    assert second["told"] == []
    assert first["users"] == second["users"] == [["admin", True]]
    for key in ("MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_AUTH_CONFIG_PATH"):
        assert first["environ"][key] == second["environ"][key]
    files = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert files == {"basic_auth.ini": 0o600, "users.db": 0o600, "session.key": 0o600}


def test_a_given_password_is_taken_and_not_passed_on(prepared):
    for start in prepared[1]["given"]:
        assert start["told"] == []
        assert start["users"] == [["admin", True]]
        assert "a password of my own" not in json.dumps(start)


@pytest.mark.parametrize("name", ["empty", "old"])
def test_no_password_and_mlflows_old_default_make_no_administrator(prepared, name):
    for start in prepared[1][name]:
        assert start["told"][0].startswith("refused: --app-name kfm-auth: ")
        assert start["users"] == []
