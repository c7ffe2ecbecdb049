"""Catalogs, collections, version links and searches of STAC items: laws, and the schemas of STAC."""

from __future__ import annotations

import json
import posixpath
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import unquote

import pystac
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metadata import made_facts
from shapely.geometry import box

from kfm_mlflow.canonical import canonical_bytes, digest_json
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.metadata.stac import build_item
from kfm_mlflow.metadata.stac_catalog import (
    absolute_href,
    collection_document,
    describe_item,
    link,
    manifest_from_item,
    neighbours,
)
from kfm_mlflow.metadata.stac_search import (
    SEARCH_FIELDS,
    boxes_meet,
    build_record,
    matches,
    parse_search,
    read_arguments,
)
from kfm_mlflow.metadata.stac_static import CATALOG_FILE, file_name, static_documents
from kfm_mlflow.release.bundle import ITEM_PATH

JOURNEYS = st.lists(st.integers(1, 5), min_size=1, max_size=12)


def make_item(**changes):
    release = replace(made_facts.make_release(), **changes)
    return build_item(
        release, made_facts.make_files(), made_facts.make_datasets(), made_facts.make_run()
    )


def found_by(asked, item=None):
    return matches(build_record(item or make_item(), "downscaler", 3), parse_search(asked))


# -- before and after ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reigns", "expected"),
    [
        ([1], {1: (None, None)}),
        ([1, 2, 3], {1: (None, 2), 2: (1, 3), 3: (2, None)}),
        # 2 was rolled back to 1, and 3 came after that.
        ([1, 2, 1, 3], {1: (None, 3), 2: (1, 1), 3: (1, None)}),
        # The same again is no change.
        ([1, 1, 2], {1: (None, 2), 2: (1, None)}),
    ],
)
def test_links_follow_promotions_and_rollbacks(reigns, expected):
    found = neighbours(reigns, reigns[-1])
    assert {v: (n.predecessor, n.successor) for v, n in found.items()} == expected
    assert {n.latest for n in found.values()} == {reigns[-1]}


@given(JOURNEYS)
def test_successors_end_at_the_last_and_predecessors_at_the_first(reigns):
    found = neighbours(reigns, reigns[-1])
    assert set(found) == set(reigns)
    for version in reigns:
        for attribute, end in (("successor", reigns[-1]), ("predecessor", reigns[0])):
            at, seen = version, []
            while (following := getattr(found[at], attribute)) is not None:
                seen.append(at)
                assert following not in seen
                at = following
            assert at == end


# -- proof -----------------------------------------------------------------------------------------


def test_an_item_that_lists_everything_gives_the_id_of_its_release():
    item = make_item()
    data = canonical_bytes(item)
    files = {f.path: (f.size_bytes, f.sha256) for f in made_facts.make_files()}
    import hashlib

    files[ITEM_PATH] = (len(data), "sha256:" + hashlib.sha256(data).hexdigest())
    manifest = {
        "schema_version": "1",
        "files": [
            {"path": path, "size": size, "sha256": digest.removeprefix("sha256:")}
            for path, (size, digest) in sorted(files.items())
        ],
    }
    found = manifest_from_item(item, data, ITEM_PATH).release_id
    assert found == digest_json(manifest)
    assert manifest_from_item(item, data + b" ", ITEM_PATH).release_id != found
    item["assets"].popitem()
    assert manifest_from_item(item, data, ITEM_PATH).release_id != found


@pytest.mark.parametrize("href", ["https://example.org/x", "../../out", None])
def test_an_asset_that_is_no_file_of_the_release_proves_nothing(href):
    item = make_item()
    item["assets"]["weights"]["href"] = href
    with pytest.raises(EvidenceError, match=r"assets\.weights: is no file of the release"):
        manifest_from_item(item, canonical_bytes(item), ITEM_PATH)


