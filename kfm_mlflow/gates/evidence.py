"""Everything that gates may ask about, gathered once; the only part of this room that reads.

Evidence holds values: digests, parsed documents, what signatures turned out to be. Whether that
is good enough is for the gates to say.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kfm_mlflow.canonical import digest_bytes
from kfm_mlflow.errors import EvidenceError, ManifestError
from kfm_mlflow.gates.content import ContentMemory, ReleaseContent
from kfm_mlflow.release.manifest import DigestMemory, build_manifest
from kfm_mlflow.trust.attestation import verify_envelope
from kfm_mlflow.trust.keys import TrustedKey
from kfm_mlflow.trust.signing import TrustedSigner, verify_release
from kfm_mlflow.trust.signing_certificate import TrustedCertificate
from kfm_mlflow.trust.signing_key import FOREIGN_KEY
from kfm_mlflow.trust.signing_sigstore import TrustedIdentity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from kfm_mlflow.care.screen import Screening
    from kfm_mlflow.policy.models import KeyPolicy, Policy, TrustPolicy
    from kfm_mlflow.release.bundle import Bundle
    from kfm_mlflow.release.manifest import Manifest
    from kfm_mlflow.trust.attestation import AttestationReport
    from kfm_mlflow.trust.signing import SignatureReport

DUTY_OF_KIND = {
    "validation": "validators",
    "canary-verdict": "controllers",
    "rollback": "controllers",
    "vote": "council",
    "slsa-provenance": "signers",
    "care-screening": "signers",
    "stac-item": "signers",
}


@dataclass(frozen=True)
class Evidence:
    """What is known about one release.

    Attributes:
        manifest: Every file by digest; None when the directory is no release.
        manifest_problem: Why there is no manifest.
        content: What the files say.
        signature: Outcome of the directory's signature; None when there is none.
        attestations: Outcome of every envelope, in a fixed order.
        envelope_digests: ``sha256:<hex>`` of every envelope, in the same order.
        screening: CARE screening, computed here and now with the policy's own regions.
        target_problems: Why the rollback target can not be gone back to; empty when it can.
    """

    manifest: Manifest | None
    manifest_problem: str
    content: ReleaseContent
    signature: SignatureReport | None
    attestations: tuple[AttestationReport, ...]
    envelope_digests: tuple[str, ...]
    screening: Screening | None
    target_problems: tuple[str, ...] = ()
    target_release_id: str = ""
    recorded_release_id: str = ""

    @property
    def release_id(self) -> str:
        """Release id of the bytes found; empty when they are no release."""
        return self.manifest.release_id if self.manifest else ""

    @property
    def release_version(self) -> str:
        """Human version that the release gives itself; empty when it does not say."""
        return str(self.content.mapping("model_metadata.json").get("release_version", ""))

    def of_kind(self, kind: str) -> tuple[AttestationReport, ...]:
        """Return the attestations of a kind, verified or not."""
        return tuple(report for report in self.attestations if report.kind == kind)


def trusted_keys(keys: Iterable[KeyPolicy]) -> tuple[TrustedKey, ...]:
    """Return a policy's keys as the trust room takes them."""
    return tuple(
        TrustedKey(
            name=key.name,
            public_key_pem=key.public_key or "",
            roles=tuple(getattr(key, "roles", ())),
            not_before=key.not_before,
            not_after=key.not_after,
            revoked_at=key.revoked_at,
        )
        for key in keys
    )


def trusted_signers(trust: TrustPolicy) -> tuple[TrustedSigner, ...]:
    """Return everybody whose signature over a release counts, as the trust room takes them."""
    certificates = (
        TrustedCertificate(
            name=one.name,
            roots_pem=one.roots or "",
            subject=one.subject,
            alternative_name=one.alternative_name,
            not_before=one.not_before,
            not_after=one.not_after,
            revoked_at=one.revoked_at,
            revoked_certificates=one.revoked_certificates,
        )
        for one in trust.certificate_signers
    )
    identities = (
        TrustedIdentity(
            name=one.name,
            identity=one.identity,
            issuer=one.issuer,
            trust_config=one.trust_config or "",
            not_before=one.not_before,
            not_after=one.not_after,
            revoked_at=one.revoked_at,
        )
        for one in trust.sigstore_signers
    )
    return (*trusted_keys(trust.signers), *certificates, *identities)


