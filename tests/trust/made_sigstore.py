"""A Sigstore instance of our own on loopback, for tests: Fulcio v2, a CT log's SCT and Rekor v1.

The client that talks to it is the real one. The instance is a test double: it checks identity
tokens and keeps a growing Merkle tree (RFC 6962), but nothing is stored, monitored or cross-signed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import struct
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import jwt
import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

HOST = "kfm.test"
MAX_BODY_BYTES = 8 << 20


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _split(leaves: list[bytes]) -> int:
    return 1 << ((len(leaves) - 1).bit_length() - 1)


def tree_root(leaves: list[bytes]) -> bytes:
    """Merkle tree hash (RFC 6962 2.1) over leaf hashes."""
    if len(leaves) == 1:
        return leaves[0]
    k = _split(leaves)
    return sha256(b"\1" + tree_root(leaves[:k]) + tree_root(leaves[k:]))


def audit_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """Merkle audit path (RFC 6962 2.1.1)."""
    if len(leaves) == 1:
        return []
    k = _split(leaves)
    if index < k:
        return [*audit_path(index, leaves[:k]), tree_root(leaves[k:])]
    return [*audit_path(index - k, leaves[k:]), tree_root(leaves[:k])]


def key_usage(**used: bool) -> x509.KeyUsage:
    names = [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ]
    return x509.KeyUsage(**{name: used.get(name, False) for name in names})


class Instance:
    """One instance with keys of its own; use as a context to have it answer."""

    def __init__(self) -> None:
        self.authority, self.ct, self.rekor, self.provider = (
            ec.generate_private_key(ec.SECP256R1()) for _ in range(4)
        )
        self.leaves: list[bytes] = []
        self.lock = threading.Lock()
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, HOST),
                x509.NameAttribute(NameOID.COMMON_NAME, "kfm-fulcio"),
            ]
        )
        now = datetime.now(UTC)
        self.key_identifier = x509.SubjectKeyIdentifier.from_public_key(self.authority.public_key())
        self.root = (
            x509.CertificateBuilder(name, name, self.authority.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(self.key_identifier, critical=False)
            .sign(self.authority, hashes.SHA256())
        )
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Answer no more; may be called twice."""
        if self.thread.is_alive():
            self.server.shutdown()
            self.thread.join()
        self.server.server_close()

    def token(self, subject: str, *, audience: str = "sigstore", life_s: int = 600) -> str:
        """Return an identity token, as the instance's own OpenID provider signs it."""
        now = int(datetime.now(UTC).timestamp())
        claims = {"iss": self.url, "sub": subject, "aud": audience, "iat": now, "exp": now + life_s}
        return jwt.encode(claims, self.provider, algorithm="ES256")

    def issue(self, csr_pem: bytes, token: str) -> dict[str, Any]:
        """Check a token and give a ten-minute certificate with an embedded SCT (RFC 6962 3.2)."""
        claims = jwt.decode(
            token,
            self.provider.public_key(),
            algorithms=["ES256"],
            audience="sigstore",
            issuer=self.url,
        )
        csr = x509.load_pem_x509_csr(csr_pem)
        if not csr.is_signature_valid:
            raise ValueError("CSR is not signed with its key")
        now = datetime.now(UTC).replace(microsecond=0)
        subject = claims["sub"]
        is_mail = "@" in subject and "://" not in subject
        name = x509.RFC822Name(subject) if is_mail else x509.UniformResourceIdentifier(subject)
        issuer = claims["iss"].encode()
        fulcio = "1.3.6.1.4.1.57264.1"
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (key_usage(digital_signature=True), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False),
            (x509.SubjectKeyIdentifier.from_public_key(csr.public_key()), False),
            (
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self.key_identifier),
                False,
            ),
            (x509.SubjectAlternativeName([name]), True),
            (x509.UnrecognizedExtension(ObjectIdentifier(f"{fulcio}.1"), issuer), False),
            (
                x509.UnrecognizedExtension(ObjectIdentifier(f"{fulcio}.8"), _der(0x0C, issuer)),
                False,
            ),
        ]
        builder = (
            x509.CertificateBuilder(self.root.subject, x509.Name([]), csr.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(minutes=10))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        to_sign = builder.sign(self.authority, hashes.SHA256()).tbs_certificate_bytes
        promises = x509.UnrecognizedExtension(
            ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2"), _der(0x04, self._promise(to_sign, now))
        )
        leaf = builder.add_extension(promises, critical=False).sign(self.authority, hashes.SHA256())
        chain = [one.public_bytes(Encoding.PEM).decode() for one in (leaf, self.root)]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}

    def _promise(self, certificate: bytes, now: datetime) -> bytes:
        at_ms = int(now.timestamp() * 1000)
        signed = sign(
            self.ct,
            struct.pack("!BBQH", 0, 0, at_ms, 1)
            + sha256(spki(self.authority))
            + struct.pack("!I", len(certificate))[1:]
            + certificate
            + b"\0\0",
        )
        promise = b"\0" + sha256(spki(self.ct)) + struct.pack("!Q", at_ms) + b"\0\0\x04\x03"
        promise += struct.pack("!H", len(signed)) + signed
        return struct.pack("!HH", len(promise) + 2, len(promise)) + promise

    def log(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Append an entry to the log and return it with its proof and signed timestamp."""
        body = rfc8785.dumps(_canonical_entry(entry))
        log_id = sha256(spki(self.rekor))
        with self.lock:
            self.leaves.append(sha256(b"\0" + body))
            index, size = len(self.leaves) - 1, len(self.leaves)
            root, path = tree_root(self.leaves), audit_path(index, self.leaves)
        at_s = int(datetime.now(UTC).timestamp())
        note = f"{HOST} - 1\n{size}\n{b64(root)}\n"
        seal = b64(log_id[:4] + sign(self.rekor, note.encode()))
        shown = {
            "body": b64(body),
            "integratedTime": at_s,
            "logID": log_id.hex(),
            "logIndex": index,
        }
        proof = {
            "logIndex": index,
            "treeSize": size,
            "rootHash": root.hex(),
            "hashes": [one.hex() for one in path],
            "checkpoint": f"{note}\n\u2014 {HOST} {seal}\n",
        }
        stamp = b64(sign(self.rekor, rfc8785.dumps(shown)))
        verification = {"signedEntryTimestamp": stamp, "inclusionProof": proof}
        return {secrets.token_hex(32): {**shown, "verification": verification}}

    def trust_config(self) -> str:
        """Return the client trust config (JSON) that names this instance's keys and servers."""
        start = (datetime.now(UTC) - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            public = {"rawBytes": b64(spki(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
            return {
                "baseUrl": self.url,
                "hashAlgorithm": "SHA2_256",
                "publicKey": {**public, "validFor": {"start": start}},
                "logId": {"keyId": b64(sha256(spki(key)))},
            }

        servers = [
            {"url": self.url, "majorApiVersion": 1, "validFor": {"start": start}, "operator": HOST}
        ]
        authority = {
            "subject": {"organization": HOST, "commonName": "kfm-fulcio"},
            "uri": self.url,
            "certChain": {
                "certificates": [{"rawBytes": b64(self.root.public_bytes(Encoding.DER))}]
            },
            "validFor": {"start": start},
        }
        kind = "application/vnd.dev.sigstore"
        return json.dumps(
            {
                "mediaType": f"{kind}.clienttrustconfig.v0.1+json",
                "trustedRoot": {
                    "mediaType": f"{kind}.trustedroot+json;version=0.1",
                    "tlogs": [log(self.rekor)],
                    "ctlogs": [log(self.ct)],
                    "timestampAuthorities": [],
                    "certificateAuthorities": [authority],
                },
                "signingConfig": {
                    "mediaType": f"{kind}.signingconfig.v0.2+json",
                    "caUrls": servers,
                    "oidcUrls": servers,
                    "rekorTlogUrls": servers,
                    "rekorTlogConfig": {"selector": "ANY"},
                    "tsaUrls": [],
                    "tsaConfig": {"selector": "ANY"},
                },
            }
        )

    def _answer(self, path: str, body: Any, authorization: str) -> tuple[int, Any]:
        try:
            if path == "/api/v2/signingCert":
                csr = base64.b64decode(body["certificateSigningRequest"])
                return 201, self.issue(csr, authorization.removeprefix("Bearer "))
            if path == "/api/v1/log/entries":
                return 201, self.log(body)
        except (jwt.PyJWTError, ValueError, KeyError) as exc:
            return 400, {"message": f"{type(exc).__name__}: {exc}"}
        return 404, {"message": "not found"}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        instance = self

        class Handler(BaseHTTPRequestHandler):
            def _send(self, code: int, value: Any) -> None:
                data = json.dumps(value).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                if self.path != "/.well-known/openid-configuration":
                    return self._send(404, {"message": "not found"})
                ways = {f"{word}_endpoint": instance.url for word in ("authorization", "token")}
                return self._send(200, {"issuer": instance.url, **ways})

            def do_POST(self) -> None:
                size = min(int(self.headers["Content-Length"]), MAX_BODY_BYTES)
                body = json.loads(self.rfile.read(size))
                granted = self.headers.get("Authorization", "")
                self._send(*instance._answer(self.path, body, granted))

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _canonical_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what Rekor keeps of a proposed entry: digests and signatures, not the envelope."""
    if entry["kind"] != "dsse":
        return entry
    proposed = entry["spec"]["proposedContent"]
    envelope = json.loads(proposed["envelope"])
    payload = base64.b64decode(envelope["payload"])

    def digest(data: bytes) -> dict[str, str]:
        return {"algorithm": "sha256", "value": sha256(data).hex()}

    signatures = [
        {"signature": one["sig"], "verifier": verifier}
        for one, verifier in zip(envelope["signatures"], proposed["verifiers"], strict=True)
    ]
    spec = {
        "envelopeHash": digest(proposed["envelope"].encode()),
        "payloadHash": digest(payload),
        "signatures": signatures,
    }
    return {"apiVersion": "0.0.1", "kind": "dsse", "spec": spec}
