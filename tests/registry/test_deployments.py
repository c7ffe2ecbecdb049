"""``mlflow.deployments`` and ``mlflow deployments`` with target ``kfm``: every verb, over real HTTP.

Registry, API, remote client and controller are the real ones; what answers requests is a server
that speaks MLflow's scoring protocol as the router does.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow.deployments import get_deploy_client
from mlflow.deployments.cli import commands
from mlflow.exceptions import MlflowException
from mlflow.server import handlers
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from registry.loopback import listening
from registry.world import NAME, SERVES, digest_of
from rollout.scorer import refused, scoring
from rollout.simulated_plane import FakePlane
from rollout.simulated_registry import Fuse
from rollout.simulator import build_plan

from kfm_mlflow.canonical import load_json
from kfm_mlflow.rollout.controller import Controller
from kfm_mlflow.rollout.ports import SystemClock
from kfm_mlflow.rollout.remote import RemoteRegistry

FIELDS = [[[1.0, 2.0], [3.0, 4.0]]]


@pytest.fixture(autouse=True)
def _plain(monkeypatch, tmp_path):
    for name in ("MLFLOW_TRACKING_URI", "KFM_ENDPOINT", "MLFLOW_DEPLOYMENTS_TARGET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


def behind_http(registry, monkeypatch):
    registry.now = datetime.now(UTC)
    monkeypatch.setenv(SERVES, "true")
    monkeypatch.setattr(handlers, "_artifact_repo", LocalArtifactRepository(str(registry.area)))
    return listening(registry, monkeypatch, with_mlflow=True)


@pytest.fixture
def deployed(two, monkeypatch):
    """v1 at Production, v2 at canary: a client, the registry, its URL."""
    with behind_http(two, monkeypatch) as url:
        yield SimpleNamespace(client=get_deploy_client(f"kfm:/{url}"), registry=two, url=url)


@pytest.fixture
def candidates(fresh_three, monkeypatch):
    """Three candidates."""
    registry = fresh_three()
    with behind_http(registry, monkeypatch) as url:
        yield SimpleNamespace(client=get_deploy_client(f"kfm+{url}"), registry=registry, url=url)


def uri(version):
    return f"models:/{NAME}/{version}"


def levels(made):
    held = {version: made.registry.level(version) for version in (1, 2, 3)}
    return [held[version] for version in (1, 2, 3)]


def mlflow_cli(made, *arguments):
    """Run ``mlflow deployments`` as its command line does, but in this process."""
    target = f"kfm:/{made.url}"
    return CliRunner().invoke(commands, [*map(str, arguments), "-t", target])


# -- levels ----------------------------------------------------------------------------------------


def test_create_moves_a_candidate_through_staging_to_canary_and_the_ledger_says_why(candidates):
    made = candidates.client.create_deployment(NAME, uri(1), config={"reason": "first release"})
    assert made == {"name": NAME, "flavor": "onnx", "version": 1}
    assert candidates.registry.level(1) == "canary"
    rows = RemoteRegistry(candidates.url).ledger(NAME)
    assert len([row for row in rows if row["kind"] == "moved"]) == 2
    with refused("RESOURCE_ALREADY_EXISTS", "v1 is at canary", "update it instead"):
        candidates.client.create_deployment(NAME, uri(2))
    with refused("RESOURCE_CONFLICT", "v1 is at canary; one rollout at a time"):
        candidates.client.update_deployment(NAME, uri(2))
    assert candidates.registry.level(2) == "candidate"


def test_a_refusal_of_the_gates_comes_back_as_the_registrys_own_sentence(
    candidates, world, tmp_path
):
    broken = world.copy(tmp_path)
    broken.signature_path.unlink()
    version = candidates.registry.register(broken)
    sentence = RemoteRegistry(candidates.url).check(NAME, version, "staging")["sentence"]
    assert sentence.startswith("KFM refused Staging")
    with refused("PERMISSION_DENIED", sentence):
        candidates.client.create_deployment(NAME, uri(version))
    assert candidates.registry.level(version) == "candidate"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((NAME, "runs:/0123/release"), "is not models:/NAME/VERSION"),
        ((NAME, f"models:/{NAME}@champion"), "is not models:/NAME/VERSION"),
        ((NAME, "models:/other/1"), "is of another model than deployment"),
        ((NAME, uri(1), "pytorch"), "'pytorch' is not served"),
        ((NAME, uri(1), None, {"canary": "0.5"}), "shares, steps and limits are the policy's"),
        ((NAME, uri(1), None, None, "elsewhere"), "is not in endpoint"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(candidates, arguments, words):
    before = candidates.registry.state()
    with refused("INVALID_PARAMETER_VALUE", words):
        candidates.client.create_deployment(*arguments)
    assert candidates.registry.state() == before


def test_nothing_is_updated_read_or_explained_of_what_is_not_deployed(candidates):
    with refused("RESOURCE_DOES_NOT_EXIST", "create it first"):
        candidates.client.update_deployment(NAME, uri(1))
    for verb in (candidates.client.get_deployment, candidates.client.explain):
        with refused("RESOURCE_DOES_NOT_EXIST", "is not deployed"):
            verb(NAME)
    assert candidates.client.list_deployments() == []
    candidates.client.delete_deployment(NAME)
    with refused("INVALID_PARAMETER_VALUE", "give a model URI, or config rollout"):
        candidates.client.update_deployment(NAME)


def test_delete_gives_a_candidate_up_and_production_never(deployed):
    client = deployed.client
    with refused("PERMISSION_DENIED", f"`kfm rollback {NAME}`", "-C version=2"):
        client.delete_deployment(NAME)
    with refused("PERMISSION_DENIED", "v1 is at production"):
        client.delete_deployment(NAME, {"version": "1"})
    with refused("INVALID_PARAMETER_VALUE", "is no version"):
        client.delete_deployment(NAME, {"version": "two"})
    client.delete_deployment(NAME, {"version": "7"})
    assert (deployed.registry.level(1), deployed.registry.level(2)) == ("production", "canary")
    client.delete_deployment(NAME, {"version": "2", "reason": "not good enough"})
    assert (deployed.registry.level(1), deployed.registry.level(2)) == ("production", "candidate")
    client.delete_deployment(NAME, {"version": "2"})
    with refused("PERMISSION_DENIED", "nothing would answer in its place"):
        client.delete_deployment(NAME)
    with refused("RESOURCE_CONFLICT", "no rollout"):
        client.update_deployment(NAME, config={"rollout": "pause"})
    with refused("RESOURCE_CONFLICT", "v1 is at production already"):
        client.update_deployment(NAME, uri(1))
    client.update_deployment(NAME, uri(2))
    assert deployed.registry.level(2) == "canary"


def test_a_first_candidate_is_deleted_without_naming_it(candidates):
    candidates.client.create_deployment(NAME, uri(1))
    candidates.client.delete_deployment(NAME)
    assert candidates.registry.level(1) == "candidate"


# -- what is shown, and orders ---------------------------------------------------------------------


def test_get_and_list_say_levels_releases_shares_phase_and_verdict(deployed, tmp_path):
    found = deployed.client.get_deployment(NAME)
    first, second = (digest_of(bundle) for bundle in deployed.registry.world.releases[:2])
    assert found["production"] == {
        "version": 1,
        "release_version": "v1.0.0",
        "release_id": first,
        "share_ratio": None,
    }
    assert found["canary"]["release_id"] == second
    assert (found["phase"], found["endpoint"]) == (None, None)
    assert "no controller" in found["reason"]

    carried(deployed, tmp_path)
    found = deployed.client.get_deployment(NAME, endpoint=NAME)
    assert (found["name"], found["flavor"], found["family"]) == (NAME, "onnx", "climate")
    assert (found["phase"], found["candidate"]) == ("Canary", 2)
    assert (found["production"]["share_ratio"], found["canary"]["share_ratio"]) == (0.9, 0.1)
    assert found["verdict"] == "INCONCLUSIVE"
    assert deployed.client.list_deployments() == [found]
    assert deployed.client.list_deployments(endpoint="another") == []
    printed = mlflow_cli(deployed, "get", "--name", NAME)
    assert f"name: {NAME}" in printed.output
    assert "phase: Canary" in printed.output


def carried(made, tmp_path):
    """Let a controller carry the canary to its first share, and return how to go on."""
    remote = RemoteRegistry(
        made.url,
        controller_key=made.registry.world.key("controller"),
        cache_dir=tmp_path / "controller",
    )
    plane = FakePlane(Fuse(), SimpleNamespace(corrupt=set(), fetched={1, 2}))
    controller = Controller(remote, plane, build_plan(), SystemClock(), NAME)
    controller.reconcile_once()
    return controller.reconcile_once


def test_orders_are_obeyed_by_the_controller_and_nonsense_is_refused(deployed, tmp_path):
    go_on = carried(deployed, tmp_path)
    done = mlflow_cli(
        *(deployed, "update", "--name", NAME),
        *("-C", "rollout=pause", "-C", "reason=let us look", "-C", "version=2"),
    )
    assert done.output == f"Deployment {NAME} is updated (with flavor onnx)\n"
    go_on()
    found = deployed.client.get_deployment(NAME)
    assert found["phase"] == "Paused"
    assert "let us look" in found["reason"]
    deployed.client.update_deployment(NAME, config={"rollout": "resume"})
    assert go_on().phase == "Canary"
    deployed.client.update_deployment(NAME, config={"rollout": "abort", "reason": "enough"})
    given = RemoteRegistry(deployed.url).orders(NAME, None)
    assert (given.operator, given.operator_reason, given.version) == ("abort", "enough", 2)
    with refused(
        "INVALID_PARAMETER_VALUE", "'faster' is no order", "pause, resume, promote, abort"
    ):
        deployed.client.update_deployment(NAME, config={"rollout": "faster"})


# -- endpoints and scoring -------------------------------------------------------------------------


@pytest.fixture
def scorer():
    with scoring() as server:
        yield server


def test_endpoints_are_written_down_found_changed_and_forgotten(deployed):
    client = deployed.client
    assert client.list_endpoints() == []
    with refused("INVALID_PARAMETER_VALUE", "nobody said where it is served", "KFM_ENDPOINT"):
        client.get_endpoint(NAME)
    with refused("INVALID_PARAMETER_VALUE", "is no HTTP address", "kfm rollout run"):
        client.create_endpoint(NAME)
    made = client.create_endpoint(NAME, {"url": "http://gpu-1:8000/"})
    assert made == {"name": NAME, "url": "http://gpu-1:8000"}
    with refused("RESOURCE_ALREADY_EXISTS", "update it instead"):
        client.create_endpoint(NAME, {"url": "http://gpu-2:8000"})
    client.update_endpoint(NAME, {"url": "http://gpu-2:8000/tiny"})
    expected = {"name": NAME, "url": "http://gpu-2:8000/tiny", "deployment": NAME}
    assert client.get_endpoint(NAME) == expected
    assert client.list_endpoints() == [expected]
    assert client.get_deployment(NAME)["endpoint"] == expected["url"]
    client.delete_endpoint(NAME)
    client.delete_endpoint(NAME)
    assert client.list_endpoints() == []
    with refused("RESOURCE_DOES_NOT_EXIST", "nobody"):
        client.update_endpoint("nobody", {"url": "http://gpu-1:8000"})


def test_predict_goes_where_the_registry_says_unless_the_user_says_otherwise(
    deployed, scorer, monkeypatch
):
    deployed.client.create_endpoint(NAME, {"url": f"{scorer.url}/tiny"})
    found = deployed.client.predict(NAME, np.array(FIELDS))
    assert found.get_predictions("ndarray").item() == {"y": [[[2.0, 4.0], [6.0, 8.0]]]}
    assert found["metadata"] == {"version": 2, "generation": 7}
    path, body, headers = scorer.seen.pop()
    assert (path, body) == ("/tiny/invocations", {"inputs": FIELDS})
    assert "Authorization" not in headers
    monkeypatch.setenv("KFM_ENDPOINT", scorer.url)
    deployed.client.predict(endpoint=NAME, inputs={"x": np.array(FIELDS)})
    assert scorer.seen.pop()[:2] == ("/invocations", {"inputs": {"x": FIELDS}})
    with refused("INVALID_PARAMETER_VALUE", "name a registered model"):
        deployed.client.predict(inputs=FIELDS)


def test_the_command_line_scores_a_file(deployed, scorer, monkeypatch, tmp_path):
    monkeypatch.setenv("KFM_ENDPOINT", scorer.url)
    rows = tmp_path / "rows.json"
    rows.write_text(pd.DataFrame({"a": [1.0], "b": [2.0]}).to_json())
    out = tmp_path / "out.json"
    assert not mlflow_cli(deployed, "predict", "--name", NAME, "-I", rows, "-O", out).exception
    assert json.loads(out.read_text())["predictions"] == {"y": [[2.0, 4.0]]}
    assert scorer.seen.pop()[1] == {
        "dataframe_split": {"index": [0], "columns": ["a", "b"], "data": [[1.0, 2.0]]}
    }


def test_streams_are_refused_with_the_reason(deployed):
    with refused("BAD_REQUEST", "one whole field", "use predict"):
        deployed.client.predict_stream(NAME, {})


def test_explain_gives_the_verified_releases_own_explanations(deployed, tmp_path):
    found = deployed.client.explain(NAME)
    release = deployed.registry.world.releases[0]
    assert found["summary"] == load_json(release.release_dir / "xai" / "summary.json")
    assert digest_of(release) in found["explains"]
    rows = tmp_path / "rows.json"
    rows.write_text('{"a": {"0": 1}}')
    printed = mlflow_cli(deployed, "explain", "--name", NAME, "-I", rows)
    assert json.loads(printed.output)["summary"] == found["summary"]


# -- the other commands ----------------------------------------------------------------------------


def test_the_remaining_commands_print_what_was_done(candidates):
    for words, said in (
        (("create", "--name", NAME, "-m", uri(1)), f"onnx deployment {NAME} is created"),
        (("list",), f"'name': '{NAME}'"),
        (
            ("update-endpoint", "--endpoint", NAME, "-C", "url=http://gpu-1:8000"),
            f"Endpoint {NAME} is updated",
        ),
        (("get-endpoint", "--endpoint", NAME), "url: http://gpu-1:8000"),
        (("list-endpoints",), "'url': 'http://gpu-1:8000'"),
        (("delete-endpoint", "--endpoint", NAME), f"Endpoint {NAME} is deleted"),
        (("delete", "--name", NAME, "-C", "reason=no"), f"Deployment {NAME} is deleted"),
    ):
        done = mlflow_cli(candidates, *words)
        assert done.exception is None, (words, done.output, done.exception)
        assert said in done.output
    assert levels(candidates)[1] == "candidate"


def test_mlflows_own_create_endpoint_command_fails_before_it_asks_any_target(candidates):
    """MLflow 3.17 hands its function an argument that it does not take; update-endpoint works."""
    done = mlflow_cli(candidates, "create-endpoint", "--endpoint", NAME)
    assert isinstance(done.exception, TypeError)


def test_run_local_refuses_what_was_never_frozen(candidates, monkeypatch):
    words = ("run-local", "--name", NAME, "-m", uri(1), "-C", f"server={candidates.url}")
    done = mlflow_cli(candidates, *words)
    assert isinstance(done.exception, MlflowException)
    assert f"kfm move {uri(1)} --to staging" in str(done.exception)
