"""MLflow's workspaces: each one is governed, and none sees or moves what is another's."""

from __future__ import annotations

import base64
import json
import re
import sys
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import requests
import yaml
from conftest import free_port
from mlflow.utils.workspace_context import ServerWorkspaceContext
from registry import server as servers
from registry.test_triggers import attempt
from registry.world import BOTH, COUNCIL, GOOD_CANARY, NAME, run_cli, stranger, told, uri_of

from kfm_mlflow.canonical import load_json
from kfm_mlflow.cli.export import export
from kfm_mlflow.errors import InputError
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry.exported import verify_export
from kfm_mlflow.registry.plugin import build_store
from kfm_mlflow.rollout.remote import RemoteRegistry
from kfm_mlflow.trust.keys import load_public_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.world import Registry

OURS, THEIRS = "team-a", "team-b"
KEY = f"{OURS}/{NAME}"
HEADER = "X-MLFLOW-WORKSPACE"

# -- the store, on both databases ------------------------------------------------------------------


@contextmanager
def inside(workspace: str) -> Iterator[None]:
    with ServerWorkspaceContext(workspace):
        yield


@pytest.fixture
def spaces(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Return an empty registry with workspaces on, of which a few were made."""
    from kfm_mlflow.registry.workspace_store import KfmWorkspaceStore

    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    monkeypatch.delenv("MLFLOW_WORKSPACE", raising=False)
    registry.store = KfmWorkspaceStore(
        uri_of(registry.database), admission=registry.store.admission
    )
    with stranger(registry.database) as connection:
        for name in (OURS, THEIRS):
            connection.execute(f"INSERT INTO workspaces (name) VALUES ('{name}')")
        connection.commit()
    return registry


def registered(registry: Registry, workspace: str, bundle: Any) -> int:
    """Register a release in a workspace."""
    with inside(workspace):
        names = [model.name for model in registry.store.search_registered_models()]
        if NAME not in names:
            registry.store.create_registered_model(NAME)
        source = str(bundle.release_dir)
        return int(registry.store.create_model_version(NAME, source, "run").version)


def levels(registry: Registry, workspace: str) -> dict[int, str]:
    with inside(workspace):
        return {v: str(level) for v, level in registry.store.levels(NAME).items()}


@pytest.mark.parametrize("database_kind", BOTH)
def test_one_name_in_two_workspaces_is_two_governed_models(spaces, world, tmp_path):
    for workspace in ("default", OURS):
        assert registered(spaces, workspace, world.releases[0]) == 1
    registered(spaces, OURS, world.releases[1])
    with inside(OURS):
        spaces.store.move(NAME, 1, Level.STAGING)
        spaces.store.move(NAME, 1, Level.CANARY)
        claims = {**GOOD_CANARY, "epoch": 0}
        with told(400, "about another release"):
            spaces.attest(1, "canary-verdict", claims, "controller")
        spaces.attest(1, "canary-verdict", claims, "controller", model_name=KEY)
        assert len(spaces.store.snapshot(NAME, 1).envelopes) == 1
    assert levels(spaces, "default") == {}
    with inside("default"):
        spaces.store.move(NAME, 1, Level.STAGING)
        assert spaces.store.snapshot(NAME, 1).envelopes == ()
    assert levels(spaces, "default") == {1: "staging"}
    assert levels(spaces, OURS) == {1: "canary"}
    with inside(THEIRS), told(404):
        spaces.store.levels(NAME)
    rows = spaces.query(
        "SELECT model, version, kind FROM kfm_ledger WHERE version > 0 ORDER BY seq"
    )
    assert rows == [(KEY, 1, "moved"), (KEY, 1, "moved"), (NAME, 1, "moved")]
    frozen = dict(spaces.query("SELECT model, frozen_uri FROM kfm_release"))
    assert frozen[KEY].startswith(f"mlflow-artifacts:/workspaces/{OURS}/kfm-frozen/")
    assert frozen[NAME].startswith("mlflow-artifacts:/kfm-frozen/")
    # What passes no gate is refused in each, under the model's key.
    unsigned = world.copy(tmp_path / "unsigned", 2)
    unsigned.signature_path.unlink()
    for workspace, key in (("default", NAME), (OURS, KEY)):
        version = registered(spaces, workspace, unsigned)
        query = f"?workspace={OURS}" if workspace == OURS else ""
        with inside(workspace):
            page = f"see /kfm/models/{NAME}/{version}{query}"
            with told(403, f"KFM refused Staging for {key} v{version}", page):
                spaces.store.transition_model_version_stage(
                    NAME, version, "Staging", archive_existing_versions=False
                )
            with told(403, "KFM refused to rename", key, f"/kfm/models/{NAME}/1{query}"):
                spaces.store.rename_registered_model(NAME, "other")
            with told(403, "KFM refused to delete", key):
                spaces.store.delete_registered_model(NAME)
    plain_software_is_refused(spaces)


def plain_software_is_refused(spaces: Registry) -> None:
    """Try what writes past the registry to the workspace that is not the default."""
    from mlflow.entities.workspace import WorkspaceDeletionMode
    from mlflow.exceptions import MlflowException
    from mlflow.store.workspace.sqlalchemy_store import SqlAlchemyStore

    with inside(THEIRS):
        spaces.store.create_registered_model("free")
    where = f"WHERE workspace = '{OURS}' AND name = '{NAME}'"
    before = spaces.state()
    columns = "registered_model_aliases (workspace, name, alias, version)"
    alias = f"INSERT INTO {columns} VALUES ('{OURS}', '{NAME}', 'champion', 2)"
    with stranger(spaces.database) as connection:
        for attack in (
            f"UPDATE model_versions SET current_stage = 'Production' {where} AND version = 2",
            f"UPDATE model_versions SET storage_location = 'x' {where} AND version = 1",
            f"DELETE FROM model_versions {where} AND version = 1",
            f"DELETE FROM registered_models {where}",
            f"UPDATE registered_models SET name = 'other' {where}",
            f"UPDATE registered_models SET workspace = '{THEIRS}' {where}",
            f"UPDATE registered_models SET workspace = 'default' WHERE workspace = '{THEIRS}'",
            alias,
        ):
            assert "KFM refused to" in attempt(connection, attack), attack
    plain = SqlAlchemyStore(uri_of(spaces.database))
    for name, mode in (
        (OURS, WorkspaceDeletionMode.CASCADE),
        (OURS, WorkspaceDeletionMode.SET_DEFAULT),
        (THEIRS, WorkspaceDeletionMode.SET_DEFAULT),
    ):
        with pytest.raises(MlflowException):
            plain.delete_workspace(name, mode)
    plain._engine.dispose()
    assert spaces.state() == before


def test_bytes_of_another_workspace_are_not_read_for_a_model(spaces, world):
    import shutil

    places = {"default": spaces.area / "1", OURS: spaces.area / "workspaces" / OURS / "1"}
    for place in places.values():
        shutil.copytree(world.releases[0].release_dir.parent, place)
    for workspace, source, word in (
        (THEIRS, f"mlflow-artifacts:/workspaces/{OURS}/1/release", "cannot be read"),
        (THEIRS, str(places[OURS] / "release"), "cannot be read"),
        (THEIRS, "mlflow-artifacts:/1/release", "cannot be read"),
        (THEIRS, str(places["default"] / "release"), "cannot be read"),
        ("default", f"mlflow-artifacts:/workspaces/{OURS}/1/release", "cannot be read"),
        (OURS, f"mlflow-artifacts:/workspaces/{OURS}/1/release", ""),
        (OURS, "mlflow-artifacts:/1/release", ""),
        ("default", "mlflow-artifacts:/1/release", ""),
    ):
        with inside(workspace):
            if not spaces.query(
                "SELECT 1 FROM registered_models WHERE workspace = ? AND name = ?", workspace, NAME
            ):
                spaces.store.create_registered_model(NAME)
            version = int(spaces.store.create_model_version(NAME, source, "run").version)
            report = spaces.store.check(NAME, version, Level.STAGING).report
            details = " ".join(f.detail for gate in report.gates for f in gate.findings)
            assert (str(report.verdict) == "PASS") is not bool(word), (workspace, source, details)
            assert word in details


def test_mlflow_gets_a_store_that_knows_workspaces_only_where_they_are_on(
    registry, world, monkeypatch
):
    monkeypatch.setenv("KFM_REGISTRY_KEY", str(world.key("registry")))
    monkeypatch.setenv("KFM_POLICY_DIR", str(world.policies))
    for enabled in ("false", "true"):
        monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", enabled)
        store = build_store(f"kfm+{uri_of(registry.database)}")
        assert store.supports_workspaces is (enabled == "true")
        store._dispose_engine()


# -- a server --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spaced:
    """A server with workspaces and logins; model v1 is at canary in one, a candidate in default."""

    server: servers.Server
    password: str

    def ask(
        self, method: str, path: str, workspace: str = "", user: str = "admin", **kwargs: Any
    ) -> requests.Response:
        """Send a request as a user, in a workspace by its header."""
        headers = {HEADER: workspace} if workspace else {}
        password = self.password if user == "admin" else PASSWORD
        return self.server.ask(method, path, auth=(user, password), headers=headers, **kwargs)

    def post(self, path: str, workspace: str, **body: Any) -> requests.Response:
        """Send JSON to MLflow's REST API as the administrator."""
        return self.ask("POST", f"/api/2.0/mlflow/{path}", workspace, json=body)


PASSWORD = "a long enough password"
BROKEN = "climate-broken"


def _fill(server: servers.Server, world: Any, folder: Any) -> None:
    """Register a good and a broken release in two workspaces, with MLflow's own client."""
    from mlflow.utils.workspace_context import WorkspaceContext

    unsigned = world.copy(folder / "unsigned")
    unsigned.signature_path.unlink()
    for workspace in ("default", OURS):
        with WorkspaceContext(workspace):
            client = server.client()
            experiment = client.create_experiment("training")
            for name, bundle in ((NAME, world.releases[0]), (BROKEN, unsigned)):
                run = client.create_run(experiment).info
                client.log_artifacts(run.run_id, str(bundle.release_dir), "release")
                client.log_artifacts(run.run_id, str(bundle.evidence_dir), "release.evidence")
                client.create_registered_model(name)
                source = f"{run.artifact_uri}/release"
                client.create_model_version(name, source, run.run_id, await_creation_for=0)


def _people(server: servers.Server) -> None:
    with warnings.catch_warnings():
        # MLflow imports starlette.middleware.wsgi, which is deprecated.
        warnings.simplefilter("ignore")
        from mlflow.server.auth.client import AuthServiceClient
    client = AuthServiceClient(server.url)
    for user, workspace in (("ann", OURS), ("bob", THEIRS), ("cat", OURS)):
        client.create_user(user, PASSWORD)
        role = client.create_role(workspace, f"{user} reads")
        client.add_role_permission(role.id, "registered_model", "*", "READ")
        client.assign_role(user, role.id)


@pytest.fixture(scope="module")
def spaced(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spaced")
    policies = folder / "policies"
    policies.mkdir()
    written = yaml.safe_load((world.policies / "climate.yaml").read_text())
    written["access"] = {"roles": {role: ["admin", "cat"] for role in ("operator", "council")}}
    (policies / "climate.yaml").write_text(yaml.safe_dump(written))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "kfm_mlflow.cli", "server", "--port", str(port)),
        *("--data-dir", str(folder / "data"), "--policy-dir", str(policies)),
        *("--app-name", "kfm-auth", "--enable-workspaces"),
    ]
    with servers.running(command, url, folder) as process, pytest.MonkeyPatch.context() as patch:
        log = (folder / "server.log").read_text()
        (password,) = re.findall(r"kfm: made the administrator admin with the password (\S+) ", log)
        data = folder / "data"
        server = servers.Server(world, url, data, process, data / "mlflow.db")
        found = Spaced(server, password)
        patch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        patch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        patch.delenv("MLFLOW_WORKSPACE", raising=False)
        for name in (OURS, THEIRS, "empty"):
            answer = found.ask("POST", "/api/3.0/mlflow/workspaces", json={"name": name})
            assert answer.ok, answer.text
        _fill(server, world, folder)
        _people(server)
        remote = RemoteRegistry(url, controller_key=world.key("controller"))
        remote.request_move(KEY, 1, "staging")
        remote.request_move(KEY, 1, "canary")
        yield found


