"""Screening a release for CARE and sovereignty conflicts: pure checks with one worst-of status.

A screening never approves. ``no-known-conflict`` says that these checks found nothing with these
regions; approval is a signature of the authority. Where something cannot be known, the check says
``needs-authority``. Findings name files, regions by id, and precisions; never a restricted name
(a keyed hash stands for it) nor a place. What each check asks is in ``docs/care-screening.md``.

``differencing`` is asked only beside a predecessor: :func:`screen_differencing`. All others but
``consent``, ``standing`` and ``training-consent`` follow from the release, the regions and
the policy alone: :func:`screen_frozen` makes them, and may be remembered for frozen content.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kfm_mlflow.care import screen_block, screen_measured, screen_tables, screen_text
from kfm_mlflow.care.lineage import lineage
from kfm_mlflow.care.screen_block import GENERALISED_SCOPE, PUBLIC_SCOPES
from kfm_mlflow.care.screen_differencing import differencing
from kfm_mlflow.care.screen_published import published_tables
from kfm_mlflow.care.screen_subject import OutputGrid, Subject
from kfm_mlflow.care.screen_terms import licence_scope
from kfm_mlflow.care.screening import (
    MEASURED,
    CareFinding,
    Check,
    Screening,
    Status,
    build_check,
    worst_status,
)
from kfm_mlflow.errors import InputError
from kfm_mlflow.policy.models import CarePolicy

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.care.regions import RegionSet

__all__ = [
    "GENERALISED_SCOPE",
    "PUBLIC_SCOPES",
    "CareFinding",
    "Check",
    "OutputGrid",
    "Screening",
    "Status",
    "Subject",
    "assemble",
    "build_subject",
    "screen_differencing",
    "screen_frozen",
    "screen_measurements",
    "screen_now",
    "screen_release",
]

_BLOCK = "care block"
_ORDER = (
    "care-block",
    "masking",
    "declared-resolution",
    "output-grid",
    "consent",
    "standing",
    "labels",
    "licence-scope",
    "lineage",
    "restricted-names",
    "coordinates",
    "hazard-statements",
    "disclosure",
    "differencing",
    "gradients",
    "training-consent",
    "attribution-leakage",
)
_REMEDIES = {
    "care-block": "give care.masking, care.scope and care.notes",
    "masking": "use a known masking mode that is no finer than the regions",
    "declared-resolution": "lower h3_max_resolution to the ceiling",
    "output-grid": "give care.output_grid; publish coarser cells over the regions",
    "consent": "ask the authority that the regions file names",
    "standing": "wait for the season or embargo to end, or ask the authority",
    "labels": "copy the labels of the regions into care.labels, verbatim",
    "licence-scope": "narrow licence and scope to what the labels allow, or ask the community",
    "lineage": "give the release every restriction that its inputs bear",
    "restricted-names": "remove the name, or the file, from the release",
    "coordinates": "round or remove the coordinates",
    "hazard-statements": "speak of the region as a whole, or leave the sentence out",
    "disclosure": "generalise the table again, and publish one partition of it",
    "differencing": "publish the cells that the release at Production published, or none over the "
    "region until more has changed",
    "gradients": "smooth or coarsen the field across the border",
    "training-consent": "train without the rows, or ask the authority",
    "attribution-leakage": "mask the restricted inputs before the model, and measure again",
}
_Ask = Callable[[Subject], Iterable[CareFinding]]
_FROZEN: dict[str, _Ask] = {
    "care-block": screen_block.care_block,
    "masking": screen_block.masking,
    "declared-resolution": screen_block.declared_resolution,
    "output-grid": screen_block.output_grid,
    "labels": screen_block.labels,
    "licence-scope": licence_scope,
    "lineage": lineage,
    "restricted-names": screen_text.restricted_names,
    "coordinates": screen_text.coordinates,
    "hazard-statements": screen_text.hazard_statements,
}


def build_subject(
    care_block: Any,
    outputs: OutputGrid | None,
    texts: Mapping[str, str],
    regions: RegionSet,
    policy: CarePolicy | None = None,
) -> Subject:
    """Put together what checks ask about.

    Args:
        care_block: Its ``care`` object, as somebody wrote it; anything may be wrong with it.
        outputs: Grid on which its outputs are published; None when unknown, which is then taken
            for finer than any ceiling and over every region.
        texts: Path -> text of everything readable in it.
        regions: Whose ceilings, consent, labels and names hold.
        policy: The limits that people set; None takes the defaults.
    """
    care = care_block if isinstance(care_block, Mapping) else {}
    touched = regions.overlapping(outputs.bbox if outputs else None)
    # The block is screened too: at authoring time it is in no file yet.
    texts = {**texts, _BLOCK: json.dumps(care, default=str, ensure_ascii=False)}
    return Subject(care, outputs, texts, regions, touched, policy or CarePolicy())


def screen_frozen(subject: Subject) -> tuple[Check, ...]:
    """Make the checks that follow from release, regions and policy alone."""
    found = {name: tuple(ask(subject)) for name, ask in _FROZEN.items()}
    tables = published_tables(subject)
    found["disclosure"] = tuple(screen_tables.disclosure(subject, tables))
    found["gradients"] = tuple(screen_tables.gradients(subject, tables))
    return tuple(build_check(name, said, _REMEDIES[name]) for name, said in found.items())


def screen_differencing(subject: Subject, predecessor: Subject | None) -> Check:
    """Make the check that asks what a release and its predecessor tell together.

    Args:
        subject: The release.
        predecessor: The release that is at Production, under the same regions and policy; None
            when there is one that cannot be read, and nobody knows what it told.
    """
    if predecessor is None:
        unknown = CareFinding(
            Status.NEEDS_AUTHORITY,
            "the release at Production cannot be read, so nobody knows what both tell together",
            "S-F05",
        )
        return build_check("differencing", [unknown], "restore the frozen release from a backup")
    found = differencing(subject, published_tables(subject), published_tables(predecessor))
    return build_check("differencing", found, _REMEDIES["differencing"])


def screen_now(subject: Subject, now: datetime) -> tuple[Check, ...]:
    """Make the checks that depend on the instant: consent that runs out, seasons, embargoes.

    Raises:
        InputError: ``now`` has no time zone.
    """
    if now.tzinfo is None:
        raise InputError("instant has no time zone", where="now", remedy="use datetime.now(UTC)")
    return (
        build_check("consent", screen_block.consent(subject, now), _REMEDIES["consent"]),
        build_check("standing", screen_block.standing(subject, now), _REMEDIES["standing"]),
    )


def screen_measurements(
    subject: Subject, claims: Mapping[str, Any] | None, now: datetime
) -> tuple[tuple[Check, ...], tuple[str, ...]]:
    """Make the checks that read what a validator measured and signed.

    Args:
        subject: The release.
        claims: Of the newest good validation attestation; None when there is none.
        now: The instant at which consent must hold (aware).

    Returns:
        The checks that were measured or that the policy asks for, and the names of the others.
    """
    policy = subject.policy
    asked = {
        "training-consent": ("training_rows", policy.require_training_rows),
        "attribution-leakage": ("invariance", policy.require_invariance),
    }
    found = {
        "training-consent": lambda: screen_measured.training_consent(subject, claims, now),
        "attribution-leakage": lambda: screen_measured.attribution_leakage(subject, claims),
    }
    checks = tuple(
        build_check(name, found[name](), _REMEDIES[name])
        for name, (part, required) in asked.items()
        if required or screen_measured.is_measured(claims, part)
    )
    made = {check.id for check in checks}
    return checks, tuple(name for name in asked if name not in made)


def assemble(subject: Subject, checks: Iterable[Check], unasked: tuple[str, ...] = ()) -> Screening:
    """Put checks together in their one order."""
    ordered = tuple(sorted(checks, key=lambda check: _ORDER.index(check.id)))
    status = worst_status(check.status for check in ordered)
    return Screening(status, ordered, subject.regions.digest, subject.care, unasked)


def screen_release(  # noqa: PLR0917 - all of it is what is screened, none an option
    care_block: Any,
    outputs: OutputGrid | None,
    texts: Mapping[str, str],
    regions: RegionSet,
    now: datetime,
    policy: CarePolicy | None = None,
) -> Screening:
    """Screen a release without a validator's measurements; arguments as :func:`build_subject`.

    Args:
        care_block: Its ``care`` object.
        outputs: Grid on which its outputs are published.
        texts: Path -> text of everything readable in it.
        regions: Whose ceilings, consent, labels and names hold.
        now: The instant at which consent must hold (aware).
        policy: The limits that people set; None takes the defaults.

    Returns:
        The screening; bad content is in its findings, never an exception.

    Raises:
        InputError: ``now`` has no time zone.
    """
    subject = build_subject(care_block, outputs, texts, regions, policy)
    now_checks = screen_now(subject, now)
    return assemble(subject, (*screen_frozen(subject), *now_checks), MEASURED)
