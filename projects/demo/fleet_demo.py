"""The fleet, watched: three providers' artifacts to one release on six agents of four nodes.

Starts a governed MLflow server and a Ray cluster on 127.0.0.1, makes the sample artifacts,
collects, fuses and validates them, has every step voted, rolls the release out agent by agent under
load, lets a release try that only live tasks can tell from a good one, and rolls back by hand.
Every row of the table at the end was observed; the exit code is 1 if any does not hold.

Simulated: four nodes are processes of one machine, providers' stores are a folder, and keys that
all lie in one folder stand for a provider, a validator, a controller and four council members.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import requests
from board import Board
from ending import play_to_end
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from processes import Processes, environment, free_port
from traffic import OK, Traffic

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "projects" / "fleet"
sys.path.append(str(PROJECT))

from fleet_project.tasks import generate_tasks, urgent_tasks  # noqa: E402 - found by the line above

LIVE_SEED, TASK_COUNT = 2024, 600
RATE_PER_S, QUIET_RATE_PER_S = 60.0, 10.0
COUNCIL = ("council-1", "council-2", "council-3", "council-4-indigenous-representative")
VOTERS = (COUNCIL[0], COUNCIL[1], COUNCIL[3])
NODE_COUNT, MODEL, BBOX = 3, "fleet", "-102.05,36.99,-94.59,40.0"
SPECIALTIES = ("code_execute", "doc_plan", "memory_storage")
AGENTS = [
    {
        "name": f"{specialty.split('_')[0]}-{k}",
        "specialty": specialty,
        "labels": {"room": f"r{(place + k) % NODE_COUNT}"},
    }
    for k in range(2)
    for place, specialty in enumerate(SPECIALTIES)
]
OVERLAY = """fleet:
  specialties: [code_execute, doc_plan, memory_storage]
  batch_ratio: 0.5
  watch_s: 4
  start_deadline_s: 120
  evidence_deadline_s: 180
  postPromotionWatch_s: 3600
  probe_interval_s: 1
  health: {min_samples: 20, window_s: 10, max_p95_latency_ms: 2000}
"""
"""Shorter waits than a policy's five minutes, and room for two cores that do everything."""
ROLL_S = 300.0


def usual_tasks() -> list[dict[str, str]]:
    """Return what clients ask: tasks that no release was trained on, some of them unsafe."""
    tasks = generate_tasks(TASK_COUNT, seed=LIVE_SEED, held_out=True)
    return [{"task": task.task, "specialty": task.specialty} for task in tasks]