@pytest.fixture
def admin(spaced, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", spaced.password)
    monkeypatch.delenv("MLFLOW_WORKSPACE", raising=False)


@pytest.mark.server
@pytest.mark.parametrize("workspace", ["", OURS])
def test_what_passes_no_gate_is_refused_in_every_workspace_at_every_door(spaced, workspace):
    key = f"{workspace}/{BROKEN}" if workspace else BROKEN
    version = {"name": BROKEN, "version": "1"}
    stage = {**version, "stage": "Production", "archive_existing_versions": True}
    before = spaced.server.state()
    for path, body in (
        ("model-versions/transition-stage", stage),
        ("registered-models/alias", {"name": BROKEN, "alias": "champion", "version": "1"}),
        ("model-versions/set-tag", {**version, "key": "kfm.level", "value": "production"}),
        ("registered-models/set-tag", {"name": BROKEN, "key": "kfm.family", "value": "baseline"}),
        ("registered-models/set-tag", {"name": BROKEN, "key": "mlflow.prompt.is_prompt", "value": "true"}),
    ):  # fmt: skip
        answer = spaced.post(path, workspace, **body)
        assert answer.status_code == 403, answer.text
        assert "KFM refused" in answer.json()["message"]
    after = spaced.server.state()
    rows = [row for row in after["kfm_ledger"] if row not in before["kfm_ledger"]]
    assert [(row[2], row[3]) for row in sorted(rows)] == [("refused", key)] * 2
    assert {**before, "kfm_ledger": None} == {**after, "kfm_ledger": None}
    (sentence,) = {spaced.post("model-versions/transition-stage", workspace, **stage).json()["message"]}  # fmt: skip
    page = spaced.ask("GET", sentence.rpartition("see ")[2])
    assert page.ok
    assert f"<h1>{key} v1" in page.text


@pytest.mark.server
def test_a_released_model_keeps_its_workspace_and_its_bytes(spaced):
    model = {"name": NAME}
    before = spaced.server.state()
    rename = {**model, "new_name": "other"}
    artifacts = "/api/2.0/mlflow-artifacts/artifacts"
    spaces_api = "/api/3.0/mlflow/workspaces"
    frozen = f"mlflow-artifacts:/workspaces/{OURS}/kfm-frozen/x"
    for method, path, workspace, body in (
        ("POST", "/api/2.0/mlflow/registered-models/rename", OURS, rename),
        ("DELETE", "/api/2.0/mlflow/registered-models/delete", OURS, model),
        ("DELETE", "/api/2.0/mlflow/model-versions/delete", OURS, {**model, "version": "1"}),
        ("DELETE", f"{spaces_api}/{OURS}?mode=CASCADE", "", None),
        ("DELETE", f"{spaces_api}/{OURS}?mode=SET_DEFAULT", "", None),
        ("DELETE", f"{spaces_api}/{OURS}?mode=CASCADE&mode=RESTRICT", "", None),
        ("DELETE", f"{spaces_api}/{OURS}?%6dode=CASCADE", "", None),
        ("PATCH", f"{spaces_api}/{THEIRS}", "", {"default_artifact_root": frozen}),
        ("POST", spaces_api, "", {"name": "new", "default_artifact_root": frozen}),
        ("DELETE", f"{artifacts}/workspaces/{OURS}", OURS, None),
        ("DELETE", f"{artifacts}/./workspaces//{OURS}/", OURS, None),
        ("DELETE", f"{artifacts}/workspaces", "", None),
        ("PUT", f"{artifacts}/workspaces/{OURS}/kfm-frozen/x", OURS, None),
    ):
        answer = spaced.ask(method, path, workspace, json=body)
        assert answer.status_code == 403, (path, answer.text)
        assert "KFM refused" in answer.text, path
    # MLflow's own answer, with its own status, to who would delete a workspace that is not empty.
    kept = requests.delete(
        f"{spaced.server.url}{spaces_api}/{OURS}", auth=("admin", spaced.password), timeout=30
    )
    assert "still contains" in kept.json()["message"]
    assert spaced.server.state() == before
    assert spaced.ask("DELETE", f"{spaces_api}/empty").ok


@pytest.mark.server
@pytest.mark.usefixtures("admin")
def test_pages_api_and_command_line_tell_of_the_model_of_a_workspace(spaced, capsys, monkeypatch):
    from kfm_mlflow.cli.main import main

    api = f"/kfm/api/v1/models/{NAME}"
    assert spaced.ask("GET", api, OURS).json()["levels"] == {"1": "canary"}
    assert spaced.ask("GET", f"{api}?workspace={OURS}").json()["levels"] == {"1": "canary"}
    assert spaced.ask("GET", api).json()["levels"] == {}
    assert spaced.ask("GET", f"{api}?workspace={OURS}", THEIRS).status_code == 400
    assert spaced.ask("GET", f"{api}?workspace=nowhere").status_code == 404
    assert spaced.ask("GET", api, THEIRS).status_code == 404
    home = spaced.ask("GET", f"/kfm/?workspace={OURS}").text
    assert f'href="/kfm/models/{NAME}?workspace={OURS}">{KEY}<' in home
    assert KEY not in spaced.ask("GET", "/kfm/").text
    assert "canary" in spaced.ask("GET", f"/kfm/badge/{NAME}/1.svg?workspace={OURS}").text
    shown = spaced.ask(
        "GET", f"/ajax-api/2.0/mlflow/model-versions/get?name={NAME}&version=1", OURS
    )
    assert f"/kfm/models/{NAME}/1?workspace={OURS}" in shown.json()["model_version"]["description"]
    assert spaced.ask("GET", f"/kfm/stac/collections?workspace={OURS}").ok
    for asked, said in ((f"models:/{KEY}", "v1"), (f"models:/{NAME}", "nothing of")):
        with pytest.raises(SystemExit):
            main(["ledger", "at", "2999-01-01T00:00:00Z", asked, "--server", spaced.server.url])
        capsys.readouterr()
        now = spaced.ask("GET", "/kfm/api/v1/ledger/head").json()["at"]
        with pytest.raises(SystemExit):
            main(["ledger", "at", now, asked, "--server", spaced.server.url])
        assert said in capsys.readouterr().out
    monkeypatch.setenv("MLFLOW_WORKSPACE", OURS)
    assert RemoteRegistry(spaced.server.url).model(NAME)["levels"] == {"1": "canary"}


@pytest.mark.server
@pytest.mark.usefixtures("admin")
def test_a_controller_and_a_council_work_in_a_workspace(spaced, world, tmp_path, monkeypatch):
    # Who registered a version speaks for it no more.
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "cat")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    remote = RemoteRegistry(
        spaced.server.url, controller_key=world.key("controller"), cache_dir=tmp_path
    )
    remote.publish_verdict(KEY, 1, GOOD_CANARY)
    now = datetime.now(UTC)
    remote.cast_vote(
        KEY,
        1,
        "production",
        key=world.key(COUNCIL[0]),
        choice="approve",
        reason="measured",
        now=now,
        expires_at=now + timedelta(days=1),
    )
    report = remote.check(KEY, 1, "production")["report"]
    assert report["votes"]["approving"] == [COUNCIL[0]]
    canary = next(gate for gate in report["gates"] if gate["gate"] == "canary")
    assert canary["verdict"] == "PASS"
    with pytest.raises(InputError, match=f"set MLFLOW_WORKSPACE={OURS}"):
        remote.fetch(KEY, 1)
    monkeypatch.setenv("MLFLOW_WORKSPACE", OURS)
    fetched = remote.fetch(NAME, 1)
    assert (fetched.model_name, fetched.version) == (NAME, 1)


