"""Asking a fleet's instances probes, and knowing what the right answers are.

The reference is what the verified bytes of a release answer in the loop's own process: those bytes
are what the validator measured and the registry admitted, so an agent that answers otherwise does
not run them rightly, whatever it says of itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kfm_mlflow.fleet.health import choose_probes, measure_round, round_number, wanted_probes
from kfm_mlflow.fleet.pipeline import load_pipeline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from kfm_mlflow.fleet.health import ProbeRound
    from kfm_mlflow.fleet.memories import InstanceKey
    from kfm_mlflow.fleet.pipeline import Pipeline
    from kfm_mlflow.fleet.plane import FleetObservation, FleetPlane
    from kfm_mlflow.fleet.probes import Probe
    from kfm_mlflow.fleet.state import FleetState
    from kfm_mlflow.policy.fleet import FleetPolicy
    from kfm_mlflow.rollout.plane import Deployable

_MIN_TIMEOUT_S = 1.0


class Prober:
    """Asks one round of probes whenever one is due."""

    def __init__(self, plane: FleetPlane, plan: FleetPolicy) -> None:
        """Make a prober; nothing is asked yet.

        Args:
            plane: Reaches the instances.
            plan: Says how often, how many, and how long an answer may take.
        """
        self._plane, self._plan = plane, plan
        self._asked_round: int | None = None
        self._pipelines: dict[int, Pipeline] = {}
        self._references: dict[tuple[int, int], Probe] = {}

    def ask(
        self,
        state: FleetState,
        observation: FleetObservation,
        releases: Mapping[int, Deployable],
        now: datetime,
    ) -> tuple[ProbeRound, ...]:
        """Ask the round that is due; nothing when it was asked already.

        Args:
            state: Says which instances run what was verified, and which get tasks.
            observation: What is there.
            releases: Version -> release that this process fetched and verified; instances of
                others are not asked, because nobody here knows the right answers.
            now: Aware UTC.

        Raises:
            PlaneError: The cluster does not answer.
        """
        number = round_number(self._plan, now)
        keys = [key for key in wanted_probes(state.release_ids, observation) if key[1] in releases]
        if number == self._asked_round or not keys:
            return ()
        self._asked_round = number
        probes = {
            version: self._chosen(version, releases[version], number)
            for version in {version for _, version in keys}
        }
        tasks = {key: tuple(probe.task for probe in probes[key[1]]) for key in keys}
        timeout_s = max(_MIN_TIMEOUT_S, self._plan.silence_s / 2)
        answers = self._plane.ask(tasks, timeout_s=timeout_s)
        return (measure_round(probes, answers, self._active(state), now),)

    def _active(self, state: FleetState) -> list[InstanceKey]:
        """Return the instances that get tasks: those that a consensus is asked of."""
        routes = state.routes.routes
        return [
            (route.agent, version)
            for route in routes
            for version in (route.version, route.canary)
            if version is not None
        ]

    def _chosen(self, version: int, release: Deployable, number: int) -> tuple[Probe, ...]:
        pipeline = self._pipelines.get(version)
        if pipeline is None:
            pipeline = self._pipelines[version] = load_pipeline(release.release_dir)
        known = pipeline.probes.probes
        return tuple(
            self._reference(version, pipeline, place)
            for place in choose_probes(len(known), number, self._plan.probe_count)
        )

    def _reference(self, version: int, pipeline: Pipeline, place: int) -> Probe:
        key = (version, place)
        if key not in self._references:
            probe = pipeline.probes.probes[place]
            answer = pipeline.answer(probe.task)
            self._references[key] = replace(
                probe, specialty=answer.specialty, decision=answer.decision, text=answer.text
            )
        return self._references[key]
