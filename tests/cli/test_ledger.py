"""``kfm ledger``: verify, show, at, head and export, on the real server and on an exported file."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import pairwise

import pytest
from registry.world import NAME, Registry, query

from kfm_mlflow.canonical import canonical_bytes, load_json
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.registry.snapshot import Cover, write_snapshot
from kfm_mlflow.trust.ledger_head import LedgerHead

COLUMNS = ("seq", "at", "kind", "model", "version", "body", "prev_hash", "hash")


# -- a file ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def story(world, tmp_path_factory):
    """v1 to Production, a minute later v2 in its place, a minute later back; each exported."""
    folder = tmp_path_factory.mktemp("story")
    made = Registry(world, folder / "registry.db", folder / "artifacts")
    made.now = started = made.now - timedelta(minutes=30)
    for bundle in world.releases[:2]:
        made.register(bundle)
    made.to_production(1)
    made.now = started + timedelta(minutes=1)
    made.to_canary(2)
    with pytest.raises(Exception, match="KFM refused Production"):
        made.store.move(NAME, 2, Level.PRODUCTION, reason="\x1b[31mtoo early\nby far")
    made.endorse(2)
    made.store.move(NAME, 2, Level.PRODUCTION, reason="better by far")
    made.now = started + timedelta(minutes=2)
    made.store.move(NAME, 2, Level.CANDIDATE, restore=1, reason="errors")
    found = query(made.database, f"SELECT {', '.join(COLUMNS)} FROM kfm_ledger ORDER BY seq")
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in found]
    last = rows[-1]
    head = LedgerHead(last["seq"], last["hash"], last["at"]).to_dict()
    key = world.signer("registry").public_key
    cover = Cover("story", "@kfm-governance", made.now, head, key)
    write_snapshot(folder / "ledger_snapshot.json", rows, cover)
    made.store._dispose_engine()
    return folder / "ledger_snapshot.json", rows, started


def at(kfm, story, minutes, *more):
    file, _, started = story
    instant = (started + timedelta(minutes=minutes)).isoformat()
    return kfm("ledger", "at", instant, f"models:/{NAME}", "--file", file, *more)


def production(kfm, story, minutes):
    done = at(kfm, story, minutes, "--level", "production", "--json")
    assert done.code == 0, done.err
    return [item["version"] for item in json.loads(done.out)["versions"]]


def test_at_says_what_was_production_before_during_and_after(kfm, story):
    assert production(kfm, story, -0.1) == []
    assert production(kfm, story, 0.5) == [1]
    assert production(kfm, story, 1.5) == [2]
    assert production(kfm, story, 2) == [1]


def test_at_says_since_when_by_which_row_who_and_why(kfm, story):
    _, rows, started = story
    promoted = next(row["seq"] for row in rows if row["version"] == 2 and row["kind"] == "refused")
    said = at(kfm, story, 1.5).out
    since = (started + timedelta(minutes=1)).isoformat(timespec="milliseconds")
    assert f"v2 since {since.replace('+00:00', 'Z')}, by row {promoted + 1}" in said
    assert "by unauthenticated (not logged in): better by far" in said
    assert "approved by council-ann, council-bea" in said
    assert f"until {rows[-1]['at']}, by row {rows[-1]['seq'] - 1}" in said
    assert "candidate   v1" in said
    assert "v2 took its place" in said


def test_at_without_anything_says_so(kfm, story):
    done = at(kfm, story, -1)
    assert (done.code, done.out.startswith(f"nothing of {NAME} was at any level at")) == (0, True)


@pytest.mark.parametrize(
    ("time", "words"),
    [
        ("2026-11-08T22:20:00", "has no time zone; write ISO 8601 with a zone"),
        ("2026-11-08", "has no time zone"),
        ("noon", "is not an instant"),
        ("2999-01-01T00:00:00Z", "has not come yet"),
    ],
)
def test_a_time_that_names_no_instant_is_refused_with_the_remedy(kfm, story, time, words):
    file, _, _ = story
    kfm("ledger", "at", time, f"models:/{NAME}", "--file", file).fails_in_one_line(2, words)


def test_a_model_is_written_as_a_uri_and_a_level_is_one(kfm, story):
    file, _, started = story
    common = ("ledger", "at", started.isoformat())
    kfm(*common, NAME, "--file", file).fails_in_one_line(2, "is not models:/NAME")
    kfm(*common, f"models:/{NAME}/1", "--file", file).fails_in_one_line(2, "is not models:/NAME")
    done = kfm(*common, f"models:/{NAME}", "--level", "live", "--file", file)
    done.fails_in_one_line(2, "is no level")


def test_show_tells_a_stranger_who_what_when_why_and_what_did_not_pass(kfm, story):
    file, rows, _ = story
    refused = next(row for row in rows if row["kind"] == "refused")
    said = kfm("ledger", "show", refused["seq"], "--file", file).out
    for words in (
        f"row {refused['seq']} of the ledger, refused",
        f"{NAME} v2  canary → production  INCONCLUSIVE",
        f"when        {refused['at']}",
        "who         unauthenticated (not logged in)",
        "why         [31mtoo early by far",
        "votes       0 of",
        "votes INCONCLUSIVE: quorum_not_met: votes 0 of",
        "→ kfm vote models:/",
        "release     v1.1.0 sha256:",
        "rollback to sha256:",
        "policy      sha256:",
        "decision    sha256:",
    ):
        assert words in said, (words, said)
    assert "\x1b" not in said
    assert len(said.splitlines()) < 60
    found = json.loads(kfm("ledger", "show", refused["seq"], "--file", file, "--json").out)
    assert (found["actor"], found["outcome"], found["from_level"]) == (
        "unauthenticated",
        "refused",
        "canary",
    )
    assert {item["gate"] for item in found["not_passed"]} >= {"votes"}


def test_every_row_can_be_shown_and_listed(kfm, story):
    file, rows, _ = story
    listed = kfm("ledger", "list", "--file", file).out.splitlines()
    assert len(listed) == len(rows)
    for row in rows:
        assert kfm("ledger", "show", row["seq"], "--file", file).code == 0
    done = kfm("ledger", "show", len(rows) + 1, "--file", file)
    done.fails_in_one_line(2, f"has no row {len(rows) + 1}")
    assert kfm("ledger", "show", 0, "--file", file).code == 2


def test_verify_reads_a_file_offline_and_says_whose_key_it_believed(kfm, world, story):
    file, rows, _ = story
    done = kfm("ledger", "verify", file)
    assert (done.code, done.err) == (0, "")
    assert f"{len(rows)} rows, chain intact, every row signed by the registry" in done.out
    assert "as the file itself says" in done.out
    named = kfm("ledger", "verify", file, "--key", f"{world.key('registry')}.pub")
    assert (named.code, "given by --key" in named.out) == (0, True)
    foreign = kfm("ledger", "verify", file, "--key", f"{world.key('foreign')}.pub")
    assert foreign.code == 1
    assert "row 1 is not signed by the registry" in foreign.out
    assert world.signer("registry").public_key.key_id in foreign.out


def test_verify_names_the_row_that_was_changed_in_a_file(kfm, story, tmp_path):
    file, _, _ = story
    document = load_json(file)
    document["rows"][2]["version"] = 7
    changed = tmp_path / "changed.json"
    changed.write_bytes(canonical_bytes(document))
    done = kfm("ledger", "verify", changed)
    assert (done.code, "row 3 was changed after it was written" in done.out) == (1, True)
    bad = json.loads(kfm("ledger", "verify", changed, "--json").out)
    assert (bad["first_bad_row"]["row"], bad["good_row_count"]) == (3, 2)
    kfm("ledger", "verify", tmp_path / "none.json").fails_in_one_line(1, "cannot be read")
    (tmp_path / "no.json").write_text("{}")
    kfm("ledger", "verify", tmp_path / "no.json").fails_in_one_line(1, "missing")


# -- the server ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refused(server, world):
    """A refusal in the server's ledger, which freezes nothing; its row."""
    version = server.register(world.releases[0])
    answer = server.ask(
        "POST",
        f"/kfm/api/v1/models/{NAME}/versions/{version}/moves",
        json={"to": "production", "reason": "now"},
    )
    assert answer.status_code == 403
    rows = query(server.data / "mlflow.db", "SELECT max(seq) FROM kfm_ledger WHERE kind='refused'")
    return rows[0][0]