@pytest.mark.server
@pytest.mark.usefixtures("admin")
def test_an_export_from_a_workspace_verifies_and_is_of_that_model(
    spaced, world, tmp_path, monkeypatch
):
    url, key = spaced.server.url, spaced.server.data / "registry.pem.pub"
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", "cat")
        patch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        now = datetime.now(UTC)
        RemoteRegistry(url).cast_vote(
            *(KEY, 1, "production"),
            key=world.key(COUNCIL[1]),
            choice="approve",
            reason="measured",
            now=now,
            expires_at=now + timedelta(days=1),
        )
    target = tmp_path / "out"
    with pytest.raises(InputError, match=f"set MLFLOW_WORKSPACE={OURS}"):
        export.callback(f"models:/{KEY}/1", output=target, server=url, key_files=(key,))
    monkeypatch.setenv("MLFLOW_WORKSPACE", OURS)
    run_cli("export", f"models:/{NAME}/1", "-o", target, "--server", url, "--key", key)
    report = verify_export(target, now=datetime.now(UTC), registry_keys=(load_public_key(key),))
    assert (report.problems, report.index["model_name"]) == ((), KEY)
    # A vote is about the model of its workspace; the validator's word is about the release.
    statements = [*target.rglob("*.evidence/*.intoto.json"), *target.glob("attestations/*")]
    assert (report.statement_count, len(report.notes)) == (len(statements), 0)
    said = [load_json(path)["payload"] for path in target.glob("attestations/*")]
    names = {
        json.loads(base64.b64decode(text))["predicate"]["binding"]["model_name"] for text in said
    }
    assert names == {KEY}


