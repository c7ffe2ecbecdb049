"""What the authority of a region says of a release, and whether it holds: pure, no keys, no clock.

Rules kept here:

1. Who holds a key that a region names may speak for it. Whether a signature is theirs is found out
   elsewhere; here a statement comes with the ids of the keys that signed it.
2. An approval holds for a region as it was when the authority looked: ceiling, labels, season and
   outline are in :func:`region_digest`. A veto holds whatever became of the region.
3. Of all that an authority said and that holds now, the last counts, and of one instant the veto.
   An approval is taken back by a later veto, a veto by a later approval.
4. What is restricted by scope and can not be told of a release is no approval of it, and is a veto.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kfm_mlflow.canonical import digest_json
from kfm_mlflow.errors import DataError, EvidenceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from kfm_mlflow.care.regions import Region, RegionSet

Choice = Literal["approve", "veto"]
Covers = Literal["release", "model"]
CHOICES: tuple[Choice, ...] = ("approve", "veto")
COVERS: tuple[Covers, ...] = ("release", "model")
MAX_REASON = 1000
HIDDEN = "#"
"""How a region's id begins in public when it holds a restricted name: what follows is its hash."""
_FIELDS = ("name", "contact", "keys")


@dataclass(frozen=True)
class Authority:
    """Who decides about a region.

    Attributes:
        name: What to call them; None when nobody is named.
        contact: How to reach them; for people who may see the file.
        keys: PEM texts of the EC P-256 public keys that speak for them.
    """

    name: str | None = None
    contact: str | None = None
    keys: tuple[str, ...] = ()


def parse_authority(value: Any, *, where: str) -> Authority:
    """Read ``authority`` of a regions file: a name, or ``{"name", "contact", "keys": [PEM, …]}``.

    Raises:
        DataError: Something else, or a key that is no EC P-256 public key.
    """
    if value is None:
        return Authority()
    if isinstance(value, str) and value.strip():
        return Authority(value.strip())
    remedy = 'write a name, or {"name": …, "contact": …, "keys": [PEM, …]}'
    if not isinstance(value, dict):
        raise DataError("is neither text nor an object", where=where, remedy=remedy)
    unknown = sorted(set(value) - set(_FIELDS))
    if unknown:
        raise DataError(f"unknown field {unknown[0]!r}", where=where, remedy=remedy)
    name, contact, keys = (value.get(field) for field in _FIELDS)
    if not isinstance(name, str) or not name.strip():
        raise DataError("has no name", where=f"{where}.name", remedy=remedy)
    if contact is not None and not isinstance(contact, str):
        raise DataError("is not text", where=f"{where}.contact")
    if keys is not None and not isinstance(keys, list):
        raise DataError("is not a list", where=f"{where}.keys", remedy=remedy)
    for row, pem in enumerate(keys or ()):
        _require_public_key(pem, where=f"{where}.keys.{row}")
    return Authority(name.strip(), contact, tuple(keys or ()))


def _require_public_key(pem: Any, *, where: str) -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    problem = DataError(
        "is no EC P-256 public key in PEM", where=where, remedy="`kfm keys new` makes one: NAME.pub"
    )
    try:
        key = load_pem_public_key(pem.encode("ascii"))
    except Exception as exc:  # the text may be a private key: nothing of it is shown
        raise problem from exc
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise problem


def region_digest(region: Region) -> str:
    """Return ``sha256:<hex>`` of what an authority approves a release under.

    Names, consent and keys are left out: the first two have checks of their own, and the last say
    who speaks, not about what.
    """
    season = region.seasonality
    return digest_json(
        {
            "id": region.id,
            "ceiling": region.ceiling,
            "k_min": region.k_min,
            "labels": [[item.name, item.label_type] for item in region.label_records],
            "sensitivity": region.sensitivity,
            "seasonality": season and [list(season.starts), list(season.ends), season.ceiling],
            "embargo_until": region.embargo_until and region.embargo_until.isoformat(),
            "geometry": digest_json(region.geometry),
        }
    )


@dataclass(frozen=True)
class Scope:
    """What a statement covers.

    Attributes:
        covers: ``release``: these bytes; ``model``: every release of the registered model.
        modes: Values of ``care.masking`` that are meant; none means all.
        uses: Values of ``care.scope`` that are meant; none means all.
    """

    covers: Covers = "release"
    modes: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()

    def holds_for(self, care: Mapping[str, Any], *, unknown: bool) -> bool:
        """Return whether a release with this ``care`` block is meant.

        Args:
            care: The block, as somebody wrote it.
            unknown: The answer when the block does not say what is asked.
        """
        for wanted, said in ((self.modes, care.get("masking")), (self.uses, care.get("scope"))):
            if not wanted:
                continue
            if not isinstance(said, str):
                return unknown
            if said.strip() not in wanted:
                return False
        return True

    def __str__(self) -> str:
        """Return it in words."""
        parts = ["this release" if self.covers == "release" else "every release of the model"]
        parts += [f"masking {', '.join(self.modes)}"] if self.modes else []
        parts += [f"use {', '.join(self.uses)}"] if self.uses else []
        return "; ".join(parts)


@dataclass(frozen=True)
class Statement:
    """What somebody who may speak for a region signed about a release.

    Attributes:
        choice: ``approve`` or ``veto``.
        region: Id of the region; one that holds a restricted name is a keyed hash.
        region_digest: Of the region as the signer saw it.
        scope: What is meant.
        reason: Why, in their words.
        key_ids: Ids of the trusted keys that signed.
        issued_at: When, by its own word (aware).
        expires_at: Until when (aware, exclusive); None for ever.
        digest: Of the envelope.
        fault: What is wrong with it by itself, such as that it expired; empty when nothing is.
    """

    choice: Choice
    region: str
    region_digest: str
    scope: Scope
    reason: str
    key_ids: frozenset[str]
    issued_at: datetime
    expires_at: datetime | None = None
    digest: str = ""
    fault: str = ""


