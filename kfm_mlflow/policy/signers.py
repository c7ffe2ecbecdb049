"""Who may sign releases besides holders of bare keys: certificates of a root, and identities."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self

from pydantic import AwareDatetime, Field, model_validator

from kfm_mlflow.policy.written import NonEmpty, Written


class _Period(Written):
    name: NonEmpty
    not_before: AwareDatetime | None = None
    not_after: AwareDatetime | None = None
    revoked_at: datetime | None = None


class CertificateSignerPolicy(_Period):
    """Certificates that are trusted to sign releases.

    Attributes:
        name: Who signs with them.
        roots: PEM text of the root certificates, or use ``roots_file``.
        roots_file: Path of a PEM file, relative to the policy file.
        subject: Shell pattern of the certificate's subject (RFC 4514, ``CN=…,O=…``).
        alternative_name: Shell pattern of one of its alternative names, written ``URI:…``,
            ``email:…`` or ``DNS:…``.
        not_before: Trusted from then on.
        not_after: Trusted until then.
        revoked_at: Not trusted at all once set.
        revoked_certificates: ``sha256:<hex>`` fingerprints of single certificates, of signers or
            authorities, that never count.
    """

    roots: str | None = None
    roots_file: str | None = None
    subject: NonEmpty | None = None
    alternative_name: NonEmpty | None = None
    revoked_certificates: tuple[Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")], ...] = ()

    @model_validator(mode="after")
    def _names_roots_and_people(self) -> Self:
        if (self.roots is None) == (self.roots_file is None):
            raise ValueError(f"{self.name}: give either roots or roots_file")
        if self.subject is None and self.alternative_name is None:
            raise ValueError(f"{self.name}: give subject, alternative_name or both")
        return self


class SigstoreSignerPolicy(_Period):
    """An identity that is trusted to sign releases with Sigstore.

    Attributes:
        name: Who that is.
        identity: Mail address or workflow URI, letter by letter.
        issuer: URL of the OpenID Connect provider, letter by letter.
        trust_config: JSON text of the instance's trust config or trusted root, or use
            ``trust_config_file``.
        trust_config_file: Path of that file, relative to the policy file.
        not_before: Trusted from then on.
        not_after: Trusted until then.
        revoked_at: Not trusted at all once set.
    """

    identity: NonEmpty
    issuer: NonEmpty
    trust_config: str | None = None
    trust_config_file: str | None = None

    @model_validator(mode="after")
    def _has_one_trust_config(self) -> Self:
        if (self.trust_config is None) == (self.trust_config_file is None):
            raise ValueError(f"{self.name}: give either trust_config or trust_config_file")
        return self
