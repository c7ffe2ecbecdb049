"""The STAC API: what is public, that clients walk it, that it is valid, and who sees what."""

from __future__ import annotations

import hashlib
import json
import warnings
from datetime import timedelta

import pystac
import pystac_client
import pytest
from flask import Blueprint, g
from mlflow.server import handlers
from openapi_spec_validator import validate as validate_openapi
from pystac.validation.local_validator import get_local_schema_cache
from registry.stac_world import make_story, serving, stac_app
from registry.world import NAME

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.metadata.stac_schemas import stac_schema_sentences
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.load import PolicySet
from kfm_mlflow.registry import permissions, stac_items
from kfm_mlflow.registry.stac_items import PublicItems, public_items

ITEM = f"/kfm/stac/collections/{NAME}/items/{NAME}-v1.{{}}.0"
SIGNED = f"/kfm/stac/collections/{NAME}/signed/{NAME}-v1.0.0"
GEOJSON = "application/geo+json"


@pytest.fixture(scope="module")
def story(world, tmp_path_factory):
    made = make_story(world, tmp_path_factory.mktemp("stac"))
    yield made
    made.store._dispose_engine()


@pytest.fixture(scope="module")
def url(story):
    with serving(story) as address:
        yield address


@pytest.fixture
def client(story, monkeypatch):
    monkeypatch.setattr(handlers, "_model_registry_store", story.store)
    return stac_app().test_client()


def hrefs(document, rel):
    return [link["href"] for link in document["links"] if link["rel"] == rel]


def versions(answer):
    return [item["properties"]["version"] for item in answer.json["features"]]


# -- clients walk it -------------------------------------------------------------------------------


def test_pystac_client_finds_collections_items_and_pages(url):
    with warnings.catch_warnings():
        # The client warns of conformance classes that we do not claim.
        warnings.simplefilter("ignore")
        api = pystac_client.Client.open(f"{url}/kfm/stac/")
        assert [each.id for each in api.get_collections()] == [NAME]
        assert [i.id for i in api.get_collection(NAME).get_items()] == [
            f"{NAME}-v1.0.0",
            f"{NAME}-v1.1.0",
        ]
        for method in ("GET", "POST"):
            paged = api.search(method=method, limit=1, bbox=[-100, 38, -99, 39])
            assert paged.matched() == 2
            assert [len(page.items) for page in paged.pages()] == [1, 1]
            found = api.search(method=method, ids=[f"{NAME}-v1.1.0"], collections=[NAME])
            assert [item.id for item in found.items()] == [f"{NAME}-v1.1.0"]
            asked = {"mlm:framework": {"eq": "pytorch"}, "care:scope": {"eq": "none such"}}
            assert not list(api.search(method=method, query=asked).items())


def test_every_link_of_the_landing_page_leads_to_what_it_says(client):
    landing = client.get("/kfm/stac/").json
    assert landing["stac_version"] == "1.1.0"
    assert landing["conformsTo"] == client.get("/kfm/stac/conformance").json["conformsTo"]
    for link in landing["links"]:
        answer = client.open(link["href"], method=link.get("method", "GET"), json={})
        assert answer.status_code == 200, link
        assert answer.headers["Content-Type"].startswith(link["type"]), link
    assert hrefs(landing, "child") == [f"http://localhost/kfm/stac/collections/{NAME}"]


def test_the_description_is_openapi_and_names_every_route(client):
    described = client.get("/kfm/stac/api").json
    validate_openapi(described)
    routes = {
        (rule.rule.removeprefix("/kfm/stac").count("/"), method.lower())
        for rule in stac_app().url_map.iter_rules()
        if rule.rule.startswith("/kfm/stac")
        for method in rule.methods & {"GET", "POST"}
    }
    told = {(p.count("/"), m) for p, methods in described["paths"].items() for m in methods}
    assert told == routes


# -- documents -------------------------------------------------------------------------------------


def test_documents_are_valid_for_the_schemas_of_stac_and_for_pystac(client):
    from jsonschema import Draft7Validator
    from referencing import Registry, Resource

    schemas = dict(get_local_schema_cache())
    known = Registry().with_resources(
        (uri, Resource.from_contents(value)) for uri, value in schemas.items()
    )

    def held(document, kind):
        uri = f"https://schemas.stacspec.org/v1.1.0/{kind}-spec/json-schema/{kind}.json"
        Draft7Validator(schemas[uri], registry=known).validate(document)

    landing = client.get("/kfm/stac/").json
    held(landing, "catalog")
    pystac.Catalog.from_dict(landing)
    collection = client.get(f"/kfm/stac/collections/{NAME}").json
    held(collection, "collection")
    pystac.Collection.from_dict(collection)
    assert collection["extent"]["spatial"]["bbox"] == [[-102.05, 36.99, -94.58, 40.0]]
    for number in range(2):
        item = client.get(ITEM.format(number)).json
        assert stac_schema_sentences(item) == []
        assert item["collection"] == NAME
        pystac.Item.from_dict(item)


