"""Bundles that were made with a certificate, and which trusted root stands behind one.

Stricter than the vendor, which takes the certificate's own first day as the time of checking:

1. Every certificate of the chain must be valid at the instant that the caller gives. The bundle
   has no trusted time, so a signature ends with its certificate.
2. Only the roots of the policy count, never those of the operating system nor any that the bundle
   brings along, and a root must be a certificate authority.
3. The leaf must be meant for code signing (extended key usage), and must not be an authority.
4. A root says nothing about who signed: subject or subject alternative name must fit, too.
5. A certificate that does not belong to the chain has no place in the bundle.
6. Revocation is the policy's (``revoked_at`` of the entry, or single certificates by digest);
   no CRL or OCSP is fetched.
"""

from __future__ import annotations

import base64
import binascii
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import digest_bytes
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.trust.dsse import require_fields
from kfm_mlflow.trust.instants import require_aware
from kfm_mlflow.trust.keys import period_problem
from kfm_mlflow.trust.signing_bundle import Origin

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from cryptography.x509 import Certificate

    from kfm_mlflow.trust.signing_bundle import SignatureBundle

NO_CERTIFICATES = "signed with a certificate, and the policy trusts none"
_STRONG = {"sha256", "sha384", "sha512"}
# OpenSSL's verdicts (x509_vfy.h): no issuer found, or a self-signed one that nobody trusts.
_NO_ROOT = {2, 18, 19, 20, 21, 27}
_OUT_OF_DATE = {9, 10}


@dataclass(frozen=True)
class TrustedCertificate:
    """Certificates that a policy trusts under a name: those of a root with a fitting subject.

    Attributes:
        name: Who signs with them.
        roots_pem: PEM text of one or more root certificates.
        subject: Shell pattern of the leaf's subject (RFC 4514); None for any.
        alternative_name: Shell pattern of one subject alternative name, written ``URI:…``,
            ``email:…`` or ``DNS:…``; None for any.
        not_before: Trusted from then on (aware); None for always.
        not_after: Trusted until then, exclusive (aware); None for always.
        revoked_at: Not trusted at all once set, whatever the date.
        revoked_certificates: ``sha256:<hex>`` of the DER of single certificates that never count.
    """

    name: str
    roots_pem: str
    subject: str | None = None
    alternative_name: str | None = None
    not_before: datetime | None = None
    not_after: datetime | None = None
    revoked_at: datetime | None = None
    revoked_certificates: tuple[str, ...] = ()

    def problem_at(self, now: datetime) -> str | None:
        """Return why this entry is not trusted at an instant; None when it is.

        Raises:
            InputError: ``now`` or a bound has no time zone.
        """
        what = f"trust in certificates of {self.name!r}"
        return period_problem(what, self.not_before, self.not_after, self.revoked_at, now)


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Translate what cryptography raises, often late, when a certificate is malformed."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        yield
    except (
        ValueError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
    ) as exc:
        raise EvidenceError(f"a certificate is malformed ({exc})", where=where) from exc


