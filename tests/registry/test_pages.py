"""The pages: what they say, what they never say, what they send, and what they cost."""

from __future__ import annotations

import re
import shlex
from contextlib import contextmanager
from datetime import timedelta
from importlib import resources
from pathlib import Path

import pytest
from flask import Flask
from mlflow.entities.model_registry import RegisteredModelTag
from mlflow.entities.model_registry.prompt_version import IS_PROMPT_TAG_KEY
from mlflow.server import handlers
from registry.world import BOTH, COUNCIL, NAME, told
from sqlalchemy import event, text

from kfm_mlflow.cli.registry import check as check_command
from kfm_mlflow.cli.vote import vote as vote_command
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry import records
from kfm_mlflow.registry.api import api
from kfm_mlflow.registry.pages import SECURITY_HEADERS, pages

V1, V2 = f"/kfm/models/{NAME}/1", f"/kfm/models/{NAME}/2"
EVERY_PAGE = ("/kfm/", f"/kfm/models/{NAME}", V1, V2, "/kfm/ledger", "/kfm/ledger/1")
EVERY_PAGE += ("/kfm/policies", "/kfm/policies/climate", "/kfm/policies/baseline")


@contextmanager
def visiting(registry, monkeypatch):
    """Give a browser without scripts on the pages of a registry in this process."""
    app = Flask("pages")
    app.register_blueprint(api)
    app.register_blueprint(pages)
    monkeypatch.setattr(handlers, "_model_registry_store", registry.store)
    with app.test_client() as client:
        yield client


@pytest.fixture
def on(monkeypatch):
    """Return what opens a path on the pages of a registry."""

    def opened(registry, path, status=200):
        with visiting(registry, monkeypatch) as client:
            answer = client.get(path)
        assert answer.status_code == status, answer.text
        return answer

    return opened


def words(page):
    """Return what a page says, without its markup."""
    body = re.sub(r"<head>.*?</head>", "", page.text, flags=re.DOTALL)
    plain = re.sub(r"<[^>]+>", " ", body)
    for entity, character in (("&#34;", '"'), ("&#39;", "'"), ("&gt;", ">"), ("&lt;", "<")):
        plain = plain.replace(entity, character)
    return " ".join(plain.replace("&amp;", "&").split())


# -- every page ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EVERY_PAGE)
def test_every_page_is_plain_whole_and_asks_for_nothing_from_elsewhere(two, on, path):
    page = on(two, path)
    for header, value in SECURITY_HEADERS.items():
        assert page.headers[header] == value
    tags = re.findall(r"<[^>]*>", page.text.lower())
    assert len(tags) > 20
    for foreign in (
        r"https?:",
        r"=.?//",
        r"^<script",
        r"javascript:",
        r"\son\w+\s*=",
        r"\sstyle=",
        r"url\(",
    ):
        assert not [tag for tag in tags if re.search(foreign, tag)], foreign
    assert page.text.count("<h1>") == 1
    assert page.text.count("<main") == 1
    assert page.text.index('class="skip" href="#main"') < page.text.index("<nav")
    for table in re.findall(r"<table.*?</table>", page.text, re.DOTALL):
        assert "<caption>" in table
        assert 'scope="col"' in table
        assert 'scope="row"' in table
    for picture in re.findall(r"<svg.*?</svg>", page.text, re.DOTALL):
        assert 'role="img"' in picture
        assert "<title" in picture
        assert "<desc" in picture
    ids = re.findall(r' id="([^"]+)"', page.text)
    assert len(set(ids)) == len(ids)
    for target in re.findall(r'(?:href="#|aria-labelledby=")([^"]+)"', page.text):
        assert set(target.split()) <= set(ids)


def test_the_policy_of_the_pages_lets_nothing_be_loaded_but_their_own_style(two, on):
    assert SECURITY_HEADERS["Content-Security-Policy"].startswith("default-src 'none';")
    assert "script-src" not in SECURITY_HEADERS["Content-Security-Policy"]
    assert "unsafe" not in SECURITY_HEADERS["Content-Security-Policy"]
    style = on(two, "/kfm/style.css")
    assert style.headers["Content-Type"].startswith("text/css")
    assert "url(" not in style.text
    assert "@import" not in style.text


