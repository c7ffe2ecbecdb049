"""Energy and carbon of a block of code, by CodeCarbon without network.

Rules kept here:

1. ``method`` says what the numbers are: ``measured`` only when the processor's own energy counters
   were read (RAPL and its kin); anything from load and a table is ``estimated``. Memory is always
   an estimate of the vendor.
2. The carbon factor is fixed before the block starts and recorded with its source, so
   ``carbon_gco2e = energy_wh / 1000 * intensity_g_per_kwh`` holds exactly. Nothing is looked up
   online, whatever the environment of the user configures.
3. Numbers differ from run to run; they belong into telemetry, never into anything that has to be
   the same bytes again.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

TOOL = "codecarbon"
Scope = Literal["process", "machine"]
_COUNTERS = frozenset({"intel_rapl", "intel_power_gadget", "windows_emi"})
_REGIONAL = frozenset({"USA", "CAN"})
_WH_PER_KWH = 1000.0


@dataclass(frozen=True)
class EnergyReport:
    """What a block of code took.

    Attributes:
        duration_s: Wall-clock time.
        energy_wh: Sum of the three parts.
        carbon_gco2e: Energy times intensity.
        method: See the module.
        cpu_wh: Of the processor, power usage effectiveness included.
        gpu_wh: Of all graphics processors.
        ram_wh: Of memory.
        pue: Power usage effectiveness of the data centre, at least 1.
        intensity_g_per_kwh: Carbon intensity of the grid.
        intensity_source: Where that number comes from.
        region: Grid, as ``USA/kansas``.
        tool_name: What measured.
        tool_version: Its version.
        cpu_model: Processor.
        gpu_model: Graphics processor, None without one.
        ram_gb: Memory of the machine.
    """

    duration_s: float
    energy_wh: float
    carbon_gco2e: float
    method: Literal["estimated", "measured"]
    cpu_wh: float
    gpu_wh: float
    ram_wh: float
    pue: float
    intensity_g_per_kwh: float
    intensity_source: str
    region: str
    tool_name: str
    tool_version: str
    cpu_model: str
    gpu_model: str | None
    ram_gb: float

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form of ``telemetry/training.json``, as far as energy goes."""
        return {
            "schema_version": "1",
            "duration_s": self.duration_s,
            "energy_wh": self.energy_wh,
            "carbon_gco2e": self.carbon_gco2e,
            "method": self.method,
            "energy": {
                "cpu_wh": self.cpu_wh,
                "gpu_wh": self.gpu_wh,
                "ram_wh": self.ram_wh,
                "pue": self.pue,
            },
            "carbon": {
                "intensity_g_per_kwh": self.intensity_g_per_kwh,
                "intensity_source": self.intensity_source,
                "region": self.region,
            },
            "tool": {"name": self.tool_name, "version": self.tool_version},
            "hardware": {"cpu": self.cpu_model, "gpu": self.gpu_model, "ram_gb": self.ram_gb},
        }


@dataclass
class EnergyMeasurement:
    """A block that is being measured; its report is there once the block has ended."""

    _reports: list[EnergyReport] = field(default_factory=list)
    _tracker: Any = None
    _intensity: float = 0.0

    def so_far(self) -> tuple[float, float]:
        """Return Wh and gCO2e of the block until now; after it, of the whole block.

        Raises:
            InputError: The grid's intensity is 0: energy is then known at the end alone.
        """
        if self._reports:
            return self.report.energy_wh, self.report.carbon_gco2e
        if not self._intensity:
            raise InputError("is 0", where="intensity_g_per_kwh", remedy="leave the block first")
        grams = 1000.0 * float(self._tracker.flush() or 0.0)
        return grams / self._intensity * _WH_PER_KWH, grams

    @property
    def report(self) -> EnergyReport:
        """What the block took.

        Raises:
            InputError: The block has not ended.
        """
        if not self._reports:
            raise InputError(
                "has not ended", where="measure_energy", remedy="leave the with block first"
            )
        return self._reports[0]


def grid_intensity(country_iso_code: str, region: str | None) -> tuple[float, str]:
    """Return the carbon intensity of a grid in g CO2e per kWh, and where the number comes from.

    Args:
        country_iso_code: Three letters, as ``USA``.
        region: State or province (USA and Canada), lower case; None takes the country's mean.

    Raises:
        InputError: CodeCarbon has no number for that country or region.
    """
    from codecarbon.core.emissions import Emissions
    from codecarbon.core.units import Energy
    from codecarbon.external.geography import GeoMetadata
    from codecarbon.input import DataSource, DataSourceException

    country = country_iso_code.upper()
    source = DataSource()
    if country not in source.get_global_energy_mix_data():
        raise InputError(
            f"no carbon intensity for {country_iso_code!r}",
            where="country_iso_code",
            remedy="give a three-letter code, or intensity_g_per_kwh",
        )
    regional = country in _REGIONAL and region is not None
    if region is not None and not regional:
        raise InputError(
            f"no regional carbon intensity for {country}", where="region", remedy="leave region out"
        )
    geo = GeoMetadata(country_iso_code=country, region=region)
    emissions = Emissions(source)
    one_kwh = Energy.from_energy(kWh=1.0)
    try:
        grams = 1000.0 * (
            emissions.get_region_emissions(one_kwh, geo)
            if regional
            else emissions.get_country_emissions(one_kwh, geo)
        )
    except (KeyError, ValueError, DataSourceException) as exc:
        raise InputError(
            f"no carbon intensity for {region!r} in {country}",
            where="region",
            remedy="write the full name in lower case, as 'kansas', or give intensity_g_per_kwh",
        ) from exc
    scope = "regional" if regional else "national"
    return float(grams), f"{TOOL} {version(TOOL)} {scope} table"


