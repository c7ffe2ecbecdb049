"""Small ledgers, signed for real: rows as the API and exported files hold them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import digest_json
from kfm_mlflow.trust.keys import generate_key, load_private_key
from kfm_mlflow.trust.ledger import GENESIS, row_hash
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kfm_mlflow.trust.keys import Signer

START = datetime(2026, 11, 8, 22, 20, tzinfo=UTC)
RELEASE_ID = f"sha256:{'ab' * 32}"
POLICY_DIGEST = f"sha256:{'cd' * 32}"


def signer(name: str = "registry") -> Signer:
    return _signer(name)


@lru_cache(maxsize=4)
def _signer(name: str) -> Signer:
    with TemporaryDirectory() as folder:
        generate_key(Path(folder) / name)
        return load_private_key(Path(folder) / name)


def claims(
    version: int = 1,
    to_level: str = "staging",
    *,
    model: str = "m",
    from_level: str = "candidate",
    passed: bool = True,
    **more: Any,
) -> dict[str, Any]:
    report = {
        "schema_version": "1",
        "model_name": model,
        "version": version,
        "from_level": from_level,
        "to_level": to_level,
        "family": "climate",
        "policy_digest": POLICY_DIGEST,
        "release_id": RELEASE_ID,
        "release_version": f"v{version}.0.0",
        "verdict": "PASS" if passed else "FAIL",
        "evidence": [],
        "rollback_target": "",
        "votes": more.pop("votes", {}),
        "gates": more.pop("gates", []),
    }
    return {
        "report": report,
        "report_digest": digest_json(report),
        "outcome": "allowed" if passed else "refused",
        "actor": "ann",
        "reason": "because",
        "frozen_uri": "",
        **more,
    }


def body(said: dict[str, Any], *, at: datetime = START, key: str = "registry") -> str:
    report = said.get("report")
    binding = (
        Binding("policy:climate", "policy", POLICY_DIGEST, POLICY_DIGEST, 0)
        if report is None
        else Binding(
            report["model_name"],
            report["release_version"],
            RELEASE_ID,
            POLICY_DIGEST,
            report["version"],
        )
    )
    kind = "policy" if report is None else "decision"
    return sign_statement(build_statement(kind, binding, said, at), signer(key)).decode()


def fields(seq: int, said: dict[str, Any], *, key: str = "registry", **changed: Any) -> dict:
    at = START + timedelta(minutes=seq)
    report = said.get("report")
    kind = "policy" if report is None else "moved" if report["verdict"] == "PASS" else "refused"
    return {
        "seq": seq,
        "at": at.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "kind": kind,
        "model": "policy:climate" if report is None else report["model_name"],
        "version": 0 if report is None else report["version"],
        "body": body(said, at=at, key=key),
        **changed,
    }


def chained(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found, previous = [], GENESIS
    for row in rows:
        unchained = {k: v for k, v in row.items() if k not in {"prev_hash", "hash"}}
        current = row_hash(previous, unchained)
        found.append({**unchained, "prev_hash": previous, "hash": current})
        previous = current
    return found


def policy_claims() -> dict[str, Any]:
    return {
        "family": "climate",
        "before": None,
        "after": POLICY_DIGEST,
        "actor": "registry",
        "reason": "the registry started under this policy",
        "exemptions": [],
    }


@lru_cache(maxsize=1)
def _good() -> tuple[dict[str, Any], ...]:
    said = (
        policy_claims(),
        claims(1),
        claims(1, "production", from_level="candidate", passed=False),
        claims(1, "canary", from_level="staging"),
        claims(1, "production", from_level="canary", votes={"outcome": "reached"}),
    )
    return tuple(chained(fields(seq, one) for seq, one in enumerate(said, 1)))


def good() -> list[dict[str, Any]]:
    """A policy, and one version's way to Production with a refusal on it: five rows."""
    return [dict(row) for row in _good()]