def test_what_is_served_is_what_was_signed_with_links_and_whole_hrefs(client, story):
    answer = client.get(ITEM.format(0))
    item = answer.json
    assert answer.mimetype == GEOJSON
    signed = client.get(SIGNED)
    (frozen,) = story.query("SELECT frozen_uri FROM kfm_release WHERE version = 1")[0]
    folder = story.area / frozen.removeprefix("mlflow-artifacts:/")
    assert signed.data == (folder / "stac/model-item.json").read_bytes()
    (via,) = [link for link in item["links"] if link["rel"] == "via"]
    assert via["href"] == f"http://localhost{SIGNED}"
    assert via["file:checksum"] == "1220" + hashlib.sha256(signed.data).hexdigest()
    assert via["file:size"] == len(signed.data)
    said, original = dict(item), signed.json
    for changed in ("links", "assets", "collection"):
        said.pop(changed)
        original.pop(changed, None)
    assert said == original
    root = "http://localhost/api/2.0/mlflow-artifacts/artifacts"
    for key, asset in item["assets"].items():
        before = signed.json["assets"][key]
        assert {**asset, "href": before["href"]} == before
        path = asset["href"].removeprefix(f"{root}/")
        assert (story.area / path).is_file()


def test_links_say_which_release_was_production_before_and_after(client):
    first, second = client.get(ITEM.format(0)).json, client.get(ITEM.format(1)).json
    assert hrefs(first, "predecessor-version") == []
    assert hrefs(first, "successor-version") == []  # It came back.
    assert hrefs(second, "predecessor-version") == [f"http://localhost{ITEM.format(0)}"]
    assert hrefs(second, "successor-version") == [f"http://localhost{ITEM.format(0)}"]
    for each in (first, second):
        assert hrefs(each, "latest-version") == [f"http://localhost{ITEM.format(0)}"]


def test_answers_are_the_same_bytes_on_repeat(client):
    for path in ("/", "/collections", f"/collections/{NAME}", "/search", "/api"):
        one, other = (client.get(f"/kfm/stac{path}").data for _ in range(2))
        assert one == other == canonical_bytes(json.loads(one))


