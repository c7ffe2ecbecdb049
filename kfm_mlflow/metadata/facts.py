"""What the builders of this room are told about a release: plain values, checked when made.

Facts come from whoever trained (`RunFact`, `ReleaseFact`), from the data (`DatasetFact`), from
the directory (`FileFact`) and from the environment (`PackageFact`). A fact that is wrong on its
face (a digest that is none, an instant without time zone, an extent that is no place on Earth) is
refused here, so that builders can trust what they get. Only :func:`read_file_fact` touches disk.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from kfm_mlflow.canonical import parse_digest
from kfm_mlflow.errors import InputError
from kfm_mlflow.metadata.extent import Bbox, check_bbox
from kfm_mlflow.release.manifest import check_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "MODEL_SUFFIXES",
    "RELEASE_VERSION_PATTERN",
    "AgentFact",
    "Bbox",
    "DatasetFact",
    "DatasetRole",
    "FileFact",
    "PackageFact",
    "ReleaseFact",
    "RunFact",
    "TensorFact",
    "find_file",
    "read_file_fact",
    "utc_instant",
    "utc_text",
]

RELEASE_VERSION_PATTERN = (
    r"^(?=.{2,64}$)v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?$"
)
"""``v1.2.3`` or ``v1.2.3-rc.1``, at most 64 characters, which is what the registry keeps."""
_CHUNK_BYTES = 1 << 20


def utc_instant(instant: datetime, *, where: str) -> datetime:
    """Return an aware instant in UTC.

    Raises:
        InputError: It has no time zone, so it names no instant.
    """
    if instant.utcoffset() is None:
        raise InputError("instant has no time zone", where=where, remedy="use datetime.now(UTC)")
    return instant.astimezone(UTC)


def utc_text(instant: datetime) -> str:
    """Write an aware instant as RFC 3339 in UTC, ending in ``Z``."""
    return utc_instant(instant, where="instant").isoformat().replace("+00:00", "Z")


DatasetRole = Literal["training", "validation", "parent"]
MODEL_SUFFIXES = (".pt", ".pth", ".onnx", ".bin", ".safetensors", ".data")
"""Endings of files that hold weights, or a part of them."""


@dataclass(frozen=True)
class FileFact:
    """One file of a release.

    Attributes:
        path: POSIX path relative to the release.
        size_bytes: Length.
        sha256: ``sha256:<hex>``; other notations are accepted and rewritten.
        sha1: 40 hex digits, which SPDX demands of every file; None when not computed.
    """

    path: str
    size_bytes: int
    sha256: str
    sha1: str | None = None

    def __post_init__(self) -> None:
        """Check path, size and digests."""
        problem = check_path(self.path)
        if problem:
            raise InputError(f"{problem}", where=self.path or "path")
        if self.size_bytes < 0:
            raise InputError("size is negative", where=self.path)
        if self.sha1 is not None and not re.fullmatch(r"[0-9a-f]{40}", self.sha1):
            raise InputError("not a SHA-1 digest", where=self.path)
        object.__setattr__(self, "sha256", parse_digest(self.sha256, where=self.path))

    @property
    def multihash(self) -> str:
        """Multihash of the SHA-256 digest: code 0x12, length 0x20, digest, as hex."""
        return f"1220{self.sha256.removeprefix('sha256:')}"


def read_file_fact(root: Path, path: str) -> FileFact:
    """Read a file once and return its fact, SHA-1 included.

    Args:
        root: The release directory.
        path: POSIX path relative to it.

    Raises:
        InputError: The file cannot be read.
    """
    sha256, size_bytes = hashlib.sha256(), 0
    sha1 = hashlib.sha1(usedforsecurity=False)
    try:
        with (root / path).open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                sha256.update(chunk)
                sha1.update(chunk)
                size_bytes += len(chunk)
    except OSError as exc:
        raise InputError(f"cannot be read ({exc.strerror})", where=path) from exc
    return FileFact(path, size_bytes, f"sha256:{sha256.hexdigest()}", sha1.hexdigest())


@dataclass(frozen=True)
class DatasetFact:
    """One data set that training or validation read.

    Attributes:
        name: Short name, for people.
        uri: Where it is or what it is called.
        sha256: ``sha256:<hex>`` of what was read.
        license: SPDX expression, or ``other``.
        role: What it was used for; a ``parent`` is a model that others made, of which this one is
            made.
        bbox: Extent; None when it has none or may not be told.
        start_at: First instant of the data.
        end_at: Last instant of the data.
        variables: Names of the variables that were read.
        selection: Which part of the data set, in words; empty for the whole.
        folders: Of a parent: folders of the release, ending in ``/``, whose files are made from it.
    """

    name: str
    uri: str
    sha256: str
    license: str
    role: DatasetRole
    bbox: Bbox | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    variables: tuple[str, ...] = ()
    selection: str = ""
    folders: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check name, digest, extent and instants."""
        if not self.name or not self.uri:
            raise InputError("a data set needs a name and a URI", where=self.name or "dataset")
        object.__setattr__(self, "sha256", parse_digest(self.sha256, where=self.name))
        if self.bbox is not None:
            check_bbox(self.bbox, self.name)
        for name in ("start_at", "end_at"):
            instant = getattr(self, name)
            if instant is not None:
                object.__setattr__(self, name, utc_instant(instant, where=f"{self.name}.{name}"))
        if self.start_at and self.end_at and self.end_at < self.start_at:
            raise InputError("end_at is before start_at", where=self.name)


