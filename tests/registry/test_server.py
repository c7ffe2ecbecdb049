"""The real server: MLflow's client, its REST API, the path its UI uses, our API and pages."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from registry.server import environment
from registry.world import (
    COUNCIL,
    GOOD_CANARY,
    NAME,
    claims_of,
    digest_of,
    only_refused,
    query,
    tiny_rows,
)

from kfm_mlflow.rollout.remote import RemoteRegistry
from kfm_mlflow.trust.ledger import verify_chain

pytestmark = pytest.mark.server
KFM = "/kfm/api/v1"
PROXIES = ("/api/2.0/mlflow-artifacts/artifacts", "/ajax-api/2.0/mlflow-artifacts/artifacts")


def transition(server, version, stage, prefix="api", name=NAME, *, archive=False):
    return server.post(
        "model-versions/transition-stage",
        prefix,
        name=name,
        version=str(version),
        stage=stage,
        archive_existing_versions=archive,
    )


@pytest.fixture(scope="module")
def candidate(server, world):
    """Return v1: registered, never moved."""
    return server.register(world.releases[0])


@pytest.fixture(scope="module")
def staged(server, world, candidate):
    """Return v2, which went to Staging through REST."""
    version = server.register(world.releases[1])
    answer = transition(server, version, "Staging")
    assert answer.status_code == 200, answer.text
    return version


# -- refusals ----------------------------------------------------------------------------------------


def test_mlflows_client_receives_the_refusal_of_a_direct_production_at_once(server, candidate):
    before, started_s = server.state(), time.monotonic()
    with (
        pytest.warns(FutureWarning, match="stages"),
        pytest.raises(MlflowException) as caught,
    ):
        server.client().transition_model_version_stage(NAME, str(candidate), "Production")
    # With three retries MLflow's client took 13 s, with its default minutes. The one refused row
    # below says the same whatever this machine is busy with.
    assert time.monotonic() - started_s < 12
    assert caught.value.get_http_status_code() == 403
    sentence = str(caught.value).removeprefix("PERMISSION_DENIED: ")
    assert sentence.startswith(f"KFM refused Production for {NAME} v{candidate}: candidate cannot")
    assert len(sentence) < 300
    assert "\n" not in sentence
    assert sentence.endswith(f"see /kfm/models/{NAME}/{candidate}")
    assert claims_of(only_refused(before, server.state())["body"])["actor"] == "unauthenticated"


@pytest.mark.parametrize("prefix", ["api", "ajax-api"])
@pytest.mark.parametrize("alias", ["champion", "production", "canary"])
def test_a_level_alias_is_the_same_gate(server, candidate, prefix, alias):
    before = server.state()
    answer = server.post(
        "registered-models/alias", prefix, name=NAME, alias=alias, version=str(candidate)
    )
    assert answer.status_code == 403
    assert answer.json()["message"].startswith("KFM refused")
    only_refused(before, server.state())


def test_the_ui_gets_the_same_refusal(server, candidate):
    before = server.state()
    answer = transition(server, candidate, "Production", "ajax-api", archive=True)
    assert answer.status_code == 403
    assert answer.json()["error_code"] == "PERMISSION_DENIED"
    only_refused(before, server.state())


@pytest.mark.parametrize("version", ["01", "-1", "x", "0", "1.0", "9" * 12, "9" * 40])
def test_a_malformed_version_is_bad_input_over_rest(server, candidate, version):
    before = server.state()
    assert transition(server, version, "Staging").status_code == 400
    alias = server.post("registered-models/alias", name=NAME, alias="staging", version=version)
    assert alias.status_code == 400
    assert server.ask("GET", f"{KFM}/models/{NAME}/versions/{version}").status_code in (400, 404)
    assert server.state() == before


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "model-versions/set-tag", {"version": "@", "key": "kfm.x", "value": "y"}),
        ("DELETE", "model-versions/delete-tag", {"version": "@", "key": "kfm.x"}),
        ("POST", "registered-models/set-tag", {"key": "kfm.x", "value": "y"}),
        ("DELETE", "registered-models/delete-tag", {"key": "kfm.x"}),
        (
            "POST",
            "registered-models/set-tag",
            {"key": "mlflow.prompt.is_prompt", "value": "true"},
        ),
        ("POST", "registered-models/rename", {"new_name": "climate-renamed"}),
        ("DELETE", "registered-models/delete", {}),
        ("DELETE", "model-versions/delete", {"version": "@"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_governed_is_not_changed_by_mlflows_other_doors(server, staged, method, path, body):
    body = {key: str(staged) if value == "@" else value for key, value in body.items()}
    before = server.state()
    for prefix in ("api", "ajax-api"):
        answer = server.ask(method, f"/{prefix}/2.0/mlflow/{path}", json={"name": NAME, **body})
        assert answer.status_code == 403, answer.text
        assert answer.json()["message"].startswith("KFM refused")
    assert server.state() == before


# -- staging and the frozen area ------------------------------------------------------------------------


def test_staging_over_rest_points_to_the_frozen_copy(server, world, staged):
    key = digest_of(world.releases[1]).removeprefix("sha256:")
    uri = server.client().get_model_version_download_uri(NAME, str(staged))
    assert uri == f"mlflow-artifacts:/kfm-frozen/{key}/release"
    version = server.client().get_model_version_by_alias(NAME, "staging")
    assert (int(version.version), version.current_stage) == (staged, "Staging")
    entry = server.ask("GET", f"{KFM}/models/{NAME}/versions/{staged}").json()
    assert entry["integrity"]["hash"] == digest_of(world.releases[1])
    assert entry["integrity"]["immutable"] is True
    path = entry["integrity"]["signature"].removeprefix("mlflow-artifacts:/")
    signature = server.ask("GET", f"{PROXIES[0]}/{path}")
    assert signature.json()["dsseEnvelope"]["payloadType"] == "application/vnd.in-toto+json"


_LOAD = """
import sys
sys.modules["kfm_mlflow"] = None  # whoever imports it fails
import mlflow, numpy
model = mlflow.pyfunc.load_model("models:/{name}@staging")
rows = numpy.load("rows.npy")
numpy.save("answers.npy", model.predict({{"input": rows}})["output"])
"""


def test_a_client_without_our_package_loads_the_frozen_copy_whatever_became_of_the_source(
    server, world, staged, tmp_path
):
    import numpy as np

    ((source,),) = query(
        server.data / "mlflow.db", "SELECT source FROM model_versions WHERE version = ?", staged
    )
    path = f"{PROXIES[0]}/{source.removeprefix('mlflow-artifacts:/')}"
    assert server.ask("PUT", f"{path}/model.onnx", data=b"tampered").ok
    assert server.ask("DELETE", path).ok
    np.save(tmp_path / "rows.npy", tiny_rows(3))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _LOAD.format(name=NAME)],
        cwd=tmp_path,
        env={**environment(tmp_path), "MLFLOW_TRACKING_URI": server.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = 1.01 * tiny_rows(3).repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(np.load(tmp_path / "answers.npy"), expected, rtol=1e-5)


def spellings(path):
    once = quote(path, safe="")
    yield from (path, f"./{path}", f"x/../{path}", f"//{path}", f"file:{path}", path.upper())
    yield from (once, quote(once, safe=""), quote(quote(once, safe=""), safe=""))
    deep = path
    for _ in range(9):
        deep = quote(deep, safe="").replace("-", "%2D")
    yield deep
    yield path.replace("kfm-", "kfm%2d").replace("frozen", "fro%7Aen")
    yield path.replace("kfm-", "kfm-%09").replace("/", "%2f")


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_no_spelling_of_the_frozen_area_is_written_through_the_proxy(
    server, world, staged, proxy, method
):
    import http.client

    key = digest_of(world.releases[1]).removeprefix("sha256:")
    before = server.state()["files"]
    host = server.url.removeprefix("http://")
    for target in (f"kfm-frozen/{key}/release/model.onnx", f"kfm-frozen/{key}", "kfm-frozen"):
        for spelt in spellings(target):
            # http.client sends the path as it is; requests would normalise it first.
            connection = http.client.HTTPConnection(host, timeout=30)
            connection.request(method, f"{proxy}/{spelt}", body=b"evil")
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            assert answer.status == 403, (spelt, answer.status, body[:200])
            assert b"releases are immutable" in body
    assert server.state()["files"] == before


@pytest.mark.parametrize("target", ["", ".", "%2E", "./", "file:", "%2e%2f", "%2F"])
def test_the_whole_artifact_root_is_not_deleted_through_the_proxy(server, staged, target):
    import http.client

    before = server.state()["files"]
    for proxy in PROXIES:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
        connection.request("DELETE", f"{proxy}/{target}")
        status = connection.getresponse().status
        connection.close()
        assert 400 <= status < 500
    assert server.state()["files"] == before


@pytest.mark.parametrize(
    "location", ["mlflow-artifacts:/kfm-frozen/x", "mlflow-artifacts:/a/%6bfm-frozen"]
)
def test_no_experiment_keeps_its_artifacts_in_the_frozen_area(server, location):
    for prefix in ("api", "ajax-api"):
        answer = server.post(
            "experiments/create", prefix, name=f"sneaky {prefix}", artifact_location=location
        )
        assert answer.status_code == 403


def test_ordinary_artifacts_are_written_read_and_deleted_as_in_plain_mlflow(server):
    path = f"{PROXIES[0]}/0/somebody/notes.txt"
    assert server.ask("PUT", path, data=b"hello").ok
    assert server.ask("GET", path).content == b"hello"
    assert server.ask("DELETE", path).ok


# -- prompts and other aliases ----------------------------------------------------------------------------


def test_prompts_keep_working_and_may_be_called_production(server, monkeypatch):
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", server.url)
    mlflow.genai.register_prompt("greeting", "Hello {{name}}")
    mlflow.genai.register_prompt("greeting", "Good morning {{name}}")
    mlflow.genai.set_prompt_alias("greeting", "production", 2)
    found = mlflow.genai.load_prompt("prompts:/greeting@production")
    assert (found.version, found.format(name="Ann")) == (2, "Good morning Ann")
    mlflow.genai.delete_prompt_alias("greeting", "production")


def test_other_aliases_work_as_in_plain_mlflow(server, candidate):
    client = server.client()
    client.set_registered_model_alias(NAME, "favourite", str(candidate))
    assert int(client.get_model_version_by_alias(NAME, "favourite").version) == candidate
    client.delete_registered_model_alias(NAME, "favourite")


# -- our API ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        ("GET", "@candidate/check?to=live", {}, 400),
        ("GET", "@candidate/check", {}, 400),
        ("GET", f"/models/{NAME}/versions/77", {}, 404),
        ("GET", "/models/none", {}, 404),
        ("GET", "/models/none/versions/1/check?to=staging", {}, 404),
        ("GET", "/policies/none", {}, 400),
        ("POST", "@candidate/moves", {"json": {"to": "live"}}, 400),
        ("POST", "@candidate/moves", {"json": {}}, 400),
        ("POST", "@candidate/moves", {"json": []}, 400),
        ("POST", "@candidate/moves", {"data": b"{"}, 400),
        ("POST", "@candidate/moves", {"data": b'{"to":"staging"}'}, 400),
        (
            "POST",
            "@candidate/moves",
            {"json": {"to": "staging", "restore": "1"}},
            400,
        ),
        (
            "POST",
            "@candidate/moves",
            {"json": {"to": "staging", "expect": {"production": True}}},
            400,
        ),
        (
            "POST",
            "@candidate/moves",
            {"json": {"to": "staging", "expect": {"production": 9, "canary": None}}},
            409,
        ),
        ("POST", "@staged/attestations", {"data": b"\xff"}, 400),
        ("POST", "@staged/attestations", {"json": {"payload": ""}}, 400),
        ("POST", "@candidate/attestations", {"data": b"{}"}, 400),
        ("POST", "/votes", {"json": {"model_name": NAME}}, 400),
        ("POST", "/votes", {"json": {"model_name": NAME, "version": 99, "envelope": None}}, 404),
        ("GET", "@candidate/proposal?to=production", {}, 400),
        ("PUT", f"/models/{NAME}/rollout", {"json": {"expected": 5, "state": {}}}, 409),
        ("PUT", f"/models/{NAME}/rollout", {"json": {"expected": "5"}}, 400),
        ("GET", f"/ledger?version={'9' * 30}", {}, 400),
        ("GET", "/ledger?version=x", {}, 400),
        ("GET", "/nothing", {}, 404),
        ("DELETE", f"/models/{NAME}", {}, 405),
    ],
)
def test_bad_requests_have_clear_answers_and_change_nothing(server, candidate, staged, case):
    method, path, kwargs, status = case
    if kwargs.get("data") == b"{":
        kwargs = {**kwargs, "headers": {"Content-Type": "application/json"}}
    for word, version in (("@candidate", candidate), ("@staged", staged)):
        path = path.replace(word, f"/models/{NAME}/versions/{version}")
    before = server.state()
    answer = server.ask(method, f"{KFM}{path}", **kwargs)
    assert answer.status_code == status, answer.text
    if status in (400, 403, 409):
        assert answer.json()["message"]
    assert server.state() == before


def test_the_journal_is_written_by_compare_and_set(server, staged):
    url = f"{KFM}/models/{NAME}/rollout"
    assert server.ask("GET", url).json() == {"generation": 0, "state": None}
    done = server.ask("PUT", url, json={"expected": 0, "state": {"phase": "steady"}})
    assert done.json() == {"generation": 1}
    assert server.ask("PUT", url, json={"expected": 0, "state": {}}).status_code == 409
    assert server.ask("GET", url).json() == {"generation": 1, "state": {"phase": "steady"}}


def test_from_staging_to_production_and_back_over_the_api(server, world, staged, tmp_path):
    """The whole journey over HTTP; what the controller and the command line do."""
    remote = RemoteRegistry(server.url, controller_key=world.key("controller"), cache_dir=tmp_path)
    third = server.register(world.releases[2])
    now = datetime.now(UTC)
    for version in (staged, third):
        if version == third:
            remote.request_move(NAME, version, "staging")
        digest = remote.check(NAME, version, "canary")["digest"]
        assert remote.request_move(NAME, version, "canary")["decision_digest"] == digest
        remote.publish_verdict(NAME, version, GOOD_CANARY)
        for member in COUNCIL[1:]:
            remote.cast_vote(
                NAME,
                version,
                "production",
                key=world.key(member),
                choice="approve",
                reason="measured",
                now=now,
                expires_at=now + timedelta(days=1),
            )
        assert transition(server, version, "Production", archive=True).status_code == 200
    assert remote.levels(NAME).production == third
    before = len(remote.ledger(None))
    remote.move(
        NAME,
        staged,
        "production",
        expect_production=third,
        expect_canary=None,
        reason="worse than before",
    )
    assert remote.levels(NAME).production == staged
    client = server.client()
    assert int(client.get_model_version_by_alias(NAME, "champion").version) == staged
    rows = remote.ledger(None)
    assert len(rows) == before + 2
    chain = [
        {**{k: v for k, v in row.items() if k != "hash"}, "row_hash": row["hash"]} for row in rows
    ]
    assert verify_chain(chain) is None


def test_the_controller_downloads_a_verified_release(server, world, staged, tmp_path):
    remote = RemoteRegistry(server.url, cache_dir=tmp_path)
    found = remote.fetch(NAME, staged)
    assert found.release_id == digest_of(world.releases[1])


# -- pages ----------------------------------------------------------------------------------------------------


def assert_safe(page):
    assert page.status_code == 200
    assert page.headers["Content-Type"].startswith("text/html")
    lowered = page.text.lower()
    for foreign in ("http://", "https://", "<script", "javascript:", "src=", "@import", "url("):
        assert foreign not in lowered


def test_pages_render_what_a_refusal_points_to_without_script_or_foreign_host(
    server, candidate, staged
):
    home = server.ask("GET", "/kfm/")
    assert_safe(home)
    assert NAME in home.text
    page = server.ask("GET", f"/kfm/models/{NAME}/{candidate}")
    assert_safe(page)
    assert "No decision about this version yet" not in page.text
    assert "candidate cannot become production" in page.text
    assert server.ask("GET", f"/kfm/models/{NAME}").status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        '<b x="1">bold',
        "<img src=x onerror=alert(1)>",
        "{{7*7}}",
        "a b&c=d",
        "ÄÖ %41",
        "'; --",
    ],
)
def test_odd_model_names_are_escaped_on_every_page(server, name):
    client = server.client()
    client.create_registered_model(name)
    made = client.create_model_version(name, "s3://nowhere/release", await_creation_for=0)
    for path in ("/kfm/", f"/kfm/models/{quote(name, safe='')}/{made.version}"):
        page = server.ask("GET", path)
        assert page.status_code == 200
        for raw in ("<b x", "<img", ">49<"):
            assert raw not in page.text


@pytest.mark.parametrize("path", ["/kfm/models/none/1", f"/kfm/models/{NAME}/99"])
def test_a_page_of_nothing_is_not_found_in_plain_text(server, path):
    page = server.ask("GET", path)
    assert page.status_code == 404
    assert page.headers["Content-Type"].startswith("text/plain")
