"""Checks of the CARE block: is it there, what does it promise, whose consent and labels hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfm_mlflow.care.cells import cell_side_km
from kfm_mlflow.care.labels import LABEL_TYPES, UNKNOWN_TYPE, effect_of
from kfm_mlflow.care.modes import is_known_mode, mode_resolution
from kfm_mlflow.care.screen_subject import Subject, is_resolution
from kfm_mlflow.care.screening import CareFinding, Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

PUBLIC_SCOPES = ("public-generalized", "public-stream")
GENERALISED_SCOPE = "public-generalized"
_LABELS = frozenset(
    f"label type {kind}" for kind in (*LABEL_TYPES, UNKNOWN_TYPE) if effect_of(kind).is_withheld
)


def care_block(subject: Subject) -> Iterator[CareFinding]:
    """Ask whether masking, scope and notes are there and well formed."""
    care = subject.care
    if not care:
        yield CareFinding(Status.CONFLICT, "CARE block missing", "C-F01", "care.json: $.care")
        return
    for name in ("masking", "scope"):
        if not isinstance(care.get(name), str) or not care[name].strip():
            yield CareFinding(
                Status.CONFLICT, f"{name} missing", "C-F01", f"care.json: $.care.{name}"
            )
    notes = care.get("notes")
    if (
        not isinstance(notes, list)
        or not notes
        or not all(isinstance(n, str) and n.strip() for n in notes)
    ):
        yield CareFinding(Status.CONFLICT, "notes missing", "C-F01", "care.json: $.care.notes")
    if subject.scope and subject.scope not in PUBLIC_SCOPES:
        yield CareFinding(
            Status.NEEDS_AUTHORITY,
            "scope is none that the standards name",
            "C-F03",
            "care.json: $.care.scope",
        )


def masking(subject: Subject) -> Iterator[CareFinding]:
    """Ask whether the mode is known and no finer than any region that is touched."""
    mode = subject.care.get("masking")
    where = "care.json: $.care.masking"
    if not isinstance(mode, str) or not is_known_mode(mode):
        yield CareFinding(
            Status.NEEDS_AUTHORITY, "masking mode is unknown, so taken for none", "C-F03", where
        )
        return
    resolution = mode_resolution(mode)
    for region in subject.touched:
        if resolution is None or resolution > region.ceiling:
            yield CareFinding(
                Status.CONFLICT,
                "mode masks less than the region asks for",
                "S-F01",
                where,
                "nothing" if resolution is None else f"r{resolution}",
                f"r{region.ceiling}",
                "H3 resolution",
                subject.called(region),
            )


def declared_resolution(subject: Subject) -> Iterator[CareFinding]:
    """Ask whether ``h3_max_resolution`` holds the ceilings and agrees with the mode."""
    declared = subject.care.get("h3_max_resolution")
    where = "care.json: $.care.h3_max_resolution"
    if declared is None:
        return
    if not is_resolution(declared):
        yield CareFinding(
            Status.CONFLICT, "is not a whole number from 0 to 15", "S-F02", where, limit="0 to 15"
        )
        return
    for region in subject.touched:
        if declared > region.ceiling:
            yield CareFinding(
                Status.CONFLICT,
                "declares more detail than the region allows",
                "S-F01",
                where,
                f"r{declared}",
                f"r{region.ceiling}",
                "H3 resolution",
                subject.called(region),
            )
    mode = subject.care.get("masking")
    promised = mode_resolution(mode) if isinstance(mode, str) else None
    if promised is not None and declared > promised:
        yield CareFinding(
            Status.CONFLICT,
            "declares more detail than its masking mode promises",
            "S-F01",
            where,
            f"r{declared}",
            f"r{promised}",
            "H3 resolution",
        )


def output_grid(subject: Subject) -> Iterator[CareFinding]:
    """Ask whether the published grid is no finer than the regions that it overlaps."""
    grid = subject.outputs
    where = "care.json: $.care.output_grid"
    if grid is None:
        yield CareFinding(
            Status.NEEDS_AUTHORITY,
            "published grid is unknown, so taken for finer than any ceiling",
            "S-F02",
            where,
        )
        return
    for region in subject.touched:
        least_km = cell_side_km(region.ceiling)
        if grid.finest_km < least_km:
            yield CareFinding(
                Status.CONFLICT,
                f"published cells are finer than ceiling r{region.ceiling}",
                "S-F01",
                where,
                f"{grid.finest_km:.2f}",
                f"{least_km:.2f}",
                "km",
                subject.called(region),
            )


def labels(subject: Subject) -> Iterator[CareFinding]:
    """Ask whether the labels of the regions are carried on, verbatim."""
    carried = subject.care.get("labels")
    named = (
        item.get("name", item.get("label_type")) if isinstance(item, dict) else item
        for item in (carried if isinstance(carried, list) else [])
    )
    names = {name for name in named if isinstance(name, str)}
    for region in subject.touched:
        for label in region.labels:
            if label not in names:
                yield CareFinding(
                    Status.CONFLICT,
                    f"label {subject.regions.shown(label)!r} is not carried on",
                    "C-F03",
                    "care.json: $.care.labels",
                    region=subject.called(region),
                )


def consent(subject: Subject, now: datetime) -> Iterator[CareFinding]:
    """Ask whether anything that depends on consent goes without it, refused or expired.

    What keeps to the ceiling and the generalised scope needs none, so ``unknown`` is then no
    finding. A refusal or withdrawal always holds. Depends on the instant: never remembered.
    """
    for region in subject.touched:
        given, name = region.consent, subject.called(region)

        def found(
            status: Status, what: str, rule: str = "C-F02", region_name: str = name
        ) -> CareFinding:
            return CareFinding(status, what, rule, region=region_name)

        if region.authority is None:
            yield found(Status.NEEDS_AUTHORITY, "no authority is named that could decide")
        if given.status in {"denied", "withdrawn"}:
            yield found(Status.CONFLICT, f"consent {given.status}", "C-F05")
        elif given.status == "granted":
            if given.expires_at is not None and given.expires_at <= now:
                yield found(Status.STALE, "consent expired", "C-F05")
            if given.scope is not None and given.scope != subject.scope:
                yield found(Status.NEEDS_AUTHORITY, "consent covers another scope")
        elif subject.scope != GENERALISED_SCOPE:
            yield found(Status.NEEDS_AUTHORITY, f"consent {given.status} for this scope")


def standing(subject: Subject, now: datetime) -> Iterator[CareFinding]:
    """Ask whether a closed season, an embargo or missing consent binds a region more closely now.

    Depends on the instant: never remembered. Refused consent and restricted labels are what
    checks ``consent`` and ``licence-scope`` say.
    """
    for region in subject.touched:
        rule = region.rule_at(now, subject.scope or GENERALISED_SCOPE)
        if rule.is_withheld:
            reasons = [r for r in rule.reasons if not r.startswith("consent") and r not in _LABELS]
            if reasons:
                yield CareFinding(
                    Status.CONFLICT,
                    f"nothing of this region may be published now: {'; '.join(reasons)}",
                    "S-F04",
                    region=subject.called(region),
                )
        elif rule.ceiling < region.ceiling:
            grid, least_km = subject.outputs, cell_side_km(rule.ceiling)
            if grid is None or grid.finest_km < least_km:
                yield CareFinding(
                    Status.NEEDS_AUTHORITY,
                    f"held to r{rule.ceiling} now: {'; '.join(rule.reasons)}",
                    "C-F02",
                    "care.json: $.care.output_grid",
                    "unknown" if grid is None else f"{grid.finest_km:.2f}",
                    f"{least_km:.2f}",
                    "km",
                    subject.called(region),
                )
