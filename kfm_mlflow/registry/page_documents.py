"""What a frozen release says, for its page: map, STAC item, and the envelopes beside it.

A frozen release never changes, so its documents are read once per release id. They are shown only
while gates ``care``, ``authority`` and ``integrity`` pass: a text that may not be published, what
an authority vetoed, or bytes that are not the release's, are on no page.
"""

from __future__ import annotations

import logging
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kfm_mlflow.canonical import digest_bytes, digest_json, parse_json
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.registry.page_focus import (
    EXPLAINED_PATH,
    OVERLAY_PATH,
    AttributionMap,
    build_attribution_map,
)
from kfm_mlflow.registry.page_map import MaskMap, build_map
from kfm_mlflow.registry.settings import area_from
from kfm_mlflow.release.bundle import ENVELOPE_SUFFIX, SIGNATURE_FILE, evidence_uri

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.registry.admission import Admission
    from kfm_mlflow.registry.records import ReleaseRow

T = TypeVar("T")
_log = logging.getLogger(__name__)
_REMEMBERED = 64
_CARE_FILE = "care.json"
SHOWN_WITH = ("care", "authority", "integrity")
"""Gates that must pass before anything that the release says is shown."""


@dataclass(frozen=True)
class Documents:
    """What a frozen release says.

    Attributes:
        mask: Its map; None when it can not be read.
        item: Its STAC item; empty when it can not be read.
        attribution: Which domains its answers come from, by place; None when it does not say.
    """

    mask: MaskMap | None
    item: Mapping[str, Any]
    attribution: AttributionMap | None = None


@dataclass(frozen=True)
class Beside:
    """What lies beside a frozen release.

    Attributes:
        envelopes: (file name, bytes) of every attestation.
        signature_digest: ``sha256:<hex>`` of the signature; empty when there is none.
    """

    envelopes: tuple[tuple[str, bytes], ...]
    signature_digest: str


class Remembered(Generic[T]):
    """Remembers the last few values by key; safe between threads."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._lock = Lock()
        self._kept: OrderedDict[tuple[str, ...], T] = OrderedDict()

    def get(self, key: tuple[str, ...], make: Callable[[], T]) -> T:
        """Return the value of a key, making it when it is not known."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > _REMEMBERED:
                self._kept.popitem(last=False)
        return made


_memory: Remembered[Documents] = Remembered()


def may_be_shown(report: Mapping[str, Any] | None) -> bool:
    """Return whether a report lets what the release says be shown."""
    verdicts = {gate["gate"]: gate["verdict"] for gate in (report or {}).get("gates", ())}
    return all(verdicts.get(name) == "PASS" for name in SHOWN_WITH)


def frozen_documents(admission: Admission, row: ReleaseRow, policy: Policy) -> Documents:
    """Return what a frozen release says.

    Args:
        admission: The server's.
        row: What was frozen.
        policy: Whose regions are drawn, and where its documents lie.
    """
    from kfm_mlflow.care.regions import load_regions

    regions = load_regions(policy.regions_path)
    gates, now = policy.gates, admission.clock()
    rules = digest_json([list(vars(r.rule_at(now)).values()) for r in regions.regions])

    def make() -> Documents:
        uri = area_from(admission.environ).resolve(row.frozen_uri)
        item = _json(uri, gates.stac.path) if gates.stac else {}
        care = _json(uri, _CARE_FILE).get("care")
        if not isinstance(care, dict):
            return Documents(None, item)
        assets = item.get("assets")
        attribution = None
        # Only this family has one, and asking a store for what is not there is logged.
        if isinstance(assets, dict) and OVERLAY_PATH in assets:
            attribution = build_attribution_map(
                _json(uri, OVERLAY_PATH),
                _json(uri, EXPLAINED_PATH),
                masking=str(care.get("masking", "")),
                regions=regions,
                now=now,
            )
        return Documents(build_map(care, regions, now), item, attribution)

    return _memory.get((row.release_id, policy.digest, regions.digest, rules), make)


def beside_frozen(admission: Admission, row: ReleaseRow) -> Beside:
    """Return what lies beside a frozen release; it may grow, so it is read each time."""
    uri = evidence_uri(area_from(admission.environ).resolve(row.frozen_uri))
    files = _files(uri)
    signature = files.pop(SIGNATURE_FILE, b"")
    return Beside(tuple(sorted(files.items())), digest_bytes(signature) if signature else "")


def _json(uri: str, path: str) -> dict[str, Any]:
    data = _read(uri, path)
    try:
        value = parse_json(data, where=path) if data is not None else None
    except EvidenceError:
        return {}
    return value if isinstance(value, dict) else {}


def _files(uri: str) -> dict[str, bytes]:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        listed = get_artifact_repository(uri).list_artifacts()
    except Exception as exc:  # noqa: BLE001 - artifact stores raise whatever their vendors do
        _log.warning("cannot list %s: %s", uri, exc)
        return {}
    wanted = [
        item.path.rpartition("/")[2]
        for item in listed
        if not item.is_dir and item.path.endswith((ENVELOPE_SUFFIX, SIGNATURE_FILE))
    ]
    read = {name: _read(uri, name) for name in wanted}
    return {name: data for name, data in read.items() if data is not None}


def _read(uri: str, path: str) -> bytes | None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with tempfile.TemporaryDirectory(prefix="kfm-page-") as folder:
        try:
            found = get_artifact_repository(uri).download_artifacts(path, dst_path=folder)
            return Path(found).read_bytes()
        except Exception as exc:  # noqa: BLE001 - artifact stores raise whatever their vendors do
            _log.warning("cannot read %s of %s: %s", path, uri, exc)
            return None