# -- models ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database_kind", BOTH)
def test_the_list_says_what_is_where_and_leaves_prompts_out(two, on):
    prompt = RegisteredModelTag(IS_PROMPT_TAG_KEY, "true")
    two.store.create_registered_model("climate-greeting", [prompt])
    said = words(on(two, "/kfm/"))
    assert f"{NAME} climate v1 v2 none v2" in said
    assert "climate-greeting" not in said
    said = words(on(two, f"/kfm/models/{NAME}"))
    assert re.search(r"v2 canary v1\.1\.0 .* v1 production v1\.0\.0", said)


@pytest.mark.parametrize("database_kind", BOTH)
def test_models_are_paged_and_searched_by_a_part_of_their_name(registry, on):
    names = [f"climate-{i:03d}" for i in range(60)] + ["climate-50%_off"]
    for name in names:
        registry.store.create_registered_model(name)
    seen, path = [], "/kfm/"
    while path:
        page = on(registry, path)
        seen += re.findall(r'rowheader"><a href="[^"]+">([^<]+)</a>', page.text)
        following = re.search(r'rel="next" href="([^"]+)"', page.text)
        path = following[1].replace("&amp;", "&") if following else None
    assert sorted(seen) == sorted(names)
    assert len(set(seen)) == len(seen)
    found = on(registry, "/kfm/?q=MATE-05").text
    assert found.count('rowheader"><a') == 10
    assert on(registry, "/kfm/?q=%25_").text.count('rowheader"><a') == 1
    assert "No registered model has" in on(registry, "/kfm/?q=zzz").text


def test_versions_of_a_model_are_paged_newest_first(registry, world, on):
    registry.register(world.releases[0])
    for _ in range(59):
        registry.store.create_model_version(NAME, "s3://nowhere/x", "run")
    first = on(registry, f"/kfm/models/{NAME}")
    assert re.findall(r">v(\d+)</a></th>", first.text) == [str(n) for n in range(60, 10, -1)]
    second = on(registry, f"/kfm/models/{NAME}?before=11")
    assert re.findall(r">v(\d+)</a></th>", second.text) == [str(n) for n in range(10, 0, -1)]
    assert 'rel="next"' not in second.text


# -- one version ----------------------------------------------------------------------------------------


def test_a_missing_vote_is_shown_with_the_very_command_that_casts_it(canary, on):
    canary.vote(1, COUNCIL[0])
    page = on(canary, V1)
    said = words(page)
    assert "1 of 3 approvals that are needed" in said
    assert "Nobody approves yet as: indigenous-representative" in said
    commands = re.findall(r'<pre class="command"[^>]*>(.*?)</pre>', page.text)
    lines = [re.sub(r"<[^>]+>", "", line).replace("&#34;", '"') for line in commands]
    votes = [shlex.split(line) for line in lines if line.startswith("kfm vote")]
    assert [line[line.index("--key") + 1] for line in votes] == [f"{m}.pem" for m in COUNCIL[1:]]
    for line in votes:
        asked = vote_command.make_context("vote", line[2:])
        assert asked.params["model_uri"] == f"models:/{NAME}/1"
        assert (asked.params["level"], asked.params["choice"]) == ("production", "approve")
    (check,) = [shlex.split(line) for line in lines if line.startswith("kfm check")]
    assert check_command.make_context("check", check[2:]).params["level"] == "production"


def test_a_vote_on_something_else_counts_for_nothing_on_the_page(canary, on):
    canary.vote(1, COUNCIL[0], epoch=7)
    said = words(on(canary, V1))
    assert "0 of 3 approvals" in said
    assert said.count("no vote that counts") == 4