def certificate_digest(certificate: Certificate) -> str:
    """Return ``sha256:<hex>`` of the certificate's DER, the usual fingerprint."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return digest_bytes(certificate.public_bytes(Encoding.DER))


def parse_roots(pem: str, *, where: str) -> list[Certificate]:
    """Read root certificates from PEM text.

    Raises:
        InputError: Not PEM certificates, or one is no certificate authority.
    """
    from cryptography.x509 import load_pem_x509_certificates

    try:
        roots = load_pem_x509_certificates(pem.encode("ascii"))
        outsider = next((root for root in roots if not _is_authority(root)), None)
    except ValueError as exc:
        raise InputError("are not certificates in PEM", where=where) from exc
    if outsider is not None:
        raise InputError(
            f"{outsider.subject.rfc4514_string()} is no certificate authority, so no root",
            where=where,
        )
    return roots


def _is_authority(certificate: Certificate) -> bool:
    from cryptography.x509 import BasicConstraints, ExtensionNotFound

    try:
        found = certificate.extensions.get_extension_for_class(BasicConstraints)
    except ExtensionNotFound:
        return False
    return found.value.ca


def _parse_chain(bundle: SignatureBundle, *, where: str) -> tuple[Certificate, list[Certificate]]:
    """Return the leaf, and what the bundle brings along with it."""
    from cryptography.x509 import load_der_x509_certificate

    material = require_fields(
        bundle.material, {"x509CertificateChain"}, {"tlogEntries"}, where=where
    )
    if material.get("tlogEntries", []) != []:
        raise EvidenceError(
            "carries log entries, which are not checked for certificate signatures", where=where
        )
    chain = require_fields(material["x509CertificateChain"], {"certificates"}, set(), where=where)
    entries = chain["certificates"]
    if not isinstance(entries, list) or not entries:
        raise EvidenceError("holds no certificate", where=where)
    found = []
    for entry in entries:
        text = require_fields(entry, {"rawBytes"}, set(), where=where)["rawBytes"]
        try:
            der = base64.b64decode(text, validate=True)
            found.append(load_der_x509_certificate(der))
        except (TypeError, ValueError, binascii.Error) as exc:
            raise EvidenceError("a certificate is not base64 of DER", where=where) from exc
        if base64.b64encode(der).decode("ascii") != text:
            raise EvidenceError("a certificate is not canonical base64", where=where)
    return found[0], found[1:]


def _check_signed(bundle: SignatureBundle, leaf: Certificate, *, where: str) -> str:
    """Check the envelope's signature with the leaf's key; return its key id."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
    from securesystemslib.signer import SSlibKey

    try:
        key = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise EvidenceError("key of the certificate cannot be read", where=where) from exc
    # The format's own pairing of curve and hash (OpenSSF Model Signing v1.0).
    wanted: dict[str, hashes.HashAlgorithm] = {
        "secp256r1": hashes.SHA256(),
        "secp384r1": hashes.SHA384(),
        "secp521r1": hashes.SHA512(),
    }
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in wanted:
        raise EvidenceError("key of the certificate is not EC P-256, P-384 or P-521", where=where)
    envelope = bundle.envelope
    try:
        key.verify(envelope.signatures[0].signature, envelope.pae, ECDSA(wanted[key.curve.name]))
    except InvalidSignature as exc:
        raise EvidenceError("signature does not match its certificate", where=where) from exc
    return str(SSlibKey.from_crypto(key).keyid)


def _date_problem(certificate: Certificate, now: datetime) -> str | None:
    name = certificate.subject.rfc4514_string() or "without subject"
    begins_at, ends_at = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins_at:
        return f"certificate {name} is not valid before {begins_at.isoformat()}"
    if now > ends_at:
        return f"certificate {name} expired at {ends_at.isoformat()}"
    return None


def _usage_problem(leaf: Certificate) -> str | None:
    from cryptography.x509 import ExtensionNotFound, KeyUsage

    try:
        if not leaf.extensions.get_extension_for_class(KeyUsage).value.digital_signature:
            return "certificate may not make signatures (key usage)"
    except ExtensionNotFound:
        pass  # without the extension every usage is allowed (RFC 5280 4.2.1.3)
    if not _may_sign_code(leaf, unsaid=False):
        return "certificate is not meant for code signing (extended key usage)"
    if _is_authority(leaf):
        return "certificate is a certificate authority's, not a signer's"
    return None


def _may_sign_code(certificate: Certificate, *, unsaid: bool) -> bool:
    from cryptography.x509 import ExtendedKeyUsage, ExtensionNotFound
    from cryptography.x509.oid import ExtendedKeyUsageOID

    try:
        usage = certificate.extensions.get_extension_for_class(ExtendedKeyUsage).value
    except ExtensionNotFound:
        return unsaid
    return ExtendedKeyUsageOID.CODE_SIGNING in usage


def leaf_problem(leaf: Certificate, now: datetime) -> str | None:
    """Return why a certificate can sign nothing at an instant, whoever issued it."""
    return _date_problem(leaf, now) or _usage_problem(leaf)


def _build_chain(
    leaf: Certificate, others: Sequence[Certificate], roots: Sequence[Certificate], now: datetime
) -> tuple[list[Certificate], str | None]:
    """Return the chain from leaf to root, or why there is none at that instant."""
    from OpenSSL import crypto

    try:
        store = crypto.X509Store()
        for root in roots:
            store.add_cert(crypto.X509.from_cryptography(root))
        store.set_time(now)
        context = crypto.X509StoreContext(
            store,
            crypto.X509.from_cryptography(leaf),
            [crypto.X509.from_cryptography(other) for other in others],
        )
        return [found.to_cryptography() for found in context.get_verified_chain()], None
    except crypto.X509StoreContextError as exc:
        code, _, text = exc.errors
        if code in _NO_ROOT:
            return [], "certificate does not lead to a root that the policy trusts"
        broken = exc.certificate.to_cryptography()
        dated = _date_problem(broken, now) if code in _OUT_OF_DATE else None
        return [], dated or f"certificate chain is not good ({text})"
    except crypto.Error:
        # OpenSSL reads certificates more strictly than cryptography; its words name no field.
        return [], "certificate chain is malformed"


