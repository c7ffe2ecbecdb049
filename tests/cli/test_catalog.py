"""``kfm catalog export``: a static catalog that is whole, valid, repeatable and never half there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from urllib.parse import unquote

import pystac
import pytest
from registry.causes import DRIFTED
from registry.stac_world import make_story, serving
from registry.world import NAME, files_of

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.cli import catalog as commands
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.metadata.stac_schemas import stac_schema_sentences

ITEM = f"{NAME}/{NAME}-v1.{{0}}.0/{NAME}-v1.{{0}}.0.json"


@pytest.fixture(scope="module")
def url(world, tmp_path_factory):
    story = make_story(world, tmp_path_factory.mktemp("catalog"))
    with serving(story) as address:
        yield address
    story.store._dispose_engine()


@pytest.fixture
def exported(kfm, url, tmp_path):
    done = kfm("catalog", "export", "-o", tmp_path / "out" / "catalog", "--server", url)
    assert (done.code, done.err) == (0, "")
    assert "2 releases in 1 collections" in done.out
    return tmp_path / "out" / "catalog"


def test_an_export_is_a_valid_catalog_that_pystac_walks(exported):
    paths = {"catalog.json", f"{NAME}/collection.json", f"{NAME}/reversion.json"}
    for number in range(2):
        paths |= {ITEM.format(number), f"{NAME}/{NAME}-v1.{number}.0/signed-item.json"}
    assert {path for path, kind in files_of(exported).items() if kind != "directory"} == paths
    catalog = pystac.Catalog.from_file(str(exported / "catalog.json"))
    assert [each.id for each in catalog.get_children()] == [NAME]
    items = list(catalog.get_items(recursive=True))
    assert [item.id for item in items] == [f"{NAME}-v1.0.0", f"{NAME}-v1.1.0"]
    for item in items:
        assert item.get_collection().id == NAME
    for number in range(2):
        document = json.loads((exported / ITEM.format(number)).read_text())
        assert stac_schema_sentences(document) == []
        assert document["links"][0] == {
            "rel": "root",
            "href": "../../catalog.json",
            "type": "application/json",
        }


def test_version_links_and_the_signed_original_lie_in_the_export(exported):
    path = exported / ITEM.format(1)
    links = {each["rel"]: each for each in json.loads(path.read_text())["links"]}
    for rel in ("predecessor-version", "successor-version", "latest-version"):
        target = (path.parent / unquote(links[rel]["href"])).resolve()
        assert target == (exported / ITEM.format(0)).resolve()
    signed = (path.parent / links["via"]["href"]).read_bytes()
    assert links["via"]["file:checksum"] == "1220" + hashlib.sha256(signed).hexdigest()
    assert "collection" not in json.loads(signed)


def test_what_was_taken_back_and_why_lies_in_the_export(exported):
    for number in range(2):
        path = exported / ITEM.format(number)
        (link,) = (
            each for each in json.loads(path.read_text())["links"] if each["rel"] == "kfm:reversion"
        )
        told = (path.parent / unquote(link["href"])).resolve()
        assert told == (exported / NAME / "reversion.json").resolve()
        document = json.loads(told.read_text())
        assert schema_problems("reversion", document) == []
        assert (document["rollback_of"], document["restored"]) == (2, 1)
        assert document["cause"] == link["kfm:cause"] == DRIFTED.model_dump(mode="json")
        assert "errors" not in told.read_text()


def test_the_same_bytes_on_repeat_in_any_time_zone_and_locale(exported, url, tmp_path):
    for number, (zone, locale) in enumerate([("Pacific/Chatham", "C"), ("UTC", "tr_TR.UTF-8")]):
        out = tmp_path / str(number)
        subprocess.run(
            [sys.executable, "-m", "kfm_mlflow.cli", "catalog", "export", "-o", out],
            env={**os.environ, "TZ": zone, "LC_ALL": locale, "MLFLOW_TRACKING_URI": url},
            check=True,
            capture_output=True,
            timeout=60,
        )
        assert files_of(out) == files_of(exported)


def test_everything_is_canonical_and_no_own_link_is_absolute(exported, url):
    for path in exported.rglob("*.json"):
        document = json.loads(path.read_bytes())
        assert path.read_bytes() == canonical_bytes(document)
        if path.name in {"signed-item.json", "reversion.json"}:
            continue
        for each in document["links"]:
            if each["rel"] not in {"derived_from", "model-card"}:
                assert not each["href"].startswith(("http", "/")), each


def test_nothing_that_is_there_is_overwritten(kfm, exported, url):
    before = files_of(exported)
    done = kfm("catalog", "export", "-o", exported, "--server", url)
    done.fails_in_one_line(2, "is there already")
    assert files_of(exported) == before


def test_an_export_that_fails_leaves_nothing_behind(kfm, url, tmp_path, monkeypatch):
    read = commands._RemoteCatalog.read

    def changed(self, path, **asked):
        data = read(self, path, **asked)
        return data + b" " if "/signed/" in path else data

    monkeypatch.setattr(commands._RemoteCatalog, "read", changed)
    done = kfm("catalog", "export", "-o", tmp_path / "out", "--server", url)
    done.fails_in_one_line(1, "is not the item that was signed")
    assert list(tmp_path.iterdir()) == []


def test_no_server_and_one_without_these_pages_say_so(kfm, url, tmp_path):
    out = ("catalog", "export", "-o", tmp_path / "out")
    kfm(*out).fails_in_one_line(2, "is no URL of a server")
    kfm(*out, "--server", f"{url}/elsewhere").fails_in_one_line(2, "start it with `kfm server`")
    kfm(*out, "--server", "http://127.0.0.1:9").fails_in_one_line(1, "cannot be reached")
    assert list(tmp_path.iterdir()) == []


def test_pages_of_a_server_are_followed_to_the_end(exported, kfm, url, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "_PAGE_ITEMS", 1)
    assert kfm("catalog", "export", "-o", tmp_path / "paged", "--server", url).code == 0
    assert files_of(tmp_path / "paged") == files_of(exported)
