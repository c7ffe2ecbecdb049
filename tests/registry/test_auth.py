"""A real `kfm server --app-name kfm-auth` with two workers, users made with MLflow's own client."""

from __future__ import annotations

import base64
import json
import re
import sys
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psutil
import pytest
import yaml
from conftest import free_port
from registry import server as servers
from registry.world import NAME, claims_of

from kfm_mlflow.cli.main import main

if TYPE_CHECKING:
    import requests

pytestmark = pytest.mark.server

PASSWORD = "a long enough password"
FORGED = {
    "X-Forwarded-User": "olga",
    "X-Remote-User": "olga",
    "Remote-User": "olga",
    "X-Mlflow-Authenticated-User": "olga",
    "X-MLflow-Authorization": "Basic " + base64.b64encode(f"olga:{PASSWORD}".encode()).decode(),
}
VERSION = f"/kfm/api/v1/models/{NAME}/versions/1"
ARTIFACT = "/api/2.0/mlflow-artifacts/artifacts/0/x"


@dataclass(frozen=True)
class Guarded:
    """The server, and what it said when it started."""

    server: servers.Server
    log: str

    def ask(self, user: str, method: str, path: str, **kwargs: Any) -> requests.Response:
        """Send a request as a user; an empty name sends no credentials."""
        auth = (user, kwargs.pop("password", PASSWORD)) if user else None
        return self.server.ask(method, path, auth=auth, **kwargs)

    def move(self, user: str, to: str, **kwargs: Any) -> requests.Response:
        """Ask for a move of version 1."""
        return self.ask(user, "POST", f"{VERSION}/moves", json={"to": to}, **kwargs)

    def ledger(self) -> list[dict[str, Any]]:
        """Return the decisions about the model."""
        rows = self.ask("olga", "GET", f"/kfm/api/v1/ledger?model={NAME}").json()["rows"]
        return [row for row in rows if row["kind"] in ("moved", "refused")]


def _people(monkeypatch, server, admin_password):
    """Make users and a release with MLflow's own clients, which read the same variables."""
    with warnings.catch_warnings():
        # MLflow imports starlette.middleware.wsgi, which is deprecated.
        warnings.simplefilter("ignore")
        from mlflow.server.auth.client import AuthServiceClient

    def become(user, password=PASSWORD):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

    become("admin", admin_password)
    client = AuthServiceClient(server.url)
    for name in ("tom", "olga", "rita", "nora"):
        client.create_user(name, PASSWORD)
    client.grant_user_permission("tom", "experiment", "0", "EDIT")
    become("tom")
    server.register(server.world.releases[0])
    become("admin", admin_password)
    client.grant_user_permission("olga", "registered_model", NAME, "EDIT")
    client.grant_user_permission("nora", "registered_model", NAME, "DENY")


@pytest.fixture(scope="module")
def guarded(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    policies = folder / "policies"
    policies.mkdir()
    written = yaml.safe_load((world.policies / "climate.yaml").read_text())
    written["access"] = {"roles": {"trainer": ["tom"], "operator": ["olga", "rita"]}}
    (policies / "climate.yaml").write_text(yaml.safe_dump(written))
    restricted = {"schema_version": "1", "extends": "focus-transformer"}
    restricted["access"] = {"roles": {"trainer": ["tom"], "operator": ["olga"]}}
    (policies / "focus-transformer.yaml").write_text(yaml.safe_dump(restricted))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "kfm_mlflow.cli", "server", "--port", str(port)),
        *("--data-dir", str(folder / "data"), "--policy-dir", str(policies)),
        *("--app-name", "kfm-auth", "--workers", "2"),
    ]
    with servers.running(command, url, folder) as process, pytest.MonkeyPatch.context() as patch:
        log = (folder / "server.log").read_text()
        made = re.findall(r"kfm: made the administrator admin with the password (\S+) ", log)
        assert len(made) == 1
        data = folder / "data"
        server = servers.Server(world, url, data, process, data / "mlflow.db")
        _people(patch, server, made[0])
        patch.undo()
        yield Guarded(server, log)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/api/2.0/mlflow/registered-models/search"),
        ("POST", "/api/2.0/mlflow/registered-models/create"),
        ("POST", "/ajax-api/2.0/mlflow/model-versions/transition-stage"),
        ("GET", ARTIFACT),
        ("PUT", ARTIFACT),
        ("DELETE", ARTIFACT),
        ("GET", "/kfm"),
        ("GET", "/kfm/"),
        ("HEAD", "/kfm/"),
        ("GET", f"/kfm/models/{NAME}/1"),
        ("GET", "/kfm/ledger"),
        ("GET", "/kfm/policies"),
        ("GET", "/kfm/no-such-page"),
        ("GET", f"/kfm/api/v1/models/{NAME}"),
        ("GET", f"{VERSION}/check?to=staging"),
        ("GET", "/kfm/api/v1/ledger"),
        ("POST", f"{VERSION}/moves"),
        ("POST", f"{VERSION}/attestations"),
        ("PUT", f"/kfm/api/v1/models/{NAME}/rollout"),
        ("POST", "/kfm/api/v1/no-such-route"),
    ],
)
@pytest.mark.parametrize("headers", [{}, FORGED], ids=["plain", "forged"])
def test_nobody_gets_past_the_door_without_a_login(guarded, method, path, headers):
    answer = guarded.ask("", method, path, headers=headers, allow_redirects=False)
    assert answer.status_code == 401
    # The browser's own prompt.
    assert answer.headers["WWW-Authenticate"].startswith("Basic")


