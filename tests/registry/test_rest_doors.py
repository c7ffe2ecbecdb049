"""The registry's doors over HTTP, as a client and as MLflow's pages ask, on both databases."""

from __future__ import annotations

import pytest
from registry.door_world import BROKEN, CANDIDATE, Ask
from registry.world import NAME, only_refused

from kfm_mlflow.registry.doors import Guard, Reason
from kfm_mlflow.registry.route_doors import CLOSED_DOORS, REGISTRY_DOORS

pytestmark = pytest.mark.server
TRANSITION = "POST 2.0/mlflow/model-versions/transition-stage"
ALIAS = "2.0/mlflow/registered-models/alias"
CREATE = "POST 2.0/mlflow/model-versions/create"
PROMPT_TAG = "mlflow.prompt.is_prompt"


def stage(name, version, to, status, *words, archive=False, recorded=False):
    body = {"name": name, "version": version, "stage": to, "archive_existing_versions": archive}
    return Ask(TRANSITION, status, body, words, recorded)


def alias(name, version, to, status, *words, recorded=False):
    body = {"name": name, "version": version, "alias": to}
    return Ask(f"POST {ALIAS}", status, body, words, recorded)


SEE_BROKEN = f"see /kfm/models/{BROKEN}/1"
SEE_CANDIDATE = f"see /kfm/models/{NAME}/{CANDIDATE}"
SQL = "climate'; DROP TABLE kfm_ledger; --"

MOVES = (
    # No signature: refused by the gates, with one sentence and a row in the ledger.
    *(
        stage(BROKEN, "1", "Staging", 403, f"KFM refused Staging for {BROKEN} v1: ", "signature", SEE_BROKEN, archive=archive, recorded=True)
        for archive in (False, True)
    ),
    alias(BROKEN, "1", "staging", 403, "KFM refused Staging", "signature", SEE_BROKEN, recorded=True),
    # Good bytes, and no level may be skipped, whatever becomes of the others.
    *(
        stage(NAME, str(CANDIDATE), "Production", 403, "candidate cannot become production", SEE_CANDIDATE, archive=archive, recorded=True)
        for archive in (False, True)
    ),
    *(
        alias(NAME, str(CANDIDATE), to, 403, f"KFM refused {level} for {NAME} v{CANDIDATE}", SEE_CANDIDATE, recorded=True)
        for to, level in (("canary", "Canary"), ("production", "Production"), ("champion", "Production"))
    ),
    # A level that is held is not left by a stage or an alias of another.
    alias(NAME, "2", "champion", 403, "staging cannot become production", recorded=True),
    stage(NAME, "2", "Production", 403, "staging cannot become production", recorded=True),
    # Production goes by promotion or rollback, not by a stage or by deleting its alias.
    *(stage(NAME, "1", to, 403, "Production comes down by promotion or rollback", f"see /kfm/models/{NAME}/1", recorded=True) for to in ("Archived", "None", "Staging")),
    *(Ask(f"DELETE {ALIAS}", 403, {"name": NAME, "alias": to}, ("Production comes down by promotion or rollback",), recorded=True) for to in ("champion", "production")),
    # Input that means nothing.
    *(stage(NAME, "3", to, 400) for to in ("Live", "", "production;", "Canary")),
    *(stage(NAME, version, "Staging", 400) for version in ("01", "x", "-1", "1.0", "٣", "9" * 30)),
    *(alias(NAME, version, "staging", 400) for version in ("01", "x", "-1", "1.0", "9" * 30)),
    *(alias(NAME, "3", to, 400, f"write '{to.lower()}'") for to in ("Champion", "CANARY", "sTaging")),
    alias(NAME, "3", "latest", 400),
    stage(SQL, "1", "Staging", 404),
    alias(SQL, "1", "champion", 404),
    alias(NAME, "77", "staging", 404),
)  # fmt: skip