def pressing_tasks() -> list[dict[str, str]]:
    """Return unsafe tasks that are said to be urgent, among the usual ones."""
    urgent = urgent_tasks(TASK_COUNT // 4, seed=LIVE_SEED)
    return [*({"task": task.task, "specialty": task.specialty} for task in urgent), *usual_tasks()]


@dataclass
class FleetDemo:
    """Everything that the steps share."""

    folder: Path
    server: str
    endpoint: str
    board: Board = field(default_factory=Board)
    traffic: Traffic = field(init=False)
    ray_folder: Path = field(init=False)
    processes: Processes = field(init=False)
    client: MlflowClient = field(init=False)

    def __post_init__(self) -> None:
        """Prepare; nothing is started yet."""
        # Short, because Ray's sockets lie below it.
        self.ray_folder = Path(tempfile.mkdtemp(prefix="kfm-nodes-"))
        environ = {
            **environment(self.server),
            "RAY_AUTH_TOKEN_PATH": str(self.ray_folder / "token"),
        }
        self.processes = Processes(self.folder, environ)
        self.traffic = Traffic(f"{self.endpoint}/tasks", usual_tasks(), rate_per_s=RATE_PER_S)
        self.client = MlflowClient(self.server, self.server)

    # -- asking ------------------------------------------------------------------------------

    def kfm_api(self, path: str) -> dict[str, Any]:
        """Return what the registry's API says."""
        answer = requests.get(f"{self.server}/kfm/api/v1/{path}", timeout=30)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def journal(self) -> dict[str, Any]:
        """Return the loop's state."""
        return self.kfm_api(f"models/{MODEL}/rollout")["state"] or {}

    def levels(self) -> tuple[int | None, int | None]:
        """Return who is Production and who is canary."""
        found = self.kfm_api(f"models/{MODEL}")
        return found["production"], found["canary"]

    def versions(self) -> dict[str, int | None]:
        """Return the version that each agent's tasks go to."""
        return {agent["name"]: agent["version"] for agent in self.journal()["narrative"]["agents"]}

    def wait_phase(self, *phases: str, version: int) -> dict[str, Any]:
        """Wait until the fleet's rollout of a version is in one of some phases."""

        def reached() -> bool:
            state = self.journal()
            return state.get("phase") in phases and state.get("candidate") == version

        what = f"v{version} in phase {' or '.join(phases)}"
        self.processes.wait_for("fleet", reached, timeout_s=ROLL_S, what=what)
        return self.journal()

    # -- steps -------------------------------------------------------------------------------

    def start_server(self) -> None:
        """Make keys and a policy, and start `kfm server`."""
        keys = ["trainer", "validator", "controller", *COUNCIL]
        self.processes.run("keys", ["kfm", "keys", "new", *keys, "--dir", "keys"])
        self.processes.run(
            "policy", ["kfm", "policy", "init", "--family", "fleet", "--keys", "keys"]
        )
        with (self.folder / "policies" / "fleet.yaml").open("a") as overlay:
            overlay.write(OVERLAY)
        port = self.server.rsplit(":", 1)[-1]
        arguments = ["kfm", "server", "--port", port, "--policy-dir", "policies"]
        self.processes.start("server", arguments)

        def healthy() -> bool:
            try:
                return requests.get(f"{self.server}/health", timeout=2).ok
            except requests.RequestException:
                return False

        self.processes.wait_for("server", healthy, timeout_s=120, what="the MLflow server")

    def start_nodes(self) -> str:
        """Start the cluster, and return the address of its head."""
        arguments = ["python", str(ROOT / "projects/demo/cluster.py")]
        self.processes.start("nodes", [*arguments, str(self.ray_folder), str(NODE_COUNT)])
        log, mark = self.processes.log_of("nodes"), "nodes are up at "
        self.processes.wait_for(
            "nodes", lambda: mark in log.read_text(), timeout_s=120, what="the Ray cluster"
        )
        return log.read_text().split(mark, 1)[1].split()[0]

    def start_fleet(self, address: str) -> None:
        """Start `kfm fleet run` on the cluster, and the clients."""
        write = self.folder / "agents.json"
        write.write_text(json.dumps({"agents": AGENTS}, indent=1))
        port = self.endpoint.rsplit(":", 1)[-1]
        arguments = [
            "kfm",
            "fleet",
            "run",
            "--agents",
            "agents.json",
            "--key",
            "keys/controller.pem",
        ]
        arguments += ["--address", address, "--port", port, "--cache-dir", "cache"]
        self.processes.start("fleet", arguments)
        log = self.processes.log_of("fleet")
        self.processes.wait_for(
            "fleet", lambda: "agents take tasks at" in log.read_text(), timeout_s=120, what="Serve"
        )

    def kfm(self, name: str, command: str) -> str:
        """Run `kfm …` in the demo's folder and return what it printed."""
        return self.processes.run(name, ["kfm", *shlex.split(command)])

    def project(self, name: str, entry: str, **parameters: object) -> str:
        """Run an entry point of the fleet's project."""
        given = [part for key, value in parameters.items() for part in ("-P", f"{key}={value}")]
        run = ["mlflow", "run", str(PROJECT), "--env-manager", "local", "-e", entry]
        return self.processes.run(name, [*run, *given])

    def samples(self, name: str, *, seed: int, defect: str = "none") -> None:
        """Write three providers' artifacts and manifests, as they would be made."""
        key = self.folder / "keys" / "trainer.pem"
        self.project(
            f"samples-{name}",
            "samples",
            output=self.folder / name,
            size="small",
            seed=seed,
            defect=defect,
            key=key,
        )

    def make_release(self, name: str, *, seed: int, defect: str = "none") -> int:
        """Make artifacts, collect, fuse, register and validate; return the version."""
        # Fewer tasks meanwhile: two cores are to train, too.
        self.traffic.rate_per_s = QUIET_RATE_PER_S
        self.samples(name, seed=seed, defect=defect)
        manifests = f"--manifests '{name}/*_manifest.json'"
        terms = f"--probes {name}/probes.json --register --key keys/trainer.pem --bbox={BBOX}"
        collected = self.kfm(
            f"collect-{name}",
            f"fleet collect {manifests} --into collected --store file://{self.folder / name} "
            f"--policy-dir policies {terms}",
        )
        self.board.say(collected.strip())
        fused = self.kfm(
            f"fuse-{name}",
            f"fleet fuse {manifests} --output {name}/fused_release.json --min-quality 0.80 "
            "--min-safety 0.95 --max-latency-ms-p95 200 --max-cost-per-1k-tokens 1.00 "
            f"--artifacts collected {terms}",
        )
        self.board.say(fused.strip())
        found = self.client.search_model_versions(f"name='{MODEL}'")
        version = max(int(one.version) for one in found)
        run_id = self.client.get_model_version(MODEL, str(version)).run_id
        key = self.folder / "keys" / "validator.pem"
        said = self.project(f"validate-{name}", "validate", run_id=run_id, key=key)
        for line in said.splitlines():
            if line.startswith("validated"):
                self.board.say(line)
        return version

    def vote(self, version: int, level: str) -> None:
        """Let three of four council members approve, the required representative among them."""
        for member in VOTERS:
            self.kfm(
                f"vote-{version}-{level}-{member}",
                f"vote models:/{MODEL}/{version} --to {level} --approve --key keys/{member}.pem "
                "--reason 'it was measured'",
            )

    def to_first_batch(self, version: int) -> None:
        """Through Staging to canary, each with its votes; refused once without."""
        try:
            self.client.set_registered_model_alias(MODEL, "staging", str(version))
            sentence = "it was allowed"
        except MlflowException as exc:
            sentence = str(exc)
        self.board.observe(
            f"Staging is refused to v{version} without votes",
            sentence[:110],
            holds="KFM refused Staging" in sentence and "votes" in sentence,
        )
        self.vote(version, "staging")
        self.client.set_registered_model_alias(MODEL, "staging", str(version))
        self.vote(version, "canary")
        self.traffic.rate_per_s = RATE_PER_S
        self.client.set_registered_model_alias(MODEL, "canary", str(version))

    def roll(self, version: int) -> None:
        """Watch the first batch, vote, and watch the others."""
        state = self.wait_phase("AwaitingAdmission", version=version)
        told, batch = state["narrative"], state["batch"]
        firsts = {agent["name"]: agent["specialty"] for agent in AGENTS}
        self.board.observe(
            f"the first batch of v{version} is one agent per specialty, and healthy",
            f"{', '.join(batch)}: {told['measured'][:120]}",
            holds=sorted(firsts[name] for name in batch) == sorted(SPECIALTIES)
            and told["verdict"] == "PASS",
        )
        self.vote(version, "production")
        self.wait_phase("Soaking", "Succeeded", version=version)
        seen = self.versions()
        self.board.observe(
            f"every agent serves v{version}, and the registry says so",
            f"{seen}, production v{self.levels()[0]}",
            holds=set(seen.values()) == {version} and self.levels()[0] == version,
        )

    def observe_bad(self, version: int, stable: int) -> None:
        """See a release stopped after its first batch, and everything back."""
        state = self.wait_phase("RolledBack", version=version)
        self.board.observe(
            f"v{version} is stopped after its first batch",
            f"{state['trigger']}: {state['reason'][:140]}",
            holds=state["batch_index"] == 0 and not state["promoted"],
        )
        seen = self.versions()
        self.board.observe(
            f"every agent is back at v{stable}, registry and tasks together",
            f"{seen}, levels {self.levels()}",
            holds=set(seen.values()) == {stable} and self.levels() == (stable, None),
        )
        run_id = self.client.get_model_version(MODEL, str(version)).run_id
        names = {
            Path(item.path).name
            for item in self.client.list_artifacts(run_id, f"rollback/v{version}")
        }
        wanted = {"rollback_report.json", "drift_summary.json", "sovereignty_conflict.json"}
        self.board.observe("three reports are written", sorted(names), holds=names == wanted)

    def roll_back_by_hand(self, to: int) -> None:
        """`kfm fleet rollback --target-version`, and what came of it."""
        before = self.levels()[0]  # The fleet acts before the command has ended.
        said = self.processes.run(
            "rollback", ["kfm", "fleet", "rollback", "--target-version", self.release_of(to)]
        )
        self.board.say(said.strip())
        self.processes.wait_for(
            "fleet",
            lambda: self.journal().get("phase") == "RolledBack" and self.levels()[0] == to,
            timeout_s=ROLL_S,
            what="the rollback",
        )
        seen = self.versions()
        self.board.observe(
            f"rollback puts every agent from v{before} to v{to}",
            f"{seen}, production v{self.levels()[0]}",
            holds=set(seen.values()) == {to} and before != to,
        )
        status = self.processes.run("status", ["kfm", "fleet", "status"])
        self.board.say(status.strip())
        wanted = ("coherence", "error_rate", "consensus_rate", "safety_score", "task_throughput")
        missing = [word for word in wanted if word not in status]
        self.board.observe(
            "kfm fleet status shows agents and fleet", missing or "all metrics", holds=not missing
        )

    def release_of(self, version: int) -> str:
        """Return the release version of a model version."""
        found: str = self.kfm_api(f"models/{MODEL}/versions/{version}")["release"]["version"]
        return found

    # -- the whole ---------------------------------------------------------------------------

    def play(self) -> None:
        """Run all steps in order."""
        board = self.board
        with board.step("Start a governed MLflow server and four Ray nodes", "127.0.0.1 alone"):
            self.start_server()
            address = self.start_nodes()
        with board.step(
            "Three providers' artifacts: collect, fuse, validate",
            "digests and signatures are checked, one winner per role, measured again",
        ):
            first = self.make_release("first", seed=42)
            rejections = json.loads((self.folder / "first" / "rejections.json").read_text())
            board.observe(
                "what is below a gate is rejected, with each gate's value",
                json.dumps(rejections)[:140],
                holds=len(rejections["rejected"]) == 1,
            )
        with board.step("kfm fleet run: six agents", "the fleet follows the registry"):
            self.start_fleet(address)
            self.to_first_batch(first)
            self.traffic.start()
            self.roll(first)
        with board.step("A second release", "the next one rolls beside it, no task is lost"):
            second = self.make_release("second", seed=43)
            served_since_s = time.monotonic()
            self.to_first_batch(second)
            self.roll(second)
        with board.step(
            "A release that holds unsafe tasks on paper, and acts on urgent ones",
            "live tasks find it in its first batch",
        ):
            third = self.make_release("third", seed=44, defect="urgent-heads")
            self.to_first_batch(third)
            self.traffic.bodies = pressing_tasks()
            self.observe_bad(third, second)
            self.traffic.bodies = usual_tasks()
        with board.step("kfm fleet rollback", "the last known good, at once"):
            self.roll_back_by_hand(first)
        self.traffic.stop()
        answers = self.traffic.since(served_since_s)
        failed = Counter(answer.status for answer in answers if answer.status != OK)
        board.observe(
            "no task failed during two rolls and two ways back",
            f"{len(answers)} tasks, not answered: {dict(failed) or 'none'}",
            holds=bool(answers) and not failed,
        )


def play_fleet(*, keep: bool) -> int:
    """Run the demo; 0 only if every row holds."""
    folder = Path(tempfile.mkdtemp(prefix="kfm-demo-"))
    server, endpoint = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    mlflow.set_tracking_uri(server)
    mlflow.set_registry_uri(server)
    demo = FleetDemo(folder, server, endpoint)
    urls = {
        "Fleet's page": f"{server}/kfm/models/{MODEL}/rollout",
        "Tasks": f"{endpoint}/tasks",
    }
    try:
        return play_to_end(demo, keep=keep, urls=urls)
    finally:
        if not keep:
            shutil.rmtree(demo.ray_folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(play_fleet(keep="--keep" in sys.argv))
