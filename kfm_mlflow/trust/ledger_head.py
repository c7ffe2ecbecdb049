"""The head of a ledger: the number and hash of its last row, to be kept where the ledger is not.

Rules kept here:

1. A head says how long the ledger was at least, and what its row of that number was. A ledger
   that grew since still agrees; one that was cut, or written anew, does not.
2. A head may be signed by the registry's key, over the canonical JSON of everything else in it.
   The signature says who gave it out; the comparison needs none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import canonical_bytes, parse_digest
from kfm_mlflow.errors import InputError
from kfm_mlflow.trust.ledger import GENESIS, LedgerFinding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kfm_mlflow.trust.keys import PublicKey, Signer

SCHEMA_VERSION = "1"
_WHERE = "ledger head"
_REMEDY = "`kfm ledger head -o FILE` writes one"


@dataclass(frozen=True)
class LedgerHead:
    """The last row of a ledger.

    Attributes:
        seq: Its number; 0 when there is none.
        hash: ``sha256:<hex>``; :data:`~kfm_mlflow.trust.ledger.GENESIS` when there is none.
        at: When it was written (RFC 3339); None when there is none.
    """

    seq: int = 0
    hash: str = GENESIS
    at: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, without signature."""
        return {
            "schema_version": SCHEMA_VERSION,
            "seq": self.seq,
            "hash": self.hash,
            "at": self.at,
        }


def parse_head(value: Any, *, where: str = _WHERE) -> LedgerHead:
    """Read a head from its JSON value; a signature in it is not looked at.

    Raises:
        InputError: It is something else.
    """
    seq = value.get("seq") if isinstance(value, dict) else None
    if not isinstance(seq, int) or isinstance(seq, bool) or seq < 0:
        raise InputError("is no head of a ledger", where=where, remedy=_REMEDY)
    at = value.get("at")
    if at is not None and not isinstance(at, str):
        raise InputError("at is no text", where=where, remedy=_REMEDY)
    return LedgerHead(seq, parse_digest(value.get("hash"), where=f"{where}: hash"), at)


def signed_head(head: LedgerHead, signer: Signer) -> dict[str, Any]:
    """Return a head in JSON, signed: ``{"signature": {"keyid", "sig"}}`` (hexadecimal DER)."""
    document = head.to_dict()
    made = signer.crypto_signer.sign(canonical_bytes(document))
    return {**document, "signature": {"keyid": made.keyid, "sig": made.signature}}


def head_signature_problem(document: Mapping[str, Any], key: PublicKey) -> str | None:
    """Return why a head's signature proves nothing; None when the key signed it."""
    found = document.get("signature")
    if found is None:
        return "is not signed"
    if not isinstance(found, dict) or found.get("keyid") != key.key_id:
        return f"is not signed by key {key.key_id[:16]}"
    unsigned = {name: value for name, value in document.items() if name != "signature"}
    try:
        signature = bytes.fromhex(str(found.get("sig")))
    except ValueError:
        return "has a signature that is not hexadecimal"
    if not key.verifies(signature, canonical_bytes(unsigned)):
        return "has a signature that does not verify"
    return None


def head_finding(kept: LedgerHead, seen: LedgerHead, end: LedgerHead) -> LedgerFinding | None:
    """Return how a ledger disagrees with a head that was kept elsewhere; None when it does not.

    Args:
        kept: The head that was kept.
        seen: The ledger's row of that number, or its last one when it has fewer.
        end: The ledger's last row.
    """
    if end.seq < kept.seq:
        missing = kept.seq - end.seq
        return LedgerFinding(
            end.seq,
            f"is missing: the ledger ends after row {end.seq}, and had {kept.seq} when the head "
            f"was kept; {missing} cut off the end",
        )
    if seen.hash != kept.hash:
        return LedgerFinding(
            max(kept.seq - 1, 0),
            f"has not the hash {kept.hash[:23]}… of the head that was kept; the ledger was "
            "written anew",
        )
    return None