def build_claims(
    choice: Choice,
    *,
    region: str,
    region_digest: str,
    regions_digest: str,
    scope: Scope,
    reason: str,
) -> dict[str, Any]:
    """Return what an authority signs; nothing of it names what the region's id hides."""
    return {
        "choice": choice,
        "region": region,
        "region_digest": region_digest,
        "regions_digest": regions_digest,
        "scope": {"covers": scope.covers, "modes": list(scope.modes), "uses": list(scope.uses)},
        "reason": reason,
    }


def parse_claims(claims: Mapping[str, Any]) -> tuple[Choice, str, str, Scope, str]:
    """Return choice, region, region digest, scope and reason of :func:`build_claims`.

    Raises:
        EvidenceError: They are something else.
    """
    where = "care-authority"
    choice, region, digest, reason = (
        claims.get(name) for name in ("choice", "region", "region_digest", "reason")
    )
    if choice not in CHOICES:
        raise EvidenceError("is neither approval nor veto", where=where)
    if not isinstance(region, str) or not region or not isinstance(digest, str):
        raise EvidenceError("names no region", where=where)
    if not isinstance(reason, str) or len(reason) > MAX_REASON:
        raise EvidenceError("gives no reason of a fit length", where=where)
    scope = claims.get("scope")
    if not isinstance(scope, dict) or set(scope) != {"covers", "modes", "uses"}:
        raise EvidenceError("has no scope", where=where)
    lists = [scope["modes"], scope["uses"]]
    if scope["covers"] not in COVERS or not all(
        isinstance(items, list) and all(isinstance(item, str) for item in items) for items in lists
    ):
        raise EvidenceError("has a malformed scope", where=where)
    said = Scope(scope["covers"], tuple(lists[0]), tuple(lists[1]))
    return choice, region, digest, said, reason


@dataclass(frozen=True)
class Ignored:
    """A statement that does not count, and why.

    Attributes:
        code: ``EXPIRED``, ``OUT_OF_SCOPE``, ``FOREIGN_KEY``, ``REGION_UNKNOWN``,
            ``REGION_CHANGED`` or ``INVALID``.
        why: The same for people.
    """

    statement: Statement
    code: str
    why: str


@dataclass(frozen=True)
class Ruling:
    """What the authorities of all regions say of one release now.

    Attributes:
        approved: Region, as findings call it -> the approval that counts.
        vetoed: The same -> the veto that counts.
        ignored: What does not count.
    """

    approved: Mapping[str, Statement]
    vetoed: Mapping[str, Statement]
    ignored: tuple[Ignored, ...] = ()


def rule_on(
    statements: Iterable[Statement],
    regions: RegionSet,
    keys: Mapping[str, frozenset[str]],
    care: Mapping[str, Any],
) -> Ruling:
    """Weigh what authorities said of a release.

    Args:
        statements: All that is bound to the release or its model, and signed by some region's key.
        regions: The regions in force.
        keys: Region id -> ids of the keys that it names.
        care: The release's block.
    """
    known = {regions.shown(region.id): region for region in regions.regions}
    counted: dict[str, list[Statement]] = {}
    ignored: list[Ignored] = []
    for said in statements:
        region = known.get(said.region)
        problem = _problem(said, region, keys, care)
        if problem is not None:
            ignored.append(Ignored(said, *problem))
        else:
            counted.setdefault(said.region, []).append(said)
    last = {name: max(found, key=_weight) for name, found in counted.items()}
    return Ruling(
        approved={name: said for name, said in last.items() if said.choice == "approve"},
        vetoed={name: said for name, said in last.items() if said.choice == "veto"},
        ignored=tuple(ignored),
    )


def _weight(said: Statement) -> tuple[datetime, bool, str]:
    return said.issued_at, said.choice == "veto", said.digest


def _problem(
    said: Statement,
    region: Region | None,
    keys: Mapping[str, frozenset[str]],
    care: Mapping[str, Any],
) -> tuple[str, str] | None:
    """Return code and reason of why a statement does not count; None when it does."""
    vetoes = said.choice == "veto"
    if said.fault:
        expired = said.fault.startswith("expired")
        return ("EXPIRED" if expired else "INVALID"), said.fault
    if region is None and not (vetoes and said.region.startswith(HIDDEN)):
        # A hash follows from the whole file: when that changes, a veto over it still holds, by its
        # key, which some region names.
        return "REGION_UNKNOWN", "names a region that there is not"
    if region is not None and not said.key_ids & keys.get(region.id, frozenset()):
        return "FOREIGN_KEY", "is signed by no key that the region names"
    if not said.scope.holds_for(care, unknown=vetoes):
        return "OUT_OF_SCOPE", f"covers {said.scope}"
    if region is not None and not vetoes and said.region_digest != region_digest(region):
        return "REGION_CHANGED", "was given before the region's rules changed"
    return None


def needs_of(
    findings: Iterable[tuple[str, str, str]], approved: Sequence[str] | Mapping[str, Any]
) -> dict[str, list[str]]:
    """Return region -> what of it needs its authority and has no approval, in order.

    Args:
        findings: (region, check, rule code) of every finding that needs an authority.
        approved: Regions whose authority approves.
    """
    needs: dict[str, list[str]] = {}
    for region, check, rule in findings:
        if region in approved:
            continue
        word = f"{check} ({rule})" if rule else check
        found = needs.setdefault(region, [])
        if word not in found:
            found.append(word)
    return needs