@pytest.mark.parametrize("database_kind", BOTH)
def test_the_page_says_what_the_gates_of_the_next_level_and_of_this_one_found(two, on):
    report = two.store.check(NAME, 2, Level.PRODUCTION).report
    said = words(on(two, V2))
    assert report.digest in said
    for gate in report.gates:
        for finding in gate.findings:
            for told_of in (gate.gate, finding.detail, finding.code, finding.observed):
                assert " ".join(told_of.split()) in said
    assert "Everything that production asks for is there." in said
    assert "Judged again now: holds" in said
    assert re.search(r"Admitted by ledger row \d+ on .* by unauthenticated", said)


def test_what_refuses_stands_before_what_passes_with_limit_and_remedy(canary, on):
    page = on(canary, V1)
    assert "1 finding stands between this version and production." in words(page)
    assert page.text.index("QUORUM_PENDING") < page.text.index("PATH_NEXT")
    assert ">= 3 votes" in words(page)


def test_evidence_is_listed_with_kind_signer_digest_time_and_whether_it_verifies(two, on):
    page = on(two, V1)
    kept = two.query("SELECT digest, kind FROM kfm_attestation")
    rows = re.findall(r"<tr.*?</tr>", page.text, re.DOTALL)
    for digest, kind in kept:
        row = next((row for row in rows if f'title="{digest}"' in row), None)
        if row is None:
            continue  # of the other version
        assert f">{kind}</th>" in row
        assert "v-PASS" in row
        assert "UTC</time>" in row
    said = words(page)
    for signer in (*COUNCIL, "controller", "validator", "trainer"):
        assert signer in said
    assert "signature of the whole release" in said


def test_evidence_that_has_run_out_no_longer_verifies_on_the_page(two, on):
    two.now += timedelta(days=400)
    page = on(two, V1)
    row = next(r for r in re.findall(r"<tr.*?</tr>", page.text, re.DOTALL) if ">vote</th>" in r)
    assert "v-FAIL" in row
    assert "expired" in row


def test_a_candidate_says_what_comes_before_its_evidence_can_be_listed(registry, world, on):
    registry.register(world.releases[0])
    said = words(on(registry, V1))
    assert "not frozen yet" in said
    assert "Listed once the release is frozen" in said
    assert "No decision about this version yet." in said


def test_what_a_changed_release_says_about_itself_is_not_shown(two, on):
    shown = on(two, V2).text
    assert "kfm-graph" in shown
    assert "kfm-map" in shown
    for care in two.area.glob("kfm-frozen/*/release/care.json"):
        care.parent.chmod(0o755)
        care.chmod(0o644)
        care.write_text('{"care": {}}')
    for path in (V1, V2):
        page = on(two, path)
        assert "kfm-graph" not in page.text
        assert "kfm-map" not in page.text
        assert "Not shown: gates care, authority and integrity must pass" in words(page)
    assert "Judged again now: recall" in words(on(two, V1))


def test_a_page_of_nothing_is_not_found(two, on):
    for path in ("/kfm/models/none", "/kfm/models/none/1", f"/kfm/models/{NAME}/99"):
        assert on(two, path, 404).headers["Content-Type"].startswith("text/plain")
    assert "no row 999" in on(two, "/kfm/ledger/999", 404).text
    assert on(two, "/kfm/policies/none", 400).headers["Content-Type"].startswith("text/plain")
    assert on(two, f"/kfm/models/{NAME}?before=x", 400)


# -- the ledger -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database_kind", BOTH)
def test_the_ledger_is_paged_newest_first_and_has_a_page_per_row(registry, world, on):
    registry.register(world.releases[0])
    for _ in range(55):
        with told(403):
            registry.store.move(NAME, 1, Level.PRODUCTION)
    head = int(registry.query("SELECT max(seq) FROM kfm_ledger")[0][0])
    first = on(registry, "/kfm/ledger")
    assert re.findall(r">row (\d+)</a></th>", first.text) == [
        str(n) for n in range(head, head - 50, -1)
    ]
    second = on(registry, f"/kfm/ledger?before={head - 49}")
    assert re.findall(r">row (\d+)</a></th>", second.text) == [
        str(n) for n in range(head - 50, 0, -1)
    ]
    history = on(registry, V1)
    assert f"/kfm/ledger?model={NAME}&amp;version=1&amp;before={head - 19}" in history.text
    row = words(on(registry, f"/kfm/ledger/{head}"))
    hash_, before = registry.query("SELECT hash, prev_hash FROM kfm_ledger ORDER BY seq DESC")[0]
    for part in (hash_, before, "candidate → production", "LEVEL_SKIPPED", '"payloadType"'):
        assert part in row


