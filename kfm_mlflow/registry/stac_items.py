"""Which STAC items are public: of releases that were Production, as they were signed.

Rules kept here:

1. A release is public once it was Production, and for ever, as nothing is deleted; which came
   before and after follows from the outbox.
2. An item is read once per process and proved: together with the checksums that it lists it must
   give the release id that was promoted. What cannot be proved is not public.
3. CARE is asked again with the regions of today, once a day and whenever they change, of the item
   and the release's ``care.json``. Anything but ``no-known-conflict`` is not public.
4. A question reads the ledger's head; only what is new behind it is read besides.
"""

from __future__ import annotations

import logging
import time
import zlib
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import select

from kfm_mlflow.canonical import MAX_JSON_BYTES, digest_bytes, parse_json
from kfm_mlflow.errors import EvidenceError, KfmError, StorageError
from kfm_mlflow.metadata.stac_catalog import Neighbours, manifest_from_item, neighbours
from kfm_mlflow.metadata.stac_search import Record, build_record
from kfm_mlflow.policy.levels import Level, parse_level
from kfm_mlflow.registry import records, tables
from kfm_mlflow.registry.reversions import Reverting, with_cause
from kfm_mlflow.registry.settings import area_from
from kfm_mlflow.registry.workspaces import current_workspace
from kfm_mlflow.release.area import local_path
from kfm_mlflow.release.bundle import ITEM_PATH
from kfm_mlflow.release.s3 import S3Folder
from kfm_mlflow.trust.model_key import split_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from sqlalchemy.orm import Session

    from kfm_mlflow.care.regions import RegionSet
    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.registry.records import ReleaseRow
    from kfm_mlflow.registry.reversions import Reversion
    from kfm_mlflow.registry.store import KfmStore

_log = logging.getLogger(__name__)
_CARE_FILE = "care.json"
_RETRY_S = 60.0
_EVENT = tables.outbox.c
_NEW_EVENTS = select(_EVENT.seq, _EVENT.at, _EVENT.model, _EVENT.version, _EVENT.level).order_by(
    _EVENT.seq
)


@dataclass(frozen=True)
class PublicItem:
    """An item as it was signed.

    Attributes:
        record: What searches know of it.
        release: What was frozen.
        path: Where it lies in the release.
        checksum: ``sha256:<hex>`` of its bytes.
        size_bytes: Their number.
        packed: Its bytes, compressed.
        care: The release's care block.
    """

    record: Record
    release: ReleaseRow
    path: str
    checksum: str
    size_bytes: int
    packed: bytes
    care: Mapping[str, Any]

    @property
    def data(self) -> bytes:
        """The signed bytes."""
        return zlib.decompress(self.packed)

    @property
    def item(self) -> dict[str, Any]:
        """The signed item."""
        found: dict[str, Any] = parse_json(self.data, where=self.path)
        return found


@dataclass(frozen=True)
class PublicModel:
    """The public items of a registered model.

    Attributes:
        name: Registered model.
        items: By version; at least one.
        around: Version -> the public releases before and after it.
        reversion: What was taken back last, until another release was promoted.
    """

    name: str
    items: Mapping[int, PublicItem]
    around: Mapping[int, Neighbours]
    reversion: Reversion | None = None

    def of_id(self, item_id: str) -> PublicItem | None:
        """Return the item with an id."""
        return next((i for i in self.items.values() if i.record.id == item_id), None)


@dataclass
class _Journey:
    """What was Production of a model, in order, and what is now."""

    family: str | None = None
    reigns: list[int] = field(default_factory=list)
    reigning: int | None = None
    reverting: Reverting = field(default_factory=Reverting)
    items: dict[int, PublicItem | None] = field(default_factory=dict)
    retry_at: dict[int, float] = field(default_factory=dict)
    screened: tuple[Any, ...] = ()
    holds: dict[int, bool] = field(default_factory=dict)
    public: PublicModel | None = None
    is_stale: bool = True

    def add(self, row: int, version: int, level: str, at: str) -> None:
        self.reverting.add(row, version, parse_level(level), at)
        if level == Level.PRODUCTION:
            self.reigns.append(version)
            self.reigning = version
        elif version == self.reigning:
            self.reigning = None
        self.is_stale = True

    def missing(self, now_s: float) -> list[int]:
        """Return versions whose item was not read yet, or could not be, a while ago."""
        return [
            version
            for version in dict.fromkeys(self.reigns)
            if version not in self.items and self.retry_at.get(version, now_s) <= now_s
        ]


