"""The documents that lie beside the checkpoints of one training, as values.

The shapes are those of the Focus Transformer checkpoint documentation: its manifest, its telemetry
columns, its governance record. What is read may lack what we add (``schema_version``, ``file``,
``phase``): a manifest that somebody else wrote is still a manifest. What is written has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from kfm_mlflow.canonical import parse_digest, parse_json
from kfm_mlflow.errors import EvidenceError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MANIFEST = "checkpoints_manifest.json"
METRICS = "checkpoint_metrics.json"
CHECKSUMS = "checksum_registry.json"
TELEMETRY = "focus-telemetry.json"
GOVERNANCE = "governance_validation.json"
EXPLAINABILITY = "explainability_summary.json"
CERTIFICATE = "quorum_certificate.json"
DOCUMENTS = (MANIFEST, METRICS, CHECKSUMS, TELEMETRY, GOVERNANCE, EXPLAINABILITY)
SUFFIX = ".pt"

R = TypeVar("R", bound=BaseModel)
Phase = Literal["pretrain", "finetune", "final"]
PHASES: tuple[Phase, ...] = ("pretrain", "finetune", "final")


def registered_name_of(model_id: str) -> str:
    """Return the registered model that a training's model id means: ``a_b`` is ``a-b``."""
    return model_id.replace("_", "-")


def _digest(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("is no text")  # noqa: TRY004 - pydantic reads ValueError
    try:
        return parse_digest(value)
    except InputError as exc:
        raise ValueError(str(exc)) from exc


Digest = Annotated[str, BeforeValidator(_digest)]
NonEmpty = Annotated[str, Field(min_length=1)]
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Score = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class ManifestEntry(_Record):
    """One checkpoint as the manifest lists it.

    Attributes:
        id: Without suffix.
        epoch: Epochs of the whole training that were done, from 1.
        auc: On held-out rows, 0..1.
        faircare_score: 0..100.
        checksum_sha256: ``sha256:<hex>`` of the file.
        energy_wh: Of the training up to here, in Wh.
        phase: Which part of the training.
        file: Name in the same directory; ``<id>.pt`` when it is not said.
    """

    id: NonEmpty
    epoch: Annotated[int, Field(ge=0)]
    auc: Ratio | None = None
    validation_accuracy: Ratio | None = None
    faircare_score: Score
    checksum_sha256: Digest
    energy_wh: Amount
    phase: Phase | None = None
    file: str = ""

    @model_validator(mode="after")
    def _is_one_file(self) -> Self:
        name = self.file_name
        if "/" in name or "\\" in name or name.startswith(".") or not name.endswith(SUFFIX):
            raise ValueError(f"{name!r} is no name of a checkpoint file")
        return self

    @property
    def file_name(self) -> str:
        """The file in the manifest's directory."""
        return self.file or f"{self.id}{SUFFIX}"


class CheckpointsManifest(_Record):
    """``checkpoints_manifest.json``: which checkpoints there are, in the order of their epochs.

    Attributes:
        reviewed_by: Who approved, once a certificate says so.
        auditor: Who audited.
        approved: Whether a quorum certificate holds for one of the checkpoints.
        planned_epochs: How long the training was meant to be; None when nobody said.
    """

    model_id: NonEmpty
    version: NonEmpty
    checkpoints: tuple[ManifestEntry, ...]
    reviewed_by: str | None = None
    auditor: str | None = None
    approved: bool = False
    telemetry_ref: str = TELEMETRY
    planned_epochs: Annotated[int, Field(ge=1)] | None = None

    def entry(self, checkpoint_id: str) -> ManifestEntry:
        """Return one checkpoint.

        Raises:
            InputError: It is not listed.
        """
        for found in self.checkpoints:
            if found.id == checkpoint_id:
                return found
        raise InputError(
            f"lists no checkpoint {checkpoint_id!r}",
            where=MANIFEST,
            remedy=f"use one of {', '.join(c.id for c in self.checkpoints) or 'none'}",
        )


class MetricsEntry(_Record):
    """What was measured at one checkpoint; the column names are the documentation's."""

    id: NonEmpty
    training_epoch: Annotated[int, Field(ge=0)]
    auc: Ratio | None = None
    loss: Annotated[float, Field(allow_inf_nan=False)] | None = None
    bias_index: Ratio | None = None
    faircare_score: Score
    energy_wh: Amount
    carbon_gco2e: Amount
    checksum_verified: bool
    timestamp: str = ""


class CheckpointMetrics(_Record):
    """``checkpoint_metrics.json``."""

    model_id: NonEmpty
    version: str = ""
    checkpoints: tuple[MetricsEntry, ...]


class ChecksumEntry(_Record):
    """One file's bytes."""

    file: NonEmpty
    checksum_sha256: Digest
    size_bytes: Annotated[int, Field(ge=0)] | None = None
    verified: bool = False
    timestamp: str = ""


class ChecksumRegistry(_Record):
    """``checksum_registry.json``."""

    model_id: NonEmpty
    files: tuple[ChecksumEntry, ...]


def parse_record(kind: type[R], data: bytes, *, where: str) -> R:
    """Read one of the documents.

    Args:
        kind: Which.
        data: Its bytes.
        where: What to call it in an error.

    Raises:
        EvidenceError: It is not strict JSON, or a field is missing or wrong; names the first.
    """
    value = parse_json(data, where=where)
    try:
        return kind.model_validate_json(data)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "document"
        raise EvidenceError(
            f"{place}: {first['msg']}",
            where=where,
            remedy="write it again with kfm checkpoints, or restore the file"
            if isinstance(value, dict)
            else "the document must be a JSON object",
        ) from exc


def read_record(kind: type[R], path: Path) -> R:
    """Read one of the documents from its file.

    Raises:
        EvidenceError: It cannot be read, or see :func:`parse_record`.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise EvidenceError(
            f"cannot be read ({exc.strerror})", where=path.name, remedy="restore it from a copy"
        ) from exc
    return parse_record(kind, data, where=path.name)


def record_json(record: BaseModel) -> Mapping[str, Any]:
    """Return the JSON value of a record that we write, absent fields left out."""
    return {"schema_version": "1", **record.model_dump(mode="json", exclude_none=False)}
