"""``kfm doctor``: whatever is wrong is named with how to mend it, and nothing is touched."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from conftest import free_port
from registry.world import NAME, Registry, files_of

from kfm_mlflow.canonical import digest_file
from kfm_mlflow.registry.doctor_machine import (
    Process,
    database_name,
    environment,
    plain_servers,
    registry_uri_of,
    shown,
)
from kfm_mlflow.release.claim import remove_tree

STORES = ("MLFLOW_REGISTRY_STORE_URI", "MLFLOW_BACKEND_STORE_URI", "MLFLOW_REGISTRY_URI")


@pytest.fixture(scope="module")
def _healthy(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("healthy") / "data"
    folder.mkdir()
    made = Registry(world, folder / "mlflow.db", folder / "artifacts")
    for bundle in world.releases[:2]:
        made.register(bundle)
    made.to_production(1)
    made.to_canary(2)
    made.store._dispose_engine()
    shutil.copy(world.key("registry"), folder / "registry.pem")
    (folder / "registry.pem").chmod(0o600)
    return folder


@pytest.fixture
def data(_healthy, tmp_path, monkeypatch):
    """Return the data folder of a registry with v1 at Production and v2 its canary."""
    for name in (*STORES, "KFM_REGISTRY_KEY", "KFM_POLICY_DIR", "KFM_ARTIFACTS_DESTINATION"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(_healthy, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def doctor(kfm, world, data):
    """Run doctor as the server was started; returns exit code, and findings by check."""

    def run(*more):
        arguments = ("--data-dir", data, "--policy-dir", world.policies, "--json", *more)
        done = kfm("doctor", *arguments)
        assert done.err == "", done.err
        return done.code, {item["check"]: item for item in json.loads(done.out)}

    return run


def execute(data, *statements):
    """Write past the registry, with its triggers put aside and back."""
    with closing(sqlite3.connect(data / "mlflow.db")) as connection:
        kept = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in kept:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        for _, sql in kept:
            connection.execute(sql)
        connection.commit()


def raw(data, *statements):
    with closing(sqlite3.connect(data / "mlflow.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def frozen(data):
    """Return the folder of one frozen release."""
    return min(path for path in (data / "artifacts" / "kfm-frozen").iterdir() if path.is_dir())


def test_a_healthy_registry_has_no_problem_and_nothing_of_it_is_touched(doctor, data):
    before = files_of(data)
    code, found = doctor("--hash")
    assert [item for item in found.values() if item["status"] == "problem"] == []
    assert code == 0
    assert files_of(data) == before
    for check in (
        *("registry key", "environment", "plain servers", "assistant", "artifact root"),
        *("frozen area", "database", "database file", "tables", "revision", "triggers"),
        *("permits", "ledger", "levels", "workspaces", "releases", "frozen copies", "trust"),
    ):
        assert found[check]["status"] == "ok", found[check]
    assert found["access"]["status"] == "warning"
    assert "2 versions above candidate" in found["levels"]["detail"]


PROMPT = (
    "INSERT INTO registered_model_tags (workspace, name, key, value)"
    f" VALUES ('default', '{NAME}', 'mlflow.prompt.is_prompt', 'true')"
)
STAGE = "UPDATE model_versions SET current_stage = '{}' WHERE version = {}"
ALIAS = "UPDATE registered_model_aliases SET {} WHERE alias = '{}'"


@pytest.mark.parametrize(
    ("statement", "check", "words"),
    [
        (PROMPT, "levels", f"{NAME} is a governed model, and calls itself a prompt"),
        (
            STAGE.format("None", 1),
            "levels",
            f"{NAME} v1 is candidate, and by the ledger production",
        ),
        (STAGE.format("Production", 2), "levels", "v2 is production, and by the ledger canary"),
        (
            ALIAS.format("version = 2", "champion"),
            "levels",
            "alias champion of climate-tiny names v2",
        ),
        ("DELETE FROM registered_model_aliases WHERE alias = 'champion'", "levels", "not name v1"),
        (ALIAS.format("alias = 'Staging'", "canary"), "levels", "v2 is staging"),
        (
            "UPDATE model_versions SET storage_location = NULL WHERE version = 1",
            "releases",
            "v1 is not read from its frozen copy",
        ),
        (
            "UPDATE kfm_release SET frozen_uri = 'mlflow-artifacts:/else/release' WHERE version = 2",
            "releases",
            "v2 has another frozen release than its decision names",
        ),
        ("DELETE FROM kfm_release WHERE version = 2", "releases", "v2 was frozen, and is not"),
        ("DELETE FROM kfm_ledger WHERE seq = 2", "ledger", "row 2 does not"),
        ("UPDATE kfm_ledger SET at = replace(at, '2', '1')", "ledger", "row 1 was changed"),
        ("INSERT INTO kfm_permit VALUES ('left')", "permits", "kfm_permit holds 1 rows"),
        ("UPDATE kfm_alembic_version SET version_num = 'r0'", "revision", "at revision r0, not"),
        ("DROP TABLE kfm_outbox", "tables", "kfm_outbox"),
        ("UPDATE registered_models SET workspace = 'other'", "workspaces", "no such workspaces"),
    ],
)
def test_what_was_written_past_the_registry_is_named_with_a_remedy(
    doctor, data, statement, check, words
):
    if statement.startswith("DROP"):
        raw(data, statement)
    else:
        execute(data, statement)
    code, found = doctor()
    assert code == 1
    assert found[check]["status"] == "problem", found
    assert words in found[check]["detail"]
    assert found[check]["remedy"]


def test_a_trigger_that_is_missing_or_altered_is_named(doctor, data):
    raw(data, "DROP TRIGGER kfm_guard_kfm_ledger_delete")
    code, found = doctor()
    assert (code, found["triggers"]["status"]) == (1, "problem")
    assert "kfm_guard_kfm_ledger_delete" in found["triggers"]["detail"]
    assert "kfm server" in found["triggers"]["remedy"]


def make_link(path):
    target = path / "release" / "MLmodel"
    (path / "release").chmod(0o755)
    target.rename(path.parent / "elsewhere")
    target.symlink_to(path.parent / "elsewhere")
    (path / "release").chmod(0o555)


@pytest.mark.parametrize(
    ("spoil", "check", "words"),
    [
        (lambda d: (frozen(d) / "release" / "MLmodel").chmod(0o644), "frozen area", "MLmodel"),
        (lambda d: (frozen(d) / "release").chmod(0o755), "frozen area", "release"),
        (lambda d: make_link(frozen(d)), "frozen area", "MLmodel"),
        (lambda d: (d / "artifacts" / "kfm-frozen").chmod(0o775), "artifact root", "0775"),
        (lambda d: (d / "artifacts").chmod(0o777), "artifact root", "0777"),
        (lambda d: remove_tree(frozen(d)), "frozen copies", "is not there"),
        (lambda d: (d / "registry.pem").chmod(0o640), "registry key", "0640"),
        (lambda d: d.chmod(0o777), "registry key", "everybody may replace files"),
        (lambda d: (d / "registry.pem").unlink(), "registry key", "no such key file"),
        (lambda d: (d / "mlflow.db").chmod(0o666), "database file", "0666"),
        (lambda d: (d / "mlflow.db").unlink(), "database", "is not there"),
        (lambda d: (d / "mlflow.db").write_text("x" * 9000), "database", "cannot be read"),
    ],
)
def test_open_files_and_lost_ones_are_named_with_a_remedy(doctor, data, spoil, check, words):
    spoil(data)
    code, found = doctor()
    assert code == 1
    assert (found[check]["status"], words in found[check]["detail"]) == ("problem", True), found
    assert found[check]["remedy"]


def test_altered_bytes_of_a_frozen_release_are_found_by_hashing(doctor, data):
    path = frozen(data) / "release" / "MLmodel"
    path.chmod(0o644)
    path.write_text(path.read_text() + "#")
    path.chmod(0o444)
    assert doctor()[1]["frozen copies"]["status"] == "ok"
    code, found = doctor("--hash")
    assert (code, found["frozen copies"]["status"]) == (1, "problem")
    assert "no longer what was admitted" in found["frozen copies"]["detail"]


def test_a_key_in_the_artifact_root_is_a_problem(doctor, data, monkeypatch):
    inside = data / "artifacts" / "registry.pem"
    shutil.copy(data / "registry.pem", inside)
    monkeypatch.setenv("KFM_REGISTRY_KEY", str(inside))
    assert "lies in the artifact root" in doctor()[1]["registry key"]["detail"]


def test_another_registry_key_does_not_verify_the_ledger_unless_it_is_named_as_former(
    doctor, data, world
):
    shutil.copy(world.key("foreign"), data / "registry.pem")
    (data / "registry.pem").chmod(0o600)
    assert "row 1 is not signed by the registry" in doctor()[1]["ledger"]["detail"]
    former = doctor("--former-key", f"{world.key('registry')}.pub")[1]
    assert former["ledger"]["status"] == "ok"


def test_packaged_policies_that_trust_nobody_are_a_problem_and_a_wrong_one_is_named(
    kfm, data, tmp_path
):
    done = kfm("doctor", "--data-dir", data)
    assert done.code == 1
    assert "trust: lack signers, validators or a council" in done.out
    assert "→ write a policy: `kfm policy init`" in done.out
    assert done.out.endswith("1 problem\n")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "climate.yaml").write_text("family: climate\n")
    done = kfm("doctor", "--data-dir", data, "--policy-dir", tmp_path / "bad")
    assert (done.code, "policies: " in done.out) == (1, True)


@pytest.mark.parametrize("name", [*STORES, "MLFLOW_TRACKING_URI"])
def test_a_variable_that_opens_the_database_itself_is_named(doctor, data, monkeypatch, name):
    monkeypatch.setenv(name, f"sqlite:///{data / 'mlflow.db'}")
    found = doctor()[1]["environment"]
    assert (found["status"], name in found["detail"]) == ("problem", True)
    monkeypatch.setenv(name, f"kfm+sqlite:///{data / 'mlflow.db'}")
    assert doctor()[1]["environment"]["status"] == "ok"


def test_the_remote_assistant_is_named_and_workspaces_are_no_fault(doctor, monkeypatch):
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    monkeypatch.setenv("MLFLOW_ENABLE_REMOTE_ASSISTANT", "1")
    detail = doctor()[1]["environment"]["detail"]
    assert "MLFLOW_ENABLE_WORKSPACES" not in detail
    assert "MLFLOW_ENABLE_REMOTE_ASSISTANT" in detail


def test_a_plain_server_of_this_machine_on_the_database_is_named_by_its_process(doctor, data):
    command = (
        *(sys.executable, "-c", "print(flush=True); input()", "mlflow", "server"),
        *("--backend-store-uri", "sqlite:///mlflow.db"),
    )
    with subprocess.Popen(
        command, cwd=data, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as plain:
        plain.stdout.readline()
        found = doctor()[1]["plain servers"]
        plain.communicate(b"\n")
    assert (found["status"], f"process {plain.pid} " in found["detail"]) == ("problem", True)
    assert doctor()[1]["plain servers"]["status"] == "ok"


def test_a_plain_registry_store_is_a_problem(kfm, data, world):
    plain = ("--registry-store-uri", f"sqlite:///{data / 'mlflow.db'}")
    done = kfm("doctor", "--data-dir", data, "--policy-dir", world.policies, *plain)
    assert (done.code, "is not governed" in done.out) == (1, True)


def test_no_password_is_ever_shown(kfm, data, monkeypatch):
    uri = f"postgresql://ann:s3cret@127.0.0.1:{free_port()}/mlflow?sslpassword=s3cret"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for more in ((), ("--json",)):
        done = kfm("doctor", "--data-dir", data, "--backend-store-uri", uri, *more)
        assert done.code == 1
        assert "s3cret" not in done.out + done.err
        assert "MLFLOW_TRACKING_URI=postgresql://ann:***@" in done.out
        assert "cannot be read (OperationalError)" in done.out


# -- what is seen of processes, as tables ----------------------------------------------------------

HOME = Path("/srv")
GOVERNED = ("--backend-store-uri", "sqlite:///a.db", "--registry-store-uri", "kfm+sqlite:///a.db")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("sqlite:///a.db", "kfm+sqlite:////srv/a.db", True),
        ("sqlite:///a.db", "sqlite:////srv/b.db", False),
        ("sqlite:////srv/x/../a.db", "sqlite:///a.db", True),
        ("postgresql://u:p@localhost/m", "kfm+postgresql+psycopg2://v@127.0.0.1/m", True),
        ("postgresql://u@localhost:5433/m", "postgresql://u@localhost/m", False),
        ("postgresql://u@db/m", "postgresql://u@db/n", False),
    ],
)
def test_databases_are_the_same_whatever_driver_user_and_spelling(one, other, same):
    assert (database_name(one, HOME) == database_name(other, HOME)) is same


def test_what_names_no_database_is_none_and_a_relative_path_needs_a_folder():
    assert database_name("not a uri", HOME) is None
    assert database_name("sqlite:///a.db", None) is None
    assert shown("not a uri") == "(a URI that cannot be read)"


@pytest.mark.parametrize(
    ("command", "environ", "expected"),
    [
        (("mlflow", "server"), {}, "sqlite:///mlflow.db"),
        (("python", "-m", "mlflow", "ui", "--backend-store-uri=sqlite:///x"), {}, "sqlite:///x"),
        (("python", "/bin/mlflow", "server", *GOVERNED), {}, "kfm+sqlite:///a.db"),
        (("mlflow", "server"), {"MLFLOW_BACKEND_STORE_URI": "sqlite:///e"}, "sqlite:///e"),
        (("uvicorn",), {"_MLFLOW_SERVER_FILE_STORE": "sqlite:///w"}, "sqlite:///w"),
        (
            ("uvicorn",),
            {"_MLFLOW_SERVER_FILE_STORE": "s", "_MLFLOW_SERVER_REGISTRY_STORE": "kfm+s"},
            "kfm+s",
        ),
        (("mlflow", "run", "."), {}, ""),
        (("vim", "server"), {}, ""),
        ((), {}, ""),
    ],
)
def test_the_registry_of_a_process_is_what_mlflow_would_take(command, environ, expected):
    assert registry_uri_of(Process(1, command, environ)) == expected


def test_only_plain_servers_on_this_database_are_bad():
    seen = [
        Process(1, ("mlflow", "server", *GOVERNED), {}, HOME),
        Process(2, ("mlflow", "server", "--backend-store-uri", "sqlite:///a.db"), None, HOME),
        Process(3, ("mlflow", "server", "--backend-store-uri", "sqlite:///b.db"), {}, HOME),
        Process(4, ("mlflow", "server", "--backend-store-uri", "sqlite:///a.db"), None, None),
        Process(
            5, ("mlflow", "server", *GOVERNED), {"MLFLOW_ENABLE_REMOTE_ASSISTANT": "true"}, HOME
        ),
    ]
    plain, assistant = plain_servers(seen, "sqlite:////srv/a.db", HOME)
    assert plain.detail.endswith("process 2 (sqlite:///a.db)")
    assert (assistant.status, "process 5" in assistant.detail) == ("problem", True)


def test_the_backend_store_may_be_the_same_database_when_the_registry_is_governed():
    both = {
        "MLFLOW_BACKEND_STORE_URI": "sqlite:////srv/a.db",
        "MLFLOW_REGISTRY_STORE_URI": "kfm+sqlite:////srv/a.db",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
    }
    assert environment(both, "sqlite:////srv/a.db", HOME)[0].status == "ok"


# -- a running server ------------------------------------------------------------------------------


@pytest.mark.server
def test_the_real_server_is_governed_and_keeps_the_ledger_that_doctor_reads(kfm, server, world):
    digest = digest_file(server.data / "registry.pem")
    done = kfm(
        *("doctor", "--data-dir", server.data, "--policy-dir", world.policies, "--json"),
        *("--server", server.url),
    )
    found = {item["check"]: item for item in json.loads(done.out)}
    for check in ("server", "plain servers", "triggers", "ledger", "revision", "policy in force"):
        assert found[check]["status"] == "ok", found[check]
    assert digest_file(server.data / "registry.pem") == digest


@pytest.mark.server
def test_a_server_of_another_registry_or_none_is_a_problem(doctor, server):
    code, found = doctor("--server", server.url)
    assert (code, "signs with another key" in found["server"]["detail"]) == (1, True)
    former = f"{server.data / 'registry.pem'}.pub"
    detail = doctor("--server", server.url, "--former-key", former)[1]["server"]["detail"]
    assert "keeps another ledger" in detail
    nobody = doctor("--server", f"http://127.0.0.1:{free_port()}")[1]["server"]
    assert (nobody["status"], "cannot be reached" in nobody["detail"]) == ("problem", True)