# -- searches --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ({}, 2),
        ({"bbox": [0, 0, 1, 1]}, 0),
        ({"bbox": [170, 30, -100, 38]}, 2),
        ({"intersects": {"type": "Point", "coordinates": [-100, 38]}}, 2),
        ({"intersects": {"type": "Point", "coordinates": [10, 38]}}, 0),
        ({"datetime": "2001-01-01T00:00:00Z/.."}, 2),
        ({"datetime": "../2001-01-01T00:00:00Z"}, 0),
        ({"collections": ["none"]}, 0),
        ({"collections": [NAME], "ids": [f"{NAME}-v1.0.0"]}, 1),
        ({"query": {"mlm:name": {"eq": NAME}}}, 2),
        ({"query": {"mlm:tasks": {"eq": ["super-resolution"]}}}, 2),
        ({"query": {"care:status": {"eq": "no-known-conflict"}}}, 2),
        ({"query": {"care:status": {"eq": "conflict"}}}, 0),
        ({"query": {"mlm:pretrained": {"eq": 0}}}, 0),
    ],
)
def test_a_search_finds_the_same_by_get_and_post(client, asked, count):
    posted = client.post("/kfm/stac/search", json=asked)
    assert posted.status_code == 200, posted.text
    assert posted.mimetype == GEOJSON
    assert posted.json["numberMatched"] == posted.json["numberReturned"] == count
    flat = {
        name: json.dumps(value) if isinstance(value, dict) else value
        for name, value in asked.items()
    }
    flat = {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in flat.items()}
    got = client.get("/kfm/stac/search", query_string=flat)
    assert got.json["features"] == posted.json["features"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_pages_join_without_gap_or_overlap(client, method):
    found, asked = [], {"limit": 1, "datetime": "../2999-01-01T00:00:00Z"}
    link = {"href": "/kfm/stac/search", "body": asked}
    if method == "GET":
        link = {"href": "/kfm/stac/search?limit=1&datetime=../2999-01-01T00:00:00Z"}
    while link:
        answer = client.open(link["href"], method=method, json=link.get("body"))
        assert answer.status_code == 200, answer.text
        found += versions(answer)
        link = next((each for each in answer.json["links"] if each["rel"] == "next"), None)
    assert found == ["v1.0.0", "v1.1.0"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/search?bbox=1,2,3", 400, "InvalidParameterValue"),
        ("/search?bbox=a,b,c,d", 400, "InvalidParameterValue"),
        ("/search?bbox=1,2,3,nan", 400, "InvalidParameterValue"),
        ("/search?bbox=0,9,1,2", 400, "InvalidParameterValue"),
        ("/search?datetime=noon", 400, "InvalidParameterValue"),
        ("/search?datetime=2020-01-01", 400, "InvalidParameterValue"),
        ("/search?datetime=../..", 400, "InvalidParameterValue"),
        ("/search?limit=0", 400, "InvalidParameterValue"),
        ("/search?limit=x", 400, "InvalidParameterValue"),
        ("/search?token=x", 400, "InvalidParameterValue"),
        ("/search?sortby=id", 400, "InvalidParameterValue"),
        ("/search?query={", 400, "InvalidParameterValue"),
        ('/search?query={"mlm:name":{"neq":"x"}}', 400, "InvalidParameterValue"),
        ('/search?query={"license":{"eq":"MIT"}}', 400, "InvalidParameterValue"),
        ('/search?intersects={"type":"Point"}', 400, "InvalidParameterValue"),
        ("/search?limit=1&limit=2", 400, "InvalidParameterValue"),
        (f"/collections/{NAME}/items?colour=x", 400, "InvalidParameterValue"),
        ("/collections/none", 404, "NotFound"),
        ("/collections/none/items", 404, "NotFound"),
        (f"/collections/{NAME}/items/none", 404, "NotFound"),
        (f"/collections/{NAME}/items/{NAME}-v1.2.0", 404, "NotFound"),  # Staging only.
        (f"/collections/{NAME}/signed/{NAME}-v1.2.0", 404, "NotFound"),
    ],
)
def test_what_cannot_be_answered_says_why_in_json(client, path, status, code):
    answer = client.get(f"/kfm/stac{path}")
    assert (answer.status_code, answer.mimetype) == (status, "application/json")
    assert set(answer.json) == {"code", "description"}
    assert answer.json["code"] == code
    assert answer.json["description"]


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"a":1,"a":2}', b"\xff", b'{"limit":true}'])
def test_a_body_that_is_no_question_is_refused(client, body):
    answer = client.post("/kfm/stac/search", data=body, content_type="application/json")
    assert (answer.status_code, answer.json["code"]) == (400, "InvalidParameterValue")


# -- what is public --------------------------------------------------------------------------------


def test_a_question_reads_no_file_twice_and_a_promotion_only_its_own(two, monkeypatch):
    monkeypatch.setattr(handlers, "_model_registry_store", two.store)
    client = stac_app().test_client()
    read, load = [], stac_items._load
    monkeypatch.setattr(stac_items, "_load", lambda *a: read.append(a[1].version) or load(*a))
    for _ in range(3):
        assert versions(client.get("/kfm/stac/search")) == ["v1.0.0"]
    assert read == [1]
    two.store.move(NAME, 2, Level.PRODUCTION)
    for _ in range(3):
        assert versions(client.get("/kfm/stac/search")) == ["v1.0.0", "v1.1.0"]
    assert read == [1, 2]
    successor = hrefs(client.get(ITEM.format(0)).json, "successor-version")
    assert successor == [f"http://localhost{ITEM.format(1)}"]


def test_an_item_whose_bytes_or_care_block_changed_is_not_public(two):
    for name in ("stac/model-item.json", "care.json"):
        (path,) = [p for p in two.area.glob(f"kfm-frozen/*/release/{name}") if _of(p, "v1.0.0")]
        kept = path.read_bytes()
        path.parent.chmod(0o755)
        path.chmod(0o644)
        path.write_bytes(kept.replace(b"}", b" }", 1))
        assert PublicItems().models(two.store, lambda _: True) == {}
        path.write_bytes(kept)
        assert set(PublicItems().models(two.store, lambda _: True)) == {NAME}


def _of(path, version):
    release = next(p for p in path.parents if p.name == "release")
    return json.loads((release / "model_metadata.json").read_text())["release_version"] == version