def _build_tracker(
    *,
    country_iso_code: str,
    region: str | None,
    intensity: float,
    pue: float,
    cpu_power_w: float | None,
    ram_power_w: float | None,
    interval_s: float,
    scope: Scope,
) -> Any:
    # Before anything else: the vendor logs while it is constructed, before it reads log_level.
    logging.getLogger(TOOL).setLevel(logging.CRITICAL)
    from codecarbon import OfflineEmissionsTracker

    return OfflineEmissionsTracker(
        country_iso_code=country_iso_code.upper(),
        region=region,
        force_carbon_intensity_g_co2e_kwh=intensity,
        pue=pue,
        force_cpu_power=cpu_power_w,
        force_ram_power=ram_power_w,
        measure_power_secs=interval_s,
        tracking_mode=scope,
        allow_multiple_runs=True,
        output_methods=[],
        emissions_endpoint=None,
        log_level="critical",
    )


def _is_measured(tracker: Any) -> bool:
    """Return whether the processor's energy came from its own counters."""
    parts = getattr(tracker, "_hardware", None) or []
    modes = {getattr(part, "_mode", None) for part in parts}
    chips = {type(part).__name__ for part in parts}
    return bool(modes & _COUNTERS) or "AppleSiliconChip" in chips


def _build_report(
    tracker: Any, *, region: str, intensity: float, source: str, pue: float
) -> EnergyReport:
    found = tracker.final_emissions_data
    cpu_wh, gpu_wh, ram_wh = (
        float(part) * _WH_PER_KWH for part in (found.cpu_energy, found.gpu_energy, found.ram_energy)
    )
    energy_wh = cpu_wh + gpu_wh + ram_wh
    return EnergyReport(
        duration_s=float(found.duration),
        energy_wh=energy_wh,
        carbon_gco2e=energy_wh / _WH_PER_KWH * intensity,
        method="measured" if _is_measured(tracker) else "estimated",
        cpu_wh=cpu_wh,
        gpu_wh=gpu_wh,
        ram_wh=ram_wh,
        pue=pue,
        intensity_g_per_kwh=intensity,
        intensity_source=source,
        region=region,
        tool_name=TOOL,
        tool_version=str(found.codecarbon_version),
        cpu_model=str(found.cpu_model or "unknown"),
        gpu_model=str(found.gpu_model) if found.gpu_model else None,
        ram_gb=float(found.ram_total_size),
    )


@contextmanager
def measure_energy(
    *,
    country_iso_code: str = "USA",
    region: str | None = "kansas",
    intensity_g_per_kwh: float | None = None,
    pue: float = 1.0,
    cpu_power_w: float | None = None,
    ram_power_w: float | None = None,
    interval_s: float = 1.0,
    scope: Scope = "process",
) -> Iterator[EnergyMeasurement]:
    """Measure the energy and carbon of this process, or machine, while the block runs.

    Blocks may be nested and may run in several threads; each counts the whole. CodeCarbon's
    own log is silenced. Starting takes about a second.

    Args:
        country_iso_code: Of the grid, three letters.
        region: State or province in lower case; None for the country's mean.
        intensity_g_per_kwh: Carbon intensity from elsewhere; None takes CodeCarbon's table.
        pue: Power usage effectiveness of the data centre, at least 1.
        cpu_power_w: Thermal design power; None lets CodeCarbon look up the processor.
        ram_power_w: Power of memory; None takes CodeCarbon's constant.
        interval_s: Time between samples.
        scope: ``process`` for this one, ``machine`` for all that runs beside it, too.

    Yields:
        The measurement; its ``report`` is there after the block, also when the block raised.

    Raises:
        InputError: There is no carbon intensity for the region, or a number is out of range.
    """
    if (
        pue < 1.0
        or interval_s <= 0
        or (intensity_g_per_kwh is not None and intensity_g_per_kwh < 0)
    ):
        raise InputError(
            "pue is below 1, or interval or intensity not positive", where="measure_energy"
        )
    if intensity_g_per_kwh is None:
        intensity, source = grid_intensity(country_iso_code, region)
    else:
        intensity, source = float(intensity_g_per_kwh), "given by the caller"
    tracker = _build_tracker(
        country_iso_code=country_iso_code,
        region=region,
        intensity=intensity,
        pue=pue,
        cpu_power_w=cpu_power_w,
        ram_power_w=ram_power_w,
        interval_s=interval_s,
        scope=scope,
    )
    named = "/".join(part for part in (country_iso_code.upper(), region) if part)
    reports: list[EnergyReport] = []
    tracker.start()
    try:
        yield EnergyMeasurement(reports, tracker, intensity)
    finally:
        tracker.stop()
        reports.append(
            _build_report(tracker, region=named, intensity=intensity, source=source, pue=pue)
        )
