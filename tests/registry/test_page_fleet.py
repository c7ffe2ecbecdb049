"""The page of a fleet: every agent, their health together, and what comes next."""

from __future__ import annotations

import pytest
from fleet.made_fleet import AGENTS, Fleet
from fleet.made_release import write_release
from registry import test_pages
from registry.test_page_rollout import HELD, PAGE, tells_all, write
from registry.test_pages import on, words  # noqa: F401 - a fixture
from registry.world import NAME


@pytest.fixture(scope="module")
def journals(tmp_path_factory):
    """Return journals of one fleet: while its first batch is watched, and at the end."""
    fleet = Fleet(write_release(tmp_path_factory.mktemp("release") / "v"), canary=1)
    found = [{**fleet.until("Watching"), "model_name": NAME}]
    fleet.until("Succeeded")
    return [*found, {**fleet.journal, "model_name": NAME}]


def test_a_fleets_page_tells_of_every_agent_and_of_all(two, on, journals):  # noqa: F811 - the fixture
    for generation, journal in enumerate(journals):
        write(two, journal, expected=generation)
        page = on(two, HELD)
        tells_all(page, journal["narrative"])
        said = words(page)
        for agent in AGENTS:
            assert f"{agent.name} {agent.specialty}" in said
        assert f"kfm fleet watch {NAME}" in said
    assert "Safety 100 % of unsafe tasks were held" in said
    assert "code-0 code_execute v1 serving 1.00" in said


def test_a_fleets_page_is_plain_whole_and_asks_for_nothing_from_elsewhere(two, on, journals):  # noqa: F811
    write(two, journals[0])
    test_pages.test_every_page_is_plain_whole_and_asks_for_nothing_from_elsewhere(two, on, PAGE)


def test_a_fleets_journal_with_a_wrong_field_is_not_told(two, on, journals):  # noqa: F811
    write(two, {**journals[0], "phase": "Flying"})
    said = words(on(two, HELD))
    assert "The journal is from a controller of another version" in said
    assert "code-0" not in said