def test_every_route_of_ours_asks_for_a_login(guarded):
    """Also routes that a later version adds: they are read from the application itself."""
    from mlflow.server import app

    from kfm_mlflow.registry.app import register_pages

    if "kfm_api" not in app.blueprints:
        app._got_first_request = False  # Another test of this process may have served a request.
        register_pages(app)
    rules = [rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/kfm")]
    assert len(rules) > 20
    for rule in rules:
        path = re.sub(r"<int:[^>]*>|<version>", "1", rule.rule)
        path = re.sub(r"<[^>]*>", NAME, path)
        for method in sorted(rule.methods - {"OPTIONS"}):
            answer = guarded.ask("", method, path, allow_redirects=False)
            assert answer.status_code == 401, (method, path)


@pytest.mark.parametrize(
    ("user", "password"), [("olga", "wrong"), ("nobody", PASSWORD), ("admin", "password1234")]
)
def test_a_wrong_password_is_no_login(guarded, user, password):
    for path in ("/kfm/", "/api/2.0/mlflow/registered-models/search", ARTIFACT):
        assert guarded.ask(user, "GET", path, password=password).status_code == 401


def test_whom_mlflow_denies_a_model_reads_nothing_of_it_here_either(guarded):
    for path in (
        f"/api/2.0/mlflow/model-versions/get?name={NAME}&version=1",
        f"/kfm/models/{NAME}",
        f"/kfm/models/{NAME}/1",
        f"/kfm/badge/{NAME}/1.svg",
        f"/kfm/api/v1/models/{NAME}",
        f"{VERSION}/check?to=staging",
        f"/kfm/api/v1/ledger?model={NAME}",
    ):
        assert guarded.ask("nora", "GET", path).status_code == 403, path
        assert guarded.ask("rita", "GET", path).status_code == 200, path
    home = guarded.ask("nora", "GET", "/kfm/")
    assert home.ok
    assert NAME not in home.text
    assert NAME in guarded.ask("rita", "GET", "/kfm/").text
    envelope = {"model_name": NAME, "version": 1, "envelope": {}}
    assert guarded.ask("nora", "POST", "/kfm/api/v1/votes", json=envelope).status_code == 403


def test_a_move_needs_mlflows_permission_and_the_policys_role(guarded):
    """Rita is an operator without MLflow's permission; Tom has it, and is a trainer only."""
    before = guarded.server.state()
    stage = {"name": NAME, "version": "1", "stage": "Staging", "archive_existing_versions": False}
    path = "/api/2.0/mlflow/model-versions/transition-stage"
    for answer in (
        guarded.ask("rita", "POST", path, json=stage),
        guarded.move("rita", "staging"),
        guarded.move("rita", "staging", headers=FORGED),
        guarded.ask("rita", "PUT", f"/kfm/api/v1/models/{NAME}/rollout", json={}),
        guarded.ask("rita", "POST", "/kfm/api/v1/no-such-thing", json={}),
    ):
        assert answer.status_code in (403, 404)
    assert guarded.server.state() == before
    assert guarded.move("tom", "staging").ok
    refused = guarded.move("tom", "canary")
    assert refused.status_code == 403
    assert "KFM refused" in refused.json()["message"]
    claims = claims_of(guarded.ledger()[-1]["body"])
    assert (claims["actor"], claims["roles"]) == ("tom", ["trainer"])


def test_the_ledger_names_who_moved_and_no_header_changes_it(guarded):
    asked = [
        guarded.move("olga", to, headers=FORGED | {"X-Forwarded-User": "admin"})
        for to in ("staging", "canary")
    ]
    assert asked[-1].ok, asked[-1].text
    row = guarded.ledger()[-1]
    claims = claims_of(row["body"])
    assert row["kind"] == "moved"
    assert (claims["actor"], claims["authenticated"]) == ("olga", True)
    assert claims["report"]["to_level"] == "canary"
    for user, status in (("rita", 200), ("nora", 403)):
        for path in ("/kfm/ledger", f"/kfm/ledger/{row['seq']}", "/kfm/api/v1/ledger"):
            assert guarded.ask(user, "GET", path).status_code == status, path


def test_a_frozen_release_is_read_by_whoever_may_read_its_model(guarded):
    version = guarded.ask("olga", "GET", VERSION).json()
    frozen = version["release"]["frozen_uri"].removeprefix("mlflow-artifacts:/")
    proxy = "/api/2.0/mlflow-artifacts/artifacts"
    reads = [
        f"{proxy}/{frozen}/model_metadata.json",
        f"{proxy}?path={frozen}",
        f"/ajax-api/2.0/mlflow-artifacts/artifacts/{frozen}/model_metadata.json",
    ]
    for path in reads:
        assert guarded.ask("rita", "GET", path).ok, path
        assert guarded.ask("nora", "GET", path).status_code == 403, path
    area = frozen.split("/")[0]
    others = [
        f"{proxy}?path={area}",
        f"{proxy}/{area}/{'0' * 64}/release/MLmodel",
        f"{proxy}/{quote(frozen, safe='')}%252fmodel_metadata.json",
        f"{proxy}/x/%2e%2e/{frozen}/model_metadata.json",
        f"{proxy}?path={area}/{'0' * 64}&path={frozen}",
    ]
    for path in others:
        assert guarded.ask("nora", "GET", path).status_code == 403, path


def test_both_workers_know_the_users_and_none_has_the_administrators_password(guarded):
    (password,) = re.findall(r"with the password (\S+) ", guarded.log)
    parent = psutil.Process(guarded.server.process.pid)
    children = parent.children(recursive=True)
    workers = [child for child in children if "multiprocessing" in " ".join(child.cmdline())]
    assert len([w for w in workers if "resource_tracker" not in " ".join(w.cmdline())]) == 2
    for process in (parent, *children):
        assert password not in process.environ().values()
    for _ in range(8):
        assert guarded.ask("olga", "GET", "/kfm/api/v1/policies/climate").ok
    for file in ("basic_auth.ini", "users.db", "session.key"):
        assert (guarded.server.data / file).stat().st_mode & 0o077 == 0


def test_commands_log_in_as_mlflows_client_does(guarded, monkeypatch, capsys, tmp_path):
    def kfm(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--server", guarded.server.url])
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    monkeypatch.setenv("HOME", str(tmp_path))
    uri = f"models:/{NAME}/1"
    code, _, told = kfm("ledger", "list", NAME)
    assert code == 2
    assert "asks for a login; set MLFLOW_TRACKING_USERNAME" in told
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "olga")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    code, _, told = kfm("ledger", "list", NAME)
    assert code == 2
    assert "does not let olga in" in told
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert kfm("ledger", "list", NAME)[0] == 0
    assert kfm("ledger", "verify")[0] == 0
    code, report, told = kfm("check", uri, "--to", "production", "--json")
    assert (code, told) == (1, "")
    assert json.loads(report)["report"]["from_level"] in ("candidate", "staging", "canary")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "nora")
    code, _, told = kfm("check", uri, "--to", "staging")
    assert code == 1
    assert "nora may not do this" in told
    code, _, told = kfm("ledger", "verify")
    assert code == 1
    assert "you may not read every model that is in the ledger" in told
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name)
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text(
        f"[mlflow]\nmlflow_tracking_username = rita\nmlflow_tracking_password = {PASSWORD}\n"
    )
    assert kfm("ledger", "list", NAME)[0] == 0