@pytest.mark.server
def test_pages_of_the_ledger_join_without_gap_or_overlap(server, refused):
    everything = server.ask("GET", "/kfm/api/v1/ledger").json()
    seqs, after = [], 0
    while after is not None:
        page = server.ask("GET", f"/kfm/api/v1/ledger?limit=2&after={after}").json()
        seqs += [row["seq"] for row in page["rows"]]
        assert len(page["rows"]) <= 2
        after = page["next_after"]
    assert seqs == list(range(1, len(seqs) + 1))
    assert seqs == [row["seq"] for row in everything["rows"]]
    assert everything["next_after"] is None
    mine = server.ask("GET", f"/kfm/api/v1/ledger?model={NAME}&limit=1000").json()["rows"]
    assert all(row["model"] == NAME for row in mine)
    assert all(a["seq"] < b["seq"] for a, b in pairwise(mine))
    beyond = server.ask("GET", f"/kfm/api/v1/ledger?after={2**31 - 1}").json()
    assert beyond == {"rows": [], "next_after": None}


@pytest.mark.server
@pytest.mark.parametrize(
    "asked", ["after=-1", "after=x", "limit=1e3", "limit=", f"after={'9' * 30}"]
)
def test_a_page_that_is_none_is_a_400(server, asked):
    assert server.ask("GET", f"/kfm/api/v1/ledger?{asked}").status_code == 400


