"""A policy as a value: what people write, checked field by field.

Unknown fields are refused, so that a misspelt limit can never be read as no limit. Every gate
that a level names must be configured, and no level may be without gates.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from kfm_mlflow.canonical import digest_file, digest_json
from kfm_mlflow.errors import PolicyError
from kfm_mlflow.policy.access import AccessPolicy
from kfm_mlflow.policy.drift import DriftPlan
from kfm_mlflow.policy.exemptions import Exemption
from kfm_mlflow.policy.fleet import FleetPolicy
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.rollout import RolloutPolicy
from kfm_mlflow.policy.trust import TrustPolicy
from kfm_mlflow.policy.written import NonEmpty, Written

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Mode = Literal["enforce", "warn", "audit"]


def _is_named(model_name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(model_name, pattern) for pattern in patterns)


class GatePolicy(Written):
    """Settings that every gate has.

    Attributes:
        mode: ``enforce`` refuses, ``warn`` and ``audit`` record only.
    """

    mode: Mode = "enforce"


class ModelFiles(Written):
    """What the releases of some models of a family must hold besides.

    Attributes:
        models: Patterns of registered names (``fleet-*``).
        required: Paths, as in :class:`CompletenessPolicy`.
        schemas: Path -> name of the JSON Schema that the document must satisfy.
    """

    models: tuple[NonEmpty, ...] = Field(min_length=1)
    required: tuple[NonEmpty, ...] = ()
    schemas: dict[str, str] = Field(default={})


class CompletenessPolicy(GatePolicy):
    """Which files a release must hold, and which it may not.

    Attributes:
        required: Paths relative to the release; a trailing ``/`` asks for a non-empty directory.
        forbidden_suffixes: File endings that are refused, for example formats that execute code.
        schemas: Path -> name of the JSON Schema that the document must satisfy.
        by_model: Every entry that names a model adds what it asks for.
    """

    required: tuple[NonEmpty, ...] = Field(min_length=1)
    forbidden_suffixes: tuple[NonEmpty, ...] = ()
    schemas: dict[str, str] = Field(default={})
    by_model: tuple[ModelFiles, ...] = ()

    def files_of(self, model_name: str) -> ModelFiles:
        """Return all that a registered model's releases must hold."""
        entries = [e for e in self.by_model if _is_named(model_name, e.models)]
        return ModelFiles(
            models=(model_name,),
            required=(*self.required, *(path for entry in entries for path in entry.required)),
            schemas={**self.schemas, **{k: v for e in entries for k, v in e.schemas.items()}},
        )


