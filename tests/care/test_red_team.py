"""Every named leak is caught by the check that is meant to, and every look-alike passes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache

import pytest
from care import red_team

from kfm_mlflow.care.geojson import parse_regions
from kfm_mlflow.care.screen import (
    OutputGrid,
    assemble,
    build_subject,
    screen_differencing,
    screen_frozen,
    screen_measurements,
    screen_now,
)

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@cache
def _regions(changes):
    properties = {**red_team.REGION, **json.loads(changes)}
    feature = {
        "type": "Feature",
        "properties": properties,
        "geometry": {"type": "Polygon", "coordinates": [red_team.RING]},
    }
    collection = {"type": "FeatureCollection", "features": [feature]}
    return parse_regions(json.dumps(collection).encode(), where="red team")


def _subject(case, texts, regions):
    written = {
        path: text if isinstance(text, str) else json.dumps(text)
        for path, text in {**red_team.LICENCE, **texts}.items()
    }
    block = {**red_team.BLOCK, **case.care}
    grid = OutputGrid.from_mapping(block["output_grid"])
    return build_subject(block, grid, written, regions)


def screened(case):
    regions = _regions(json.dumps(case.region))
    subject = _subject(case, case.texts, regions)
    claims = case.claims
    if claims is not None:
        claims = {"care": {"regions_digest": regions.digest, **claims["care"]}}
    measured, unasked = screen_measurements(subject, claims, NOW)
    checks = (*screen_frozen(subject), *screen_now(subject, NOW), *measured)
    if case.earlier is not None:
        before = _subject(case, case.earlier, regions)
        checks = (*checks, screen_differencing(subject, before))
    return assemble(subject, checks, unasked)


def caught(case):
    found = screened(case)
    return any(c.id == case.check and c.status != "no-known-conflict" for c in found.checks)


def test_every_leak_is_caught_and_every_look_alike_passes(capsys):
    missed = [case.name for case in red_team.LEAKS if not caught(case)]
    hit = [
        (case.name, [c.id for c in result.checks if c.findings])
        for case in red_team.CLEAN
        if (result := screened(case)).status != "no-known-conflict"
    ]
    leaks, clean = len(red_team.LEAKS), len(red_team.CLEAN)
    with capsys.disabled():
        print(  # noqa: T201 - both rates are to be seen
            f"\nCARE red team: {leaks - len(missed)} of {leaks} leaks caught "
            f"({1 - len(missed) / leaks:.1%}), {clean - len(hit)} of {clean} clean releases pass "
            f"({1 - len(hit) / clean:.1%})"
        )
    assert missed == []
    assert hit == []


def test_the_suite_is_as_large_as_it_says_and_every_case_has_its_own_name():
    assert min(len(red_team.LEAKS), len(red_team.CLEAN)) >= 60
    names = [case.name for case in (*red_team.LEAKS, *red_team.CLEAN)]
    assert len(set(names)) == len(names)
    assert all(case.source for case in red_team.LEAKS)


SECRETS = ("heron", "38.5", "97.4", "9yfendu", "burial ridge")


@pytest.mark.parametrize("case", red_team.LEAKS, ids=lambda case: case.name)
def test_no_finding_shows_a_name_or_a_place(case):
    checks = screened(case).to_dict()["screening"]["checks"]
    shown = json.dumps(checks, ensure_ascii=False).lower()
    assert not [secret for secret in SECRETS if secret in shown]
