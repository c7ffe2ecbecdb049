"""Everything that gates may ask about, gathered once; the only part of this room that reads.

Evidence holds values: digests, parsed documents, what signatures turned out to be. Whether that
is good enough is for the gates to say.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kfm_mlflow.canonical import digest_bytes
from kfm_mlflow.errors import EvidenceError, ManifestError
from kfm_mlflow.gates.content import ContentMemory, ReleaseContent
from kfm_mlflow.release.manifest import DigestMemory, build_manifest
from kfm_mlflow.trust.attestation import verify_envelope
from kfm_mlflow.trust.keys import TrustedKey, parse_public_key
from kfm_mlflow.trust.signing import TrustedSigner, verify_release
from kfm_mlflow.trust.signing_certificate import TrustedCertificate
from kfm_mlflow.trust.signing_key import FOREIGN_KEY
from kfm_mlflow.trust.signing_sigstore import TrustedIdentity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from kfm_mlflow.care.regions import RegionSet
    from kfm_mlflow.care.screen import Screening, Subject
    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.policy.trust import KeyPolicy, TrustPolicy
    from kfm_mlflow.release.bundle import Bundle
    from kfm_mlflow.release.manifest import Manifest
    from kfm_mlflow.trust.attestation import AttestationReport
    from kfm_mlflow.trust.signing import SignatureReport

DUTY_OF_KIND = {
    "validation": "validators",
    "canary-verdict": "controllers",
    "rollback": "rollback_approvers",
    "vote": "council",
    "slsa-provenance": "signers",
    "care-screening": "signers",
    "stac-item": "signers",
    "care-authority": "authorities",
}
_AUTHORITIES = "authorities"
"""The one duty whose keys the regions file names, and not the policy."""


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
        regions: Those regions; None when there was nothing to screen.
        target_problems: Why the rollback target can not be gone back to; empty when it can.
        predecessor: What the files of the release hold that is at Production, which is the
            rollback target; None when there is none, or it cannot be read.
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
    regions: RegionSet | None = None
    predecessor: ReleaseContent | None = None

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
    if duty == "rollback_approvers":
        return tuple(key for name in trust.rollback_approvers for key in keys_of_duty(trust, name))
    return trusted_keys(trust.council.members if duty == "council" else getattr(trust, duty))


def region_keys(regions: RegionSet) -> dict[str, frozenset[str]]:
    """Return region id -> ids of the keys that the region names for its authority."""
    return {
        region.id: frozenset(parse_public_key(pem).key_id for pem in region.authority_keys)
        for region in regions.regions
    }


def authority_keys(regions: RegionSet | None) -> tuple[TrustedKey, ...]:
    """Return the keys of all authorities, each called by its key id: one may speak for several."""
    pems = (pem for region in (regions.regions if regions else ()) for pem in region.authority_keys)
    found = {parse_public_key(pem).key_id: pem for pem in pems}
    return tuple(TrustedKey(name=key_id, public_key_pem=pem) for key_id, pem in found.items())


def policy_regions(policy: Policy) -> RegionSet:
    """Return the regions that a policy names.

    Raises:
        DataError: Their file is missing or wrong, or has changed since the policy was loaded.
    """
    from kfm_mlflow.care.regions import load_regions

    return load_regions(policy.regions_path, digest=policy.regions_digest)


def read_attestation(
    envelope: bytes, trust: TrustPolicy, now: datetime, *, regions: RegionSet | None = None
) -> AttestationReport:
    """Verify an envelope with the keys of the duty that its kind belongs to.

    A statement that is signed by a trusted key of another duty does not count: a validator can
    not vote, and a council member can not validate.

    Args:
        envelope: DSSE envelope.
        trust: The policy's keys.
        now: When (aware).
        regions: Regions whose keys speak for their authorities; without, nobody does.
    """
    return _read_attestation(envelope, _keys_by_duty(trust, regions), now)


def _keys_by_duty(
    trust: TrustPolicy, regions: RegionSet | None
) -> dict[str, tuple[TrustedKey, ...]]:
    duties = sorted({*DUTY_OF_KIND.values()} - {_AUTHORITIES})
    return {
        **{duty: keys_of_duty(trust, duty) for duty in duties},
        _AUTHORITIES: authority_keys(regions),
    }


def _read_attestation(
    envelope: bytes, keys_by_duty: Mapping[str, tuple[TrustedKey, ...]], now: datetime
) -> AttestationReport:
    refused = verify_envelope(envelope, (), now)
    for duty, keys in keys_by_duty.items():
        report = verify_envelope(envelope, keys, now)
        if report.kind is not None and DUTY_OF_KIND.get(report.kind) == duty:
            return report
        if report.kind is not None:
            reason = f"is a {report.kind} attestation, which {duty} may not make"
            refused = replace(report, ok=False, problems=(reason, *report.problems))
        elif refused.kind is None and report.problems != (FOREIGN_KEY,):
            refused = report
    return refused


def care_subject(content: ReleaseContent, policy: Policy) -> Subject:
    """Return what the CARE checks ask about: the release, under the policy's own regions.

    Made once per release and policy: it follows from the bytes of both.
    """

    def build() -> tuple[Subject]:
        from kfm_mlflow.care.screen import OutputGrid, build_subject

        care = content.mapping("care.json").get("care")
        block = care if isinstance(care, dict) else {}
        outputs = OutputGrid.from_mapping(block.get("output_grid"))
        return (build_subject(block, outputs, content.texts, regions, policy.gates.care),)

    # Read at every move: a file that changed under the policy is refused.
    regions = policy_regions(policy)
    return content.once(("care subject", f"{regions.digest} {policy.digest}"), build)[0]


def _screen(content: ReleaseContent, policy: Policy, now: datetime) -> Screening:
    from kfm_mlflow.care.screen import assemble, screen_frozen, screen_now

    subject = care_subject(content, policy)
    key = ("care checks", f"{subject.regions.digest} {policy.digest}")
    frozen = content.once(key, lambda: screen_frozen(subject))
    return assemble(subject, (*frozen, *screen_now(subject, now)))


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
            target: What is known of the rollback target: ``release_id``, ``problems`` and
                ``content``.
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
        problems, predecessor = known.get("problems", ()), known.get("content")
        regions = policy_regions(policy) if manifest is not None else None
        keys = _keys_by_duty(policy.trust, regions)
        return Evidence(
            manifest=manifest,
            manifest_problem=problem,
            content=content,
            signature=self._signature(bundle, manifest, policy, now),
            attestations=tuple(_read_attestation(unique[key], keys, now) for key in ordered),
            envelope_digests=tuple(ordered),
            screening=_screen(content, policy, now) if manifest is not None else None,
            target_problems=tuple(str(item) for item in problems)
            if isinstance(problems, tuple)
            else (),
            target_release_id=str(known.get("release_id", "")),
            recorded_release_id=recorded_release_id,
            regions=regions,
            predecessor=predecessor if isinstance(predecessor, ReleaseContent) else None,
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
