"""What a release's trust costs: signing and verifying it, its attestations, and finding it.

Peers are what does the bare work: ``hashlib.file_digest`` of the same bytes, model-signing's own
sign and verify, ECDSA verification with ``cryptography``, a scan with shapely. Ours and theirs run
in this process, in turn, on bytes in the page cache. How often each byte of a release is read is
counted by the kernel (``/proc/self/io``), not timed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from report import Row, paired_ratio, percentile, spread_of

from kfm_mlflow.metadata.stac_search import build_record, matches, parse_search
from kfm_mlflow.release.bundle import bundle_at
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.attestation import verify_envelope
from kfm_mlflow.trust.dsse import parse_envelope
from kfm_mlflow.trust.keys import TrustedKey, generate_key, load_private_key
from kfm_mlflow.trust.signing import sign_release, verify_release
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

if TYPE_CHECKING:
    from collections.abc import Callable

    from kfm_mlflow.release.bundle import Bundle

GOAL = 1.05
ROUNDS = {"small": 5, "full": 11}
BIG_MIB = {"small": 64, "full": 2048}
FILE_COUNT = {"small": 500, "full": 5000}
ATTESTATIONS = {"small": 200, "full": 1000}
ITEMS = {"small": 1000, "full": 10_000}
SEARCHES = {"small": 10, "full": 50}
_MIDDLE_FILE_COUNT = 8
_SMALL_FILE_BYTES = 4096
_MIB = 2**20
_DIGEST = f"sha256:{'ab' * 32}"
_NOW = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass(frozen=True)
class _Contest:
    """Ours and the peer's, to be run in turn."""

    what: str
    ours: Callable[[], object]
    peer_name: str
    peer: Callable[[], object]
    goal: float | None = None


