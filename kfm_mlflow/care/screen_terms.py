"""Check of labels against licence and scope: what a community reserves, nobody else gives away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kfm_mlflow.care.labels import UNKNOWN_TYPE, effect_of, parse_label
from kfm_mlflow.care.licences import read_licence
from kfm_mlflow.care.screening import CareFinding, Status
from kfm_mlflow.errors import DataError
from kfm_mlflow.release.bundle import ITEM_PATHS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kfm_mlflow.care.regions import Region
    from kfm_mlflow.care.screen_subject import Subject

_NON_COMMERCIAL = frozenset({"non_commercial"})
_ASK = frozenset(
    {"clan", "consent_non_verified", "culturally_sensitive", "family", "men_general",
     "non_verified", "women_general"}
)  # fmt: skip
_RESEARCH = "research"
_COMMERCIAL_USE = ("commercial", "advertis", "marketing", "insurance", "for sale", "trading")


def licences_of(documents: Mapping[str, Any]) -> dict[str, Any]:
    """Return file and JSON path -> licence of everything in a release that names the release's."""
    found = {}
    for path in ITEM_PATHS:
        item = documents.get(path)
        if isinstance(item, dict) and isinstance(item.get("properties"), dict):
            found[f"{path}: $.properties.license"] = item["properties"].get("license")
    for path in ("model-card.json", "model_metadata.json"):
        document = documents.get(path)
        for part, value in document.items() if isinstance(document, dict) else ():
            if part == "license":
                found[f"{path}: $.license"] = value
            elif isinstance(value, dict) and "license" in value:
                found[f"{path}: $.{part}.license"] = value["license"]
    return {where: licence for where, licence in found.items() if licence is not None}


def _uses(documents: Mapping[str, Any]) -> list[str]:
    card = documents.get("model-card.json")
    said = card.get("fair_care") if isinstance(card, dict) else None
    uses = said.get("intended_uses") if isinstance(said, dict) else None
    return [use.lower() for use in uses if isinstance(use, str)] if isinstance(uses, list) else []


def _kinds(subject: Subject) -> Iterator[tuple[str, Region | None]]:
    """Yield every label type that binds the release, from touched regions and from its block."""
    for region in subject.touched:
        for label in region.label_records:
            yield label.label_type, region
    carried = subject.care.get("labels")
    own = {name for region in subject.touched for name in region.labels}
    for value in carried if isinstance(carried, list) else []:
        if isinstance(value, str) and value in own:
            continue
        try:
            yield parse_label(value, where="care.json: $.care.labels").label_type, None
        except DataError:
            yield UNKNOWN_TYPE, None


def licence_scope(subject: Subject) -> Iterator[CareFinding]:
    """Ask whether licence, scope and intended use keep what the labels reserve.

    A label type that is unknown is treated as restricted.
    """
    licences, uses = licences_of(subject.documents), _uses(subject.documents)
    for kind, region in dict.fromkeys(
        (kind, region.id if region else "") for kind, region in _kinds(subject)
    ):
        called = subject.regions.shown(region) if region else ""

        def found(status: Status, what: str, where: str = "", called: str = called) -> CareFinding:
            return CareFinding(status, what, "C-F03", where, region=called)

        if effect_of(kind).is_withheld:
            what = f"label type {kind} keeps this from every public scope"
            yield found(Status.CONFLICT, what, "care.json: $.care.scope")
        elif kind in _ASK:
            consented = any(
                r.id == region and r.consent.status == "granted" for r in subject.touched
            )
            if not consented:
                what = f"label type {kind} needs its community's word for this scope"
                yield found(Status.NEEDS_AUTHORITY, what, "care.json: $.care.scope")
        elif kind in _NON_COMMERCIAL:
            yield from _commercial(licences, uses, found)
        elif kind == _RESEARCH and uses and not any("research" in use for use in uses):
            what = "label type research, and no intended use says research"
            yield found(Status.NEEDS_AUTHORITY, what, "model-card.json: $.fair_care.intended_uses")


def _commercial(licences: Mapping[str, Any], uses: list[str], found: Any) -> Iterator[CareFinding]:
    if not licences:
        yield found(Status.NEEDS_AUTHORITY, "label type non_commercial, and no licence is named")
    for where, licence in licences.items():
        allowed = read_licence(licence).commercial
        if allowed is None:
            what = "label type non_commercial, and what the licence allows is unknown"
            yield found(Status.NEEDS_AUTHORITY, what, where)
        elif allowed:
            what = "label type non_commercial, and the licence allows commercial use"
            yield found(Status.CONFLICT, what, where)
    if any(word in use for use in uses for word in _COMMERCIAL_USE if "non-comm" not in use):
        what = "label type non_commercial, and an intended use is commercial"
        yield found(Status.CONFLICT, what, "model-card.json: $.fair_care.intended_uses")