@pytest.mark.server
def test_verify_says_that_the_key_is_the_servers_own_word_unless_it_is_given(kfm, server, refused):
    where = ("--server", server.url)
    done = kfm("ledger", "verify", *where)
    assert done.code == 0, done.out
    assert f"as {server.url} itself says" in done.out
    assert "rows, chain intact, every row signed by the registry" in done.out
    named = kfm("ledger", "verify", *where, "--key", server.data / "registry.pem.pub")
    assert (named.code, "given by --key" in named.out) == (0, True)
    foreign = kfm("ledger", "verify", *where, "--key", f"{server.world.key('foreign')}.pub")
    assert (foreign.code, "row 1 is not signed by the registry" in foreign.out) == (1, True)


@pytest.mark.server
def test_a_head_that_was_kept_finds_rows_cut_off_the_end(kfm, server, refused, tmp_path):
    where = ("--server", server.url)
    printed = kfm("ledger", "head", *where)
    assert printed.out.encode().strip() == canonical_bytes(json.loads(printed.out))
    kept = tmp_path / "head.json"
    assert kfm("ledger", "head", *where, "-o", kept).code == 0
    assert schema_problems("ledger_head", load_json(kept)) == []
    assert load_json(kept)["signature"]["keyid"] in kfm("ledger", "verify", *where).out
    done = kfm("ledger", "verify", *where, "--head", kept)
    assert (done.code, "holds to the head that was kept" in done.out) == (0, True)
    longer = {**load_json(kept), "seq": load_json(kept)["seq"] + 3}
    tampered = tmp_path / "tampered.json"
    tampered.write_bytes(canonical_bytes(longer))
    failed = kfm("ledger", "verify", *where, "--head", tampered)
    failed.fails_in_one_line(1, "signature that does not verify")
    del longer["signature"]
    tampered.write_bytes(canonical_bytes(longer))
    cut = kfm("ledger", "verify", *where, "--head", tampered)
    assert (cut.code, "3 cut off the end" in cut.out) == (1, True)


@pytest.mark.server
def test_export_verifies_offline_and_a_broken_ledger_is_not_exported(
    kfm, server, refused, tmp_path
):
    file = tmp_path / "ledger_snapshot.json"
    where = ("--server", server.url)
    done = kfm("ledger", "export", "-o", file, "--auditor", "@kfm-governance", *where)
    assert done.code == 0, done.err
    document = load_json(file)
    assert schema_problems("ledger_snapshot", document) == []
    assert document["auditor"] == "@kfm-governance"
    assert kfm("ledger", "verify", file, "--key", server.data / "registry.pem.pub").code == 0
    foreign = f"{server.world.key('foreign')}.pub"
    again = kfm("ledger", "export", "-o", tmp_path / "no.json", "--key", foreign, *where)
    again.fails_in_one_line(1, "row 1 is not signed by the registry")
    assert not (tmp_path / "no.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger_snapshot.json"]


@pytest.mark.server
def test_show_and_at_read_the_server(kfm, server, refused):
    where = ("--server", server.url)
    said = kfm("ledger", "show", refused, *where)
    assert (said.code, "why         now" in said.out) == (0, True)
    kfm("ledger", "show", 10**6, *where).fails_in_one_line(2, "has no row 1000000")
    done = kfm("ledger", "at", "2020-01-01T00:00:00Z", f"models:/{NAME}", *where)
    assert (done.code, f"nothing of {NAME}" in done.out) == (0, True)
