"""What a model's routers should be doing, kept where every process of the cluster can read it.

The split in Ray's GCS key-value store is the truth: Serve's own controller keeps its target state
there, it outlives any actor, and a read takes about a millisecond. A broadcast is only the fast
path: a router that starts, or that missed one, reads the truth. The other way to declare a split,
Serve's ``user_config``, restarts routers through ``serve.run``, and through a declarative config
takes a second and deletes the applications of other models that the config does not list.

The module reads and writes; it decides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from kfm_mlflow.canonical import canonical_bytes, parse_json
from kfm_mlflow.errors import PlaneError
from kfm_mlflow.monitor.drift_bins import Columns
from kfm_mlflow.rollout.plane import Band, Split
from kfm_serving.names import model_slug

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMESPACE = b"kfm"


class Record(BaseModel):
    """What is kept in the cluster as one JSON document."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal["1"] = "1"

    def to_bytes(self) -> bytes:
        """Return the canonical JSON of the record."""
        return canonical_bytes(self.model_dump(mode="json"))


class DesiredSplit(Record):
    """A split, and which deployment of each version it means.

    Attributes:
        generation: As in :class:`~kfm_mlflow.rollout.plane.Split`, like the next five.
        stable: Version.
        canary: Version.
        canary_ratio: Share, 0..1.
        mirror_ratio: Share that is copied, 0..1.
        bands: Response statistic -> (low, high).
        deployment_ids: Version that gets requests or copies -> deployment id. A version that was
            removed and deployed again is another deployment, with its own handle and counts.
    """

    generation: int
    stable: int | None
    canary: int | None
    canary_ratio: float
    bands: dict[str, tuple[float, float]]
    deployment_ids: dict[int, str]
    mirror_ratio: float = 0.0

    @classmethod
    def from_split(cls, split: Split, deployment_ids: Mapping[int, str]) -> DesiredSplit:
        """Make the record of a split."""
        return cls(
            generation=split.generation,
            stable=split.stable,
            canary=split.canary,
            canary_ratio=split.canary_ratio,
            bands={name: (band.low, band.high) for name, band in split.bands.items()},
            deployment_ids=dict(deployment_ids),
            mirror_ratio=split.mirror_ratio,
        )

    def to_split(self) -> Split:
        """Return the split without deployments."""
        return Split(
            generation=self.generation,
            stable=self.stable,
            canary=self.canary,
            canary_ratio=self.canary_ratio,
            bands={name: Band(low, high) for name, (low, high) in self.bands.items()},
            mirror_ratio=self.mirror_ratio,
        )


class ReleaseRecord(Record):
    """One deployment of one version.

    Attributes:
        deployment_id: Unique for every call of ``deploy`` that started something.
        release_id: ``sha256:<hex>``.
        seed: That the release declares; None without one.
        baseline: What its drift baseline says about the columns that are counted; None without
            one.
        is_up: False once removed; the record stays so that its counts can still be read.
    """

    deployment_id: str
    release_id: str
    seed: int | None = None
    baseline: Columns | None = None
    is_up: bool = True


class _Releases(Record):
    releases: dict[int, ReleaseRecord] = {}


class _Reports(Record):
    reports: dict[str, dict[str, Any]] = {}


def arms_of(split: Split) -> frozenset[int]:
    """Return the versions that a split needs: the stable one, and a canary that is asked at all."""
    canary = split.canary if max(split.canary_ratio, split.mirror_ratio) > 0 else None
    return frozenset(version for version in (split.stable, canary) if version is not None)


class Shelf:
    """Documents under one prefix of the cluster's key-value store; needs a connection to Ray."""

    def __init__(self, name: str) -> None:
        """Name the prefix; reads nothing yet."""
        self._prefix = f"{name}/"

    def get(self, name: str) -> bytes | None:
        """Return a document; None when there is none."""
        value: bytes | None = _kv()._internal_kv_get(self._key(name), namespace=_NAMESPACE)  # noqa: SLF001 see _kv
        return value

    def put(self, name: str, data: bytes) -> None:
        """Keep a document, in place of the one before."""
        _kv()._internal_kv_put(self._key(name), data, overwrite=True, namespace=_NAMESPACE)  # noqa: SLF001 see _kv

    def clear(self) -> None:
        """Forget all documents."""
        _kv()._internal_kv_del(self._prefix.encode(), del_by_prefix=True, namespace=_NAMESPACE)  # noqa: SLF001 see _kv

    def _key(self, name: str) -> bytes:
        return f"{self._prefix}{name}".encode()


class Stored:
    """What is stored of a model or a fleet, and what its processes last reported."""

    def __init__(self, name: str) -> None:
        """Name the prefix; reads nothing yet."""
        self._shelf = Shelf(name)

    def read_reports(self) -> dict[str, dict[str, Any]]:
        """Return the last report of every process that ever counted."""
        data = self._shelf.get("reports")
        if data is None:
            return {}
        return _Reports.model_validate(parse_json(data, where="reports")).reports

    def write_reports(self, reports: Mapping[str, dict[str, Any]]) -> None:
        """Store the last report of every process."""
        self._shelf.put("reports", _Reports(reports=dict(reports)).to_bytes())

    def clear(self) -> None:
        """Forget everything."""
        self._shelf.clear()


class DesiredState(Stored):
    """The stored state of one registered model; needs a connection to Ray."""

    def __init__(self, model_name: str) -> None:
        """Address the state of a model; reads nothing yet."""
        super().__init__(model_slug(model_name))

    def read_split(self) -> DesiredSplit | None:
        """Return the newest split; None before the first."""
        data = self._shelf.get("split")
        return None if data is None else parse_desired_split(data)

    def write_split(self, desired: DesiredSplit) -> bytes:
        """Make a split the truth, and return its bytes for the broadcast."""
        data = desired.to_bytes()
        self._shelf.put("split", data)
        return data

    def read_releases(self) -> dict[int, ReleaseRecord]:
        """Return version -> newest deployment."""
        data = self._shelf.get("releases")
        if data is None:
            return {}
        return _Releases.model_validate(parse_json(data, where="releases")).releases

    def write_releases(self, releases: Mapping[int, ReleaseRecord]) -> None:
        """Store version -> newest deployment."""
        self._shelf.put("releases", _Releases(releases=dict(releases)).to_bytes())


def parse_desired_split(data: bytes) -> DesiredSplit:
    """Read the bytes of :meth:`DesiredState.write_split`."""
    return DesiredSplit.model_validate(parse_json(data, where="split"))


def _kv() -> Any:
    """Return Ray's key-value module; its functions have underscores, and no other names."""
    from ray.experimental import internal_kv

    if not internal_kv._internal_kv_initialized():  # noqa: SLF001 the only way to ask
        raise PlaneError(
            "this process is not connected to Ray",
            remedy="start a cluster with kfm_serving.cluster.start_local, or attach to one",
        )
    return internal_kv
