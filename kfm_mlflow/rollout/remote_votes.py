"""What people and controllers sign, sent to a governed registry. See :class:`RemoteRegistry`."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kfm_mlflow.canonical import parse_json
from kfm_mlflow.care.authority import build_claims
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.rollout.inputs import Regression, Standing
from kfm_mlflow.rollout.remote_ledger import RemoteLedger
from kfm_mlflow.trust.keys import load_private_key, parse_public_key
from kfm_mlflow.trust.model_key import current_key, split_key
from kfm_mlflow.trust.quorum import Choice, Proposal, build_vote_claims
from kfm_mlflow.trust.remote_signing import (
    build_envelope,
    build_signing_payload,
    parse_signing_payload,
)
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from kfm_mlflow.care.authority import Choice as AuthorityChoice
    from kfm_mlflow.care.authority import Scope
    from kfm_mlflow.trust.keys import PublicKey, Signer

APPROVAL_HOLDS = timedelta(days=1)
"""How long a signed rollback can be used; it is made right before the move."""
_SHOWN = 5
_SEE_POLICY = "see trust.council in the policy"


class RemoteVotes(RemoteLedger):
    """Statements that are signed here, or elsewhere, and sent to the registry."""

    def _path(self, name: str, version: int | None = None, tail: str = "") -> str:
        """Return where a model or version is found below the API, in its workspace."""
        own = split_key(name)[1]
        base = f"models/{quote(own, safe='')}"
        base = base if version is None else f"{base}/versions/{version}"
        return _in_workspace(f"{base}{tail}", name)

    def attest(self, name: str, version: int, envelope: bytes) -> str:
        """Send a signed statement about a frozen release."""
        path = self._path(name, version, "/attestations")
        return str(
            self._call("POST", path, data=envelope, headers={"Content-Type": "application/json"})[
                "digest"
            ]
        )

    def send_certificate(self, name: str, certificate: Mapping[str, Any]) -> dict[str, Any]:
        """Send a council's certificate of a checkpoint; the registry counts the votes again.

        Args:
            name: Registered model that the checkpoint is for.
            certificate: ``docs/formats/quorum_certificate.md``.

        Returns:
            ``seq`` of the ledger row, ``digest``, and whether it was ``recorded`` now.
        """
        body = {"model_name": split_key(name)[1], "certificate": dict(certificate)}
        path = _in_workspace("checkpoints/certificates", name)
        kept: dict[str, Any] = self._call("POST", path, json=body)
        return kept

    def send_vote(self, name: str, version: int, envelope: bytes) -> str:
        """Send a vote that somebody signed, and return its digest.

        Raises:
            InputError: It is no JSON, or the registry takes it for no vote on this release.
        """
        try:
            value = parse_json(envelope, where="envelope")
        except EvidenceError as exc:
            raise InputError(str(exc)) from exc
        body = {"model_name": split_key(name)[1], "version": version, "envelope": value}
        return str(self._call("POST", _in_workspace("votes", name), json=body)["digest"])

    def _proposed(self, name: str, version: int, level: str) -> dict[str, Any]:
        found: dict[str, Any] = self._call(
            "GET", self._path(name, version, "/proposal"), params={"to": level}
        )
        return found

    def vote_statement(
        self,
        name: str,
        version: int,
        level: str,
        *,
        voter: str | PublicKey,
        choice: Choice,
        reason: str,
        now: datetime,
        expires_at: datetime,
    ) -> dict[str, Any]:
        """Return the statement that a council member signs to vote on a move as it stands now.

        Args:
            name: Registered model.
            version: Model version.
            level: Level that is asked for.
            voter: The member, by name or by public key.
            choice: What they say.
            reason: Why.
            now: When (aware).
            expires_at: Until when the vote holds (aware).

        Raises:
            InputError: Nobody of that name or key is a member of the council.
        """
        found = self._proposed(name, version, level)
        member = _member(found["members"], voter)
        proposal = Proposal(**found["proposal"])
        claims = build_vote_claims(proposal, member["name"], choice, reason)
        binding = _binding(proposal, found["release_version"], version)
        return build_statement("vote", binding, claims, now, expires_at)

    def prepare_vote(self, name: str, version: int, level: str, **said: Any) -> bytes:
        """Return the bytes that a member signs elsewhere; takes what :meth:`vote_statement` takes.

        Raises:
            InputError: Nobody of that name is a member of the council.
        """
        return build_signing_payload(self.vote_statement(name, version, level, **said))

    def send_signed_vote(self, name: str, version: int, payload: bytes, signature: bytes) -> str:
        """Send a vote that was signed elsewhere, and return its digest.

        Args:
            name: Registered model.
            version: Model version.
            payload: From :meth:`prepare_vote`.
            signature: Over it, by the member whom it names.

        Raises:
            InputError: The payload is none, or the signature is not that member's over it.
        """
        _, statement = parse_signing_payload(payload)
        try:
            claims = statement["predicate"]["claims"]
            voter, level = str(claims["voter"]), str(claims["proposal"]["to_level"])
        except (KeyError, TypeError) as exc:
            raise InputError("is no vote", where="payload") from exc
        member = _member(self._proposed(name, version, level)["members"], voter)
        envelope = build_envelope(payload, signature, parse_public_key(member["public_key"]))
        return self.send_vote(name, version, envelope)

    def cast_vote(self, name: str, version: int, level: str, *, key: Path, **said: Any) -> str:
        """Sign a vote with a member's key and send it; takes what :meth:`vote_statement` takes.

        Raises:
            InputError: The key belongs to no member of the council.
        """
        signer = load_private_key(key)
        statement = self.vote_statement(name, version, level, voter=signer.public_key, **said)
        return self.send_vote(name, version, sign_statement(statement, signer))

    def authorities(self, name: str, version: int) -> dict[str, Any]:
        """Return what the authorities of regions must say of a version, and said of it."""
        found: dict[str, Any] = self._call("GET", self._path(name, version, "/authority"))
        return found

    def standing(self, model_name: str, others: Sequence[int] = ()) -> Standing:
        """Return which versions may no longer be served: at canary, at Production, and others."""
        path = self._path(model_name, tail="/standing")
        found = self._call("GET", path, params={"version": list(others)})
        held = [found[level] for level in ("production", "canary") if found[level] is not None]
        judged = [*held, *found["others"]]
        fallen = [item for item in judged if item["standing"] in {"stale", "vetoed"}]
        return Standing(
            recalls={
                item["version"]: "; ".join(finding["detail"] for finding in item["findings"])
                for item in fallen
            },
            vetoed=frozenset(i["version"] for i in fallen if i["standing"] == "vetoed"),
            fallback=found["fallback"],
            regressions={
                item["version"]: _regression(item)
                for item in held
                if item["standing"] == "regressed"
            },
        )

    def say_as_authority(
        self,
        name: str,
        version: int,
        choice: AuthorityChoice,
        *,
        region: str,
        scope: Scope,
        reason: str,
        signer: Signer,
        now: datetime,
        expires_at: datetime | None,
    ) -> str:
        """Sign what the authority of a region says of a version, and send it.

        Args:
            name: Registered model.
            version: Model version; it need not be frozen yet.
            choice: ``approve`` or ``veto``.
            region: As findings call it.
            scope: What is meant.
            reason: Why; stands in the signed statement, which anybody may be given.
            signer: Holds a key that the region names.
            now: When (aware).
            expires_at: Until when (aware); None for ever.

        Returns:
            The statement's digest.

        Raises:
            InputError: There is no such region, or it names another key.
        """
        found = self.authorities(name, version)
        about = next((item for item in found["regions"] if item["region"] == region), None)
        if about is None:
            known = ", ".join(item["region"] for item in found["regions"][:_SHOWN])
            raise InputError("there is no such region", where=region, remedy=f"for example {known}")
        if signer.public_key.key_id not in about["key_ids"]:
            raise InputError(
                f"is none that region {region} names",
                where="key",
                remedy="the regions file names the keys of each authority",
            )
        claims = build_claims(
            choice,
            region=region,
            region_digest=about["region_digest"],
            regions_digest=found["regions_digest"],
            scope=scope,
            reason=reason,
        )
        binding = Binding(
            found["model_name"],
            found["release_version"],
            found["release_id"],
            found["policy_digest"],
            version,
        )
        statement = build_statement("care-authority", binding, claims, now, expires_at)
        return self.attest(name, version, sign_statement(statement, signer))

    def approve_rollback(
        self,
        name: str,
        *,
        restored: int,
        replaced: int,
        signer: Signer,
        reason: str,
        now: datetime,
    ) -> str:
        """Sign that a former Production version comes back in the place of another, and send it.

        Args:
            name: Registered model.
            restored: The version that comes back.
            replaced: The Production version that goes.
            signer: Whose word it is; the policy says whose counts.
            reason: Why.
            now: When (aware).

        Returns:
            The statement's digest.

        Raises:
            InputError: The version was never frozen, or the policy does not trust the key for it.
        """
        found = self._proposed(name, restored, "production")
        proposal = Proposal(**found["proposal"])
        binding = _binding(proposal, found["release_version"], restored)
        claims = {
            "restored_version": restored,
            "replaced_version": replaced,
            "epoch": proposal.epoch,
            "reason": reason,
        }
        statement = build_statement("rollback", binding, claims, now, now + APPROVAL_HOLDS)
        return self.attest(name, restored, sign_statement(statement, signer))


def _regression(item: Mapping[str, Any]) -> Regression:
    """Read what the registry says of a version that regressed."""
    gates = {finding["gate"] for finding in item["findings"]}
    reason = "; ".join(finding["detail"] for finding in item["findings"])
    return Regression("xai" if gates == {"xai"} else "validation", reason, item["statement"])


def _in_workspace(path: str, name: str) -> str:
    """Return a path of the API with the workspace that a model is in."""
    workspace = split_key(current_key(name, os.environ))[0]
    return f"{path}?workspace={quote(workspace, safe='')}" if workspace else path


def _binding(proposal: Proposal, release_version: str, version: int) -> Binding:
    """Return what a statement on a proposal is about, as the registry names it."""
    return Binding(
        proposal.model_name, release_version, proposal.release_id, proposal.policy_digest, version
    )


def _member(members: list[dict[str, Any]], who: str | PublicKey) -> dict[str, Any]:
    """Return a council member by name or by key.

    Raises:
        InputError: There is none.
    """
    for member in members:
        if isinstance(who, str):
            if member["name"] == who:
                return member
        elif parse_public_key(member["public_key"]).key_id == who.key_id:
            return member
    if isinstance(who, str):
        raise InputError("is no member of the council", where=who, remedy=_SEE_POLICY)
    raise InputError("belongs to no member of the council", where="key", remedy=_SEE_POLICY)