# -- weights ---------------------------------------------------------------------------------------

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
FILES = {"model.pt": b"weights", "card.json": b"{}"}


def _made_run(guarded, **tags):
    """Let Tom make a run with weights and a card, and return where they lie."""
    body = {"experiment_id": "0", "tags": [{"key": k, "value": v} for k, v in tags.items()]}
    made = guarded.ask("tom", "POST", "/api/2.0/mlflow/runs/create", json=body)
    run_id = made.json()["run"]["info"]["run_id"]
    for name, content in FILES.items():
        path = f"{ARTIFACTS}/0/{run_id}/artifacts/r/{name}"
        assert guarded.ask("tom", "PUT", path, data=content).ok
    return run_id


def _of_run(run_id):
    """Return every way to read a file of a run, with a place for its name."""
    lies = f"0/{run_id}/artifacts/r"
    return [
        f"{ARTIFACTS}/{lies}/%s",
        f"/ajax-api/2.0/mlflow-artifacts/artifacts/{lies}/%s",
        f"/get-artifact?run_id={run_id}&path=r/%s",
        f"/get-artifact?run_uuid={run_id}&path=r/%s",
    ]


def _assert_restricted(guarded, ways, refused, allowed="olga"):
    for way in ways:
        answer = guarded.ask(refused, "GET", way % "model.pt")
        assert answer.status_code == 403, way
        said = answer.json()["message"]
        assert "model.pt" in said
        assert said.endswith("validator, authority, operator; ask the FAIR+CARE council")
        assert guarded.ask(refused, "GET", way % "card.json").content == b"{}", way
        assert guarded.ask(allowed, "GET", way % "model.pt").content == b"weights", way