def keys_of_duty(trust: TrustPolicy, duty: str) -> tuple[TrustedKey, ...]:
    """Return the keys that a policy trusts for one duty."""
    return trusted_keys(trust.council.members if duty == "council" else getattr(trust, duty))


def read_attestation(envelope: bytes, trust: TrustPolicy, now: datetime) -> AttestationReport:
    """Verify an envelope with the keys of the duty that its kind belongs to.

    A statement that is signed by a trusted key of another duty does not count: a validator can
    not vote, and a council member can not validate.
    """
    refused = verify_envelope(envelope, (), now)
    for duty in sorted(set(DUTY_OF_KIND.values())):
        report = verify_envelope(envelope, keys_of_duty(trust, duty), now)
        if report.kind is not None and DUTY_OF_KIND.get(report.kind) == duty:
            return report
        if report.kind is not None:
            reason = f"is a {report.kind} attestation, which {duty} may not make"
            refused = replace(report, ok=False, problems=(reason, *report.problems))
        elif refused.kind is None and report.problems != (FOREIGN_KEY,):
            refused = report
    return refused


def _screen(content: ReleaseContent, policy: Policy, now: datetime) -> Screening:
    from kfm_mlflow.care.regions import load_regions
    from kfm_mlflow.care.screen import OutputGrid, screen_release

    regions = load_regions(
        Path(policy.regions_file) if policy.regions_file else None, digest=policy.regions_digest
    )
    care = content.mapping("care.json").get("care")
    block = care if isinstance(care, dict) else {}
    return screen_release(
        block,
        outputs=OutputGrid.from_mapping(block.get("output_grid")),
        texts=content.texts,
        regions=regions,
        now=now,
    )


@dataclass(frozen=True)
class EvidenceReader:
    """Reads evidence, remembering what follows from bytes alone."""

    memory: ContentMemory = field(default_factory=ContentMemory)
    digests: DigestMemory = field(default_factory=DigestMemory)

    def read(
        self,
        bundle: Bundle,
        policy: Policy,
        *,
        now: datetime,
        envelopes: Iterable[bytes] = (),
        target: Mapping[str, object] | None = None,
        recorded_release_id: str = "",
    ) -> Evidence:
        """Gather the evidence of one release.

        Args:
            bundle: The release and what lies beside it.
            policy: Whose keys and regions count.
            now: Instant at which keys and attestations must be valid.
            envelopes: Attestations that are kept elsewhere (votes, verdicts).
            target: What is known of the rollback target: ``release_id`` and ``problems``.
            recorded_release_id: Release id that an earlier decision recorded for this version.
        """
        manifest: Manifest | None = None
        problem = ""
        content = ReleaseContent({}, {})
        try:
            manifest = build_manifest(bundle.release_dir, self.digests)
            content = self.memory.read(bundle.release_dir, manifest)
        except ManifestError as exc:
            problem = str(exc)
        beside: tuple[bytes, ...] = ()
        try:
            beside = tuple(data for _, data in bundle.read_envelopes())
        except EvidenceError as exc:
            problem = problem or str(exc)
        unique = {digest_bytes(data): data for data in (*beside, *envelopes)}
        ordered = sorted(unique)
        known = target or {}
        problems = known.get("problems", ())
        return Evidence(
            manifest=manifest,
            manifest_problem=problem,
            content=content,
            signature=self._signature(bundle, manifest, policy, now),
            attestations=tuple(read_attestation(unique[key], policy.trust, now) for key in ordered),
            envelope_digests=tuple(ordered),
            screening=_screen(content, policy, now) if manifest is not None else None,
            target_problems=tuple(str(item) for item in problems)
            if isinstance(problems, tuple)
            else (),
            target_release_id=str(known.get("release_id", "")),
            recorded_release_id=recorded_release_id,
        )

    @staticmethod
    def _signature(
        bundle: Bundle, manifest: Manifest | None, policy: Policy, now: datetime
    ) -> SignatureReport | None:
        if manifest is None or not bundle.signature_path.is_file():
            return None
        return verify_release(
            bundle.release_dir,
            bundle.signature_path,
            trusted_signers(policy.trust),
            now,
            digests=manifest.digests,
        )
