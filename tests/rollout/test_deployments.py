"""``mlflow.deployments`` without a registry: targets, options, scoring, descriptions, one release.

The verbs against a governed registry are in ``tests/registry/test_deployments.py``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from rollout.scorer import refused, scoring
from rollout.simulated_plane import FakePlane
from rollout.simulated_registry import Fuse

from kfm_mlflow.errors import InputError
from kfm_mlflow.rollout import deployments_local as local
from kfm_mlflow.rollout.deployments_asked import read_config, server_of
from kfm_mlflow.rollout.deployments_described import describe
from kfm_mlflow.rollout.deployments_endpoints import find_url
from kfm_mlflow.rollout.deployments_errors import tells
from kfm_mlflow.rollout.deployments_scoring import score, write_body
from kfm_mlflow.rollout.plane import Deployable

FIELDS = [[[1.0, 2.0], [3.0, 4.0]]]
HERE = "http://127.0.0.1:5000"


def test_importing_mlflow_and_its_command_line_loads_nothing_of_ours():
    program = (
        "import sys, mlflow, mlflow.deployments.cli as cli\n"
        "assert 'kfm' in cli.installed_targets, cli.installed_targets\n"
        "print([name for name in sys.modules if name.startswith('kfm_')])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("target", "server"),
    [
        ("kfm", HERE),
        ("kfm:", HERE),
        ("kfm:/", HERE),
        ("kfm:/https://registry.example.org/", "https://registry.example.org"),
        ("kfm+http://10.0.0.7:5000", "http://10.0.0.7:5000"),
        ("kfm+https://registry.example.org/mlflow", "https://registry.example.org/mlflow"),
    ],
)
def test_a_target_names_a_server_or_means_the_one_of_mlflow(target, server):
    assert server_of(target, HERE) == server


@pytest.mark.parametrize(
    ("target", "tracking"),
    [
        ("kfm", "sqlite:///mlflow.db"),
        ("kfm://host:5000", HERE),
        ("kfm:/host:5000", HERE),
        ("kfm+ftp://host", HERE),
        ("kfm+http://", HERE),
        ("kfm+http://ann:secret@host", HERE),
        ("kfm:/http://host:0", HERE),
        ("kfm:/http://host/?a=b", HERE),
        ("kfm:/http://[::1", HERE),
    ],
)
def test_a_target_without_a_server_is_refused(target, tracking):
    with pytest.raises(InputError, match="is no HTTP address; set MLFLOW_TRACKING_URI"):
        server_of(target, tracking)


def test_an_unknown_option_is_named_with_those_that_there_are():
    with pytest.raises(InputError, match=r"'weight' is no option here; use reason, version;"):
        read_config({"weight": 10, "reason": "because"}, "reason", "version")
    assert read_config({"version": 3}, "version") == {"version": "3"}
    assert read_config(None, "version") == {}


def test_what_the_user_says_comes_before_what_the_registry_remembers():
    assert find_url("m", "http://mine:1/", "http://theirs:2") == "http://mine:1"
    assert find_url("m", None, "http://theirs:2") == "http://theirs:2"
    assert find_url("m", "", "http://theirs:2/a/") == "http://theirs:2/a"
    for said, written in ((None, None), ("file:///etc", None), (None, "javascript:alert(1)")):
        with pytest.raises(InputError, match="endpoint m"):
            find_url("m", said, written)


# -- scoring ---------------------------------------------------------------------------------------


@pytest.fixture
def scorer():
    with scoring() as server:
        yield server


@tells
def predict(url, inputs):
    return score("tiny", url, inputs)


@pytest.mark.parametrize(
    ("inputs", "body"),
    [
        (np.array([[1.5, 2.0]]), '{"inputs": [[1.5, 2.0]]}'),
        ([[1.5]], '{"inputs": [[1.5]]}'),
        ({"x": np.array([1.5], dtype="float32")}, '{"inputs": {"x": [1.5]}}'),
        ({"instances": [{"x": np.float64(1.5)}]}, '{"instances": [{"x": 1.5}]}'),
        (
            pd.DataFrame({"a": [1.5]}),
            '{"dataframe_split": {"index": [0], "columns": ["a"], "data": [[1.5]]}}',
        ),
        ('{"inputs": [1]}', '{"inputs": [1]}'),
    ],
)
def test_inputs_are_written_in_mlflows_protocol(inputs, body):
    assert write_body(inputs) == body


@pytest.mark.parametrize(
    "case",
    [
        ((451, b'{"message": "the place is withheld"}'), "PERMISSION_DENIED", "is withheld"),
        ((503, b'{"message": "no stable release"}'), "TEMPORARILY_UNAVAILABLE", "no stable"),
        ((400, b'{"message": "NaN"}'), "BAD_REQUEST", "HTTP 400: NaN"),
        ((302, b""), "INTERNAL_ERROR", "HTTP 302: this is no model of ours"),
        ((200, b"[]"), "INTERNAL_ERROR", "'predictions' field"),
    ],
)
def test_what_a_router_refuses_is_told_with_its_own_sentence(scorer, case):
    scorer.answer, code, words = case
    with refused(code, words):
        predict(scorer.url, FIELDS)
    assert len(scorer.seen) == 1


def test_nobody_there_and_nothing_to_send_are_told(scorer):
    with refused("TEMPORARILY_UNAVAILABLE", "nobody answers", "kfm rollout run tiny"):
        predict("http://127.0.0.1:9", FIELDS)
    for inputs in (None, {"x": object()}):
        with refused("INVALID_PARAMETER_VALUE", "inputs: "):
            predict(scorer.url, inputs)
    assert scorer.seen == []


# -- what is shown ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "shares"),
    [
        ({"stable": 1, "canary": 2, "ratio": 0.25}, (0.75, 0.25)),
        ({"stable": 1, "canary": None, "ratio": 0.0}, (1.0, 0.0)),
        ({"stable": None, "canary": None, "ratio": 0.0}, (0.0, 0.0)),
    ],
)
def test_shares_are_those_that_the_routers_were_last_told(split, shares):
    model = {"production": 1, "canary": 2, "family": "climate"}
    version = {"release": {"version": "v1", "id": "sha256:1"}}
    journal = {
        "split": split,
        "phase": "Canary",
        "entered_at": "2026-01-01T00:00:00Z",
        "candidate": 2,
        "analysis": {"verdict": "PASS"},
        "reason": "",
    }
    found = describe("m", model, {1: version, 2: version}, journal, None)
    assert (found["production"]["share_ratio"], found["canary"]["share_ratio"]) == shares
    assert (found["phase"], found["verdict"]) == ("Canary", "PASS")
    alone = describe("m", {**model, "canary": None}, {1: {"release": None}}, None, "http://h")
    assert (alone["canary"], alone["phase"]) == (None, None)
    assert alone["production"]["release_id"] is None


# -- one release here ------------------------------------------------------------------------------


def test_run_local_gives_one_release_every_request_until_a_signal(monkeypatch, tmp_path):
    plane = FakePlane(Fuse(), SimpleNamespace(corrupt=set(), fetched={3}))
    opened = []

    @contextmanager
    def opener(model_name, **options):
        opened.append((model_name, options))
        plane.url = "http://127.0.0.1:8123"
        yield plane

    def say_and_stop(text):
        said.append(text)
        os.kill(os.getpid(), signal.SIGTERM)  # once the handlers are there

    said = []
    monkeypatch.setattr(local, "load_plane", lambda _name, **_: opener)
    monkeypatch.setattr("click.echo", say_and_stop)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    options = {"port": "8123", "gpu_share": "0.5"}
    try:
        local.serve_release(
            Deployable("tiny", 3, "sha256:3", tmp_path), options, local.wait_for_signal
        )
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert opened == [("tiny", {"host": "127.0.0.1", "port": 8123, "gpu_share": 0.5})]
    assert (plane.split.stable, plane.split.canary) == (3, None)
    assert "serving at http://127.0.0.1:8123" in said[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"plane": "fastest"}, "there is no traffic plane 'fastest'"),
        ({"port": "80000"}, "'80000' is no port"),
        ({"port": "1.5"}, "'1.5' is no port"),
        ({"gpu_share": "all"}, "'all' is no gpu_share"),
        ({"gpu_share": "nan"}, "'nan' is no gpu_share"),
        ({"gpu_share": "2"}, "'2' is no gpu_share"),
    ],
)
def test_options_of_run_local_that_make_no_sense_are_named(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        local.serve_release(Deployable("tiny", 3, "sha256:3", tmp_path), options, print)
