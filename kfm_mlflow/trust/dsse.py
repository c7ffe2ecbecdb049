"""Dead Simple Signing Envelopes, read strictly.

Only one encoding of each envelope is accepted (standard base64, no unknown fields), so that no
byte of it can change unseen. Nothing in an envelope is believed before a signature over its
pre-authentication encoding verifies. See https://github.com/secure-systems-lab/dsse.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from kfm_mlflow.errors import EvidenceError

IN_TOTO_PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"


@dataclass(frozen=True)
class EnvelopeSignature:
    """One signature: the key id that it claims (a hint only), and its bytes."""

    key_id: str
    signature: bytes


@dataclass(frozen=True)
class Envelope:
    """A parsed envelope; ``payload`` is not to be trusted before a signature verified."""

    payload: bytes
    payload_type: str
    signatures: tuple[EnvelopeSignature, ...]

    @property
    def pae(self) -> bytes:
        """The bytes that are signed: DSSE v1 pre-authentication encoding."""
        kind = self.payload_type.encode("utf-8")
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)


def require_fields(
    value: Any, required: set[str], optional: set[str], *, where: str
) -> dict[str, Any]:
    """Return a mapping that has exactly the fields asked for.

    Raises:
        EvidenceError: Not an object, a field is missing, or one is unknown.
    """
    if not isinstance(value, dict):
        raise EvidenceError("is not an object", where=where)
    missing, unknown = required - value.keys(), value.keys() - required - optional
    if missing:
        raise EvidenceError(f"lacks {', '.join(sorted(missing))}", where=where)
    if unknown:
        names = ", ".join(sorted(repr(name[:40]) for name in unknown)[:5])
        raise EvidenceError(f"has unknown {names}", where=where)
    return value


def _decode(text: Any, *, where: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as exc:
        raise EvidenceError("is not base64", where=where) from exc
    if base64.b64encode(data).decode("ascii") != text:
        raise EvidenceError("is not canonical base64", where=where)
    return data


def parse_envelope(value: Any, *, where: str) -> Envelope:
    """Read an envelope from its JSON value.

    Raises:
        EvidenceError: A field is missing, unknown, of the wrong type or not canonical base64, the
            payload is no in-toto statement, or nobody signed.
    """
    fields = require_fields(value, {"payload", "payloadType", "signatures"}, set(), where=where)
    if fields["payloadType"] != IN_TOTO_PAYLOAD_TYPE:
        raise EvidenceError(
            f"payload type {str(fields['payloadType'])[:80]!r} is not {IN_TOTO_PAYLOAD_TYPE!r}",
            where=where,
        )
    found = fields["signatures"]
    if not isinstance(found, list) or not found:
        raise EvidenceError("has no signatures", where=where)
    signatures = []
    for item in found:
        entry = require_fields(item, {"sig"}, {"keyid"}, where=f"{where}: signature")
        key_id = entry.get("keyid", "")
        if not isinstance(key_id, str):
            raise EvidenceError("keyid is not text", where=f"{where}: signature")
        signatures.append(
            EnvelopeSignature(key_id, _decode(entry["sig"], where=f"{where}: signature"))
        )
    return Envelope(
        payload=_decode(fields["payload"], where=f"{where}: payload"),
        payload_type=IN_TOTO_PAYLOAD_TYPE,
        signatures=tuple(signatures),
    )