PROTECTED = (
    Ask("POST 2.0/mlflow/registered-models/rename", 403, {"name": NAME, "new_name": "climate-other"}, ("KFM refused to rename", "is kept")),
    Ask("POST 2.0/mlflow/registered-models/rename", 400, {"name": "easy", "new_name": "climate-easy"}, ("belongs to family 'climate'",)),
    Ask("DELETE 2.0/mlflow/registered-models/delete", 403, {"name": NAME}, ("KFM refused to delete", "is kept")),
    *(
        Ask("DELETE 2.0/mlflow/model-versions/delete", 403, {"name": NAME, "version": version}, ("KFM refused to delete", "is kept", f"see /kfm/models/{NAME}/{version}"))
        for version in ("1", "2")
    ),
    Ask("DELETE 2.0/mlflow/model-versions/delete", 400, {"name": NAME, "version": "01"}),
    *(
        Ask(f"{method} 2.0/mlflow/{kind}/{verb}-tag", 403, {"name": NAME, "key": key, **more}, (f"KFM refused tag {key}", "the registry's own"))
        for kind, more in (("registered-models", {}), ("model-versions", {"version": "1"}))
        for method, verb, more in (("POST", "set", {**more, "value": "x"}), ("DELETE", "delete", more))
        for key in ("kfm.level", "KFM.release_id")
    ),
    Ask("POST 2.0/mlflow/registered-models/set-tag", 403, {"name": NAME, "key": PROMPT_TAG, "value": "true"}, (PROMPT_TAG,)),
    Ask("POST 2.0/mlflow/registered-models/create", 403, {"name": "climate-new", "tags": [{"key": "kfm.level", "value": "production"}]}, ("the registry's own",)),
    Ask("POST 2.0/mlflow/registered-models/create", 400, {"name": "climate-new", "tags": [{"key": "kfm.family", "value": "baseline"}]}, ("belongs to family 'climate'",)),
    Ask("POST 2.0/mlflow/registered-models/create", 400, {"name": NAME}, ("already exists",)),
    Ask(CREATE, 403, {"name": NAME, "source": "s3://b/m", "tags": [{"key": "kfm.level", "value": "x"}]}, ("the registry's own",)),
    # MLflow's own answers to sources that a client may not name.
    *(
        Ask(CREATE, 400, {"name": NAME, "source": source}, ("Invalid model version source",))
        for source in (
            "mlflow-artifacts:/kfm-frozen/{key}/release",
            "mlflow-artifacts:/a/../kfm-frozen/{key}/release",
            "file:///etc",
            "/etc",
            "s3://bucket/../other",
            "runs:/{run_id}/release",
            "models://host/climate-tiny/1",
        )
    ),
    Ask(CREATE, 400, {"name": NAME, "run_id": "{run_id}", "source": "mlflow-artifacts:/kfm-frozen/{key}/release"}),
    Ask(CREATE, 400, {"name": NAME, "source": "s3://b/m", "tags": [{"key": PROMPT_TAG, "value": "true"}]}),
    Ask(CREATE, 404, {"name": SQL, "source": "s3://b/m"}),
)  # fmt: skip

CLOSED = tuple(
    Ask(route, 403, {}, ("KFM refused to",), prefixes=("/api/", "/ajax-api/"))
    for row in CLOSED_DOORS
    for route in row.routes
)


@pytest.mark.parametrize("ask", [*MOVES, *PROTECTED, *CLOSED], ids=str)
def test_a_refused_request_changes_nothing_and_says_why(door_server, ask):
    door_server.names.setdefault("session_id", "somebody")
    before = door_server.state()
    for answer in door_server.send(ask):
        assert answer.status_code == ask.status, answer.text
        sentence = answer.json()["message"]
        assert len(sentence) < 300 or not sentence.startswith("KFM")
        assert "\n" not in sentence
        for word in ask.words:
            assert word in sentence
        if sentence.startswith("KFM"):
            assert answer.json()["reason_code"] in ask.door().reasons
        after = door_server.state()
        if ask.recorded:
            only_refused(before, after)
        else:
            assert after == before
        before = after


def test_every_row_that_refuses_is_tried_here_or_among_the_artifacts():
    tried = {ask.door().name for ask in (*MOVES, *PROTECTED, *CLOSED)}
    rows = {row.name for row in (*REGISTRY_DOORS, *CLOSED_DOORS) if row.guard not in (Guard.READ, Guard.PLAIN)}  # fmt: skip
    assert tried == rows