# -- documents -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("href", "base", "expected"),
    [
        ("../model.pt", "http://h:1/a/release/stac/i.json", "http://h:1/a/release/model.pt"),
        ("./x%20y", "s3://bucket/a/stac/i.json", "s3://bucket/a/stac/x%20y"),
        ("../model.pt", "file:///srv/a/stac/i.json", "file:///srv/a/model.pt"),
        ("generated:training", "s3://bucket/a/i.json", "generated:training"),
        ("https://example.org/x", "s3://bucket/a/i.json", "https://example.org/x"),
        ("http://[no", "s3://bucket/a/i.json", "http://[no"),
    ],
)
def test_hrefs_are_resolved_as_rfc_3986_says_under_any_scheme(href, base, expected):
    assert absolute_href(href, base) == expected


def test_version_links_of_the_trainer_give_way_to_those_of_the_registry():
    item = make_item(predecessor="v0.9.0")
    assert [each["rel"] for each in item["links"]].count("predecessor-version") == 1
    served = describe_item(
        item,
        "downscaler",
        signed_url="http://h/r/stac/i.json",
        original=link("via", "http://h/signed"),
        links=[link("predecessor-version", "http://h/before")],
    )
    before = [x["href"] for x in served["links"] if x["rel"] == "predecessor-version"]
    assert before == ["http://h/before"]
    assert served["properties"] == item["properties"]
    assert served["geometry"] == item["geometry"]


def test_a_collection_spans_its_items_and_names_a_licence_that_all_share():
    items = [
        make_item(released_at=datetime(2025, 3, 1, tzinfo=UTC)),
        make_item(
            bbox=(10.0, 0.0, 20.0, 5.0),
            geometry=None,
            released_at=datetime(2026, 1, 1, tzinfo=UTC),
            license="CC-BY-4.0",
        ),
    ]
    records = [build_record(item, "m", n) for n, item in enumerate(items, 1)]
    both = collection_document("m", records, [])
    west, south, _, north = items[0]["bbox"]
    assert both["extent"]["spatial"]["bbox"] == [[west, min(south, 0), 20.0, max(north, 5)]]
    times = both["extent"]["temporal"]["interval"]
    assert times == [["2025-03-01T00:00:00Z", "2026-01-01T00:00:00Z"]]
    assert both["license"] == "other"
    assert collection_document("m", records[1:], [])["license"] == "CC-BY-4.0"
    pystac.Collection.from_dict(both)


def test_a_collection_with_an_item_across_the_antimeridian_goes_around_the_earth():
    item = make_item(bbox=(170.0, -10.0, -170.0, 10.0), geometry=None)
    found = collection_document("m", [build_record(item, "m", 1)], [])
    assert found["extent"]["spatial"]["bbox"] == [[-180.0, -10.0, 180.0, 10.0]]


# -- a static catalog ------------------------------------------------------------------------------


def _served(name, versions):
    def url(version):
        return f"http://h/kfm/stac/collections/{name}/items/{name}-{version}"

    items = []
    for before, version in zip([None, *versions], versions, strict=False):
        item = make_item(model_name=name, release_version=version)
        links = [link("self", url(version)), link("root", "http://h/kfm/stac/")]
        links += [link("predecessor-version", url(before))] if before else []
        items.append(
            describe_item(
                item,
                name,
                signed_url="http://h/r/stac/i.json",
                original=link("via", "http://h/signed", **{"file:checksum": "1220" + "0" * 64}),
                links=links,
            )
        )
    records = [build_record(item, name, n) for n, item in enumerate(items, 1)]
    links = [link("self", f"http://h/{name}"), link("root", "http://h/kfm/stac/")]
    return collection_document(name, records, links), items


def test_every_link_between_documents_is_relative_and_leads_to_one_of_them():
    made = [_served(name, ["v1.0.0", "v2.0.0"]) for name in ("some Model", "other")]
    documents = static_documents([c for c, _ in made], [i for _, items in made for i in items])
    assert len(documents) == 1 + 2 + 4
    for path, document in documents.items():
        for each in document["links"]:
            if each["rel"] in {"derived_from", "model-card"}:
                continue
            assert "://" not in each["href"], each
            target = posixpath.normpath(
                posixpath.join(posixpath.dirname(path), unquote(each["href"]))
            )
            assert target in documents or target.endswith("/signed-item.json")
        assert not [each for each in document["links"] if each["rel"] == "self"]
    before = [
        each["href"]
        for document in documents.values()
        for each in document["links"]
        if each["rel"] == "predecessor-version"
    ]
    assert before
    assert all(href.startswith("../") for href in before)


