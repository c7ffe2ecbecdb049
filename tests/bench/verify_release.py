"""Wall time of verifying a signed release against hashing the same bytes with hashlib alone.

Verifying is what the gates do: walk and describe the directory (``build_manifest``), then check the
signature and compare every name and digest (``verify_release``). The peer opens every file in
turn and calls ``hashlib.file_digest``. Both run in this process; the bytes are in the page cache.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from report import Row, paired_ratio, spread_of

from kfm_mlflow.release.bundle import bundle_at
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.keys import TrustedKey, generate_key
from kfm_mlflow.trust.signing import sign_release, verify_release

if TYPE_CHECKING:
    from pathlib import Path

    from kfm_mlflow.release.bundle import Bundle

GOAL = 1.10
ROUNDS = {"small": 9, "full": 15}
BIG_MIB = {"small": 256, "full": 1024}
_MIB = 2**20
_SMALL_FILE_COUNT, _SMALL_FILE_BYTES = 20, 8192
_MIDDLE_FILE_COUNT = 8


def _write_release(folder: Path, sizes_bytes: dict[str, int]) -> None:
    block = random.Random(7).randbytes(_MIB)
    for name, size_bytes in sizes_bytes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            for start in range(0, size_bytes, _MIB):
                stream.write(block[: min(_MIB, size_bytes - start)])


@dataclass(frozen=True)
class Cost:
    """Wall time, and processor time of all threads, in seconds."""

    wall_s: float
    processor_s: float


class _Stopwatch:
    def __init__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def read(self) -> Cost:
        wall_s, processor_s = self._started
        return Cost(time.perf_counter() - wall_s, time.process_time() - processor_s)


def _verify(bundle: Bundle, keys: list[TrustedKey]) -> Cost:
    watch = _Stopwatch()
    manifest = build_manifest(bundle.release_dir)
    report = verify_release(
        bundle.release_dir,
        bundle.signature_path,
        keys,
        datetime.now(UTC),
        digests=manifest.digests,
    )
    cost = watch.read()
    if not report.ok:
        raise RuntimeError(f"the release does not verify: {report.problems}")
    return cost


def _hash_only(paths: list[Path]) -> Cost:
    watch = _Stopwatch()
    for path in paths:
        with path.open("rb") as stream:
            hashlib.file_digest(stream, "sha256").digest()
    return watch.read()


def _measure(
    what: str, folder: Path, sizes_bytes: dict[str, int], rounds: int, goal: float | None
) -> Row:
    bundle = bundle_at(folder / "release")
    _write_release(bundle.release_dir, sizes_bytes)
    bundle.evidence_dir.mkdir()
    key = folder / "trainer.pem"
    public = generate_key(key)
    sign_release(bundle.release_dir, bundle.signature_path, key)
    keys = [TrustedKey("trainer", public.pem)]
    paths = sorted(path for path in bundle.release_dir.rglob("*") if path.is_file())
    _hash_only(paths)
    ours, theirs = [], []
    for k in range(rounds):
        if k % 2:
            theirs.append(_hash_only(paths))
            ours.append(_verify(bundle, keys))
        else:
            ours.append(_verify(bundle, keys))
            theirs.append(_hash_only(paths))
    shutil.rmtree(folder)
    walls = [cost.wall_s for cost in ours], [cost.wall_s for cost in theirs]
    processor = paired_ratio(
        [cost.processor_s for cost in ours], [cost.processor_s for cost in theirs]
    )
    return Row(
        what,
        f"{spread_of(walls[0]).median:.3f} s",
        "`hashlib.file_digest` of the same files in turn",
        f"{spread_of(walls[1]).median:.3f} s",
        paired_ratio(*walls),
        goal,
        f"{len(paths)} files, {sum(sizes_bytes.values()) / 2**30:.2f} GiB in the page cache; "
        f"processor time {processor.median:.3f} ({processor.low:.3f} to {processor.high:.3f})",
    )


def measure(size: str, work_dir: Path) -> list[Row]:
    """Return the rows of this bench.

    Args:
        size: ``small`` or ``full``.
        work_dir: A folder with 1 GiB of room (256 MiB when small).
    """
    total_mib, rounds = BIG_MIB[size], ROUNDS[size]
    small = {f"xai/part-{k:02}.json": _SMALL_FILE_BYTES for k in range(_SMALL_FILE_COUNT)}
    middle_bytes = total_mib * _MIB // _MIDDLE_FILE_COUNT
    shards = {f"shard-{k}.bin": middle_bytes for k in range(_MIDDLE_FILE_COUNT)}
    one_big = {"model.pt": total_mib * _MIB, **small}
    threads = min(8, os.cpu_count() or 1)
    return [
        _measure(
            f"verify a release: one file of {total_mib} MiB",
            work_dir / "big",
            one_big,
            rounds,
            GOAL,
        ),
        _measure(
            f"verify a release: {_MIDDLE_FILE_COUNT} files of {middle_bytes // _MIB} MiB, "
            f"{threads} threads",
            work_dir / "shards",
            {**shards, **small},
            rounds,
            None,
        ),
    ]