@dataclass(frozen=True)
class AgentFact:
    """A person, organisation or piece of software that bears responsibility.

    Attributes:
        id: Identifier, unique among the agents of a release.
        name: For people.
        kind: What it is.
        on_behalf_of: Identifier of the agent it acted for; None when for itself.
        signs: Whether it is the one that signs the release.
    """

    id: str
    name: str
    kind: Literal["person", "software", "organization"]
    on_behalf_of: str | None = None
    signs: bool = False


@dataclass(frozen=True)
class RunFact:
    """The run that made the weights, or fetched them.

    Attributes:
        run_id: Identifier of the run (MLflow's); None outside of one.
        entry_point: What was run.
        git_commit: Commit of the code; None when it is not under version control.
        git_url: Repository of the code.
        started_at: When training began.
        ended_at: When training ended.
        parameters: Parameters of the entry point.
        seed: The one seed from which all randomness followed.
        environment_lock_sha256: Digest of the list of installed packages; None when unknown.
        kind: Whether it trained, or took what others had made.
    """

    run_id: str | None
    entry_point: str
    git_commit: str | None
    git_url: str | None
    started_at: datetime
    ended_at: datetime
    parameters: Mapping[str, str]
    seed: int
    environment_lock_sha256: str | None = None
    kind: Literal["training", "importing"] = "training"

    def __post_init__(self) -> None:
        """Check instants and digest."""
        for name in ("started_at", "ended_at"):
            object.__setattr__(self, name, utc_instant(getattr(self, name), where=f"run.{name}"))
        if self.ended_at < self.started_at:
            raise InputError("ended_at is before started_at", where="run")
        if self.environment_lock_sha256 is not None:
            digest = parse_digest(self.environment_lock_sha256, where="run.environment_lock_sha256")
            object.__setattr__(self, "environment_lock_sha256", digest)


@dataclass(frozen=True)
class TensorFact:
    """One input or output of the model.

    Attributes:
        name: As the model names it.
        dtype: Element type, for example ``float32``.
        shape: Extents; -1 where any is accepted.
        dim_order: Lower-case name of each dimension, for example batch, channel, height, width.
        optional: Whether a request may leave it out.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    dim_order: tuple[str, ...]
    optional: bool = False

    def __post_init__(self) -> None:
        """Check that every dimension is named."""
        if len(self.shape) != len(self.dim_order) or not self.shape:
            raise InputError("name every dimension of the shape", where=self.name)

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``model_metadata.json`` and the model card list it."""
        found: dict[str, Any] = {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}
        return {**found, "optional": True} if self.optional else found