def test_a_static_catalog_does_not_depend_on_the_order_of_its_parts():
    made = [_served(name, ["v1.0.0", "v2.0.0"]) for name in ("b", "a")]
    collections, items = [c for c, _ in made], [i for _, each in made for i in each]
    one = canonical_bytes(static_documents(collections, items))
    other = canonical_bytes(static_documents(collections[::-1], items[::-1]))
    assert one == other
    assert CATALOG_FILE in json.loads(one)


@given(st.sets(st.text(max_size=150), min_size=1, max_size=8))
def test_names_of_files_are_different_short_and_stay_in_their_folder(texts):
    names = [file_name(text) for text in texts]
    assert len({name.lower() for name in names}) == len(texts)
    for name in names:
        assert "/" not in name
        assert name.strip(". ") == name != ""
        assert len(name.encode()) <= 150
    assert file_name("climate-tiny-v1.0.0") == "climate-tiny-v1.0.0"


# -- searches --------------------------------------------------------------------------------------

EDGES = st.floats(-180, 180)
LATITUDES = st.tuples(st.floats(-90, 90), st.floats(-90, 90)).map(sorted)
BOXES = st.tuples(EDGES, LATITUDES, EDGES).map(lambda t: (t[0], t[1][0], t[2], t[1][1]))


def _drawn(bbox):
    west, south, east, north = bbox
    if west <= east:
        return [box(west, south, east, north)]
    return [box(west, south, 180, north), box(-180, south, east, north)]


@given(BOXES, BOXES)
def test_boxes_meet_where_shapely_says_so(one, other):
    expected = any(a.intersects(b) for a in _drawn(one) for b in _drawn(other))
    assert boxes_meet(one, other) == boxes_meet(other, one) == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, True),
        ({"ids": []}, False),
        ({"collections": ["downscaler"]}, True),
        ({"collections": ["other"]}, False),
        ({"bbox": [-180, -90, -500, 180, 90, 500]}, True),
        ({"datetime": "2025-11-28T00:00:00Z"}, True),
        ({"datetime": "2025-11-28T01:00:00+01:00"}, True),
        ({"datetime": "2025-11-28T00:00:01Z/"}, False),
        ({"datetime": "/2025-11-28T00:00:00Z"}, True),
        ({"query": {"care:masking": {"eq": "h3-climate-generalized"}}}, True),
        ({"query": {"care:masking": {"eq": "none"}}}, False),
        ({"query": {"mlm:no such": {"eq": None}}}, False),
    ],
)
def test_a_question_finds_what_it_asks_for(asked, expected):
    item = make_item(released_at=datetime(2025, 11, 28, tzinfo=UTC))
    assert found_by(asked, item) is expected


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(SEARCH_FIELDS) | st.text(min_size=1, max_size=9), VALUES))
def test_any_question_is_answered_or_refused_with_what_is_wrong(asked):
    with suppress(InputError):
        assert found_by(asked) in {True, False}


@pytest.mark.parametrize("name", ["bbox", "datetime", "ids", "limit", "query", "intersects"])
@given(text=st.text(max_size=30))
def test_any_argument_is_read_or_refused(name, text):
    with suppress(InputError):
        parse_search(read_arguments({name: text}))


@pytest.mark.parametrize("missing", ["id", "bbox", "geometry", "properties"])
def test_an_item_without_what_searches_need_is_refused(missing):
    item = make_item()
    del item[missing]
    with pytest.raises(EvidenceError, match="downscaler v3: STAC item"):
        build_record(item, "downscaler", 3)
