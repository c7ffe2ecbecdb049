"""What an export holds of the keys, root certificates and identities that a policy trusts. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import digest_bytes
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.release.export import key_path
from kfm_mlflow.trust.keys import parse_public_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kfm_mlflow.policy.trust import KeyPolicy, TrustPolicy
    from kfm_mlflow.trust.keys import PublicKey

DUTIES = ("signers", "validators", "controllers", "council")


def holders(trust: TrustPolicy) -> Iterable[tuple[str, KeyPolicy]]:
    """Return (duty, key) of every key that a policy trusts, in a fixed order."""
    for duty in DUTIES:
        for key in trust.council.members if duty == "council" else getattr(trust, duty):
            yield duty, key


def index_keys(trust: TrustPolicy, registry: Sequence[PublicKey]) -> list[dict[str, Any]]:
    """Return the keys of an export as its index lists them, and as they are written.

    Raises:
        InputError: A key of the policy is not an EC P-256 public key.
    """
    named = [("registry", "registry", key) for key in registry]
    for duty, holder in holders(trust):
        key = parse_public_key(holder.public_key or "", where=f"key of {holder.name!r}")
        named.append((duty, holder.name, key))
    return [
        {
            "path": key_path(duty, name, key.key_id),
            "duty": duty,
            "holder": name,
            "key_id": key.key_id,
            "public_key": key.pem,
        }
        for duty, name, key in named
    ]


def _anchor(duty: str, name: str, text: str, suffix: str) -> tuple[str, bytes]:
    data = text.encode("utf-8")
    return key_path(duty, name, digest_bytes(data).removeprefix("sha256:"), suffix), data


def anchors(trust: TrustPolicy) -> dict[str, tuple[str, bytes]]:
    """Return what certificates and identities are checked against: name -> (path, bytes)."""
    certificates = {
        one.name: _anchor("certificates", one.name, one.roots or "", ".crt")
        for one in trust.certificate_signers
    }
    instances = {
        one.name: _anchor("sigstore", one.name, one.trust_config or "", ".json")
        for one in trust.sigstore_signers
    }
    return certificates | instances


def signer_of(trust: TrustPolicy, name: str | None) -> dict[str, str]:
    """Return who signed the release, as the index says it.

    Raises:
        EvidenceError: The policy names nobody so.
    """
    for key in index_keys(trust, ()):
        if key["duty"] == "signers" and key["holder"] == name:
            return {"kind": "key", "holder": key["holder"], "path": key["path"]}
    for one in trust.certificate_signers:
        if one.name == name:
            return {"kind": "certificate", "holder": one.name, "path": anchors(trust)[one.name][0]}
    for who in trust.sigstore_signers:
        if who.name == name:
            return {
                "kind": "sigstore",
                "holder": who.name,
                "path": anchors(trust)[who.name][0],
                "identity": who.identity,
                "issuer": who.issuer,
            }
    raise EvidenceError(f"{name!r} is no signer in the policy", where="signer")
