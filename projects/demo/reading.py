"""What a person reads while a canary runs: its page, its verdict with numbers, the status line."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from collections.abc import Mapping

    from demo import Demo

_TAG = re.compile(r"<[^>]+>")


def page_text(server: str, model: str) -> str:
    """Return the words of the rollout's page, as a browser shows them."""
    answer = requests.get(f"{server}/kfm/models/{model}/rollout", timeout=30)
    answer.raise_for_status()
    return " ".join(html.unescape(_TAG.sub(" ", answer.text)).split())


def told(metric: Mapping[str, Any]) -> str:
    """Return one metric of a verdict in words and numbers."""
    parts = [f"{metric['name']} {metric['verdict']}"]
    for arm in ("canary", "stable"):
        value = metric[f"{arm}_value"]
        if value is not None:
            parts.append(f"{arm} {value:.3g} {metric['unit']}")
    if metric["e_value"] is not None and metric["threshold"] is not None:
        parts.append(f"e-value {metric['e_value']:.3g} of {metric['threshold']:g}")
    if metric["limit"] is not None:
        parts.append(f"limit {metric['limit']:g}")
    return f"{', '.join(parts)} ({metric['sample_count']} answers)"


def observe_good_canary(demo: Demo) -> None:
    """Check that the page of a canary that passed says so, with the numbers."""
    narrative = demo.journal()["narrative"]
    text = page_text(demo.server, demo.model)
    measured = [one for one in narrative["metrics"] if one["verdict"] != "NOT_APPLICABLE"]
    for metric in measured:
        demo.board.say(told(metric))
    demo.board.say(f"page: {demo.server}/kfm/models/{demo.model}/rollout")
    missing = [one["name"] for one in measured if one["name"] not in text]
    demo.board.observe(
        "the canary's page shows phase, share and every metric",
        f"{narrative['phase']}, 10 % of requests, {len(measured)} metrics"
        + (f", without {missing}" if missing else ""),
        holds=bool(measured) and not missing and narrative["phase"] in text and "10 %" in text,
    )


def observe_bad_canary(demo: Demo) -> None:
    """Check that page and command line tell why a canary was given up, with the numbers."""
    narrative = demo.journal()["narrative"]
    failed = [one for one in narrative["metrics"] if one["verdict"] == "FAIL"]
    proven = [one for one in failed if one["e_value"] is None or one["e_value"] >= one["threshold"]]
    demo.board.observe(
        "the verdict has numbers",
        "; ".join(map(told, failed)) or "no metric failed",
        holds=bool(failed) and proven == failed,
    )
    text = page_text(demo.server, demo.model)
    wanted = ("RolledBack", "stopped here", "rollback_report.json", *(m["name"] for m in failed))
    missing = [word for word in wanted if word not in text]
    demo.board.observe(
        "the page tells of the rollback and links its reports",
        f"without {missing}" if missing else "; ".join(wanted),
        holds=not missing,
    )
    status = demo.processes.run("status", ["kfm", "rollout", "status", demo.model])
    demo.board.say(status.strip().splitlines()[0])
    demo.board.observe(
        "kfm rollout status says the same",
        next((line for line in status.splitlines() if "RolledBack" in line), status)[:90],
        holds="RolledBack" in status,
    )
