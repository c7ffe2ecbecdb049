"""Signing a statement somewhere else: on a token, in a key service, on another machine.

What is signed is the DSSE pre-authentication encoding, which holds the whole statement: one file
goes to the signer, one signature comes back. The key never comes near this program.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import canonical_bytes, parse_json
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.trust.dsse import IN_TOTO_PAYLOAD_TYPE, Envelope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kfm_mlflow.trust.keys import PublicKey

_HEAD = re.compile(rb"DSSEv1 (\d{1,3}) ([!-~]{1,200}) (\d{1,12}) ")
_COORDINATE_BYTES = 32
_WHERE = "signature"


def build_signing_payload(statement: Mapping[str, Any]) -> bytes:
    """Return the exact bytes that a signer of a statement signs.

    Raises:
        InputError: The statement is not canonical JSON.
    """
    return Envelope(canonical_bytes(dict(statement)), IN_TOTO_PAYLOAD_TYPE, ()).pae


def parse_signing_payload(data: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return the payload in the bytes to sign, and the statement that it is.

    Raises:
        InputError: They are something else, or not whole.
    """
    head = _HEAD.match(data)
    payload = data[head.end() :] if head else b""
    if Envelope(payload, IN_TOTO_PAYLOAD_TYPE, ()).pae != data:
        raise InputError("are not the bytes that were written to be signed", where="payload")
    try:
        statement = parse_json(payload, where="payload")
    except EvidenceError as exc:
        raise InputError(str(exc), where="payload") from exc
    if not isinstance(statement, dict):
        raise InputError("is not a statement", where="payload")
    return payload, statement


def parse_signature(data: bytes) -> bytes:
    """Return an ECDSA signature in DER, from how signers write it.

    Args:
        data: DER (openssl, PKCS#11 with ``--signature-format openssl``), the two coordinates one
            after the other (64 bytes, plain PKCS#11), or either in base64 (cosign).

    Raises:
        InputError: It is none of these.
    """
    from cryptography.hazmat.primitives.asymmetric.utils import (
        decode_dss_signature,
        encode_dss_signature,
    )

    try:
        found = base64.b64decode(b"".join(data.split()), validate=True)
    except (ValueError, binascii.Error):
        found = data
    if len(found) == 2 * _COORDINATE_BYTES:
        r, s = found[:_COORDINATE_BYTES], found[_COORDINATE_BYTES:]
        return encode_dss_signature(int.from_bytes(r), int.from_bytes(s))
    try:
        decode_dss_signature(found)
    except ValueError as exc:
        raise InputError(
            "is no ECDSA signature", where=_WHERE, remedy="sign with ECDSA P-256 and SHA-256"
        ) from exc
    return found


def build_envelope(data: bytes, signature: bytes, key: PublicKey) -> bytes:
    """Put bytes that were signed and their signature together as a DSSE envelope.

    Args:
        data: From :func:`build_signing_payload`.
        signature: As :func:`parse_signature` takes it.
        key: Whose signature it must be.

    Raises:
        InputError: The bytes are not whole, or the signature is not over them by that key.
    """
    payload, _ = parse_signing_payload(data)
    der = parse_signature(signature)
    if not key.verifies(der, data):
        raise InputError(
            "is not over these bytes by the member's key",
            where=_WHERE,
            remedy="sign the file as it is, with ECDSA P-256 and SHA-256",
        )
    return canonical_bytes(
        {
            "payload": base64.b64encode(payload).decode("ascii"),
            "payloadType": IN_TOTO_PAYLOAD_TYPE,
            "signatures": [
                {"keyid": key.key_id, "sig": base64.b64encode(der).decode("ascii")},
            ],
        }
    )
