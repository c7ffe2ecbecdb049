"""Energy and carbon of serving: a document when a rollout ends, and when the controller stops.

Rules kept here:

1. What is measured is the machine on which the controller runs, all that runs on it and its idle
   time included; on a cluster of several machines, the others are not in it. The document says so.
2. A release's part is its share of the time that answers took, of all releases together, copies
   included. Energy of a time without answers belongs to nobody.
"""

from __future__ import annotations

import logging
import math
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import write_json
from kfm_mlflow.errors import KfmError
from kfm_mlflow.monitor.energy import measure_energy
from kfm_mlflow.rollout.counts import answer_count, busy_ms, minus
from kfm_mlflow.rollout.state import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from kfm_mlflow.monitor.energy import EnergyMeasurement, EnergyReport
    from kfm_mlflow.rollout.plane import ArmCounts
    from kfm_mlflow.rollout.watched import Call

_logger = logging.getLogger(__name__)

SCHEMA = "serving-energy"
SCHEMA_VERSION = "1"
_ENDS = frozenset({Phase.SUCCEEDED, Phase.ROLLED_BACK})
_MS_PER_S = 1e3


def build_serving_energy(
    report: EnergyReport,
    before: Mapping[int, ArmCounts],
    after: Mapping[int, ArmCounts],
    releases: Mapping[int, str],
    *,
    model_name: str,
    began_at: datetime,
    ended_at: datetime,
    ended_by: str,
) -> dict[str, Any]:
    """Share the energy of a machine among the releases that answered. Pure.

    Args:
        report: What the machine took.
        before: Counts per version when it began; a version that is not there began at zero.
        after: The same when it ended.
        releases: Version -> release id.
        model_name: Registered model.
        began_at: Aware.
        ended_at: Aware.
        ended_by: Phase that ended the rollout, or ``stop``.
    """
    grown = {version: _grown(before.get(version), now) for version, now in sorted(after.items())}
    grown = {version: counts for version, counts in grown.items() if counts.request_count}
    busy = {version: busy_ms(counts) for version, counts in grown.items()}
    if not all(math.isfinite(value) for value in busy.values()) or not sum(busy.values()):
        busy = {version: float(answer_count(counts)) for version, counts in grown.items()}
    total = sum(busy.values())
    whole = report.to_dict()
    del whole["schema_version"]
    return {
        "schema_version": SCHEMA_VERSION,
        "model_name": model_name,
        "began_at": _instant(began_at),
        "ended_at": _instant(ended_at),
        "ended_by": ended_by,
        "scope": "machine",
        **whole,
        "releases": [
            _part(report, version, counts, releases, busy[version] / total if total else 0.0)
            for version, counts in grown.items()
        ],
    }


def _grown(before: ArmCounts | None, now: ArmCounts) -> ArmCounts:
    """Return what was counted in between; a version that was deployed anew began at zero."""
    if before is None or before.request_count > now.request_count:
        return now
    return minus(now, before)


def _part(
    report: EnergyReport,
    version: int,
    counts: ArmCounts,
    releases: Mapping[int, str],
    share_ratio: float,
) -> dict[str, Any]:
    energy_wh, carbon_g = report.energy_wh * share_ratio, report.carbon_gco2e * share_ratio
    per_1k = 1000 / counts.request_count
    busy = busy_ms(counts)
    return {
        "version": version,
        "release_id": releases.get(version),
        "request_count": counts.request_count,
        "busy_s": busy / _MS_PER_S if math.isfinite(busy) else None,
        "share_ratio": share_ratio,
        "energy_wh": energy_wh,
        "carbon_gco2e": carbon_g,
        "energy_wh_per_1k_requests": energy_wh * per_1k,
        "carbon_gco2e_per_1k_requests": carbon_g * per_1k,
    }


def _instant(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class ServingEnergy:
    """Measures while a controller works, and writes a document whenever a rollout has ended."""

    def __init__(
        self,
        model_name: str,
        directory: Path,
        now: Callable[[], datetime],
        measure: Callable[[], AbstractContextManager[EnergyMeasurement]],
    ) -> None:
        """Watch the controller of one registered model; :func:`measured_serving` opens one.

        Args:
            model_name: Registered model.
            directory: Where documents are written.
            now: Tells the time (aware).
            measure: Begins to measure, for the length of a block.
        """
        self._model_name, self._directory = model_name, directory
        self._now, self._measure = now, measure
        self._before: Mapping[int, ArmCounts] = {}
        self._after: Mapping[int, ArmCounts] = {}
        self._has_counts = False
        self._releases: dict[int, str] = {}
        self._phase = ""
        self.begin()

    def begin(self) -> None:
        """Begin a new measurement."""
        self._stack, self._began_at = ExitStack(), self._now()
        self._measurement = self._stack.enter_context(self._measure())

    def end(self, ended_by: str) -> Path:
        """End the measurement and write its document.

        Returns:
            The file.
        """
        self._stack.close()
        ended_at = self._now()
        document = build_serving_energy(
            self._measurement.report,
            self._before,
            self._after,
            self._releases,
            model_name=self._model_name,
            began_at=self._began_at,
            ended_at=ended_at,
            ended_by=ended_by,
        )
        self._before = self._after
        name = f"serving-energy-{ended_at.astimezone(UTC):%Y%m%dT%H%M%S%fZ}.json"
        path = self._directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, document)
        return path

    def saw(self, call: Call) -> None:
        """Keep counts; write a document when the journal says that a rollout has ended."""
        if call.error:
            return
        if call.name == "observe":
            self._after = dict(call.result.arms)
            if not self._has_counts:
                # What was answered before this process measured is not in the measurement.
                self._before, self._has_counts = self._after, True
        elif call.name == "fetch":
            self._releases = {**self._releases, call.result.version: call.result.release_id}
        elif call.name == "save_journal":
            before, self._phase = self._phase, str(call.args[1]["phase"])
            if before and before != self._phase and self._phase in _ENDS:
                self.end(self._phase)
                self.begin()


@contextmanager
def measured_serving(
    model_name: str, directory: Path, *, country_iso_code: str, region: str | None
) -> Iterator[ServingEnergy]:
    """Measure for the length of a block; what is left is written when it ends.

    Args:
        model_name: Registered model.
        directory: Where documents are written.
        country_iso_code: Of the grid, three letters.
        region: State or province; None for the country's mean.

    Raises:
        InputError: There is no carbon intensity for that grid.
    """

    def measure() -> AbstractContextManager[EnergyMeasurement]:
        return measure_energy(country_iso_code=country_iso_code, region=region, scope="machine")

    energy = ServingEnergy(model_name, directory, lambda: datetime.now(UTC), measure)
    try:
        yield energy
    finally:
        try:
            energy.end("stop")
        except (KfmError, OSError):
            _logger.exception("the energy of serving is lost")