class PublicItems:
    """The public items of one registry, remembered in this process."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing read.

        Args:
            clock_s: Tells when a storage that failed is asked again, in seconds.
        """
        self._clock_s = clock_s
        self._lock = Lock()
        self._head = 0
        self._journeys: dict[str, _Journey] = {}

    def models(self, store: KfmStore, may_read: Callable[[str], bool]) -> dict[str, PublicModel]:
        """Return name -> items of every model of this workspace with public ones, sorted by name.

        Args:
            store: The registry; always the same.
            may_read: Whether who asks may know of a model.
        """
        with self._lock:
            self._follow(store)
            keys = sorted(key for key, journey in self._journeys.items() if journey.reigns)
        found, here = {}, current_workspace()
        for key in keys:
            workspace, name = split_key(key)
            if workspace != here or not may_read(name):
                continue
            if (public := self._public(store, key)) is not None:
                found[name] = public
        return found

    def model(self, store: KfmStore, name: str) -> PublicModel | None:
        """Return the public items of a model; None where there are none."""
        with self._lock:
            self._follow(store)
            key = store.key_of(name)
            known = key in self._journeys and bool(self._journeys[key].reigns)
        return self._public(store, key) if known else None

    def _follow(self, store: KfmStore) -> None:
        with store.ManagedSessionMaker(read_only=True) as session:
            head = records.ledger_head(session)
            if head < self._head:  # another database
                self._head, self._journeys = 0, {}
            if head > self._head:
                self._take_in(session, head)
                self._head = head

    def _take_in(self, session: Session, head: int) -> None:
        touched: dict[str, Reverting] = {}
        new = _NEW_EVENTS.where(_EVENT.seq > self._head, _EVENT.seq <= head)
        for event in session.execute(new):
            journey = self._journeys.setdefault(str(event.model), _Journey())
            journey.add(int(event.seq), int(event.version), str(event.level), str(event.at))
            touched[str(event.model)] = journey.reverting
        for reverting in touched.values():
            reverting.reversion = with_cause(session, reverting.reversion)

    def _public(self, store: KfmStore, key: str) -> PublicModel | None:
        name = split_key(key)[1]
        with self._lock:
            journey = self._journeys[key]
            try:
                rows = self._frozen(store, key, journey)
                policy = store.admission.policy(journey.family or "")
                regions = _regions(policy)
            except KfmError as exc:
                _log.warning("%s is not public: %s", key, exc)
                return None
            for _, row in sorted(rows.items()):
                self._read(store, journey, name, row, policy)
            now = store.admission.clock()
            if journey.screened != (asked := (regions.digest, now.date())):
                journey.screened, journey.holds, journey.is_stale = asked, {}, True
            if journey.is_stale:
                journey.public, journey.is_stale = _screened(name, journey, regions, now), False
            return journey.public

    def _frozen(self, store: KfmStore, key: str, journey: _Journey) -> dict[int, ReleaseRow]:
        """Return what was frozen for versions that were not read yet."""
        missing = journey.missing(self._clock_s())
        if not missing:
            return {}
        with store.ManagedSessionMaker(read_only=True) as session:
            # A family is fixed when a model is made.
            journey.family = records.family(session, key)
            return records.releases_of(session, key, missing)

    def _read(
        self, store: KfmStore, journey: _Journey, name: str, row: ReleaseRow, policy: Policy
    ) -> None:
        version = row.version
        path = policy.gates.stac.path if policy.gates.stac else ITEM_PATH
        try:
            uri = area_from(store.admission.environ).resolve(row.frozen_uri)
            journey.items[version] = _load(name, row, uri, path)
            journey.is_stale = True
        except StorageError as exc:
            _log.warning("%s v%d is not public for now: %s", name, version, exc)
            journey.retry_at[version] = self._clock_s() + _RETRY_S
        except KfmError as exc:
            _log.warning("%s v%d is not public: %s", name, version, exc)
            journey.items[version] = None


