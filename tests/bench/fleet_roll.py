"""How long a fleet of twelve agents takes to roll, and what its clients notice.

A head for the dispatchers and three nodes, all on this machine. Each round brings the next version
to every agent in batches as the packaged policy sizes them (the first has one agent per specialty),
puts the old one back, which is warm, and then brings the next version one agent after the other,
the sum of their start-up times. Tasks are given without a pause meanwhile; one that fails ends the
bench. Watching times between batches are the policy's, and not in it.

As a program (arguments: a folder with a short path, and rounds) it prints what it saw as JSON,
because a process has one Ray at most.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import Row, paired_ratio, percentile, spread_of

NODE_COUNT, PER_SPECIALTY = 3, 4
ROUNDS = {"small": 2, "full": 4}
_LIMIT_S = 1800


def play(rounds: int) -> dict[str, object]:
    """Roll a fleet on a cluster of its own; return times in s."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "serving"))
    import fleet_cluster as fleet
    import ray

    from kfm_mlflow.fleet.batches import batch_size
    from kfm_mlflow.policy.fleet import FleetPolicy

    cluster, port, plane = fleet.start_fleet(NODE_COUNT)
    agents = fleet.make_agents(PER_SPECIALTY, NODE_COUNT)
    names = [agent.name for agent in agents]
    # The first of every specialty stand first.
    first, later = 3, batch_size(len(names), FleetPolicy.model_fields["batch_ratio"].default)
    batches = [names[:first]]
    batches += [names[k : k + later] for k in range(first, len(names), later)]
    versions = list(range(1, 2 * rounds + 2))
    roll = fleet.Roll(plane, agents, fleet.make_releases(*versions))
    roll.start(versions[0], *names)
    roll.route(versions[0], *names)
    load = fleet.TaskLoad(port)
    load.start()
    batched, single, back, observed = [], [], [], []
    present = versions[0]
    for k in range(rounds):
        candidate, next_one = versions[2 * k + 1], versions[2 * k + 2]
        batched.append(_forward(roll, candidate, batches))
        started_s = time.perf_counter()
        plane.observe()
        observed.append(time.perf_counter() - started_s)
        back.append(roll.route(present, *names))
        _stop(plane, roll, candidate, names)
        single.append(_forward(roll, next_one, [[name] for name in names]))
        _stop(plane, roll, present, names)
        present = next_one
    seen = load.stop()
    plane.close()
    ray.shutdown()
    cluster.shutdown()
    return {"batched": batched, "single": single, "back": back, "observed": observed, **seen}


def _forward(roll, version, batches) -> float:  # type: ignore[no-untyped-def]  # the types need Ray
    started_s = time.perf_counter()
    for batch in batches:
        roll.start(version, *batch)
        roll.route(version, *batch)
    return time.perf_counter() - started_s


def _stop(plane, roll, version, names) -> None:  # type: ignore[no-untyped-def]  # same
    for name in names:
        plane.stop(name, version)
    time.sleep(2.0)  # they end behind that, on the same cores


def measure(size: str) -> list[Row]:
    """Return the rows of this bench.

    Args:
        size: ``small`` or ``full``.

    Raises:
        RuntimeError: The program failed, or a task did.
    """
    folder = tempfile.mkdtemp(prefix="kfm-")
    program = [sys.executable, "-W", "ignore", __file__, folder, str(ROUNDS[size])]
    try:
        done = subprocess.run(
            program, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    seen = json.loads(done.stdout.splitlines()[-1])
    if set(seen["statuses"]) != {"200"}:
        raise RuntimeError(f"clients were answered {seen['statuses']}")
    count = NODE_COUNT + 1
    agents = 3 * PER_SPECIALTY
    back_ms = [took_s * 1e3 for took_s in seen["back"]]
    batched, single = seen["batched"], seen["single"]
    return [
        Row(
            f"roll {agents} agents on {count} nodes to the next release, in batches",
            f"{spread_of(batched).median:.1f} s",
            "one agent after the other",
            f"{spread_of(single).median:.1f} s",
            paired_ratio(batched, single),
            note=f"until every agent has the routes, without the policy's watching times; all nodes "
            f"on this machine; {seen['statuses']['200']} tasks meanwhile, none failed, slowest "
            f"{seen['slowest_s']:.2f} s",
        ),
        Row(
            f"put {agents} agents back to the release before, which is warm",
            f"{percentile(back_ms, 50):.0f} ms",
            "rolling them",
            f"{spread_of(batched).median:.1f} s",
            paired_ratio(seen["back"], batched),
            note="until both dispatchers apply the routes; "
            f"observing {2 * agents} instances took {max(seen['observed']) * 1e3:.0f} ms at most",
        ),
    ]


if __name__ == "__main__":
    print(json.dumps(play(int(sys.argv[2]))))
