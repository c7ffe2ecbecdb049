"""A root, an authority and signers' certificates, as good or as bad as a test asks for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from trust.made_sigstore import key_usage

from kfm_mlflow.trust.signing_certificate import TrustedCertificate, certificate_digest

if TYPE_CHECKING:
    from pathlib import Path

YEAR = timedelta(days=365)
SUBJECT = "CN=release-bot,O=KFM"
WORKFLOW = "https://ci.kfm.test/release"
CODE = (ExtendedKeyUsageOID.CODE_SIGNING,)


def _name(common_name):
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "KFM"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


@dataclass
class Holder:
    """A certificate, its key, and where both lie."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    pem: Path
    key_path: Path

    @property
    def text(self):
        """The certificate in PEM."""
        return self.pem.read_text()

    @property
    def digest(self):
        """The certificate's fingerprint."""
        return certificate_digest(self.certificate)


class Pki:
    """A root, an authority under it and a signer's certificate, around one instant; and more."""

    def __init__(self, folder, now):
        self.folder, self.now = folder, now
        self.root = self.issue("root", authority=True, usage=None, ends=10 * YEAR)
        self.middle = self.issue("middle", self.root, authority=True, usage=None)
        self.leaf = self.issue("release-bot", self.middle)
        self.trusted = TrustedCertificate("bot", self.root.text, subject=SUBJECT)

    def issue(
        self,
        name,
        issuer=None,
        *,
        authority=False,
        usage=CODE,
        may_sign=True,
        begins=-YEAR,
        ends=YEAR,
        curve=None,
        algorithm=None,
        file=None,
    ):
        """Make a certificate that is as good, or as bad, as asked."""
        key = ec.generate_private_key(curve or ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(issuer.certificate.subject if issuer else _name(name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now + begins)
            .not_valid_after(self.now + ends)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        flags = {"key_cert_sign": authority, "digital_signature": may_sign and not authority}
        builder = builder.add_extension(key_usage(**flags), critical=True)
        if usage:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        if not authority:
            names = [x509.UniformResourceIdentifier(WORKFLOW), x509.RFC822Name("bot@kfm.test")]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(issuer.key if issuer else key, algorithm or hashes.SHA256())
        pem, key_path = (self.folder / f"{file or name}.{end}" for end in ("crt", "key"))
        pem.write_bytes(certificate.public_bytes(Encoding.PEM))
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        key_path.write_bytes(private)
        return Holder(certificate, key, pem, key_path)
