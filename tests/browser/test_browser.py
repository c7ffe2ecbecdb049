"""What people see: MLflow's own UI with the registry behind it, and our pages, in Chromium."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from registry.test_pages import contrast
from registry.world import NAME, query
from rollout.stories import journal_at

import kfm_mlflow.registry

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]
OLD_UI = "localStorage.setItem('_mlflow_user_setting_dismiss_next_model_registry_ui', 'true')"
TEMPLATE = Path(kfm_mlflow.registry.__file__).parent / "templates" / "kfm" / "version.html"
ROLLOUT = f"/kfm/models/{NAME}/rollout"
PATHS = (
    "/kfm/",
    f"/kfm/models/{NAME}",
    f"/kfm/models/{NAME}/1",
    f"/kfm/models/{NAME}/2",
    f"/kfm/models/{NAME}/4",
    "/kfm/ledger",
    "/kfm/ledger/3",
    "/kfm/policies",
    "/kfm/policies/climate",
)


def stage_of(site, version):
    sql = "SELECT current_stage FROM model_versions WHERE version = ?"
    return query(site.server.database, sql, version)[0][0]


def refusals(site):
    return query(site.server.database, "SELECT count(*) FROM kfm_ledger WHERE kind = 'refused'")[0][
        0
    ]


# -- MLflow's own UI -------------------------------------------------------------------------------------


def ask_for_stage(page, site, version, stage):
    """Use the stage dropdown as a person does."""
    page.goto(f"{site.url}/#/models/{NAME}/versions/{version}")
    page.locator(".mlflow-stage-transition-dropdown").click()
    page.get_by_role("menuitem").filter(has_text=stage).click()
    page.get_by_role("dialog").get_by_role("button", name="OK").click()


def test_the_stage_dropdown_of_mlflows_ui_moves_what_passes(visit, site):
    visit.context.add_init_script(OLD_UI)
    page = visit.context.new_page()
    ask_for_stage(page, site, site.good, "Staging")
    shown = page.locator(".mlflow-stage-transition-dropdown")
    shown.filter(has_text="Staging").wait_for()
    assert stage_of(site, site.good) == "Staging"
    # The block tells of the new level without a reload of the registry.
    page.reload()
    page.get_by_text("Governed release at level staging").wait_for()


def test_the_stage_dropdown_of_mlflows_ui_says_why_it_is_refused(visit, site):
    visit.context.add_init_script(OLD_UI)
    page = visit.context.new_page()
    before = refusals(site)
    ask_for_stage(page, site, site.bad, "Production")
    toast = page.get_by_text(re.compile("^PERMISSION_DENIED: KFM refused Production"))
    toast.wait_for()
    said = toast.inner_text()
    assert f"KFM refused Production for {NAME} v{site.bad}: candidate cannot become" in said
    assert said.endswith(f"see /kfm/models/{NAME}/{site.bad}")
    inside = "one => { const box = one.getBoundingClientRect();"
    inside += " return box.left >= 0 && box.right <= innerWidth; }"
    page.wait_for_function(inside, arg=toast.element_handle())  # it slides in
    assert stage_of(site, site.bad) == "None"
    assert refusals(site) == before + 1
    # What the toast points to says it all, after the toast is gone.
    page.goto(f"{site.url}{said.rpartition('see ')[2]}")
    page.get_by_role("heading", name="What staging asks").wait_for()
    assert "CARE_CARE_BLOCK" in page.locator("main").inner_text()


def ask_for_alias(page, site, version, alias):
    """Use the alias dialog as a person does."""
    page.goto(f"{site.url}/#/models/{NAME}")
    row = page.get_by_role("row").filter(has_text=f"Version {version}")
    cell = row.get_by_role("button", name="Add")
    cell.nth(1).click()  # the first adds tags
    dialog = page.get_by_role("dialog")
    dialog.locator("input").first.fill(alias)
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Save aliases").click()
    return dialog


def test_the_alias_dialog_of_mlflows_ui_keeps_an_alias_that_is_nobodys_concern(visit, site):
    page = visit.context.new_page()
    dialog = ask_for_alias(page, site, site.bad, "favourite")
    dialog.wait_for(state="hidden")
    page.reload()  # this list of MLflow's does not read itself again
    page.get_by_role("row").filter(has_text="favourite").wait_for()
    rows = query(site.server.database, "SELECT alias, version FROM registered_model_aliases")
    assert ("favourite", site.bad) in rows


@pytest.mark.parametrize("alias", ["champion", "production"])
def test_the_alias_dialog_of_mlflows_ui_says_why_it_is_refused(visit, site, alias):
    page = visit.context.new_page()
    page.goto(f"{site.url}/#/models/{NAME}")
    edit = page.get_by_role("row").filter(has_text=f"Version {site.bad}")
    edit.wait_for()
    before = refusals(site)
    opener = edit.locator("button").filter(has_not_text="Add").last
    if edit.get_by_role("button", name="Add").count() > 1:
        opener = edit.get_by_role("button", name="Add").nth(1)
    opener.click()
    dialog = page.get_by_role("dialog")
    dialog.locator("input").first.fill(alias)
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Save aliases").click()
    alert = dialog.get_by_role("alert").filter(has_text="KFM refused")
    alert.wait_for()
    said = alert.inner_text()
    assert said.startswith(f"KFM refused Production for {NAME} v{site.bad}: ")
    assert said.endswith(f"see /kfm/models/{NAME}/{site.bad}")
    assert refusals(site) == before + 1
    rows = query(site.server.database, "SELECT alias, version FROM registered_model_aliases")
    assert (alias, 1) in rows


def test_a_version_in_mlflows_ui_shows_badge_and_link_that_lead_to_our_page(visit, site):
    page = visit.context.new_page()
    page.goto(f"{site.url}/#/models/{NAME}/versions/2")
    badge = page.locator(f'img[src="/kfm/badge/{NAME}/2.svg"]')
    badge.wait_for()
    assert badge.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    # MLflow strips the picture's text; the sentence beside it says the level, too.
    page.get_by_text("Governed release at level canary").wait_for()
    link = page.get_by_role("link", name="gates, evidence, votes and history")
    assert link.get_attribute("href") == f"/kfm/models/{NAME}/2"
    with visit.context.expect_page() as opened:
        link.click()
    opened.value.get_by_role("heading", name=f"{NAME} v2").wait_for()


def test_editing_a_description_in_mlflows_ui_never_stores_the_block(visit, site):
    page = visit.context.new_page()
    page.goto(f"{site.url}/#/models/{NAME}/versions/1")
    page.get_by_test_id("descriptionEditButton").click()
    area = page.locator("textarea").first
    area.wait_for()
    assert "(kfm: made when this is read" in area.input_value()
    area.fill(area.input_value() + "Written by hand.")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Written by hand.").wait_for()
    page.locator(f'img[src="/kfm/badge/{NAME}/1.svg"]').wait_for()
    sql = "SELECT description FROM model_versions WHERE version = 1"
    assert query(site.server.database, sql) == [("Written by hand.",)]


def test_lists_in_mlflows_ui_show_no_markdown_of_ours(visit, site):
    page = visit.context.new_page()
    page.goto(f"{site.url}/#/models/{NAME}")
    page.get_by_role("row").filter(has_text="Version 2").wait_for()
    assert "kfm:" not in page.locator("body").inner_text()


# -- our pages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_and_can_be_read_in_both_schemes(visit, site, width, scheme):
    page = visit.context.new_page()
    page.set_viewport_size({"width": width, "height": 780})
    page.emulate_media(color_scheme=scheme)
    for path in PATHS:
        fits_and_can_be_read(page, f"{site.url}{path}", scheme)
    for phase in ("AwaitingAdmission", "RollbackFailed", "RolledBack"):
        tell(site, phase)
        fits_and_can_be_read(page, f"{site.url}{ROLLOUT}?live=off", scheme)
    assert not visit.complained


def fits_and_can_be_read(page, address, scheme):
    """Open a page and assert its width and the contrast of every text on it."""
    assert page.goto(address).status == 200
    page.locator("summary").evaluate_all("all => all.forEach(one => one.click())")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address
    found = page.evaluate(_COLOURS)
    assert found
    for text, ground, sample in found:
        assert contrast(text, ground) >= 4.5, (address, sample, text, ground)
    dark = contrast(page.evaluate(_GROUND), "#000000") < 2
    assert dark is (scheme == "dark")


_HEX = """
const hex = colour => {
  const [r, g, b, a] = colour.match(/[\\d.]+/g).map(Number);
  return a === 0 ? null : '#' + [r, g, b].map(v => v.toString(16).padStart(2, '0')).join('');
};
const ground = at => { for (; at; at = at.parentElement) {
  const found = hex(getComputedStyle(at).backgroundColor); if (found) return found; } return '#ffffff'; };