def _write(registry, body, kind="moved"):
    with registry.store.unit_of_work(f"model:{NAME}") as session:
        return records.append_ledger(
            session, kind=kind, model=NAME, version=1, body=body, now=registry.now, level="staging"
        )


@pytest.mark.parametrize(
    "body", ["", "no json", "[]", '{"payload": "?"}', '{"payload": 3}', "null"]
)
def test_a_row_of_no_shape_that_we_know_is_shown_as_it_is(canary, on, body):
    seq = _write(canary, body, kind="from-the-future")
    assert "from-the-future" in words(on(canary, f"/kfm/ledger/{seq}"))
    assert "from-the-future" in words(on(canary, "/kfm/ledger"))
    assert "from-the-future" in words(on(canary, V1))
    assert on(canary, f"/kfm/badge/{NAME}/1.svg")


def test_an_exemption_and_broken_glass_are_loud_wherever_they_are_told_of(canary, on):
    import json

    waiver = {"by": "exemption", "owner": "Ada", "reason": "meter broken", "until": "2031-01-01"}
    finding = {"code": "TELEMETRY_MISSING", "verdict": "FAIL", "detail": "no telemetry"}
    gate = {"gate": "telemetry", "mode": "enforce", "verdict": "PASS"}
    report = {
        "verdict": "PASS",
        "from_level": "staging",
        "to_level": "canary",
        "gates": [{**gate, "findings": [{**finding, "waiver": waiver}]}],
    }
    glass = {"roles": ["operator"], "reason": "flood warning", "ticket": "OPS-7"}
    claims = {"report": report, "break_glass": glass, "actor": "grace"}
    seq = _write(canary, json.dumps({"predicate": {"claims": claims}}))
    for path in (f"/kfm/ledger/{seq}", V1):
        page = on(canary, path)
        aside = re.search(r'<aside class="loud" role="alert".*?</aside>', page.text, re.DOTALL)
        said = " ".join(re.sub(r"<[^>]+>", " ", aside[0]).split())
        for part in ("Break-glass", "flood warning", "OPS-7", "Exemption", "Ada", "meter broken"):
            assert part in said, said
    assert "Break-glass" in words(on(canary, "/kfm/ledger"))
    assert "break-glass" in on(canary, f"/kfm/badge/{NAME}/1.svg").text


def test_what_a_ledger_row_says_is_escaped_everywhere(canary, on):
    import json

    evil = "<img src=x onerror=alert(1)>{{7*7}}"
    claims = {"actor": evil, "reason": evil, "report": {"from_level": evil, "to_level": evil}}
    seq = _write(canary, json.dumps({"predicate": {"claims": claims}}))
    for path in (f"/kfm/ledger/{seq}", "/kfm/ledger", V1):
        page = on(canary, path)
        assert "<img" not in page.text
        assert ">49<" not in page.text
    svg = on(canary, f"/kfm/badge/{NAME}/1.svg").text
    assert "<img" not in svg


# -- policy -----------------------------------------------------------------------------------------------


def test_the_policy_page_says_every_gate_limit_member_and_step(two, on):
    said = words(on(two, "/kfm/policies/climate"))
    policy = two.store.admission.policy("climate")
    for name, gate in policy.gates:
        assert gate is None or f"{name} {gate.mode}" in said
    for part in ("nrmse ≤ 0.2", "nbias ≥ -0.02 and ≤ 0.02", "max_energy_wh: 4500.0"):
        assert part in said
    for member in COUNCIL:
        assert member in said
    assert "Send 10 % of the traffic to the canary." in said
    assert "Wait for votes; abort after 86400 s." in said
    assert policy.digest in said