# -- what goes through ------------------------------------------------------------------------------------


def candidate_of(held, version, name=NAME):
    """Assert that a version is a candidate and nothing more."""
    found = held.server.client().get_model_version(name, str(version))
    assert (found.current_stage, found.aliases) == ("None", [])
    known = held.server.ask("GET", f"/kfm/api/v1/models/{name}/versions/{version}").json()
    assert known["level"] == "candidate"


@pytest.mark.parametrize("source", ["models:/climate-tiny/1", "models:/climate-tiny@champion"])
def test_promote_of_mlflows_page_makes_a_candidate(door_server, source):
    server, before = door_server.server, door_server.governed()
    made = server.post("model-versions/create", "ajax-api", name=NAME, source=source)
    assert made.status_code == 200, made.text
    candidate_of(door_server, made.json()["model_version"]["version"])
    assert door_server.governed() == before


def test_copy_model_version_makes_a_candidate_that_no_other_models_release_gets_past(door_server):
    client, before = door_server.server.client(), door_server.governed()
    copied = client.copy_model_version(f"models:/{NAME}@champion", "climate-copied")
    candidate_of(door_server, copied.version, "climate-copied")
    (answer, _) = door_server.send(stage("climate-copied", "1", "Staging", 403))
    assert answer.status_code == 403, answer.text
    assert "release of another model" in answer.json()["message"]
    assert door_server.governed() == before


@pytest.mark.parametrize(
    "source", ["s3://no-such-bucket/model", "https://127.0.0.1:9/model", "dbfs:/x"]
)
def test_a_foreign_source_is_a_candidate_that_cannot_be_read_and_so_does_not_pass(
    door_server, source
):
    server, before = door_server.server, door_server.governed()
    made = server.post("model-versions/create", name=NAME, source=source)
    if made.status_code == 400:
        assert door_server.governed() == before
        return
    version = made.json()["model_version"]["version"]
    candidate_of(door_server, version)
    (answer, _) = door_server.send(stage(NAME, version, "Staging", 403))
    assert answer.status_code in (400, 403), answer.text
    candidate_of(door_server, version)


@pytest.mark.parametrize(
    "value",
    ["x" * 5000, "\x00\x01", "😀" * 100, SQL, ""],
    ids=["huge", "binary", "emoji", "sql", "empty"],
)
def test_other_tags_and_descriptions_pass_or_are_mlflows_own_400(door_server, value):
    before = door_server.governed()
    for ask in (
        Ask("POST 2.0/mlflow/model-versions/set-tag", 0, {"name": NAME, "version": "1", "key": "note", "value": value}),
        Ask("POST 2.0/mlflow/registered-models/set-tag", 0, {"name": NAME, "key": "note", "value": value}),
        Ask("PATCH 2.0/mlflow/registered-models/update", 0, {"name": NAME, "description": value}),
        Ask("PATCH 2.0/mlflow/model-versions/update", 0, {"name": NAME, "version": "1", "description": value}),
    ):  # fmt: skip
        for answer in door_server.send(ask):
            assert answer.status_code in (200, 400, 403), answer.text
    assert door_server.governed() == before


def test_a_door_that_mlflow_has_not_today_is_refused_by_the_server(door_server):
    for path in ("/api/2.0/mlflow/model-versions/promote", "/ajax-api/3.0/mlflow/assistant/shell"):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            answer = door_server.server.ask(method, path, json={"name": NAME, "version": "3"})
            assert answer.status_code == 403
            assert answer.json()["reason_code"] == Reason.DOOR_UNKNOWN
            assert "does not know this door" in answer.json()["message"]


def test_graphql_reads_and_its_mutations_read_too(door_server):
    before = door_server.state()
    for asked in ("{", "mutation {"):
        field = "test" if asked == "{" else "testMutation"
        query = f'{asked} {field}(inputString: "x") {{ output }} }}'
        assert "data" in door_server.server.ask("POST", "/graphql", json={"query": query}).json()
    assert door_server.state() == before
