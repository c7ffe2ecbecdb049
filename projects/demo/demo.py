"""The main job, watched: one governed climate release from training to production and back.

Starts a governed MLflow server and Ray Serve on 127.0.0.1, releases a downscaler, is refused
where it must be, goes through canary and votes to production, and then lets a worse release try.
At the end it is trained once more, from the recorded commit, and must be the same release.
Every row of the table at the end was observed; the exit code is 1 if any does not hold.

Simulated: one machine stands for several, and keys that all lie in one folder stand for a
trainer, a validator, a controller and four council members.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import requests
from arms import observe_answers, observe_first_canary, observe_production, observe_rollback
from board import Board
from ending import play_to_end
from families import NAMES, Family, find_family
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from own_repository import commit_project
from processes import DemoError, Processes, environment, free_port
from reading import observe_bad_canary, observe_good_canary
from records import observe_rebuild, observe_records
from traffic import Traffic

ROOT = Path(__file__).resolve().parents[2]
SAID = ("trained", "certified", "waiting", "released", "validated", "registered")
"""What the release script's lines begin with that a person wants to read."""
COUNCIL = ("council-1", "council-2", "council-3", "council-4-indigenous-representative")
TASKS = ("downscaling", "drivers", "anomaly", "hydrology", "hazard")
RATE_PER_S, QUIET_RATE_PER_S = 100.0, 25.0
MIN_SAMPLES = {"default": 200, "small": 60}
FLEET = "fleet"
"""A fleet has a demo of its own."""