class Limit(Written):
    """An inclusive limit on one metric.

    Attributes:
        metric: Name in the validator's signed result.
        min: Smallest allowed value.
        max: Largest allowed value.
        unit: Unit of all three, for people.
    """

    metric: NonEmpty
    min: float | None = None
    max: float | None = None
    unit: str = "1"

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError(f"{self.metric}: give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"{self.metric}: min {self.min} is above max {self.max}")
        return self


class ModelLimits(Written):
    """Limits of some models of a family.

    Attributes:
        models: Patterns of registered names (``climate-hazard*``).
        limits: What their metrics must keep.
    """

    models: tuple[NonEmpty, ...] = Field(min_length=1)
    limits: tuple[Limit, ...] = Field(min_length=1)


class MetricsPolicy(GatePolicy):
    """Limits on what the validator measured; the trainer's own numbers are never read.

    A registered model's name is fixed when it is created, so that no release chooses its limits.

    Attributes:
        limits: Of every model that ``by_model`` does not name.
        by_model: The first entry that names a model decides, in the place of ``limits``.
    """

    limits: tuple[Limit, ...] = Field(min_length=1)
    by_model: tuple[ModelLimits, ...] = ()

    def limits_of(self, model_name: str) -> tuple[Limit, ...]:
        """Return the limits that hold for a registered model."""
        for entry in self.by_model:
            if _is_named(model_name, entry.models):
                return entry.limits
        return self.limits


class XaiPolicy(GatePolicy):
    """What an explanation must reach.

    Attributes:
        max_convergence_delta_ratio: Completeness error of integrated gradients.
        min_stability: Lowest correlation between explanations over seeds.
    """

    path: NonEmpty = "xai/summary.json"
    max_convergence_delta_ratio: float = Field(default=0.05, gt=0)
    min_stability: float = Field(default=0.8, ge=-1, le=1)


class TelemetryPolicy(GatePolicy):
    """Energy and carbon of the training run, and spans of the canary.

    Attributes:
        max_energy_wh: Largest energy of the training run, in Wh.
        max_carbon_gco2e: Largest emission of the training run, in gCO2e.
        min_span_ratio: On the way to Production, least share of the canary's answers of which the
            controller's verdict says that a span was kept; None asks for none. Above the share
            that is sampled (``kfm rollout run --span-ratio``), nothing passes.
    """

    path: NonEmpty = "telemetry/training.json"
    max_energy_wh: float | None = Field(default=None, gt=0)
    max_carbon_gco2e: float | None = Field(default=None, gt=0)
    min_span_ratio: float | None = Field(default=None, gt=0, le=1)


class CarePolicy(GatePolicy):
    """CARE and sovereignty screening; a veto, so it can only be enforced.

    Attributes:
        accepted: Screening statuses that pass.
        public_terms: Terms that are no misspelling of a restricted name, however alike.
        hyperlocal_m: Lengths below this are too close for a statement about a hazard or a site.
        min_score_pct: Least FAIR+CARE score; below is the band "Blocked".
        min_care_pct: Least CARE part of it, a veto whatever the score.
        max_invariance_change_ratio: How far public outputs may move when restricted inputs are
            permuted, as a ratio of their range.
        require_invariance: A validator must have measured that.
        require_training_rows: A validator must have counted the training rows in every region.
    """

    mode: Literal["enforce"] = "enforce"
    accepted: tuple[Literal["no-known-conflict"], ...] = ("no-known-conflict",)
    public_terms: tuple[NonEmpty, ...] = ()
    hyperlocal_m: float = Field(default=1000.0, gt=0)
    min_score_pct: float = Field(default=65.0, ge=0, le=100)
    min_care_pct: float = Field(default=80.0, ge=0, le=100)
    max_invariance_change_ratio: float = Field(default=1e-6, ge=0)
    require_invariance: bool = False
    require_training_rows: bool = False


class AuthorityPolicy(GatePolicy):
    """What the authorities of regions signed; a veto, so it can only be enforced."""

    mode: Literal["enforce"] = "enforce"


class DocumentPolicy(GatePolicy):
    """Where a document of the release lies."""

    path: NonEmpty


class LineagePolicy(GatePolicy):
    """The way from the model to its data, walked by digest.

    Attributes:
        path: Where the lineage lies in the release.
    """

    path: NonEmpty = "provenance/provenance.json"


class ValidationPolicy(GatePolicy):
    """A second party's signed result.

    Attributes:
        max_age_s: How old the attestation may be, in seconds.
        require_deterministic: Inference run twice must have given the same bytes.
    """

    max_age_s: float = Field(default=30 * 86400, gt=0)
    require_deterministic: bool = True


class DriftPolicy(GatePolicy):
    """What the validator must have found about current inputs.

    Attributes:
        plan: The plan that the check must have followed.
    """

    plan: DriftPlan = DriftPlan()


class StatementsPolicy(GatePolicy):
    """What the signer of a release must say of it beside it.

    Attributes:
        required: Kinds of statements; without any, the gate answers nothing and so refuses.
        require_commit: The code must have been at a commit, without any change.
        require_lock: The installed packages must be named by digest, and be those that a file of
            pinned versions in that commit names.
    """

    required: tuple[Literal["slsa-provenance", "care-screening", "stac-item"], ...] = (
        "slsa-provenance",
        "care-screening",
        "stac-item",
    )
    require_commit: bool = False
    require_lock: bool = False


class CheckpointsPolicy(GatePolicy):
    """What the checkpoints that a release was made from must be; limits are of the released one.

    Attributes:
        path: Folder of the release that holds them and their documents.
        max_energy_wh: Greatest energy of the whole training, in Wh.
        max_carbon_gco2e: Greatest emission of it, in gCO2e.
        min_faircare_score: Least FAIR+CARE score, 0 to 100.
        max_bias_index: Greatest bias index; None asks for none.
        min_auc: Least area under the ROC curve on held-out rows; None asks for none.
    """

    path: NonEmpty = "checkpoints"
    max_energy_wh: float = Field(default=4500, gt=0)
    max_carbon_gco2e: float = Field(default=1800, gt=0)
    min_faircare_score: float = Field(default=95, ge=0, le=100)
    max_bias_index: float | None = Field(default=None, ge=0, le=1)
    min_auc: float | None = Field(default=None, ge=0, le=1)


class VotesPolicy(GatePolicy):
    """The council's quorum; its members stand under ``trust.council``."""


class GatesPolicy(Written):
    """Every gate there is; one that is not configured can not be asked for."""

    integrity: GatePolicy | None = None
    completeness: CompletenessPolicy | None = None
    signature: GatePolicy | None = None
    care: CarePolicy | None = None
    authority: AuthorityPolicy | None = None
    prov: DocumentPolicy | None = None
    lineage: LineagePolicy | None = None
    stac: DocumentPolicy | None = None
    sbom: DocumentPolicy | None = None
    attestations: StatementsPolicy | None = None
    telemetry: TelemetryPolicy | None = None
    xai: XaiPolicy | None = None
    validation: ValidationPolicy | None = None
    metrics: MetricsPolicy | None = None
    fusion: MetricsPolicy | None = None
    geo_awareness: MetricsPolicy | None = None
    context_models: MetricsPolicy | None = None
    routing: MetricsPolicy | None = None
    narrative: MetricsPolicy | None = None
    attribution_quality: MetricsPolicy | None = None
    checkpoints: CheckpointsPolicy | None = None
    drift: DriftPolicy | None = None
    canary: GatePolicy | None = None
    votes: VotesPolicy | None = None
    rollback_target: GatePolicy | None = None


LIMIT_GATES = (
    "metrics",
    "fusion",
    "geo_awareness",
    "context_models",
    "routing",
    "narrative",
    "attribution_quality",
)
"""Gates that ask the same question, each of its own metrics, so that a refusal names what failed:
whether the validator's signed metrics keep the limits."""


class LevelsPolicy(Written):
    """Gates to pass on the way into each level, in the order in which findings are shown."""

    staging: tuple[NonEmpty, ...] = Field(min_length=1)
    canary: tuple[NonEmpty, ...] = Field(min_length=1)
    production: tuple[NonEmpty, ...] = Field(min_length=1)


class Policy(Written):
    """One family's policy.

    Attributes:
        family: Name of the family.
        models: Shell-style patterns; a registered model whose name matches belongs here.
        regions_file: GeoJSON of sovereign regions; people write a path relative to the policy
            file, of which the name alone is kept (see :meth:`with_regions`). None takes the
            packaged, illustrative extents.
        regions_digest: Of that file when the policy was loaded; nobody writes it.
        access: Who may move versions and send statements; without it, nobody.
        exemptions: Findings that are passed over for a while.
        fleet: How releases are rolled out over agents; None of families that have no fleet.
    """

    schema_version: Literal["1"]
    family: NonEmpty
    description: str = ""
    models: tuple[NonEmpty, ...] = ()
    regions_file: str | None = None
    regions_digest: str | None = None
    gates: GatesPolicy
    levels: LevelsPolicy
    trust: TrustPolicy = TrustPolicy()
    access: AccessPolicy = AccessPolicy()
    exemptions: tuple[Exemption, ...] = ()
    rollout: RolloutPolicy
    fleet: FleetPolicy | None = None
    _regions_path: Any = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _names_known_gates(self) -> Self:
        for level in (Level.STAGING, Level.CANARY, Level.PRODUCTION):
            names = self.gate_names(level)
            for name in names:
                if name not in GatesPolicy.model_fields:
                    raise ValueError(f"levels.{level}: {name!r} is no gate")
                if getattr(self.gates, name) is None:
                    raise ValueError(f"levels.{level}: gate {name!r} is not configured under gates")
            if len(set(names)) != len(names):
                raise ValueError(f"levels.{level}: a gate appears twice")
        for index, exemption in enumerate(self.exemptions):
            if exemption.gate not in GatesPolicy.model_fields:
                raise ValueError(f"exemptions.{index}: {exemption.gate!r} is no gate")
        for name in self.access.break_glass.keep:
            if name not in GatesPolicy.model_fields:
                raise ValueError(f"access.break_glass.keep: {name!r} is no gate")
        return self

    @model_validator(mode="after")
    def _hears_authorities(self) -> Self:
        for level in (Level.STAGING, Level.CANARY, Level.PRODUCTION):
            names = self.gate_names(level)
            if "care" in names and "authority" not in names:
                raise ValueError(
                    f"levels.{level}: asks gate 'care' without gate 'authority', so that no veto "
                    "of a region would be heard"
                )
        return self

    def gate_names(self, level: Level) -> tuple[str, ...]:
        """Return the gates on the way into a level; none for candidate."""
        if level is Level.CANDIDATE:
            return ()
        names: tuple[str, ...] = getattr(self.levels, level.value)
        return names

    def gate(self, name: str) -> GatePolicy:
        """Return the settings of a configured gate."""
        settings: GatePolicy = getattr(self.gates, name)
        return settings

    def with_regions(self, path: Path) -> Self:
        """Return a copy that screens with a file of this machine.

        Name and content count towards the digest; where the file lies does not, so that policies
        may be moved, and those who read one learn nothing of the machine.

        Args:
            path: GeoJSON that is there.
        """
        update = {"regions_file": path.name, "regions_digest": digest_file(path)}
        copied = self.model_copy(update=update)
        copied._regions_path = path  # noqa: SLF001 - of the copy, nobody has it yet
        return copied

    @property
    def regions_path(self) -> Path | None:
        """Where the regions file lies on this machine; None takes the packaged extents.

        Raises:
            PolicyError: There is a file, but the policy came from elsewhere without it.
        """
        if self.regions_file is not None and self._regions_path is None:
            raise PolicyError(
                "is not here; the policy came without it",
                where=self.regions_file,
                remedy="read the policy from the file that names it",
            )
        found: Path | None = self._regions_path
        return found

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with changed fields, which has a digest of its own."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("digest", None)
        return copied

    @cached_property
    def digest(self) -> str:
        """``sha256:<hex>`` of the whole resolved policy, keys included."""
        return digest_json(self.model_dump(mode="json"))