"""
_GROUND = f"() => {{ {_HEX} return ground(document.body); }}"
_COLOURS = f"""() => {{ {_HEX}
  const seen = new Map();
  for (const at of document.querySelectorAll('body *:not(svg, svg *)')) {{
    const own = [...at.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !at.getClientRects().length) continue;
    const pair = [hex(getComputedStyle(at).color), ground(at)];
    if (!seen.has(pair.join())) seen.set(pair.join(), [...pair, at.textContent.trim().slice(0, 40)]);
  }}
  return [...seen.values()];
}}"""


def test_the_colour_of_a_domain_is_as_small_as_its_name(visit, site):
    # No release of this site has domains: their row of the table is put into a page that is there.
    lines = TEMPLATE.read_text().splitlines()
    row = next(line for line in lines if 'class="swatch"' in line).replace(
        "{{ line.name }}", "climate"
    )
    page = visit.context.new_page()
    page.goto(f"{site.url}/kfm/models/{NAME}/1")
    page.evaluate(
        "table => document.querySelector('main').insertAdjacentHTML('afterbegin', table)",
        f'<table class="cards"><tbody>{row}</tr></tbody></table>',
    )
    colour = page.locator("svg.swatch").bounding_box()
    line_px = page.locator("tr:has(svg.swatch)").bounding_box()["height"]
    assert 8 <= colour["width"] == colour["height"] <= 16
    assert line_px < 60


def test_a_release_is_reached_and_read_by_keyboard_alone(visit, site):
    page = visit.context.new_page()
    page.goto(f"{site.url}/kfm/")
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    assert focused.inner_text() == "Skip to content"
    assert focused.bounding_box()["y"] >= 0  # it is seen once it has the focus
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for name, heading in ((NAME, NAME), ("v2", f"{NAME} v2 canary")):
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.locator(":focus").inner_text() == name:
                break
        page.keyboard.press("Enter")
        page.get_by_role("heading", level=1, name=heading, exact=True).wait_for()


def test_every_stop_of_the_keyboard_on_a_release_is_visible(visit, site):
    page = visit.context.new_page()
    page.goto(f"{site.url}/kfm/models/{NAME}/2")
    stops = page.locator("a[href], button, input, summary, [tabindex='0']")
    wanted = stops.evaluate_all(
        "all => all.filter(one => one.checkVisibility({contentVisibilityAuto: true})).length"
    )
    seen = 0
    for _ in range(wanted):
        page.keyboard.press("Tab")
        outline = page.locator(":focus").evaluate(
            "one => [getComputedStyle(one).outlineStyle, parseFloat(getComputedStyle(one).outlineWidth)]"
        )
        assert outline[0] == "solid"
        assert outline[1] >= 2
        seen += 1
    assert seen == wanted > 20


@pytest.mark.parametrize("width", [360, 1280])
def test_a_screen_reader_is_told_landmarks_tables_and_what_the_pictures_show(visit, site, width):
    page = visit.context.new_page()
    page.set_viewport_size({"width": width, "height": 780})
    page.goto(f"{site.url}/kfm/models/{NAME}/2")
    for role in ("banner", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1
    tables = page.get_by_role("table")
    assert page.get_by_role("table", name="Council members and how each votes").count() == 1
    for index in range(tables.count()):
        table = tables.nth(index)
        assert table.get_by_role("columnheader").count() >= 4
        assert table.get_by_role("row").count() >= 2
        assert table.get_by_role("rowheader").count() >= 1
    for picture in ("Lineage of the release", "Where the release is masked", "The masked area"):
        assert page.get_by_role("img", name=picture).count() == 1
    levels = page.locator("h1, h2, h3").evaluate_all("all => all.map(one => +one.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


# -- a rollout, as it goes -------------------------------------------------------------------------------


def tell(site, phase):
    """Write a journal that stands at a phase, as a controller would just now."""
    path = f"/kfm/api/v1/models/{NAME}/rollout"
    known = site.server.ask("GET", path).json()["generation"]
    journal = journal_at(phase, now=datetime.now(UTC), model_name=NAME)
    assert site.server.ask("PUT", path, json={"expected": known, "state": journal}).ok
    return journal["narrative"]


def test_a_rollout_is_followed_on_its_page_without_script_and_without_a_hand(visit, site):
    waiting = tell(site, "AwaitingAdmission")
    page = visit.context.new_page()
    page.goto(f"{site.url}/kfm/models/{NAME}")
    page.get_by_role("link", name="where it stands, and what comes next").click()
    page.locator(".phase").get_by_text("AwaitingAdmission").wait_for()
    said = page.locator("main").inner_text()
    for words in (waiting["happening"], waiting["reason"], waiting["next"], "▶ now", "UTC (in "):
        assert words in said
    assert page.locator("script").count() == 0
    page.evaluate("scrollTo(0, 300)")
    failed = tell(site, "RollbackFailed")
    page.locator(".phase").get_by_text("RollbackFailed").wait_for()
    assert page.get_by_role("alert").get_by_text(failed["to_do"]).is_visible()
    assert page.evaluate("scrollY") > 100  # the reader is not thrown back to the top
    page.get_by_role("link", name="Hold it still").click()
    page.get_by_text("This page is held still").wait_for()
    assert not visit.complained


def test_a_search_works_without_script(browser, visit, site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site.url}/kfm/")
    page.get_by_label("Model name contains").fill("TINY")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name=NAME, exact=True).wait_for()
    page.get_by_label("Model name contains").fill("nothing")
    page.keyboard.press("Enter")
    page.get_by_text("No registered model has").wait_for()
    context.close()
    visit.context.new_page().goto(f"{site.url}/kfm/style.css")
