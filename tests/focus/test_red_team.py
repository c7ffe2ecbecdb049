"""Every unsafe story is refused by the check that is meant to, and every clean twin passes."""

from __future__ import annotations

from collections import Counter

from focus.made_stories import CEILING, DRY_ROW, LEXICON, changed, dry_story
from focus.red_team_stories import PAIRS

from kfm_mlflow.focus.narrative import CHECKS, check_story


def judged(part, value):
    story = changed(part, value)
    return check_story(story, DRY_ROW, LEXICON, max_resolution=CEILING)


def test_every_unsafe_story_is_refused_and_every_clean_twin_passes(capsys):
    refused = [(pair, {f.check for f in judged(pair.part, pair.unsafe)}) for pair in PAIRS]
    missed = [(pair.name, checks) for pair, checks in refused if pair.check not in checks]
    hit = [(pair.name, found) for pair in PAIRS if (found := judged(pair.part, pair.clean))]
    with capsys.disabled():
        print(  # noqa: T201 - both rates are to be seen
            f"\nNarrative red team: {len(PAIRS) - len(missed)} of {len(PAIRS)} unsafe stories refused "
            f"({1 - len(missed) / len(PAIRS):.1%}), {len(PAIRS) - len(hit)} of {len(PAIRS)} clean "
            f"twins pass ({1 - len(hit) / len(PAIRS):.1%})"
        )
    assert missed == []
    assert hit == []


def test_the_suite_is_as_large_as_it_says_and_tries_every_check():
    assert len(PAIRS) >= 40
    assert len({(pair.check, pair.name) for pair in PAIRS}) == len(PAIRS)
    assert {pair.check for pair in PAIRS} == set(CHECKS)
    assert min(Counter(pair.check for pair in PAIRS).values()) >= 10


def test_the_story_that_is_changed_is_safe_itself():
    assert check_story(dry_story(), DRY_ROW, LEXICON, max_resolution=CEILING) == ()


def test_no_finding_shows_what_it_found():
    secrets = ("willow", "pawnee", "38.51", "26e29691", "0.1124", "312", "farmers")
    for pair in PAIRS:
        findings = judged(pair.part, pair.unsafe)
        shown = " ".join(f"{f.text_part} {f.sentence}" for f in findings).lower()
        assert not [secret for secret in secrets if secret in shown]
