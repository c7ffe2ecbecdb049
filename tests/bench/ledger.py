"""Rows per second of verifying a ledger, with and without signatures, against the bare primitive.

Rows are decisions of the usual size (some 10 kB, 14 gates), really signed and chained, in memory.
The peer of the chain is one SHA-256 of each row's body; the peer of the signatures one ECDSA
verification of each envelope with the ``cryptography`` package, decoded and encoded beforehand.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from report import Row, paired_ratio, spread_of

from kfm_mlflow.canonical import digest_json
from kfm_mlflow.trust.dsse import parse_envelope
from kfm_mlflow.trust.keys import generate_key, load_private_key
from kfm_mlflow.trust.ledger import GENESIS, row_hash
from kfm_mlflow.trust.ledger_rows import verify_rows
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from kfm_mlflow.trust.keys import Signer

ROWS = {"small": 500, "full": 2000}
ROUNDS = {"small": 3, "full": 9}
_SIGNED_COUNT = 100
_GATE_COUNT = 14
_DIGEST = f"sha256:{'ab' * 32}"


def _decision(number: int, signer: Signer) -> str:
    """Return a decision as a registry signs it."""
    finding = {
        "code": "WITHIN_LIMIT",
        "verdict": "PASS",
        "summary": "nrmse 0.1",
        "detail": "nrmse 0.1 of the validator's signed result is within the policy's limit; " * 4,
        "observed": "0.1",
        "limit": "<= 0.15",
        "unit": "1",
        "remedy": "",
    }
    report: dict[str, Any] = {
        "schema_version": "1",
        "model_name": "climate-downscaler",
        "version": number,
        "from_level": "candidate",
        "to_level": "staging",
        "family": "climate",
        "policy_digest": _DIGEST,
        "release_id": _DIGEST,
        "release_version": f"v1.{number}.0",
        "verdict": "PASS",
        "evidence": [_DIGEST] * 4,
        "rollback_target": "",
        "votes": {},
        "gates": [
            {"gate": f"gate{k}", "mode": "enforce", "verdict": "PASS", "findings": [finding]}
            for k in range(_GATE_COUNT)
        ],
    }
    claims = {
        "report": report,
        "report_digest": digest_json(report),
        "outcome": "allowed",
        "actor": "bench",
        "reason": "",
        "frozen_uri": "",
    }
    binding = Binding("climate-downscaler", f"v1.{number}.0", _DIGEST, _DIGEST, number)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return sign_statement(build_statement("decision", binding, claims, at), signer).decode()


def _ledger(count: int, signer: Signer) -> list[dict[str, Any]]:
    bodies = [_decision(number, signer) for number in range(1, _SIGNED_COUNT + 1)]
    rows, previous = [], GENESIS
    for seq in range(1, count + 1):
        number = seq % _SIGNED_COUNT
        fields = {
            "seq": seq,
            "at": "2026-01-01T00:00:00.000Z",
            "kind": "moved",
            "model": "climate-downscaler",
            "version": number + 1,
            "body": bodies[number],
        }
        current = row_hash(previous, fields)
        rows.append({**fields, "prev_hash": previous, "hash": current})
        previous = current
    return rows


def _timed(act: Callable[[], None]) -> float:
    started_s = time.perf_counter()
    act()
    return time.perf_counter() - started_s


def _row(
    what: str, ours: Callable[[], None], peer: tuple[str, Callable[[], None]], **of: int
) -> Row:
    mine, theirs = [], []
    for k in range(of["rounds"]):
        for act, times in ((ours, mine), (peer[1], theirs))[:: 1 if k % 2 else -1]:
            times.append(_timed(act))
    rates = [f"{of['rows'] / spread_of(times).median:,.0f} rows/s" for times in (mine, theirs)]
    note = f"{of['rows']} rows of {of['row_bytes'] / 1000:.1f} kB, one thread"
    return Row(what, rates[0], peer[0], rates[1], paired_ratio(mine, theirs), note=note)


def measure(size: str, work_dir: Path) -> list[Row]:
    """Return the rows of this bench.

    Args:
        size: ``small`` or ``full``.
        work_dir: A folder that a key may be made in.
    """
    generate_key(work_dir / "registry.pem")
    signer = load_private_key(work_dir / "registry.pem")
    rows = _ledger(ROWS[size], signer)
    of = {"rounds": ROUNDS[size], "rows": len(rows), "row_bytes": len(rows[0]["body"])}

    def chain() -> None:
        _must_be_good(rows, ())

    def signatures() -> None:
        _must_be_good(rows, (signer.public_key,))

    bodies = [row["body"].encode() for row in rows]
    key = load_pem_public_key(signer.public_key.pem.encode())
    signed = [_signed(row["body"]) for row in rows]

    def hash_only() -> None:
        for body in bodies:
            hashlib.sha256(body).digest()

    def verify_only() -> None:
        if not isinstance(key, EllipticCurvePublicKey):
            raise TypeError(key)
        for signature, message in signed:
            key.verify(signature, message, ECDSA(SHA256()))

    return [
        _row(
            "verify the ledger's chain", chain, ("`hashlib.sha256` of each body", hash_only), **of
        ),
        _row(
            "verify the ledger: chain, signatures, columns",
            signatures,
            ("`cryptography` ECDSA of each envelope", verify_only),
            **of,
        ),
    ]


def _signed(body: str) -> tuple[bytes, bytes]:
    envelope = parse_envelope(json.loads(body), where="bench")
    return base64.b64decode(json.loads(body)["signatures"][0]["sig"]), envelope.pae


def _must_be_good(rows: Sequence[dict[str, Any]], keys: tuple[Any, ...]) -> None:
    report = verify_rows(rows, keys=keys)
    if report.finding is not None:
        raise RuntimeError(str(report.finding))
