"""Bundles that were made with a bare EC key, and which trusted key made one."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.trust.dsse import require_fields
from kfm_mlflow.trust.signing_bundle import Origin

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from kfm_mlflow.trust.keys import PublicKey, TrustedKey
    from kfm_mlflow.trust.signing_bundle import SignatureBundle

FOREIGN_KEY = "signed by a key that the policy does not trust"


def _parse_hint(bundle: SignatureBundle, *, where: str) -> str | None:
    material = require_fields(bundle.material, {"publicKey"}, {"tlogEntries"}, where=where)
    if material.get("tlogEntries", []) != []:
        raise EvidenceError(
            "carries log entries, which are not checked for key signatures", where=where
        )
    hint = require_fields(material["publicKey"], set(), {"hint"}, where=where).get("hint")
    if hint is not None and not isinstance(hint, str):
        raise EvidenceError("key hint is not text", where=where)
    return hint


def _key_hint(key: PublicKey) -> str:
    return hashlib.sha256(key.pem.encode("ascii")).hexdigest()


def find_key_signer(
    bundle: SignatureBundle, trusted: Sequence[TrustedKey], now: datetime, *, where: str
) -> tuple[Origin | None, list[str]]:
    """Return whose key made the signature and is trusted now, or why there is none.

    Raises:
        EvidenceError: The bundle has another form than key bundles have.
    """
    hint = _parse_hint(bundle, where=where)
    envelope = bundle.envelope
    reasons: list[str] = []
    for candidate in trusted:
        try:
            key = candidate.public_key
            expired = candidate.problem_at(now)
        except InputError as exc:
            reasons.append(str(exc))
            continue
        if not key.verifies(envelope.signatures[0].signature, envelope.pae):
            continue
        if expired is not None:
            reasons.append(f"signed, but {expired}")
        elif hint and hint != _key_hint(key):
            reasons.append(f"names another key than the one of {candidate.name!r} that signed it")
        else:
            return Origin(candidate.name, key.key_id), []
    return None, reasons or [FOREIGN_KEY]
