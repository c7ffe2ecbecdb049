"""What authorities signed about a release, and what is still needed, in plain sentences.

It is the registry's answer that is told; nothing is weighed here.
"""

from __future__ import annotations

import shlex
from datetime import datetime
from typing import TYPE_CHECKING, Any

from kfm_mlflow.care.screen_report import QUESTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kfm_mlflow.care.screen_report import Section


def authority_sections(found: Mapping[str, Any]) -> tuple[Section, ...]:
    """Return a section for every region that is asked for something or was spoken for.

    Args:
        found: What the registry answers under ``/models/NAME/versions/N/authority``.
    """
    regions = found["regions"]
    told = [item for item in regions if item["asked"] or item["approval"] or item["veto"]]
    sections = [_region(item, found) for item in told]
    sections += [
        (f"Region {item['region']}: VETOED", (*_signed("veto", item), _LIFTED))
        for item in found["unknown_vetoes"]
    ]
    ignored = tuple(
        f"{'Approval' if item['choice'] == 'approve' else 'Veto'} of {_day(item['issued_at'])} "
        f"over region {item['region']}: {item['why']}."
        for item in found["ignored"]
    )
    sections += [("Signed, but it does not count", ignored)] if ignored else []
    quiet = len(regions) - len(told)
    if quiet:
        others = "other " if told else ""
        why = "Nothing is asked of their authorities, and none of them has spoken."
        sections.append((f"{quiet} {others}region{'s' * (quiet != 1)}", (why,)))
    return tuple(sections)


def missing_regions(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the regions for which the release may not go on: a word is missing, or is a veto."""
    stopped = [item["region"] for item in found["regions"] if item["missing"] or item["veto"]]
    return (*stopped, *(item["region"] for item in found["unknown_vetoes"]))


_LIFTED = "Still needed: the same authority has to lift its veto; nobody else can."


def _region(item: Mapping[str, Any], found: Mapping[str, Any]) -> Section:
    authority = item["authority"] or "nobody is named as its authority"
    state = "VETOED" if item["veto"] else "MISSING" if item["missing"] else "signed"
    lines = [f"It has to decide: {_question(word)}" for word in item["asked"]]
    lines = lines or ["Nothing of this release has to be decided by it."]
    for choice in ("veto", "approval"):
        if item[choice]:
            lines += _signed(choice, item[choice])
    lines += [_LIFTED] if item["veto"] else _needed(item, found)
    if state == "signed" and not item["asked"]:
        state = "nothing is needed"
    return f"Region {item['region']} ({authority}): {state}", tuple(lines)


def _signed(choice: str, said: Mapping[str, Any]) -> Iterator[str]:
    ends = f"until {_day(said['expires_at'])}" if said["expires_at"] else "without an end"
    word = "a veto" if choice == "veto" else "an approval"
    yield f"Its authority signed {word} on {_day(said['issued_at'])}."
    yield f"It covers: {said['scope']}. It holds {ends}."
    yield f"Reason given: {said['reason']}"
    yield f"Signed with key {', '.join(said['key_ids'])}."


def _needed(item: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    if not item["missing"]:
        yield "Still needed: nothing."
        return
    yield "Still needed: an approval that its authority signs."
    if not item["key_ids"]:
        yield (
            "Nobody can sign it yet: the regions file names no key of this authority. "
            "Ask who keeps that file."
        )
        return
    uri = shlex.quote(f"models:/{found['model_name']}/{found['version']}")
    region = shlex.quote(item["region"])
    yield f'To sign it: kfm care approve {uri} --region {region} --key KEY --reason "WHY"'
    yield "(KEY is the file with the authority's private key; WHY is a reason, which others read.)"
    yield "To say no: the same line with veto in place of approve."


def _question(word: str) -> str:
    """Return ``consent (C-F02)`` as the question that the report asks, with the same code."""
    check, _, rule = word.partition(" (")
    return f"{QUESTIONS.get(check, check)}{f' ({rule}' if rule else ''}"


def _day(instant: str) -> str:
    """Return an RFC 3339 instant for people: ``3 May 2026, 10:00 UTC``."""
    at = datetime.fromisoformat(instant)
    return f"{at.day} {at:%B %Y, %H:%M} UTC"