def test_a_storage_that_fails_is_asked_again_a_while_later(two):
    now = [0.0]
    memory = PublicItems(lambda: now[0])
    away = two.area.with_name("away")
    two.area.rename(away)
    assert memory.model(two.store, NAME) is None
    away.rename(two.area)
    assert memory.model(two.store, NAME) is None
    now[0] = 61.0
    assert list(memory.model(two.store, NAME).items) == [1]


def test_a_region_that_is_protected_today_takes_items_back(two, tmp_path, monkeypatch):
    memory = PublicItems()
    assert memory.model(two.store, NAME) is not None
    ring = [[-101.0, 37.5], [-99.0, 37.5], [-99.0, 39.0], [-101.0, 39.0], [-101.0, 37.5]]
    region = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "id": "new-region",
            "authority": "its council",
            "consent": {"status": "denied"},
            "h3_max_resolution": 2,
        },
    }
    file = tmp_path / "regions.geojson"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": [region]}))
    from registry.asking import repolicy

    policy = repolicy(two).with_regions(file)
    admission = two.store.admission
    admission.policies = PolicySet({**admission.policies.policies, "climate": policy})
    assert memory.model(two.store, NAME) is None


def test_care_is_asked_again_every_day(two, monkeypatch):
    memory, asked = PublicItems(), []
    screened = stac_items._no_known_conflict
    monkeypatch.setattr(
        stac_items, "_no_known_conflict", lambda *a: asked.append(a[2]) or screened(*a)
    )
    for _ in range(3):
        memory.model(two.store, NAME)
    assert len(asked) == 1
    two.store.move(NAME, 2, Level.PRODUCTION)
    assert len(memory.model(two.store, NAME).items) == 2
    assert len(asked) == 2  # Only what is new.
    two.now += timedelta(days=1)
    memory.model(two.store, NAME)
    assert len(asked) == 4


@pytest.mark.server
def test_the_real_server_answers_reads_and_lets_a_posted_search_pass(server):
    landing = server.ask("GET", "/kfm/stac/")
    assert landing.json()["type"] == "Catalog"
    assert hrefs(landing.json(), "self") == [f"{server.url}/kfm/stac/"]
    for answer in (
        server.ask("GET", "/kfm/stac/search", params={"limit": 1}),
        server.ask("POST", "/kfm/stac/search", json={"limit": 1}),
    ):
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == GEOJSON
        assert answer.json()["type"] == "FeatureCollection"
    assert server.ask("DELETE", "/kfm/stac/search").status_code in {403, 404, 405}


# -- who sees what ---------------------------------------------------------------------------------


def test_who_may_not_read_a_model_is_told_that_there_is_none(story, monkeypatch):
    monkeypatch.setattr(handlers, "_model_registry_store", story.store)
    blind = stac_app(frozenset({NAME})).test_client()
    for path in ("/", "/collections", "/search", f"/search?collections={NAME}"):
        answer = blind.get(f"/kfm/stac{path}")
        assert answer.status_code == 200
        assert NAME not in json.dumps(answer.json.get("features", answer.json.get("collections")))
        assert hrefs(answer.json, "child") == []
    assert blind.post("/kfm/stac/search", json={}).json["features"] == []
    one = blind.get(f"/kfm/stac/collections/{NAME}")
    none = blind.get("/kfm/stac/collections/none")
    assert (one.status_code, none.status_code) == (404, 404)
    assert one.text == none.text.replace("none", NAME)
    for path in (ITEM.format(0), SIGNED, f"/kfm/stac/collections/{NAME}/items"):
        assert blind.get(path).status_code == 404


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_a_logged_in_user_may_search_and_sees_what_mlflow_lets_them_read(method, monkeypatch):
    monkeypatch.setattr(permissions, "permits_model", lambda _user, name, **_: name == "seen")
    app = stac_app()
    with app.test_request_context("/kfm/stac/search", method=method, json={}):
        from flask import request

        g.mlflow_authenticated_user = "rita"
        assert permissions.permits(request)
        assert [name for name in ("seen", "hidden") if g.kfm_may_read(name)] == ["seen"]


def test_only_the_stac_blueprint_leaves_out_by_itself(monkeypatch):
    other = Blueprint("other", __name__)
    other.add_url_rule("/kfm/other", "search", lambda: "", methods=["POST"])
    app = stac_app()
    app.register_blueprint(other)
    with app.test_request_context("/kfm/other", method="POST", json={}):
        from flask import request

        g.mlflow_authenticated_user = "rita"
        assert not permissions.permits(request)


def test_one_memory_per_registry(story, two):
    assert public_items(story.store) is public_items(story.store)
    assert public_items(story.store) is not public_items(two.store)
