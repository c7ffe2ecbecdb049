"""The real controller on the real plane: plans that pass, and candidates that must not.

Registry and journal are in memory (:mod:`rollout.simulator`); traffic, replicas and counts are
Ray's. Clients' keys are chosen, so that a share of one percent needs no thousand requests.
"""

import itertools
from dataclasses import replace

import pytest
from rollout.simulated_registry import FakeRegistry, Fuse
from rollout.simulator import build_plan

from kfm_mlflow.policy.steps import PRESETS
from kfm_mlflow.rollout.controller import Controller
from kfm_mlflow.rollout.ports import SystemClock
from kfm_mlflow.rollout.state import Phase, RolloutState, Trigger
from kfm_serving.split import bucket

pytestmark = pytest.mark.ray

MIN_SAMPLES = 5
OFTEN = [k for k in map(str, range(9000)) if bucket(k.encode()) < 100][:40]
"""Keys of the canary from one percent on."""
SELDOM = [k for k in map(str, range(9000)) if bucket(k.encode()) >= 9000][:40]
"""Keys of stable up to ninety percent."""


def quick(steps):
    """Return a plan's steps with few samples."""
    return [
        {"analysis": {"minSamples": MIN_SAMPLES, "deadline_s": 60}} if "analysis" in step else step
        for step in steps
    ]


class Rollout:
    """One controller, its registry, and requests between its passes."""

    def __init__(self, fleet, client, *, canary, **plan):
        self.fleet, self.client = fleet, client
        self.registry = Registry(Fuse(), production=1, canary=canary)
        self.registry.release_of = fleet.release
        # Stable stays up: the other tests need it.
        self.plan = build_plan(**{"scaleDownDelay_s": 3600, "canaryReady_s": 60, **plan})
        self.splits = []
        self.keys = itertools.cycle(itertools.chain(*zip(OFTEN, SELDOM, strict=True)))
        self.answered_by = []
        self.start()

    def start(self):
        """Start a controller as a new process would have it."""
        plane = Watched(self.fleet.plane, self.splits)
        clock, name = SystemClock(), self.fleet.release(1).model_name
        # Of one name, so that it need not wait for the lease of the one before.
        self.controller = Controller(
            self.registry, plane, self.plan, clock, name, holder="c", lease_s=300
        )

    def pass_once(self, request_count=6):
        """Let some requests and one pass go by."""
        state = self.controller.reconcile_once()
        for key in itertools.islice(self.keys, request_count):
            status, headers, _ = self.client.score(key)
            assert status == 200
            self.answered_by.append(int(headers["X-KFM-Version"]))
        return state

    def run_to(self, *phases, limit=120):
        """Go on until a phase is reached."""
        for _ in range(limit):
            state = self.pass_once()
            if state.phase in phases:
                return state
        pytest.fail(f"still {state.phase}: {state.reason}")

    @property
    def state_split(self):
        """The split that the journal says was asked of the plane."""
        journal = self.registry.load_journal("")
        asked = None if journal is None else RolloutState.from_dict(journal).split
        return None if asked is None else (asked.stable, asked.canary, asked.ratio)


class Registry(FakeRegistry):
    """Hands over the releases of the fleet."""

    def fetch(self, model_name, version):
        """Hand over a release as the plane takes it."""
        fetched = super().fetch(model_name, version)
        return replace(fetched, release_dir=self.release_of(version).release_dir)


class Watched:
    """A plane, and the shares that were asked of it."""

    def __init__(self, plane, splits):
        self.plane, self.splits = plane, splits

    def __getattr__(self, name):
        return getattr(self.plane, name)

    def set_split(self, split):
        """Pass a split on, and note it once it holds."""
        self.plane.set_split(split)
        self.splits.append((split.stable, split.mirror_ratio, split.canary_ratio))


@pytest.fixture
def rollout(fleet, client):
    fleet.split(1)
    yield lambda **options: Rollout(fleet, client, **options)
    fleet.catch_up()
    fleet.split(1)
    for version in fleet.plane.deployed() - {1, 2}:
        fleet.plane.remove(version)


def test_the_shadow_plan_goes_from_copies_to_production_and_skips_nothing(rollout):
    story = rollout(
        canary=2,
        steps=quick(PRESETS["shadow"]),
        analysis={"limits": {"error_ratio": 0.0}, "compare": ["error_ratio"]},
        postPromotionWatch_s=0,
    )
    state = story.run_to(Phase.SUCCEEDED)
    shares = [(1, 0.0, share) for share in (0.01, 0.05, 0.25, 0.5)]
    assert story.splits == [(1, 0.0, 0.0), (1, 1.0, 0.0), *shares, (2, 0.0, 0.0)]
    assert story.registry.held.production == 2
    assert [verdict["verdict"] for verdict in story.registry.verdicts] == ["PASS"] * 5
    assert story.registry.violations == []
    assert state.trigger is None


BAD = {
    "slow": ("slow", "canary", {"p95_latency_ms": 30}, Trigger.ANALYSIS, "p95"),
    "another shape": ("twice_the_rows", "shadow", {"error_ratio": 0.1}, Trigger.ANALYSIS, "failed"),
    "crashes at load": (None, "canary", {"error_ratio": 0.1}, Trigger.NOT_READY, "model.onnx"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_candidate_is_given_up_and_every_client_is_answered(rollout, fleet, kind):
    model, plan, limits, trigger, says = BAD[kind]
    version = 50 + list(BAD).index(kind)
    if model is None:
        (fleet.root / f"v{version}").mkdir()
        (fleet.root / f"v{version}" / "model.onnx").write_bytes(b"no model")
    else:
        getattr(fleet.models, model)(fleet.root / f"v{version}")
    steps = quick(PRESETS[plan])
    story = rollout(canary=version, steps=steps, analysis={"limits": limits}, scaleDownDelay_s=0)
    state = story.run_to(Phase.ROLLED_BACK)
    assert state.trigger is trigger
    assert says in state.reason
    assert (story.registry.held.production, story.registry.held.canary) == (1, None)
    assert set(story.registry.reports) == {version}
    assert story.splits[-1] == (1, 0.0, 0.0)
    # What is slow is no less true; everything else was answered by stable alone.
    assert set(story.answered_by) - {version if kind == "slow" else 1} <= {1}
    story.run_to(Phase.ROLLED_BACK, limit=1)
    assert version not in fleet.plane.deployed()


def test_a_cluster_that_forgot_everything_is_rebuilt_from_the_registry(rollout, fleet, client):
    story = rollout(
        canary=2,
        steps=[{"setWeight": 10}, *quick([{"analysis": {}}])],
        analysis={"limits": {"error_ratio": 0.0}},
        postPromotionWatch_s=0,
    )
    while story.state_split != (1, 2, 0.1):
        story.pass_once(request_count=0)
    generation = fleet.plane.observe().generation
    fleet.plane.close()  # what a new head has: no application, no split, no counts
    assert (fleet.plane.deployed(), fleet.plane.observe().generation) == (frozenset(), 0)
    story.start()
    story.splits.clear()
    story.controller.reconcile_once()
    assert fleet.plane.observe().generation > generation
    assert story.run_to(Phase.SUCCEEDED).candidate == 2
    assert story.splits == [(1, 0.0, 0.1), (2, 0.0, 0.0)]
    assert story.registry.violations == []