@dataclass
class Demo:
    """Everything that the steps share."""

    board: Board
    processes: Processes
    server: str
    endpoint: str
    family: Family
    task: str
    data: str
    size: str
    folder: Path
    client: MlflowClient
    traffic: Traffic

    @property
    def model(self) -> str:
        """The registered model."""
        return self.family.model

    # -- asking ------------------------------------------------------------------------------

    def kfm_api(self, path: str) -> dict[str, Any]:
        """Return what the registry's API says."""
        answer = requests.get(f"{self.server}/kfm/api/v1/{path}", timeout=30)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def levels(self) -> tuple[int | None, int | None]:
        """Return who is Production and who is canary."""
        found = self.kfm_api(f"models/{self.model}")
        return found["production"], found["canary"]

    def journal(self) -> dict[str, Any]:
        """Return the controller's state."""
        return self.kfm_api(f"models/{self.model}/rollout")["state"] or {}

    def wait_phase(self, *phases: str, version: int, timeout_s: float) -> dict[str, Any]:
        """Wait until the rollout of a version is in one of some phases."""

        def reached() -> bool:
            state = self.journal()
            return state.get("phase") in phases and state.get("candidate") == version

        what = f"rollout of v{version} in phase {' or '.join(phases)}"
        self.processes.wait_for("rollout", reached, timeout_s=timeout_s, what=what)
        return self.journal()

    @property
    def project(self) -> Path:
        """Where the demo's own repository lies."""
        return self.folder / "project"

    # -- steps -------------------------------------------------------------------------------

    def release(self, version: str, **extra: str) -> str:
        """Train, sign, validate and register by the project, as a user does."""
        parameters = {
            "version": version,
            "data": self.data,
            "size": self.size,
            "keys": str(self.folder / "keys"),
            **self.family.parameters,
            **extra,
        }
        arguments = ["mlflow", "run", str(self.project), "--env-manager", "local", "-e", "release"]
        for name, value in parameters.items():
            said = value.replace("{folder}", str(self.folder)).replace("{version}", version)
            arguments += ["-P", f"{name}={said}"]
        text = self.processes.run(
            f"release-{version}", arguments, cwd=self.project, code=self.project
        )
        for line in text.splitlines():
            if line.startswith(SAID):
                self.board.say(line)
        return text

    def start_server(self) -> None:
        """Commit the project, make keys and a policy, start `kfm server`, wait for its answer."""
        commit = commit_project(ROOT, self.project)
        self.board.say(f"what stands in this folder now is commit {commit[:12]} of a repository")
        keys = ["trainer", "validator", "controller", *COUNCIL]
        self.processes.run("keys", ["kfm", "keys", "new", *keys, "--dir", "keys"])
        self.processes.run(
            "policy", ["kfm", "policy", "init", "--family", self.family.name, "--keys", "keys"]
        )
        with (self.folder / "policies" / f"{self.family.name}.yaml").open("a") as overlay:
            samples = MIN_SAMPLES[self.size]
            overlay.write(
                "rollout:\n  steps:\n    - setWeight: 10\n"
                f"    - analysis: {{minSamples: {samples}, deadline_s: 300}}\n"
                "    - pause: {gate: votes, deadline_s: 3600}\n  scaleDownDelay_s: 2\n"
            )
        port = self.server.rsplit(":", 1)[-1]
        self.processes.start(
            "server", ["kfm", "server", "--port", port, "--policy-dir", "policies"]
        )

        def healthy() -> bool:
            try:
                return requests.get(f"{self.server}/health", timeout=2).ok
            except requests.RequestException:
                return False

        self.processes.wait_for("server", healthy, timeout_s=120, what="the MLflow server")

    def start_serving(self) -> None:
        """Start Ray Serve and the controller, and the clients that ask all the time."""
        port = self.endpoint.rsplit(":", 1)[-1]
        arguments = [
            "kfm",
            "rollout",
            "run",
            self.model,
            "--key",
            "keys/controller.pem",
            "--port",
            port,
        ]
        self.processes.start("rollout", [*arguments, "--cache-dir", "cache"])
        log = self.processes.log_of("rollout")
        self.processes.wait_for(
            "rollout", lambda: "serving " in log.read_text(), timeout_s=120, what="Ray Serve"
        )
        self.traffic.start()

    def try_production(self) -> None:
        """Ask MLflow's own client for Production at once, and look at what it gets."""
        before = self.client.get_model_version(self.model, "1")
        try:
            self.client.transition_model_version_stage(self.model, "1", "Production")
            sentence = "it was allowed"
        except MlflowException as exc:
            sentence = str(exc)
        self.board.say(sentence)
        after = self.client.get_model_version(self.model, "1")
        refused = (
            "KFM refused Production" in sentence and f"see /kfm/models/{self.model}/1" in sentence
        )
        self.board.observe("Production is refused to a candidate", sentence[:90], holds=refused)
        self.board.observe(
            "a refusal changes nothing",
            f"stage {after.current_stage}, aliases {after.aliases}",
            holds=(after.current_stage, list(after.aliases)) == (before.current_stage, []),
        )

    def to_staging(self, version: int) -> None:
        """Transition by the request that the UI sends, and look where the bytes are read from."""
        answer = requests.post(
            f"{self.server}/ajax-api/2.0/mlflow/model-versions/transition-stage",
            json={
                "name": self.model,
                "version": str(version),
                "stage": "Staging",
                "archive_existing_versions": False,
            },
            timeout=120,
        )
        found = self.client.get_model_version(self.model, str(version))
        self.board.observe(
            f"v{version} passes its gates into Staging",
            f"HTTP {answer.status_code}, stage {found.current_stage}, aliases {list(found.aliases)}",
            holds=answer.ok and found.current_stage == "Staging" and "staging" in found.aliases,
        )
        if not answer.ok:
            raise DemoError(f"v{version} was refused: {answer.text}")
        uri = self.client.get_model_version_download_uri(self.model, str(version))
        self.board.observe(f"v{version} is frozen", uri[:60] + "…", holds="/kfm-frozen/" in uri)
        write = requests.put(
            f"{self.server}/api/2.0/mlflow-artifacts/artifacts/{uri.split(':/', 1)[1]}/model.onnx",
            data=b"evil",
            timeout=30,
        )
        self.board.observe(
            f"nobody writes to the frozen v{version}",
            f"HTTP {write.status_code}",
            holds=write.status_code == 403,  # noqa: PLR2004 - Forbidden
        )

    def to_canary(self, version: int) -> None:
        """Set the alias that names the level."""
        self.client.set_registered_model_alias(self.model, "canary", str(version))

    def vote(self) -> None:
        """Let three of four council members approve, the required representative among them."""
        for member in (COUNCIL[0], COUNCIL[1], COUNCIL[3]):
            arguments = [
                "kfm",
                "vote",
                f"models:/{self.model}/1",
                "--to",
                "production",
                "--approve",
            ]
            self.processes.run(
                f"vote-{member}",
                [*arguments, "--key", f"keys/{member}.pem", "--reason", "the canary answered well"],
            )

    def play_worse_release(self, served_since_s: float) -> None:
        """Let a release through the gates that only live traffic can tell from a good one."""
        board = self.board
        with board.step(
            "A worse release: half of its targets shuffled, validated on the calmest patches",
            "numbers on paper can be good and the model bad",
        ):
            # Fewer questions meanwhile: two cores are to train, too.
            self.traffic.rate_per_s = QUIET_RATE_PER_S
            self.release("v1.1.0", shuffled_ratio="0.5", selection="calmest")
            self.to_staging(2)
            self.traffic.rate_per_s = RATE_PER_S
        with board.step(
            "Its canary", "what live traffic shows takes it back, registry and traffic together"
        ):
            self.to_canary(2)
            observe_rollback(self, served_since_s)
            observe_bad_canary(self)

    def play_refused_release(self) -> None:
        """Let a release try that must not get through."""
        family = self.family
        asked = " ".join(f"-P {name}={value}" for name, value in family.refused.items())
        with self.board.step(
            f"A release with {asked}", "what is not as it should be stays outside"
        ):
            self.traffic.rate_per_s = QUIET_RATE_PER_S
            text = self.release("v1.1.0", **family.refused)
            if not family.is_registered:
                known = self.client.search_model_versions(f"name='{self.model}'")
                waiting = next(
                    (line for line in text.splitlines() if family.refusal in line), "it went on"
                )
                self.board.observe(
                    "without its council nothing is registered",
                    waiting[:150],
                    holds=family.refusal in waiting and len(known) == 1,
                )
                return
            try:
                self.client.transition_model_version_stage(self.model, "2", "Staging")
                sentence = "it was allowed"
            except MlflowException as exc:
                sentence = str(exc)
            self.board.observe(
                "the gates refuse v2",
                sentence[:150],
                holds="KFM refused Staging" in sentence
                and family.refusal in sentence
                and f"see /kfm/models/{self.model}/2" in sentence,
            )

    # -- the whole ---------------------------------------------------------------------------

    def play(self) -> None:
        """Run all steps in order."""
        board = self.board
        with board.step("Start a governed MLflow server", "SQLite, local artifacts, 127.0.0.1"):
            self.start_server()
        with board.step(
            f"mlflow run . -e release -P family={self.family.name} -P version=v1.0.0 "
            f"-P data={Path(self.data).name}",
            "a model is trained, documented, screened, signed, and validated under another key",
        ):
            self.release("v1.0.0")
        with board.step(
            "Ask for Production at once", "a candidate is refused, with one clear sentence"
        ):
            self.try_production()
        with board.step(
            "Transition to Staging over REST, as the UI does", "gates run, the bytes are frozen"
        ):
            self.to_staging(1)
        with board.step(
            "Start Ray Serve, the controller and live traffic",
            "the endpoint is up before any release",
        ):
            self.start_serving()
        with board.step("Canary at 10 %", "a share of live traffic measures the release"):
            self.to_canary(1)
            observe_first_canary(self)
            observe_good_canary(self)
        with board.step("The council votes", "a quorum, and only a quorum, opens Production"):
            self.vote()
            served_since_s = observe_production(self)
            observe_answers(self)
        if (self.family.name, self.task) == ("climate", "downscaling"):
            self.play_worse_release(served_since_s)
        else:
            self.play_refused_release()
        with board.step("Check the records", "anybody can check afterwards"):
            observe_records(self)
        if not self.family.is_rebuilt:
            return
        with board.step("kfm rebuild", "what is in production can be made again, byte for byte"):
            self.traffic.rate_per_s = QUIET_RATE_PER_S
            observe_rebuild(self)