def _timed(act: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    act()
    return time.perf_counter() - started_s


def _row(
    contest: _Contest, rounds: int, *, note: str, shown: Callable[[float], str] | None = None
) -> Row:
    mine, theirs = [], []
    contest.peer()
    for k in range(rounds):
        pairs = ((contest.ours, mine), (contest.peer, theirs))
        for act, times in pairs[:: 1 if k % 2 else -1]:
            times.append(_timed(act))
    show = shown or (lambda seconds: f"{seconds:.3f} s")
    return Row(
        contest.what,
        show(spread_of(mine).median),
        contest.peer_name,
        show(spread_of(theirs).median),
        paired_ratio(mine, theirs),
        contest.goal,
        note,
    )


def _write(folder: Path, count: int, size_bytes: int) -> Bundle:
    bundle = bundle_at(folder / "release")
    source = random.Random(7)
    block = source.randbytes(min(_MIB, size_bytes))
    for number in range(count):
        path = bundle.release_dir / f"part-{number % 100:02}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            # No two files are alike, nor two megabytes of one.
            for start in range(0, size_bytes, len(block)):
                stream.write((number * size_bytes + start).to_bytes(8, "big") + block[8:])
    bundle.evidence_dir.mkdir()
    generate_key(folder / "trainer.pem")
    return bundle


def _hash_only(bundle: Bundle) -> None:
    for path in sorted(bundle.release_dir.rglob("*")):
        if path.is_file():
            with path.open("rb") as stream:
                hashlib.file_digest(stream, "sha256").digest()


def _sign(bundle: Bundle) -> None:
    key = bundle.release_dir.parent / "trainer.pem"
    digests = build_manifest(bundle.release_dir).digests
    sign_release(bundle.release_dir, bundle.signature_path, key, digests=digests)


def _verify(bundle: Bundle, keys: list[TrustedKey]) -> None:
    digests = build_manifest(bundle.release_dir).digests
    report = verify_release(
        bundle.release_dir, bundle.signature_path, keys, _now(), digests=digests
    )
    if not report.ok:
        raise RuntimeError(f"the release does not verify: {report.problems}")


def _now() -> datetime:
    return datetime.now(UTC)


def _keys(folder: Path) -> list[TrustedKey]:
    return [TrustedKey("trainer", load_private_key(folder / "trainer.pem").public_key.pem)]


def _read_bytes(act: Callable[[], object]) -> int:
    """Return how many bytes this process reads from files meanwhile, as the kernel counts."""

    def count() -> int:
        text = Path("/proc/self/io").read_text(encoding="ascii")
        return int(text.partition("rchar: ")[2].split()[0])

    before = count()
    act()
    return count() - before


def _big(size: str, folder: Path) -> list[Row]:
    """Sign and verify one big file, and as many bytes in several."""
    rows: list[Row] = []
    total_bytes, threads = BIG_MIB[size] * _MIB, min(8, os.cpu_count() or 1)
    for count, goal in ((1, GOAL), (_MIDDLE_FILE_COUNT, None)):
        place = folder / f"big-{count}"
        bundle = _write(place, count, total_bytes // count)
        kind = f"{count} file of {BIG_MIB[size]} MiB"
        if count > 1:
            kind = f"{count} files of {BIG_MIB[size] // count} MiB, {threads} threads"
        _sign(bundle)
        keys = _keys(place)
        for name, act in (
            ("sign", lambda b=bundle: _sign(b)),
            ("verify", lambda b=bundle, k=keys: _verify(b, k)),
        ):
            factor = _read_bytes(act) / total_bytes
            contest = _Contest(
                f"{name} a release: {kind}",
                act,
                "`hashlib.file_digest` of the same files in turn",
                lambda b=bundle: _hash_only(b),
                goal,
            )
            note = f"each byte read {factor:.3f} times (kernel's count)"
            rows.append(_row(contest, ROUNDS[size], note=note))
        shutil.rmtree(place)
    return rows


def _many(size: str, folder: Path) -> list[Row]:
    """Sign and verify many small files, against model-signing's own functions."""
    from model_signing import hashing, signing, verifying

    place, count = folder / "many", FILE_COUNT[size]
    bundle = _write(place, count, _SMALL_FILE_BYTES)
    keys, theirs = _keys(place), place / "theirs.sig"
    (place / "trainer.pub").write_text(keys[0].public_key_pem)

    def everything() -> Any:
        return hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)

    def vendor_sign() -> None:
        signing.Config().use_elliptic_key_signer(
            private_key=place / "trainer.pem"
        ).set_hashing_config(everything()).sign(bundle.release_dir, theirs)

    def vendor_verify() -> None:
        verifying.Config().use_elliptic_key_verifier(
            public_key=place / "trainer.pub"
        ).set_hashing_config(everything()).verify(bundle.release_dir, theirs)

    _sign(bundle)
    rounds, note = ROUNDS[size], f"{count} files of {_SMALL_FILE_BYTES} bytes"
    rows = [
        _row(
            _Contest(
                f"sign a release: {count} small files",
                lambda: _sign(bundle),
                "`model_signing` sign",
                vendor_sign,
            ),
            rounds,
            note=note,
        ),
        _row(
            _Contest(
                f"verify a release: {count} small files",
                lambda: _verify(bundle, keys),
                "`model_signing` verify",
                vendor_verify,
            ),
            rounds,
            note=note,
        ),
    ]
    shutil.rmtree(place)
    return rows


def _attestations(size: str, folder: Path) -> list[Row]:
    """Verify attestations one by one, against the bare signature check."""
    place, count = folder / "attested", ATTESTATIONS[size]
    place.mkdir()
    generate_key(place / "trainer.pem")
    signer, keys = load_private_key(place / "trainer.pem"), _keys(place)
    binding = Binding("climate-downscaler", "v1.0.0", _DIGEST, _DIGEST, 1)
    claims = {"report": {"schema_version": "1", "status": "no-known-conflict"}}
    envelopes = [
        sign_statement(
            build_statement("care-screening", binding, {**claims, "number": number}, _NOW), signer
        )
        for number in range(count)
    ]
    parsed = [parse_envelope(json.loads(one), where="bench") for one in envelopes]
    signed = [
        (base64.b64decode(json.loads(raw)["signatures"][0]["sig"]), envelope.pae)
        for raw, envelope in zip(envelopes, parsed, strict=True)
    ]
    key = load_pem_public_key(signer.public_key.pem.encode())

    def ours() -> None:
        for envelope in envelopes:
            if not verify_envelope(envelope, keys, _NOW + timedelta(days=1)).signers:
                raise RuntimeError("an attestation does not verify")

    def theirs() -> None:
        if not isinstance(key, EllipticCurvePublicKey):
            raise TypeError(key)
        for signature, message in signed:
            key.verify(signature, message, ECDSA(SHA256()))

    contest = _Contest(
        f"verify {count} attestations", ours, "`cryptography` ECDSA of each envelope", theirs
    )
    note = f"{len(envelopes[0])} bytes each, one key, one thread; parsed and checked by ours alone"
    return [_row(contest, ROUNDS[size], note=note, shown=lambda s: f"{count / s:,.0f} /s")]


def _item(number: int, source: random.Random) -> dict[str, Any]:
    west, south = source.uniform(-170, 160), source.uniform(-80, 70)
    east, north = west + source.uniform(1, 9), south + source.uniform(1, 9)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    at = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(hours=number)
    return {
        "id": f"model-{number}",
        "bbox": [west, south, east, north],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "datetime": at.isoformat().replace("+00:00", "Z"),
            "mlm:name": f"model-{number % 50}",
            "mlm:framework": "pytorch",
            "care:scope": "public-generalized",
        },
    }