@pytest.mark.server
def test_a_reader_of_one_workspace_sees_nothing_of_another(spaced):
    rows = spaced.ask("GET", "/kfm/api/v1/ledger", params={"model": NAME}, workspace=OURS)
    seq = rows.json()["rows"][0]["seq"]
    uri = spaced.ask("GET", f"/kfm/api/v1/models/{NAME}/versions/1", OURS).json()["release"]
    path = uri["frozen_uri"].removeprefix("mlflow-artifacts:/")
    proxy = f"/api/2.0/mlflow-artifacts/artifacts/{path}/MLmodel"
    for user, workspace, asked, status in (
        ("ann", OURS, f"/kfm/models/{NAME}/1", 200),
        ("ann", "", f"/kfm/models/{NAME}/1?workspace={OURS}", 200),
        ("ann", "", f"/kfm/models/{NAME}/1", 403),
        ("ann", OURS, f"/kfm/api/v1/ledger?model={NAME}", 200),
        ("ann", OURS, "/kfm/api/v1/ledger", 403),
        ("ann", "", f"/kfm/ledger/{seq}", 200),
        ("ann", OURS, proxy, 200),
        ("bob", "", f"/kfm/models/{NAME}/1?workspace={OURS}", 403),
        ("bob", OURS, f"/kfm/api/v1/models/{NAME}/versions/1", 403),
        ("bob", OURS, f"/kfm/api/v1/ledger?model={NAME}", 403),
        ("bob", "", f"/kfm/ledger/{seq}", 403),
        ("bob", OURS, proxy, 403),
        ("bob", THEIRS, proxy, 403),
        ("bob", THEIRS, f"/kfm/api/v1/ledger?model={KEY.replace('/', '%2F')}", 403),
    ):
        answer = spaced.ask("GET", asked, workspace, user)
        assert answer.status_code == status, (user, workspace, asked, answer.text[:300])
    home = spaced.ask("GET", f"/kfm/?workspace={OURS}", user="bob")
    assert home.ok
    assert NAME not in home.text
    assert spaced.ask("GET", proxy).status_code == 400
