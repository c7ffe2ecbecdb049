"""Who is trusted for which duty: keys, certificates, identities, and the council."""

from __future__ import annotations

import unicodedata
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AwareDatetime, Field, StrictInt, model_validator

from kfm_mlflow.policy.signers import CertificateSignerPolicy, SigstoreSignerPolicy
from kfm_mlflow.policy.written import NonEmpty, Written

if TYPE_CHECKING:
    from collections.abc import Iterable


class KeyPolicy(Written):
    """A public key that is trusted for one duty.

    Attributes:
        name: Who holds it.
        public_key: PEM text, or use ``public_key_file``.
        public_key_file: Path of a PEM file, relative to the policy file.
        not_before: Trusted from then on.
        not_after: Trusted until then.
        revoked_at: Not trusted at all once set.
    """

    name: NonEmpty
    public_key: str | None = None
    public_key_file: str | None = None
    not_before: AwareDatetime | None = None
    not_after: AwareDatetime | None = None
    revoked_at: datetime | None = None

    @model_validator(mode="after")
    def _has_one_key(self) -> Self:
        if (self.public_key is None) == (self.public_key_file is None):
            raise ValueError(f"{self.name}: give either public_key or public_key_file")
        return self


class MemberPolicy(KeyPolicy):
    """A council member; ``roles`` are what required roles and vetoes are checked against."""

    roles: tuple[NonEmpty, ...] = ()


def has_twins(names: Iterable[str]) -> bool:
    """Return whether two names are one to a reader: case, width and outer blanks aside."""
    read = [unicodedata.normalize("NFKC", name).strip().casefold() for name in names]
    return len(set(read)) != len(read)


class ApprovalsPolicy(Written):
    """Least number of distinct approvals on the way into a level, whatever the threshold says."""

    staging: StrictInt = Field(default=0, ge=0)
    canary: StrictInt = Field(default=0, ge=0)
    production: StrictInt = Field(default=0, ge=0)


class CouncilPolicy(Written):
    """Who votes.

    Attributes:
        threshold: ``byzantine`` (ceil((n+f+1)/2), at least 4 members) or a number k.
        approvals: Approvals that a level asks for besides; the larger number counts.
        required_roles: Roles of which at least one holder must approve.
        veto_roles: Roles whose single denial stops everything.
    """

    members: tuple[MemberPolicy, ...] = ()
    threshold: Literal["byzantine"] | Annotated[int, Field(ge=1)] = "byzantine"
    approvals: ApprovalsPolicy = ApprovalsPolicy()
    required_roles: tuple[NonEmpty, ...] = ()
    veto_roles: tuple[NonEmpty, ...] = ()


class TrustPolicy(Written):
    """Who is trusted for which duty; nobody by default.

    Attributes:
        signers: Keys that sign releases.
        certificate_signers: Certificates that do.
        sigstore_signers: Identities that do.
        validators: Keys of those who validate.
        controllers: Keys of those who judge canaries.
        council: Who votes.
        rollback_approvers: Duties of which one must have signed a rollback before a former
            Production release comes back: ``controllers`` (automatic), ``council`` (by hand).
            Without any, no signature is asked for.
    """

    signers: tuple[KeyPolicy, ...] = ()
    certificate_signers: tuple[CertificateSignerPolicy, ...] = ()
    sigstore_signers: tuple[SigstoreSignerPolicy, ...] = ()
    validators: tuple[KeyPolicy, ...] = ()
    controllers: tuple[KeyPolicy, ...] = ()
    council: CouncilPolicy = CouncilPolicy()
    rollback_approvers: tuple[Literal["controllers", "council"], ...] = ()

    @model_validator(mode="after")
    def _separates_duties(self) -> Self:
        duties = {"signers": self.all_signers}
        duties |= {"validators": self.validators, "controllers": self.controllers}
        for duty, holders in duties.items():
            names = [holder.name for holder in holders]
            if len(set(names)) != len(names):
                raise ValueError(f"{duty}: a name appears twice")
        if has_twins(member.name for member in self.council.members):
            raise ValueError("council.members: a name appears twice")
        return self

    @property
    def all_signers(
        self,
    ) -> tuple[KeyPolicy | CertificateSignerPolicy | SigstoreSignerPolicy, ...]:
        """Everybody who may sign a release, by whatever means."""
        return (*self.signers, *self.certificate_signers, *self.sigstore_signers)