@dataclass(frozen=True)
class PackageFact:
    """An installed package; ``license`` is an SPDX expression, None when it does not say."""

    name: str
    version: str
    license: str | None = None


@dataclass(frozen=True)
class ReleaseFact:
    """What a release says about itself.

    Attributes:
        model_name: Registered model.
        release_version: ``v1.2.3``, unique per registered model.
        family: Policy family.
        task: What the model does, in MLM's vocabulary (``super-resolution``, ``regression``, …).
        released_at: When the release was composed.
        license: SPDX expression.
        description: One or two sentences for people.
        architecture: Name of the architecture.
        framework: Name as MLM writes it (``PyTorch``).
        framework_version: Semantic version.
        hyperparameters: Name -> JSON value; at least one.
        metrics: Name -> number, as the trainer measured them.
        parameter_count: Number of trained parameters.
        inputs: Inputs of the model, in order.
        outputs: Outputs of the model, in order.
        bbox: Where the model applies.
        care: The CARE block: masking, scope, notes, authority, labels, h3_max_resolution.
        energy_wh: Energy of the training run, in Wh; None when nobody measured it.
        carbon_gco2e: Emission of the training run, in gCO2e; None when nobody measured it.
        geometry: GeoJSON of where the model applies; None takes the bbox.
        weights_path: The file that holds the trained parameters.
        screening_status: Outcome of the CARE screening; a tool never says "approved".
        sovereignty_notes: What people must know about sovereignty.
        explainability: Method, library and other facts of the XAI summary.
        domains: Context domains (Focus Mode).
        fusion_dimension: Length of the fusion vector (Focus Mode).
        intended_uses: For the model card.
        forbidden_uses: Inferences that the model must not be used for.
        limitations: Known weaknesses.
        predecessor: Release version that this one revises; None for a first release.
        imported: Paths of files that others made, of which ``weights_path`` is the index.
    """

    model_name: str
    release_version: str
    family: str
    task: str
    released_at: datetime
    license: str
    description: str
    architecture: str
    framework: str
    framework_version: str
    hyperparameters: Mapping[str, Any]
    metrics: Mapping[str, float]
    parameter_count: int
    inputs: tuple[TensorFact, ...]
    outputs: tuple[TensorFact, ...]
    bbox: Bbox
    care: Mapping[str, Any]
    energy_wh: float | None
    carbon_gco2e: float | None
    geometry: Mapping[str, Any] | None = None
    weights_path: str = "model.pt"
    screening_status: str = "needs-authority"
    sovereignty_notes: tuple[str, ...] = ()
    explainability: Mapping[str, Any] = field(default_factory=dict)
    domains: tuple[str, ...] = ()
    fusion_dimension: int | None = None
    intended_uses: tuple[str, ...] = ()
    forbidden_uses: tuple[str, ...] = ()
    limitations: tuple[str, ...] = ()
    predecessor: str | None = None
    imported: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check name, versions, extent and instant."""
        if not self.model_name or "/" in self.model_name:
            raise InputError("a model needs a name without '/'", where="release.model_name")
        for name in ("release_version", "predecessor"):
            version = getattr(self, name)
            if version is not None and not re.fullmatch(RELEASE_VERSION_PATTERN, version):
                raise InputError(
                    f"{version!r} is no version", where=f"release.{name}", remedy="write v1.2.3"
                )
        if self.predecessor == self.release_version:
            raise InputError("a release cannot precede itself", where="release.predecessor")
        check_bbox(self.bbox, "release.bbox")
        instant = utc_instant(self.released_at, where="release.released_at")
        object.__setattr__(self, "released_at", instant)


def find_file(files: tuple[FileFact, ...], path: str) -> FileFact:
    """Return the fact of a path.

    Raises:
        InputError: No fact has that path.
    """
    for file in files:
        if file.path == path:
            return file
    raise InputError("is not among the files of the release", where=path)