_of_store: WeakKeyDictionary[KfmStore, PublicItems] = WeakKeyDictionary()
_of_store_lock = Lock()


def public_items(store: KfmStore) -> PublicItems:
    """Return this process's memory of the public items of a registry."""
    with _of_store_lock:
        return _of_store.setdefault(store, PublicItems())


def _load(name: str, row: ReleaseRow, uri: str, path: str) -> PublicItem:
    """Read an item and prove it.

    Raises:
        EvidenceError: It is not the release's, or cannot be listed.
        StorageError: It cannot be read.
    """
    version = row.version
    where = f"{name} v{version}: {path}"
    data = _bytes(uri, path)
    item = parse_json(data, where=where)
    record = build_record(item, name, version)
    try:
        manifest = manifest_from_item(item, data, path)
    except (KeyError, TypeError, AttributeError) as exc:
        raise EvidenceError("has assets of no shape that is known", where=where) from exc
    if manifest.release_id != row.release_id:
        raise EvidenceError(
            "does not give the id of the release with the files that it lists", where=where
        )
    care = _bytes(uri, _CARE_FILE)
    if digest_bytes(care) != manifest.digests.get(_CARE_FILE):
        raise EvidenceError(f"does not list this {_CARE_FILE}", where=where)
    block = parse_json(care, where=_CARE_FILE)
    return PublicItem(
        record=record,
        release=row,
        path=path,
        checksum=digest_bytes(data),
        size_bytes=len(data),
        packed=zlib.compress(data),
        care=block.get("care", {}) if isinstance(block, dict) else {},
    )


def _bytes(uri: str, path: str) -> bytes:
    root = local_path(uri)
    if root is None:
        found = S3Folder(uri).read_small(path, MAX_JSON_BYTES)
        if found is None:
            raise StorageError("is not there", where=f"{uri}/{path}")
        return found
    try:
        return (root / path).read_bytes()
    except OSError as exc:
        raise StorageError(f"cannot be read ({exc.strerror})", where=path) from exc


def _regions(policy: Policy) -> RegionSet:
    from kfm_mlflow.care.regions import load_regions

    return load_regions(policy.regions_path, digest=policy.regions_digest)


def _screened(
    name: str, journey: _Journey, regions: RegionSet, now: datetime
) -> PublicModel | None:
    items: dict[int, PublicItem] = {}
    ids: set[str] = set()
    for version, item in sorted(journey.items.items()):
        if item is None:
            continue
        if version not in journey.holds:
            journey.holds[version] = _no_known_conflict(item, regions, now)
        if not journey.holds[version]:
            _log.warning("%s v%d is not public: CARE does not hold today", name, version)
        elif item.record.id in ids:
            _log.warning("%s v%d is not public: another item has its id", name, version)
        else:
            ids.add(item.record.id)
            items[version] = item
    if not items:
        return None
    reigns = [version for version in journey.reigns if version in items]
    reigning = journey.reigning if journey.reigning in items else None
    reversion = journey.reverting.reversion
    return PublicModel(name, items, neighbours(reigns, reigning), reversion)


def _no_known_conflict(item: PublicItem, regions: RegionSet, now: datetime) -> bool:
    from kfm_mlflow.care.screen import OutputGrid, Status, screen_release

    care = item.care if isinstance(item.care, dict) else {}
    screening = screen_release(
        care,
        outputs=OutputGrid.from_mapping(care.get("output_grid")),
        texts={item.path: item.data.decode("utf-8")},
        regions=regions,
        now=now,
    )
    return screening.status is Status.NO_KNOWN_CONFLICT
