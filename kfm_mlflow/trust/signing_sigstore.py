"""Bundles that were made with Sigstore: a short-lived certificate for an identity, and a log entry.

1. Identity and issuer must both be the policy's, letter by letter.
2. The trusted root is the policy's own copy (the instance's trust config), so that checking asks
   no network and nobody else decides later what counts.
3. When it was signed is the log's word; whether the entry of the policy still counts is asked for
   the instant that the caller gives, as for keys.
4. The bundle has one form: what the client would not write back the same is refused.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import parse_json
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.trust.keys import period_problem
from kfm_mlflow.trust.signing_bundle import Origin

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from kfm_mlflow.trust.signing_bundle import SignatureBundle

NO_IDENTITIES = "signed with Sigstore, and the policy trusts no identity"
_TRUSTED_ROOT = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"


@dataclass(frozen=True)
class TrustedIdentity:
    """An identity that a policy trusts under a name.

    Attributes:
        name: Who that is.
        identity: The certificate's subject alternative name: a mail address, or the URI of a
            workflow.
        issuer: URL of the OpenID Connect provider that vouched for it.
        trust_config: JSON text: the instance's client trust config, or its trusted root alone.
        not_before: Trusted from then on (aware); None for always.
        not_after: Trusted until then, exclusive (aware); None for always.
        revoked_at: Not trusted at all once set, whatever the date.
    """

    name: str
    identity: str
    issuer: str
    trust_config: str
    not_before: datetime | None = None
    not_after: datetime | None = None
    revoked_at: datetime | None = None

    def problem_at(self, now: datetime) -> str | None:
        """Return why this entry is not trusted at an instant; None when it is.

        Raises:
            InputError: ``now`` or a bound has no time zone.
        """
        what = f"trust in identity {self.name!r}"
        return period_problem(what, self.not_before, self.not_after, self.revoked_at, now)


@lru_cache(maxsize=32)
def _verifier(trust_config: str) -> Any:
    """Return the client's verifier; cached because policies repeat their trust config."""
    from sigstore.models import ClientTrustConfig, TrustedRoot
    from sigstore.verify import Verifier

    try:
        stated = parse_json(trust_config.encode(), where="trust config")
        if isinstance(stated, dict) and stated.get("mediaType") == _TRUSTED_ROOT:
            with tempfile.TemporaryDirectory(prefix="kfm-trust-") as folder:
                path = Path(folder) / "trusted_root.json"
                path.write_text(trust_config, encoding="utf-8")
                root = TrustedRoot.from_file(str(path))
        else:
            root = ClientTrustConfig.from_json(trust_config).trusted_root
        return Verifier(trusted_root=root)
    except Exception as exc:
        # The vendor lets through what its parsers raise and documents no type.
        raise InputError(
            f"is not a Sigstore trust config ({type(exc).__name__})", where="trust config"
        ) from exc


def _parse(bundle: SignatureBundle, *, where: str) -> Any:
    from sigstore.models import Bundle

    try:
        found = Bundle.from_json(bundle.source)
        again = parse_json(found.to_json().encode(), where=where)
    except Exception as exc:
        # The vendor lets through what its parsers raise and documents no type.
        raise EvidenceError(
            f"is not a Sigstore bundle ({type(exc).__name__})", where=where
        ) from exc
    if again != parse_json(bundle.source, where=where):
        raise EvidenceError("is not written the way the Sigstore client writes it", where=where)
    if not all(_names_its_log(entry) for entry in again["verificationMaterial"]["tlogEntries"]):
        raise EvidenceError("checkpoint is not signed by its own log", where=where)
    return found


def _names_its_log(entry: Any) -> bool:
    """Return whether a checkpoint (a signed note) has a signature under its log's own name.

    The client looks at the key only, so that the name could change unseen. The origin is
    ``NAME - TREE`` with Rekor v1 and ``NAME`` with v2.
    """
    checkpoint = (entry.get("inclusionProof") or {}).get("checkpoint") or {}
    origin, _, rest = checkpoint.get("envelope", "").partition("\n")
    name = origin.partition(" - ")[0]
    return any(line.startswith(f"\u2014 {name} ") for line in rest.splitlines())


def _why_not(
    found: Any, bundle: SignatureBundle, trusted: TrustedIdentity, now: datetime
) -> str | None:
    """Return why a bundle is not that identity's; None when it is."""
    from sigstore.verify.policy import Identity

    try:
        verifier = _verifier(trusted.trust_config)
        problem = trusted.problem_at(now)
    except InputError as exc:
        return str(exc)
    try:
        kind, payload = verifier.verify_dsse(
            found, Identity(identity=trusted.identity, issuer=trusted.issuer)
        )
    except Exception as exc:  # noqa: BLE001 - besides VerificationError whatever its parsers raise
        return " ".join(str(exc).split()) or type(exc).__name__
    if (kind, payload) != (bundle.envelope.payload_type, bundle.envelope.payload):
        return "the client verified other bytes"
    return problem


def find_sigstore_signer(
    bundle: SignatureBundle, trusted: Sequence[TrustedIdentity], now: datetime, *, where: str
) -> tuple[Origin | None, list[str]]:
    """Return under which name the policy trusts the identity that signed, or why under none.

    Raises:
        EvidenceError: The bundle has another form than the client's.
    """
    found = _parse(bundle, where=where)
    if not trusted:
        return None, [NO_IDENTITIES]
    reasons: list[str] = []
    for candidate in trusted:
        reason = _why_not(found, bundle, candidate, now)
        if reason is None:
            return Origin(candidate.name), []
        reasons.append(f"not by {candidate.name!r}: {reason}")
    return None, reasons


def read_token(given: str | None) -> tuple[str, str, str]:
    """Return an identity token with its identity and issuer; nobody is asked to log in.

    Args:
        given: The token (a JWT); None takes what the CI system that this runs in offers.

    Raises:
        InputError: There is no token, or it has expired or is malformed.
    """
    from sigstore.oidc import IdentityError, IdentityToken, detect_credential

    try:
        token = given or detect_credential()
        if not token:
            raise InputError(
                "no identity token",
                where="sigstore",
                remedy="give --identity-token, or run where the CI system offers one",
            )
        parsed = IdentityToken(token)
    except IdentityError as exc:
        raise InputError(
            f"identity token is not good ({exc})", where="sigstore", remedy="get a fresh one"
        ) from exc
    return token, parsed.identity, parsed.federated_issuer
