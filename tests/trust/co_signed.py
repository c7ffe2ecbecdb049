"""Envelopes with more than one signature, which the product reads and never makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from securesystemslib.dsse import Envelope

from kfm_mlflow.canonical import canonical_bytes, parse_json

if TYPE_CHECKING:
    from kfm_mlflow.trust.keys import Signer


def add_signature(envelope: bytes, signer: Signer) -> bytes:
    """Sign the payload of an envelope that others signed already."""
    theirs = Envelope.from_dict(parse_json(envelope, where="envelope"))
    theirs.sign(signer.crypto_signer)
    return canonical_bytes(theirs.to_dict())