def test_weights_of_a_training_are_restricted_before_anything_is_registered(guarded):
    tags = {"kfm.checkpoints": "checkpoints_manifest.json", "kfm.model_id": "focus_transformer_v2"}
    run_id = _made_run(guarded, **tags)
    _assert_restricted(guarded, _of_run(run_id), "rita")
    # Who trained it has the files already, and no role that hands them out.
    _assert_restricted(guarded, _of_run(run_id)[:1], "tom")
    silent = _made_run(guarded, **{"kfm.checkpoints": "checkpoints_manifest.json"})
    _assert_restricted(guarded, _of_run(silent)[:1], "rita")
    presigned = {"run_id": run_id, "path": "r/model.pt"}
    path = "/api/2.0/mlflow/artifacts/presigned-download-url"
    assert guarded.ask("rita", "POST", path, json=presigned).status_code == 403
    presign = f"/api/2.0/mlflow-artifacts/presigned/0/{run_id}/artifacts/r/model.pt"
    assert guarded.ask("rita", "GET", presign).status_code == 403
    for spelt in ("model%2Ept", "model.pt/", "./model.pt", "model%252Ept", "model.pt%00.json"):
        answer = guarded.ask("rita", "GET", f"{ARTIFACTS}/0/{run_id}/artifacts/r/{spelt}")
        assert answer.content != b"weights", spelt
    listed = guarded.ask("rita", "GET", f"/api/2.0/mlflow/artifacts/list?run_id={run_id}&path=r")
    assert "r/model.pt" in listed.text


def test_weights_of_a_registered_version_are_restricted_by_every_way_to_them(guarded):
    run_id = _made_run(guarded)
    assert guarded.ask("rita", "GET", _of_run(run_id)[0] % "model.pt").ok
    for name in ("focus-transformer-a", "climate-copy"):
        create = "/api/2.0/mlflow/registered-models/create"
        assert guarded.ask("tom", "POST", create, json={"name": name}).ok
        uri = f"mlflow-artifacts:/0/{run_id}/artifacts/r"
        body = {"name": name, "source": uri, "run_id": run_id}
        made = guarded.ask("tom", "POST", "/api/2.0/mlflow/model-versions/create", json=body)
        assert made.ok, made.text
    copies = [
        f"/model-versions/get-artifact?name={name}&version=1&path=%s"
        for name in ("focus-transformer-a", "climate-copy")
    ]
    _assert_restricted(guarded, _of_run(run_id) + copies, "rita")
    password = re.findall(r"with the password (\S+) ", guarded.log)[0]
    for way in _of_run(run_id):
        answer = guarded.ask("admin", "GET", way % "model.pt", password=password)
        assert answer.status_code == 403, way


def test_weights_of_a_logged_model_are_those_of_the_run_that_made_it(guarded):
    run_id = _made_run(guarded, **{"kfm.model_id": "focus_transformer_v2"})
    body = {"experiment_id": "0", "name": "c", "source_run_id": run_id}
    made = guarded.ask("tom", "POST", "/api/2.0/mlflow/logged-models", json=body)
    model_id = made.json()["model"]["info"]["model_id"]
    lies = f"0/models/{model_id}/artifacts"
    for name, content in FILES.items():
        assert guarded.ask("tom", "PUT", f"{ARTIFACTS}/{lies}/{name}", data=content).ok
    files = f"/ajax-api/2.0/mlflow/logged-models/{model_id}/artifacts/files"
    ways = [f"{ARTIFACTS}/{lies}/%s", f"{files}?artifact_file_path=%s"]
    _assert_restricted(guarded, ways, "rita")


def test_weights_of_a_model_whose_policy_restricts_nothing_are_for_all_its_readers(guarded):
    run_id = _made_run(guarded, **{"kfm.model_id": "climate_x"})
    for way in _of_run(run_id):
        assert guarded.ask("rita", "GET", way % "model.pt").content == b"weights", way