def test_no_private_or_local_thing_of_the_policy_is_on_its_page(two, on):
    page = on(two, "/kfm/policies/climate").text
    assert "PRIVATE" not in page
    assert str(two.world.root) not in page


# -- what a page costs -------------------------------------------------------------------------------------


def test_no_page_reads_a_whole_table_however_many_versions_there_are(two, monkeypatch):
    """Ask SQLite itself how it answers every query that a page makes."""
    asked = []

    def remember(*seen):
        _, _, statement, parameters, *_ = seen
        if statement.lstrip().upper().startswith("SELECT"):
            asked.append((statement, parameters))

    two.store.create_registered_model("climate-zzz")
    with visiting(two, monkeypatch) as client:
        event.listen(two.store.engine, "before_cursor_execute", remember)
        for path in (
            *EVERY_PAGE,
            "/kfm/?q=tiny&after=a",
            f"/kfm/models/{NAME}?before=2",
            f"/kfm/ledger?model={NAME}&version=1&before=4",
            f"/kfm/badge/{NAME}/1.svg",
        ):
            assert client.get(path).status_code == 200
        event.remove(two.store.engine, "before_cursor_execute", remember)
    assert len(asked) > 20
    plans = []
    with two.store.engine.connect() as connection:
        for statement, parameters in set(asked):
            raw = connection.connection.dbapi_connection
            steps = raw.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            plans += [(step[3], statement) for step in steps]
    scans = [
        plan for plan in plans if re.match(r"SCAN (model_versions|kfm_ledger|kfm_out)", plan[0])
    ]
    # The ledger's list and the last row walk its key from the end, and stop after a page.
    assert all(re.search(r"ORDER BY.*LIMIT|max\(", sql, re.DOTALL) for _, sql in scans), scans
    assert not any(
        "USE TEMP B-TREE FOR ORDER BY" in plan and "model_versions" in sql for plan, sql in plans
    )


def test_the_list_answers_at_once_among_a_hundred_thousand_versions(registry, monkeypatch):
    import time

    registry.store.create_registered_model("climate-big")
    rows = [
        {"version": n, "stage": "Staging" if n % 20000 == 0 else "None"} for n in range(1, 100_001)
    ]
    with registry.store.unit_of_work("model:climate-big") as session:
        session.execute(
            text(
                "INSERT INTO model_versions (workspace, name, version, creation_time,"
                " current_stage, source, status) VALUES"
                " ('default', 'climate-big', :version, 0, :stage, 's3://x', 'READY')"
            ),
            rows,
        )
    with visiting(registry, monkeypatch) as client:
        taken_s = []
        for path in ("/kfm/", "/kfm/models/climate-big", "/kfm/models/climate-big?before=50000"):
            client.get(path)
            started_s = time.perf_counter()
            assert client.get(path).status_code == 200
            taken_s.append(time.perf_counter() - started_s)
    # About 5 ms each; reading all rows took 200 ms and more.
    assert max(taken_s) < 0.15, taken_s


# -- colours ------------------------------------------------------------------------------------------------


def _luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """Return the contrast ratio of two colours (WCAG 2.2, relative luminance)."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_computed_as_wcag_does():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_colour_of_text_can_be_read_on_every_ground(scheme):
    folder = resources.files("kfm_mlflow.registry") / "templates" / "kfm"
    blocks = re.findall(r":root \{(.*?)\}", (folder / "style.css").read_text(), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[scheme]))
    for name in ("ink", "quiet", "link", "good", "bad", "unsure", "loud"):
        for ground in ("page", "panel"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    for name in ("ink", "loud"):
        assert contrast(colours[name], colours["loud-panel"]) >= 4.5
    for ground in ("data", "run", "people"):
        assert contrast(colours["ink"], colours[ground]) >= 4.5, ground
    for name in ("line", "mask", "extent"):  # pictures ask for 3 to 1
        assert contrast(colours[name], colours["page"]) >= 3, name
    assert Path(str(folder / "style.css")).stat().st_size < 20_000