def _chain_problem(chain: Sequence[Certificate], others: Sequence[Certificate]) -> str | None:
    for certificate in chain[1:]:
        if not _may_sign_code(certificate, unsaid=True):
            name = certificate.subject.rfc4514_string()
            return f"authority {name} may not vouch for code signing (extended key usage)"
    for certificate in chain[:-1]:
        algorithm = certificate.signature_hash_algorithm
        if algorithm is not None and algorithm.name not in _STRONG:
            return f"a certificate of the chain is signed with {algorithm.name}"
    if any(other not in chain for other in others):
        return "carries a certificate that is not part of the chain"
    return None


def _alternative_names(leaf: Certificate) -> list[str]:
    from cryptography import x509

    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    kinds: tuple[tuple[str, Any], ...] = (
        ("URI", x509.UniformResourceIdentifier),
        ("email", x509.RFC822Name),
        ("DNS", x509.DNSName),
    )
    return [f"{word}:{value}" for word, kind in kinds for value in names.get_values_for_type(kind)]


def _name_problem(leaf: Certificate, trusted: TrustedCertificate) -> str | None:
    subject, names = leaf.subject.rfc4514_string(), _alternative_names(leaf)
    if trusted.subject is None and trusted.alternative_name is None:
        return "the policy names neither subject nor alternative name"
    if trusted.subject is not None and not fnmatchcase(subject, trusted.subject):
        return f"subject {subject!r} is not {trusted.subject!r}"
    wanted = trusted.alternative_name
    if wanted is not None and not any(fnmatchcase(name, wanted) for name in names):
        return f"no alternative name of {', '.join(names) or 'none'} is {wanted!r}"
    return None


def _why_not(
    leaf: Certificate, others: Sequence[Certificate], trusted: TrustedCertificate, now: datetime
) -> str | None:
    """Return why one entry of the policy does not stand behind a leaf; None when it does."""
    try:
        roots = parse_roots(trusted.roots_pem, where=f"roots of {trusted.name!r}")
        chain, problem = _build_chain(leaf, others, roots, now)
        problem = problem or _chain_problem(chain, others) or _name_problem(leaf, trusted)
        problem = problem or trusted.problem_at(now)
    except InputError as exc:
        return str(exc)
    revoked = set(trusted.revoked_certificates)
    if problem is None and any(certificate_digest(found) in revoked for found in chain):
        return "a certificate of the chain was revoked"
    return problem


def find_certificate_signer(
    bundle: SignatureBundle, trusted: Sequence[TrustedCertificate], now: datetime, *, where: str
) -> tuple[Origin | None, list[str]]:
    """Return under which name the policy trusts the certificate that signed, or why under none.

    Raises:
        EvidenceError: The bundle has another form than certificate bundles have, or its signature
            was not made with its certificate.
    """
    now = require_aware(now, where="now")
    with _reading(where):
        leaf, others = _parse_chain(bundle, where=where)
        key_id = _check_signed(bundle, leaf, where=where)
        if not trusted:
            return None, [NO_CERTIFICATES]
        problem = leaf_problem(leaf, now)
        if problem is not None:
            return None, [problem]
        reasons: list[str] = []
        for candidate in trusted:
            reason = _why_not(leaf, others, candidate, now)
            if reason is None:
                return Origin(candidate.name, key_id), []
            reasons.append(f"not by {candidate.name!r}: {reason}")
    return None, reasons


def find_own_certificate(
    bundle: SignatureBundle, now: datetime, *, where: str
) -> tuple[Origin | None, list[str]]:
    """Return the leaf's subject as the origin of a bundle that was just made, trusted or not.

    Raises:
        EvidenceError: As :func:`find_certificate_signer`.
    """
    with _reading(where):
        leaf, _ = _parse_chain(bundle, where=where)
        key_id = _check_signed(bundle, leaf, where=where)
        problem = leaf_problem(leaf, require_aware(now, where="now"))
        if problem is not None:
            return None, [problem]
        return Origin(leaf.subject.rfc4514_string(), key_id), []