def build(options: argparse.Namespace, folder: Path, data: str, family: Family) -> Demo:
    """Prepare a demo in a folder; nothing is started yet."""
    server, endpoint = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    environ = environment(server)
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    mlflow.set_tracking_uri(server)
    mlflow.set_registry_uri(server)
    return Demo(
        board=Board(),
        processes=Processes(folder, environ),
        server=server,
        endpoint=endpoint,
        family=family,
        task=options.task,
        data=data,
        size=options.size,
        folder=folder,
        client=MlflowClient(server, server),
        traffic=Traffic(f"{endpoint}/invocations", family.bodies, rate_per_s=RATE_PER_S),
    )


def main() -> int:
    """Run the demo; 0 only if every row holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", default="climate", choices=(*NAMES, FLEET))
    parser.add_argument("--task", default="downscaling", choices=TASKS)
    parser.add_argument("--data", default="generated", help="generated, or a path")
    parser.add_argument("--size", default="default", choices=sorted(MIN_SAMPLES))
    parser.add_argument(
        "--keep", action="store_true", help="leave everything up and print the URLs"
    )
    options = parser.parse_args()
    if options.family == FLEET:
        from fleet_demo import play_fleet

        return play_fleet(keep=options.keep)
    data = options.data if options.data == "generated" else str(Path(options.data).resolve())
    # Data that cannot be read stops here, before anything is made.
    family = find_family(options.family, options.task, data, options.size)
    folder = Path(tempfile.mkdtemp(prefix="kfm-demo-"))
    demo = build(options, folder, data, family)
    urls = {
        "MLflow and pages": f"{demo.server}/  and  {demo.server}/kfm/",
        "Endpoint": f"{demo.endpoint}/invocations",
    }
    return play_to_end(demo, keep=options.keep, urls=urls)


if __name__ == "__main__":
    from kfm_mlflow.errors import KfmError

    try:
        sys.exit(main())
    except KfmError as error:
        sys.exit(f"kfm: {error}")
