"""OpenSSF Model Signing of a release directory: with a key, a certificate, or Sigstore.

What is written is the vendor's bundle, so ``python -m model_signing verify {key,certificate,
sigstore} --no-ignore-git-paths`` accepts it. Reading is our own and stricter:

1. Every file counts. A bundle that was signed with ignored paths, symbolic links, shards or
   another hash than SHA-256 is refused, whatever it covers.
2. The set of signed names equals the set of files, name by name and byte by byte; the OMS root
   digest is recomputed but never stands for it, because it does not cover names.
3. A key, certificate or identity counts only while the policy trusts it, at the instant that the
   caller gives. What is revoked never counts: key and certificate bundles carry no trusted time.
4. A bundle has one form: unknown fields, log entries that nobody checks, a foreign key hint and
   loose base64 are refused. The vendor's fallback for pre-1.0 signatures is not taken.
5. Each byte of the release is read once; not at all when the caller passes the digests that it
   has just computed. Both ways run the same comparison.

The name of the directory, empty directories and file modes are not covered by the format. Which
model, version or policy is meant is not in it either: that is what attestations bind.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import digest_bytes, parse_digest, write_bytes
from kfm_mlflow.errors import EvidenceError, InputError, ManifestError, SignatureError
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.instants import require_aware
from kfm_mlflow.trust.keys import TrustedKey, load_private_key, load_public_key
from kfm_mlflow.trust.signing_bundle import parse_bundle, parse_resources, read_bundle
from kfm_mlflow.trust.signing_certificate import (
    TrustedCertificate,
    find_certificate_signer,
    find_own_certificate,
)
from kfm_mlflow.trust.signing_key import find_key_signer
from kfm_mlflow.trust.signing_sigstore import TrustedIdentity, find_sigstore_signer, read_token
from kfm_mlflow.trust.signing_vendor import make_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kfm_mlflow.trust.signing_bundle import Origin, SignatureBundle

    Finder = Callable[[SignatureBundle], tuple[Origin | None, list[str]]]

TrustedSigner = TrustedKey | TrustedCertificate | TrustedIdentity
_ANY_INSTANT = datetime(2000, 1, 1, tzinfo=UTC)  # for a key without bounds, every instant is one


@dataclass(frozen=True)
class SignatureReport:
    """What a release's signature proves.

    Attributes:
        ok: Every file of the release, and no other, was signed by someone who is trusted now.
        signer: Name under which the policy trusts the maker; None when nobody trusted made the
            signature. It may be set when ``ok`` is false: then the signature is genuine but the
            files are not its.
        problems: One sentence per fault, each beginning with the file at fault.
        key_id: Key id of the signer; None with Sigstore, where each signature has a new key.
        bundle_digest: ``sha256:<hex>`` of the signature file, when it could be read.
    """

    ok: bool
    signer: str | None
    problems: tuple[str, ...]
    key_id: str | None = None
    bundle_digest: str | None = None


def _find_signer(
    bundle: SignatureBundle, trusted: Sequence[TrustedSigner], now: datetime, *, where: str
) -> tuple[Origin | None, list[str]]:
    """Ask those whom the policy trusts for this kind of bundle; no kind stands for another."""
    if "x509CertificateChain" in bundle.material:
        roots = [one for one in trusted if isinstance(one, TrustedCertificate)]
        return find_certificate_signer(bundle, roots, now, where=where)
    if "certificate" in bundle.material:
        people = [one for one in trusted if isinstance(one, TrustedIdentity)]
        return find_sigstore_signer(bundle, people, now, where=where)
    if "publicKey" in bundle.material:
        keys = [one for one in trusted if isinstance(one, TrustedKey)]
        return find_key_signer(bundle, keys, now, where=where)
    raise EvidenceError("was made with neither key, certificate nor Sigstore", where=where)


def _compare(signed: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    problems = [f"{name}: signed but missing" for name in sorted(signed.keys() - found.keys())]
    problems += [f"{name}: not signed" for name in sorted(found.keys() - signed.keys())]
    problems += [
        f"{name}: bytes differ from what was signed"
        for name in sorted(signed.keys() & found.keys())
        if signed[name] != found[name]
    ]
    return problems


def _verify(
    release_dir: Path, signature_path: Path, find: Finder, digests: Mapping[str, str] | None
) -> SignatureReport:
    where, bundle_digest = signature_path.name, None
    origin: Origin | None = None
    try:
        data = read_bundle(signature_path)
        bundle_digest = digest_bytes(data)
        bundle = parse_bundle(data, where=where)
        origin, reasons = find(bundle)
        problems = [f"{where}: {reason}" for reason in reasons]
        if origin is not None:
            signed = parse_resources(bundle.envelope.payload, where=where)
            if digests is None:
                digests = build_manifest(release_dir).digests
            found = {path: parse_digest(text, where=path) for path, text in digests.items()}
            problems = _compare(signed, found)
    except (EvidenceError, ManifestError, InputError) as exc:
        problems = [str(exc)]
    return SignatureReport(
        ok=origin is not None and not problems,
        signer=origin.signer if origin else None,
        problems=tuple(problems),
        key_id=origin.key_id if origin else None,
        bundle_digest=bundle_digest,
    )


def verify_release(
    release_dir: Path,
    signature_path: Path,
    trusted: Sequence[TrustedSigner],
    now: datetime,
    *,
    digests: Mapping[str, str] | None = None,
) -> SignatureReport:
    """Check a release against its signature and those who are trusted now; asks no network.

    Args:
        release_dir: The directory; not read when ``digests`` is given.
        signature_path: The bundle, beside the directory.
        trusted: Keys, certificates and identities that the policy trusts; each of the bundle's
            kind is tried. None means that nothing passes.
        now: The instant at which they must be trusted (aware).
        digests: Path -> digest of every file, which the caller has computed from the bytes itself
            (``build_manifest(...).digests``), never taken from a document. The comparison is the
            same as without.

    Returns:
        The report; bad evidence is in ``problems``, never an exception.

    Raises:
        InputError: ``now`` has no time zone.
    """
    require_aware(now, where="now")
    find = partial(_find_signer, trusted=trusted, now=now, where=signature_path.name)
    return _verify(release_dir, signature_path, find, digests)


def _sign(
    release_dir: Path,
    signature_path: Path,
    configure: Callable[[Any], Any],
    find: Finder,
    digests: Mapping[str, str] | None,
) -> SignatureReport:
    """Sign, check the new bundle as a reader would, and write it."""
    if signature_path.resolve().is_relative_to(release_dir.resolve()):
        raise InputError(
            "lies inside the release that it signs",
            where=str(signature_path),
            remedy="put the signature beside the directory",
        )
    if digests is None:
        digests = build_manifest(release_dir).digests
    bundle = make_bundle(release_dir, digests, configure)
    with tempfile.TemporaryDirectory(prefix="kfm-sign-") as folder:
        draft = Path(folder) / signature_path.name
        draft.write_bytes(bundle)
        report = _verify(release_dir, draft, find, digests)
    if not report.ok:
        raise SignatureError("; ".join(report.problems), where=str(release_dir))
    write_bytes(signature_path, bundle)
    return report


def sign_release(
    release_dir: Path,
    signature_path: Path,
    key_path: Path,
    *,
    password: bytes | None = None,
    digests: Mapping[str, str] | None = None,
) -> SignatureReport:
    """Sign every file of a release; the signature lies outside the directory.

    What is signed is one reading of the directory, or the digests that the caller has read. The
    new bundle is checked as :func:`verify_release` does before it appears; a file that changes
    after it was read makes the release one that does not verify.

    Args:
        release_dir: The release.
        signature_path: Where the bundle goes; an older one is replaced.
        key_path: EC P-256 private key in PEM.
        password: Of the key, if it is encrypted.
        digests: Path -> digest of every file, which the caller has just computed from the bytes
            (``build_manifest(...).digests``); None reads the directory.

    Returns:
        The report of the new signature; ``signer`` is the file name of the key.

    Raises:
        InputError: The key is unusable, or the signature would lie inside the release.
        ManifestError: The directory holds what no release may hold.
        SignatureError: The vendor failed, or its bundle does not verify.
    """
    signer = load_private_key(key_path, password=password)
    # The vendor treats a password for a key without one as an error; load_private_key does not.
    encrypted = b"ENCRYPTED" in key_path.read_bytes()
    own = TrustedKey(name=key_path.name, public_key_pem=signer.public_key.pem)

    def configure(config: Any) -> Any:
        return config.use_elliptic_key_signer(
            private_key=key_path, password=password if encrypted else None
        )

    find = partial(_find_signer, trusted=[own], now=_ANY_INSTANT, where=signature_path.name)
    return _sign(release_dir, signature_path, configure, find, digests)


def sign_release_with_certificate(
    release_dir: Path,
    signature_path: Path,
    key_path: Path,
    *,
    certificate_path: Path,
    chain_paths: Sequence[Path] = (),
    now: datetime,
    digests: Mapping[str, str] | None = None,
) -> SignatureReport:
    """Sign every file of a release with a key and the certificate that was issued for it.

    Args:
        release_dir: The release.
        signature_path: Where the bundle goes; an older one is replaced.
        key_path: EC private key in PEM (P-256, P-384 or P-521), not encrypted.
        certificate_path: The signer's certificate in PEM.
        chain_paths: Certificates in PEM between it and the root; the root may be left out.
        now: The instant (aware) at which the certificate must be valid.
        digests: As for :func:`sign_release`.

    Returns:
        The report of the new signature; ``signer`` is the certificate's subject. Whether any
        policy trusts the root is not asked.

    Raises:
        InputError: The signature would lie inside the release, or a file is missing.
        ManifestError: The directory holds what no release may hold.
        SignatureError: The vendor failed (key and certificate do not belong together), the
            certificate may not sign now, or the bundle does not verify.
    """
    for path in (key_path, certificate_path, *chain_paths):
        if not path.is_file():
            raise InputError("no such file", where=str(path), remedy="give a PEM file")

    def configure(config: Any) -> Any:
        return config.use_certificate_signer(
            private_key=key_path,
            signing_certificate=certificate_path,
            certificate_chain=list(chain_paths),
        )

    find = partial(find_own_certificate, now=now, where=signature_path.name)
    return _sign(release_dir, signature_path, configure, find, digests)


def sign_release_with_pkcs11(
    release_dir: Path,
    signature_path: Path,
    uri: str,
    public_key_path: Path,
    *,
    digests: Mapping[str, str] | None = None,
) -> SignatureReport:
    """Sign every file of a release with a key that a PKCS#11 token holds.

    Args:
        release_dir: The release.
        signature_path: Where the bundle goes; an older one is replaced.
        uri: PKCS#11 URI (RFC 7512) of the key, with module and PIN.
        public_key_path: The key's other half (EC P-256) in PEM: what the token signed is checked
            with it.
        digests: As for :func:`sign_release`.

    Returns:
        The report of the new signature; ``signer`` is the file name of the public key.

    Raises:
        InputError: No such public key, or the signature would lie inside the release.
        ManifestError: The directory holds what no release may hold.
        SignatureError: The token or the vendor failed, ``model-signing[pkcs11]`` is not installed,
            or the token signed with another key.
    """
    own = TrustedKey(public_key_path.name, load_public_key(public_key_path).pem)

    def configure(config: Any) -> Any:
        return config.use_pkcs11_signer(pkcs11_uri=uri)

    find = partial(_find_signer, trusted=[own], now=_ANY_INSTANT, where=signature_path.name)
    return _sign(release_dir, signature_path, configure, find, digests)


def sign_release_with_sigstore(
    release_dir: Path,
    signature_path: Path,
    trust_config_path: Path,
    *,
    token: str | None,
    now: datetime,
    digests: Mapping[str, str] | None = None,
) -> SignatureReport:
    """Sign every file of a release for an identity, with a Sigstore instance (asks its servers).

    Args:
        release_dir: The release.
        signature_path: Where the bundle goes; an older one is replaced.
        trust_config_path: The instance's client trust config (JSON).
        token: OpenID Connect identity token; None takes the CI system's own.
        now: The present instant (aware).
        digests: As for :func:`sign_release`.

    Returns:
        The report of the new signature; ``signer`` is the token's identity.

    Raises:
        InputError: No token, a bad one, an unreadable trust config, or the signature would lie
            inside the release.
        ManifestError: The directory holds what no release may hold.
        SignatureError: The instance refused or did not answer, or its bundle does not verify.
    """
    try:
        trust_config = trust_config_path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError("cannot be read as UTF-8 text", where=str(trust_config_path)) from exc
    token, identity, issuer = read_token(token)
    own = TrustedIdentity(identity, identity, issuer, trust_config)

    def configure(config: Any) -> Any:
        return config.use_sigstore_signer(identity_token=token, trust_config=trust_config_path)

    find = partial(_find_signer, trusted=[own], now=now, where=signature_path.name)
    return _sign(release_dir, signature_path, configure, find, digests)
