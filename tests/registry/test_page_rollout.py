"""The page of a rollout: every phase in words and numbers, live without script, and nothing hidden."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest
from registry import test_pages
from registry.authority_world import SECRET, with_regions
from registry.test_pages import on, words  # noqa: F401 - a fixture
from registry.world import NAME
from rollout.stories import journal_at

from kfm_mlflow.registry import records
from kfm_mlflow.registry.journal import hold_lease, write_journal
from kfm_mlflow.registry.page_rollout import spoken
from kfm_mlflow.registry.rollout_orders import give_order
from kfm_mlflow.rollout.state import Phase

PAGE = f"/kfm/models/{NAME}/rollout"
HELD = f"{PAGE}?live=off"
PLACE = "38.5432 N, 96.9568 W"


def write(registry, journal, expected=0):
    """Write a journal as its controller does, past the server."""
    return write_journal(registry.store, NAME, journal, expected=expected)


def test_every_phase_is_told_with_reason_next_step_and_when(two, on):  # noqa: F811 - the fixture
    for generation, phase in enumerate(Phase):
        journal = journal_at(phase, now=two.now)
        write(two, journal, expected=generation)
        page = on(two, HELD)
        assert re.search(rf"<title>{phase}\b", page.text)
        tells_all(page, journal["narrative"])


def tells_all(page, narrative):
    """Assert that a page says everything that its journal tells."""
    said, where = words(page), narrative["phase"]
    for name in ("happening", "traffic", "reason", "next", "on_deadline", "to_do"):
        assert narrative[name] in said, (where, name)
    for name in ("next_at", "deadline_at"):
        if narrative[name]:
            assert f'<time datetime="{narrative[name]}">' in page.text, where
            assert re.search(r"UTC \((in )?\d+ \w+( \d+ \w+)?( ago)?\)", said), where
    for step in narrative["steps"]:
        assert f"{step['number']}. {step['words']}" in said, where
    for metric in narrative["metrics"]:
        assert f"{metric['name']} " in said, where
        assert metric["reason"] in said, where
        if metric["threshold"] is not None:
            assert f"e-value {metric['e_value']:.3g} of {metric['threshold']:g}" in said, where
    for arm in narrative["arms"]:
        shown = f"v{arm['version']} {arm['arm']} {arm['share_pct']:g} % {arm['request_count']}"
        assert shown in said, where
    assert ('role="alert"' in page.text) is narrative["is_loud"], where
    present = [step["words"] for step in narrative["steps"] if step["status"] == "present"]
    assert page.text.count('aria-current="step"') == len(present), where


def test_the_floor_of_explanations_is_said_as_one(two, on):  # noqa: F811 - the fixture
    journal = journal_at("Canary", "a good canary", now=two.now)
    (metric, *_) = journal["narrative"]["metrics"]
    own = {"name": "explanation_stability", "kind": "explanation", "unit": "correlation"}
    numbers = {"canary_value": 0.97, "limit": 0.5, "sample_count": 21, "needed_count": 20}
    journal["narrative"]["metrics"] = [{**metric, **own, **numbers}]
    write(two, journal)
    said = words(on(two, HELD))
    assert "explanation_stability of sampled rows" in said
    assert "0.97 correlation" in said
    assert "at least 0.5 correlation" in said
    assert "21 of at least 20" in said


@pytest.mark.parametrize("phase", ["Canary", "RollbackFailed"])
def test_the_page_is_plain_whole_and_asks_for_nothing_from_elsewhere(two, on, phase):  # noqa: F811
    write(two, journal_at(phase, now=two.now))
    test_pages.test_every_page_is_plain_whole_and_asks_for_nothing_from_elsewhere(two, on, PAGE)


def test_the_page_reads_itself_again_until_it_is_held_still(two, on):  # noqa: F811 - the fixture
    write(two, journal_at("Canary", now=two.now))
    page = on(two, PAGE).text
    assert '<meta http-equiv="refresh" content="3">' in page
    assert f'href="{HELD}">Hold it still' in page
    held = on(two, HELD).text
    assert "refresh" not in held
    assert f'href="{PAGE}">Follow along' in held
    write(two, journal_at("Succeeded", now=two.now), expected=1)
    assert '<meta http-equiv="refresh" content="15">' in on(two, PAGE).text


def test_the_way_to_the_page_is_on_the_list_the_model_and_the_version(two, on):  # noqa: F811 - same
    for path in ("/kfm/", f"/kfm/models/{NAME}", f"/kfm/models/{NAME}/2"):
        assert f'href="{PAGE}"' in on(two, path).text
    assert "No controller has served this model yet." in words(on(two, PAGE))
    on(two, "/kfm/models/none/rollout", 404)


def test_a_countdown_goes_down_and_says_when_it_is_over(two, on):  # noqa: F811 - the fixture
    write(two, journal_at("AwaitingAdmission", "a good canary", now=two.now))
    first = re.search(r"Until .*? UTC \(in (\d+) s\)", words(on(two, HELD)))
    two.now += timedelta(seconds=10)
    second = re.search(r"Until .*? UTC \(in (\d+) s\)", words(on(two, HELD)))
    assert int(first[1]) - int(second[1]) == 10
    two.now += timedelta(hours=1)
    assert re.search(r"Until .*? UTC \(59 min \d+ s ago\)", words(on(two, HELD)))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min"), (90, "1 min 30 s"), (3600, "1 h"), (172799, "1 d 23 h")],
)
def test_durations_are_spoken_in_two_units(seconds, text):
    assert spoken(seconds) == text


def test_it_is_said_whether_a_controller_is_at_work(two, on):  # noqa: F811 - the fixture
    write(two, journal_at("Soaking", now=two.now))
    assert "No controller is at work on this model now." in words(on(two, HELD))
    hold_lease(two.store, NAME, holder="controller-1", ttl_s=30)
    assert "No controller is at work" not in words(on(two, HELD))
    two.now += timedelta(minutes=1)
    assert "No controller is at work" in words(on(two, HELD))


def test_verdicts_orders_decisions_and_reports_of_the_model_are_on_the_page(two, on):  # noqa: F811
    write(two, journal_at("Canary", "a good canary", now=two.now))
    order = give_order(two.store, NAME, "pause", reason="look first")
    write(two, journal_at("RolledBack", "a bad canary", now=two.now), expected=1)
    page = on(two, HELD)
    said = words(page)
    assert re.search(
        r"Verdicts that the controller signed about v2 .* PASS .*controller PASS", said
    )
    rows = two.query("SELECT seq FROM kfm_ledger WHERE model = ?", NAME)
    assert len(rows) > 3
    for (seq,) in rows:
        assert f"row {seq} " in said
    assert re.search(rf"row {order.order_id} .* v2 : order: pause .* look first", said)
    for report in ("rollback_report", "drift_summary", "sovereignty_conflict"):
        path = f"run_uuid=run&amp;path=rollback%2Fv2%2F{report}.json"
        assert f'href="/get-artifact?{path}">{report}.json</a>' in page.text


@pytest.mark.parametrize(
    "broken",
    [
        lambda _: 3,
        lambda _: {},
        lambda good: {**good, "schema_version": "2"},
        lambda good: {key: value for key, value in good.items() if key != "narrative"},
        lambda good: {**good, "phase": "<img src=x onerror=alert(1)>"},
    ],
    ids=["a number", "empty", "another version", "no narrative", "no such phase"],
)
def test_a_journal_that_is_none_is_said_and_shown_nowhere(two, on, broken):  # noqa: F811 - same
    write(two, broken(journal_at("Canary")))
    page = on(two, PAGE)
    assert "The journal is from a controller of another version" in words(page)
    assert "<img" not in page.text


def test_what_a_journal_says_is_escaped(two, on):  # noqa: F811 - the fixture
    evil = "<img src=x onerror=alert(1)>{{7*7}}"
    write(two, journal_at("Paused", reason=evil, next=evil, ends=[evil], to_do=evil))
    page = on(two, HELD).text
    assert "<img" not in page
    assert ">49<" not in page
    assert "{{7*7}}" in page


@pytest.mark.parametrize("secret", [SECRET, SECRET.lower().replace(" ", "_"), PLACE])
def test_no_text_with_a_name_or_a_place_that_is_kept_back_is_shown(two, on, monkeypatch, secret):  # noqa: F811
    with_regions(two, north={"h3_max_resolution": 5})
    journal = journal_at("Paused", reason=f"paused by ann: fire at {secret}", ends=["a", secret])
    journal["narrative"]["metrics"][0]["reason"] = secret
    # Not written: the search for what got out reads the database, too.
    monkeypatch.setattr(records, "read_journal", lambda *_: (1, json.dumps(journal)))
    page = on(two, HELD)
    assert secret not in page.text
    assert words(page).count("(not shown: a name or a place in it may not be published)") == 3
    assert journal["narrative"]["happening"] in words(page)


def test_where_regions_can_not_be_read_no_text_of_the_journal_is_shown(two, on):  # noqa: F811 - same
    with_regions(two)
    (two.area.parent / "regions.geojson").unlink()
    journal = journal_at("Paused")
    write(two, journal)
    said = words(on(two, HELD))
    assert journal["narrative"]["happening"] not in said
    assert "(not shown" in said