def _search(size: str) -> list[Row]:
    """Search items in memory by box and time, against a scan with shapely."""
    from shapely.geometry import box, shape

    source, count = random.Random(11), ITEMS[size]
    items = [_item(number, source) for number in range(count)]
    records = [build_record(item, "climate", number) for number, item in enumerate(items, 1)]
    shapes = [(shape(item["geometry"]), item["properties"]["datetime"]) for item in items]
    west, east = -102.05, -94.58
    asked = [
        (west + offset, 36.99, east + offset, 40.0)
        for offset in (source.uniform(-60, 60) for _ in range(SEARCHES[size]))
    ]
    start, end = "2020-01-01T00:00:00Z", "2020-12-31T00:00:00Z"

    def ours(one: tuple[float, ...]) -> int:
        query = parse_search({"bbox": list(one), "datetime": f"{start}/{end}"})
        return sum(matches(record, query) for record in records)

    def theirs(one: tuple[float, ...]) -> int:
        wanted = box(*one)
        return sum(start <= at <= end and wanted.intersects(geometry) for geometry, at in shapes)

    mine, peers = [], []
    for number, one in enumerate(asked):
        if ours(one) != theirs(one):
            raise RuntimeError("the two searches disagree")
        for act, times in ((ours, mine), (theirs, peers))[:: 1 if number % 2 else -1]:
            times.append(_timed(lambda act=act, one=one: act(one)))
    return [
        Row(
            f"search {count:,} STAC items by box and time",
            f"p50 {percentile(mine, 50) * 1e3:.2f} ms",
            "a scan with shapely",
            f"p50 {percentile(peers, 50) * 1e3:.2f} ms",
            paired_ratio(mine, peers),
            note=f"in memory, without HTTP; p95 {percentile(mine, 95) * 1e3:.2f} ms",
        )
    ]


def measure(size: str, work_dir: Path) -> list[Row]:
    """Return the rows of this bench.

    Args:
        size: ``small`` or ``full``.
        work_dir: A folder with 2 GiB of room (64 MiB when small).
    """
    work_dir.mkdir(exist_ok=True)
    return [
        *_big(size, work_dir),
        *_many(size, work_dir),
        *_attestations(size, work_dir),
        *_search(size),
    ]
