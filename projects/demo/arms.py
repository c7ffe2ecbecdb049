"""What is observed of a release while it gets traffic: canary, production, taken back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import requests
from records import observe_reports
from traffic import NOT_SERVED_YET, OK, by_status, by_version

if TYPE_CHECKING:
    from demo import Demo

CANARY_RATIO = 0.1


def observe_first_canary(demo: Demo) -> None:
    """Check the share of the canary while nothing else is in production."""
    demo.wait_phase("Canary", "AwaitingAdmission", version=1, timeout_s=120)
    time.sleep(0.5)
    began_s = time.monotonic()
    demo.wait_phase("AwaitingAdmission", version=1, timeout_s=300)
    time.sleep(1)
    answers = demo.traffic.since(began_s)
    statuses, total = by_status(answers), len(answers)
    share = statuses[OK] / total
    # Five standard deviations of a binomial: wrong less than once in a million runs.
    slack = 5 * (CANARY_RATIO * (1 - CANARY_RATIO) / total) ** 0.5
    demo.board.observe(
        "v1 as canary answers 10 % of the keys",
        f"{share:.1%} of {total}; the rest: nothing in production yet (503)",
        holds=abs(share - CANARY_RATIO) < slack and set(statuses) <= {OK, NOT_SERVED_YET},
    )
    allowed = demo.kfm_api(f"models/{demo.model}/versions/1/check?to=production")
    demo.board.observe(
        "without votes there is no Production",
        allowed["sentence"],
        holds=allowed["verdict"] != "PASS" and "votes 0 of 3" in allowed["sentence"],
    )


def observe_production(demo: Demo) -> float:
    """Check that v1 is Production and answers everything; return from when on."""
    demo.wait_phase("Soaking", "Succeeded", version=1, timeout_s=60)
    found = demo.client.get_model_version(demo.model, "1")
    demo.board.observe(
        "three of four votes make v1 Production",
        f"stage {found.current_stage}, aliases {sorted(found.aliases)}",
        holds=found.current_stage == "Production"
        and sorted(found.aliases) == ["champion", "production"],
    )
    since_s = time.monotonic()
    time.sleep(2)
    versions = by_version(demo.traffic.since(since_s))
    demo.board.observe("v1 answers 100 %", dict(versions), holds=set(versions) == {"1"})
    return since_s


def observe_answers(demo: Demo) -> None:
    """Check that the endpoint answers what plain MLflow computes from the registry."""
    model = mlflow.pyfunc.load_model(f"models:/{demo.model}@champion")
    rows = demo.family.rows[:1]
    expected = np.asarray(model.predict({"input": rows})["output"])
    answer = requests.post(f"{demo.endpoint}/invocations", json=demo.family.bodies[0], timeout=30)
    found = answer.json()["predictions"]
    if demo.family.reads_raw:
        given = np.asarray(found["output"])
    else:
        expected, given = _context_weights(expected, found[0])
        demo.board.say(found[0]["story"]["summary"])
    difference = float(np.abs(given - expected).max() / np.abs(expected).max())
    demo.board.observe(
        "the endpoint answers as models:/…@champion does in plain MLflow",
        f"relative difference {difference:.1e}",
        holds=difference <= 1e-5,  # noqa: PLR2004 - what ONNX and torch are held to
    )


def _context_weights(raw: Any, answer: Any) -> tuple[Any, Any]:
    """Return the context weights of a model's numbers, and those of an endpoint's answer."""
    from kfm_mlflow.focus.answers import split_answers
    from kfm_mlflow.focus.columns import DOMAINS

    wanted = split_answers(np.asarray(raw, dtype=np.float32)).context_weights[0]
    return wanted, np.array([answer["context_weights"][name] for name in DOMAINS])


def observe_rollback(demo: Demo, served_since_s: float) -> None:
    """Check that v2 was taken back by what was measured, in traffic and registry."""
    state = demo.wait_phase("RolledBack", "RollbackFailed", version=2, timeout_s=300)
    demo.board.say(state["reason"])
    production, canary = demo.levels()
    bad = demo.client.get_model_version(demo.model, "2")
    demo.board.observe(
        "the registry is back at v1",
        f"Production v{production}, canary {canary}, v2 {bad.current_stage}",
        holds=(production, canary, bad.current_stage) == (1, None, "Archived"),
    )
    demo.board.observe(
        "the controller measured it",
        state["reason"],
        holds="worse than stable" in state["reason"],
    )
    quiet_s = time.monotonic()
    time.sleep(3)
    versions = by_version(demo.traffic.since(quiet_s))
    demo.board.observe("traffic is back at v1", dict(versions), holds=set(versions) == {"1"})
    served = demo.traffic.since(served_since_s)
    seen = by_version(served)
    demo.board.observe("v2 did get traffic before", f"{seen['2']} answers", holds=seen["2"] > 0)
    failed = [answer for answer in served if answer.status != OK]
    demo.board.observe(
        "no request failed since v1 is Production",
        f"{len(failed)} of {len(served)}",
        holds=not failed,
    )
    observe_reports(demo, bad.run_id)
