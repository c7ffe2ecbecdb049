"""Orders of operators over real HTTP: who may, what is refused, what the ledger has, what they do."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.exceptions import RestException
from mlflow.tracking import MlflowClient
from registry.asking import request_of, with_roles
from registry.loopback import listening
from registry.world import NAME, claims_of, told
from rollout.simulated_plane import FakePlane
from rollout.simulated_registry import FakeClock, FakeRegistry, Fuse
from rollout.simulator import PLAN, build_plan

from kfm_mlflow.cli.main import main
from kfm_mlflow.errors import ConflictError, InputError
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry.journal import write_journal
from kfm_mlflow.registry.rollout_orders import RESTING_PHASES, give_order, orders_of
from kfm_mlflow.rollout.controller import Controller
from kfm_mlflow.rollout.plane import Deployable
from kfm_mlflow.rollout.remote import RemoteRegistry
from kfm_mlflow.rollout.state import RESTING, Phase, Trigger
from kfm_mlflow.trust.keys import parse_public_key
from kfm_mlflow.trust.ledger_rows import verify_rows

ROW = ("seq", "at", "kind", "model", "version", "body", "prev_hash", "hash")


def rows(registry):
    found = registry.query(f"SELECT {', '.join(ROW)} FROM kfm_ledger ORDER BY seq")
    return [dict(zip(ROW, row, strict=True)) for row in found]


def watched(registry, version, phase="Soaking"):
    """Have the journal of a controller say where it stands."""
    found = registry.query("SELECT generation FROM kfm_journal WHERE model = ?", NAME)
    state = {"phase": phase, "candidate": version}
    write_journal(registry.store, NAME, state, expected=found[0][0] if found else 0)


@pytest.fixture
def served(two):
    """Return a registry in which v2 followed v1 to Production."""
    two.store.move(NAME, 2, Level.PRODUCTION)
    return two


@pytest.fixture
def url(two, monkeypatch):
    two.now = datetime.now(UTC)
    with listening(two, monkeypatch, with_mlflow=True) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        yield address


# -- the row -----------------------------------------------------------------------------------------


def test_an_order_is_a_signed_row_and_a_tag_and_moves_nothing(two):
    before = two.state()
    given = give_order(two.store, NAME, "pause", reason="  the river\n is rising ")
    assert schema_problems("rollout_order", given.to_dict()) == []
    *_, row = rows(two)
    assert (row["kind"], row["version"], row["seq"]) == ("rollout-order", 2, given.order_id)
    claims = claims_of(row["body"])
    assert (claims["order"], claims["reason"]) == ("pause", "the river is rising")
    assert (claims["actor"], claims["authenticated"]) == ("unauthenticated", False)
    key = parse_public_key(two.world.signer("registry").public_key.pem)
    assert verify_rows(rows(two), keys=[key]).finding is None
    assert two.store.get_model_version(NAME, "2").tags == {"kfm.rollout": "pause"}
    after = two.state()
    changed = {table for table in before if before[table] != after[table]}
    assert changed == {"kfm_ledger", "model_version_tags"}


def test_orders_are_told_newest_first_and_from_a_number_on(two):
    ids = [give_order(two.store, NAME, word, reason="x").order_id for word in ("pause", "resume")]
    assert [order.order_id for order in orders_of(two.store, NAME)] == ids[::-1]
    assert [order.order for order in orders_of(two.store, NAME, after=ids[0])] == ["resume"]
    with told(400, "no registered model"):
        orders_of(two.store, "none")


def test_who_may_start_rollouts_may_give_orders_and_nobody_else(two):
    with_roles(two)
    before = two.state()
    with request_of("tom"), told(403, "give orders to the rollout", "operator"):
        give_order(two.store, NAME, "abort", reason="x")
    with request_of("tom"), told(403, "operator"):
        two.store.set_model_version_tag(NAME, "2", ModelVersionTag("kfm.rollout", "abort"))
    assert two.state() == before
    with request_of("olga"):
        give_order(two.store, NAME, "abort", reason="x")
    claims = claims_of(rows(two)[-1]["body"])
    assert (claims["actor"], claims["roles"]) == ("olga", ["operator"])


# -- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "asked", "status", "words"),
    [
        ("stop", {}, 400, "use one of pause, resume, abort, promote, rollback"),
        ("pause", {"reason": " "}, 400, "reason"),
        ("pause", {"reason": "x" * 1001}, 400, "reason"),
        ("pause", {"reason": "\x1b[2J"}, 400, "printable"),
        ("pause", {"version": 1}, 409, "v1 of climate-tiny is not under way, v2 is"),
        ("abort", {"version": 99}, 409, "not under way"),
        ("abort", {"to_version": 1}, 400, "goes with rollback"),
        ("rollback", {"version": 2}, 409, "v1 is"),
        ("rollback", {}, 409, "was at Production before v1"),
        ("rollback", {"to_version": 1}, 409, "v1 is at production already"),
        ("rollback", {"to_version": 2}, 409, "v2 is at canary already"),
        ("rollback", {"to_version": 99}, 400, "was never Production"),
    ],
)
def test_what_nothing_could_obey_is_refused_before_anything_is_written(
    two, order, asked, status, words
):
    before = two.state()
    with told(status, words):
        give_order(two.store, NAME, order, **{"reason": "x", **asked})
    assert two.state() == before


def test_a_body_with_a_misspelled_field_or_a_model_that_there_is_not_is_refused(two, url):
    before = two.state()
    for name, body, words in (
        (NAME, {"order": "rollback", "reason": "x", "toversion": 1}, "no field of an order"),
        (NAME, {"order": "pause"}, "reason"),
        (NAME, {"order": 1, "reason": "x"}, "order"),
        (NAME, {"order": "pause", "reason": "x", "version": "2"}, "version"),
        ("none", {"order": "pause", "reason": "x"}, "no registered model"),
    ):
        path = f"{url}/kfm/api/v1/models/{name}/rollout/orders"
        answer = requests.post(path, json=body, timeout=30)
        assert answer.status_code == 400
        assert words in answer.json()["message"]
    assert two.state() == before


def test_production_is_under_way_as_long_as_the_journal_says_so(served):
    assert {str(phase) for phase in RESTING} == RESTING_PHASES
    with told(409, "no rollout of climate-tiny is under way"):
        give_order(served.store, NAME, "abort", reason="x")
    watched(served, 2)
    assert give_order(served.store, NAME, "abort", reason="x").version == 2
    watched(served, 2, "Succeeded")
    with told(409, "under way"):
        give_order(served.store, NAME, "abort", reason="x")


def test_with_a_canary_and_a_watched_version_the_order_names_one(served, world):
    served.register(world.releases[2])
    served.to_canary(3)
    watched(served, 2)
    with told(400, "v3 is the canary and v2", "name one of them"):
        give_order(served.store, NAME, "pause", reason="x")
    assert give_order(served.store, NAME, "pause", reason="x", version=2).version == 2


# -- what was taken down does not come back -----------------------------------------------------------


def test_a_version_that_was_taken_down_comes_back_by_a_new_admission_only(served):
    served.store.move(NAME, 2, Level.CANDIDATE, restore=1)
    for ask in (
        lambda: give_order(served.store, NAME, "rollback", reason="x", to_version=2),
        lambda: served.store.move(NAME, 1, Level.CANDIDATE, restore=2),
        lambda: served.store.check(NAME, 2, Level.PRODUCTION, restores=True),
    ):
        with told(409, "v2 was taken down from Production", "new admission"):
            ask()
    with told(403, "KFM refused Production"):
        served.store.move(NAME, 2, Level.PRODUCTION)
    served.now += timedelta(minutes=1)
    served.to_canary(2)
    with told(403, "votes"):
        served.store.move(NAME, 2, Level.PRODUCTION)  # Votes and verdict of then are spent.
    served.endorse(2)
    served.store.move(NAME, 2, Level.PRODUCTION)
    assert give_order(served.store, NAME, "rollback", reason="x").to_version == 1


# -- MLflow's page -----------------------------------------------------------------------------------


def test_the_tag_is_an_order_for_every_client_of_mlflow(two, url):
    client = MlflowClient(tracking_uri=url, registry_uri=url)
    client.set_model_version_tag(NAME, "2", "kfm.rollout", "pause")
    (order,) = orders_of(two.store, NAME)
    assert (order.order, order.version) == ("pause", 2)
    assert order.reason == "tag kfm.rollout was set"
    before = two.state()
    for version, value, words in (
        ("2", "rollback", "use one of pause, resume, abort, promote"),
        ("2", "Pause", "use one of pause, resume, abort, promote"),
        ("1", "pause", "not under way"),
    ):
        with pytest.raises(RestException, match=words):
            client.set_model_version_tag(NAME, version, "kfm.rollout", value)
    assert two.state() == before


# -- from the command to traffic ----------------------------------------------------------------------


class Carried(RemoteRegistry):
    """The registry over HTTP; releases are taken as fetched, reports are kept here."""

    def __init__(self, url, key, seen):
        super().__init__(url, controller_key=key)
        self.seen, self.reports, self.asked = seen, {}, []

    def _call(self, method, path, **kwargs):
        self.asked.append(f"{method} {path.partition('?')[0]}")
        return super()._call(method, path, **kwargs)

    def fetch(self, model_name, version):
        """Take a release as fetched and verified."""
        release = self.version(model_name, version)["release"]
        self.seen.add(version)
        return Deployable(model_name, version, release["id"], Path("/nonexistent"))

    def publish_reports(self, model_name, version, documents):  # noqa: ARG002 - the port's signature
        """Keep the reports here."""
        self.reports[version] = documents


class Carrier:
    """A controller on a registry over HTTP, and a traffic plane in memory."""

    def __init__(self, registry, url):
        fake = FakeRegistry(Fuse())
        self.remote = Carried(url, registry.world.key("controller"), fake.fetched)
        self.plane = FakePlane(Fuse(), fake)
        self.plane.keeps_spans = True
        plan = build_plan(steps=[{"setWeight": 10}, *PLAN["steps"][1:]])
        self.clock = FakeClock()
        self.controller = Controller(self.remote, self.plane, plan, self.clock, NAME)

    def pass_by(self, count=1):
        """Let some seconds go by, with traffic and a pass in each."""
        for _ in range(count):
            self.plane.send(100)
            state = self.controller.reconcile_once()
            self.clock.sleep(1)
        return state


def kfm(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(item) for item in arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def carrier(two, url):
    return Carrier(two, url)


def test_rollback_by_command_moves_traffic_then_registry_and_writes_the_reports(
    two, carrier, capsys
):
    two.store.move(NAME, 2, Level.PRODUCTION)
    carrier.pass_by(2)
    assert carrier.plane.split.stable == 2
    assert kfm("rollback", NAME, "--reason", "wrong units") == 0
    told_ = capsys.readouterr()
    assert "v1 of climate-tiny is verified again, gets the traffic of v2" in told_.out
    assert "kfm rollout watch climate-tiny" in told_.out
    assert told_.err == ""
    state = carrier.pass_by(3)
    assert (state.phase, state.trigger) == (Phase.ROLLED_BACK, Trigger.OPERATOR)
    assert (carrier.plane.split.stable, two.level(1), two.level(2)) == (
        1, "production", "candidate",
    )  # fmt: skip
    report = carrier.remote.reports[2]["rollback_report.json"]
    assert report["reason"] == "rolled back to v1 by unauthenticated: wrong units"
    assert len(carrier.remote.reports[2]) == 3
    assert kfm("rollback", NAME, "--to", "2", "--reason", "no") == 1
    assert "taken down" in capsys.readouterr().err


def test_rollback_to_bytes_that_changed_is_refused_by_the_registry_before_any_traffic(two, carrier):
    two.store.move(NAME, 2, Level.PRODUCTION)
    carrier.pass_by(2)
    target = two.store.snapshot(NAME, 1).release.release_id.removeprefix("sha256:")
    model = two.area / "kfm-frozen" / target / "release" / "model.onnx"
    model.chmod(0o644)
    model.write_bytes(model.read_bytes() + b"\0")
    give_order(two.store, NAME, "rollback", reason="wrong units")
    state = carrier.pass_by(3)
    assert state.phase is Phase.ROLLBACK_FAILED
    assert "bytes changed" in state.reason
    assert (two.level(2), carrier.plane.split.stable) == ("production", 2)
    assert all(stable == 2 for stable, _, _ in carrier.plane.moves)


def test_pause_resume_and_abort_by_command_reach_the_canary(two, carrier, capsys):
    carrier.pass_by()
    said = {
        "pause": ("keeps its present share", Phase.PAUSED),
        "resume": ("goes on where it was paused", Phase.SOAKING),
        "abort": ("is taken back", Phase.ROLLED_BACK),
    }
    for order, (words, phase) in said.items():
        assert kfm("rollout", order, NAME, "--reason", "because") == 0
        assert words in capsys.readouterr().out
        assert carrier.pass_by().phase is phase
    assert two.level(2) == "candidate"
    assert kfm("rollout", "pause", NAME, "--reason", "because") == 1
    assert "no rollout of climate-tiny is under way" in capsys.readouterr().err


def test_start_by_command_is_a_move_to_canary_and_says_that_nobody_is_at_work(
    two, world, url, capsys
):
    two.store.move(NAME, 2, Level.PRODUCTION)
    two.register(world.releases[2])
    assert kfm("rollout", "start", f"{NAME}/3") == 1
    assert "KFM refused Canary" in capsys.readouterr().err
    two.store.move(NAME, 3, Level.STAGING)
    assert kfm("rollout", "start", f"{NAME}/3") == 0
    printed = capsys.readouterr()
    assert "v3 is at canary (ledger row" in printed.out
    assert "no controller is at work" in printed.err
    assert two.level(3) == "canary"


def test_a_quiet_controller_asks_for_orders_only_when_the_ledger_grew(two, carrier):
    two.store.move(NAME, 2, Level.PRODUCTION)
    carrier.pass_by(3)
    carrier.remote.asked.clear()
    carrier.pass_by(3)
    assert not [call for call in carrier.remote.asked if call.endswith("/rollout/orders")]
    with told(409, "under way"):
        give_order(two.store, NAME, "pause", reason="x")
    give_order(two.store, NAME, "rollback", reason="x")
    carrier.pass_by()
    assert [call for call in carrier.remote.asked if call.endswith("/rollout/orders")]


def test_a_remote_order_that_is_refused_is_the_error_that_it_is(two, url):
    remote = RemoteRegistry(url)
    with pytest.raises(ConflictError, match="not under way"):
        remote.give_order(NAME, "pause", reason="x", version=1)
    with pytest.raises(InputError, match="reason"):
        remote.give_order(NAME, "pause", reason="")
    assert remote.give_order(NAME, "pause", reason="x")["version"] == 2
    assert json.loads(json.dumps(remote.orders(NAME, None).__dict__))["operator"] == "pause"
