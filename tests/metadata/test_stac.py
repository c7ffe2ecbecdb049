"""The STAC item: valid for independent tools, faithful to the files, and strict about both."""

from __future__ import annotations

import hashlib
import posixpath
from dataclasses import replace
from urllib.parse import unquote

import pystac
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metadata import made_facts

from kfm_mlflow.canonical import canonical_bytes, parse_json
from kfm_mlflow.errors import InputError
from kfm_mlflow.metadata.facts import DatasetFact
from kfm_mlflow.metadata.stac import build_item, evaluate_item


def make_item(**changes):
    release = replace(made_facts.make_release(), **changes)
    return build_item(
        release, made_facts.make_files(), made_facts.make_datasets(), made_facts.make_run()
    )


FILES = made_facts.make_files()


def test_item_of_a_complete_release_has_no_problem():
    assert evaluate_item(make_item(), FILES) == []


def test_item_carries_every_field_that_the_climate_document_asks_for():
    properties = make_item()["properties"]
    for name in (
        *("version", "seed", "architecture", "training_data", "hyperparameters"),
        *("metrics", "explainability", "provenance"),
    ):
        assert f"model:{name}" in properties
    assert properties["model:version"] == "v1.2.0"
    assert properties["model:seed"] == 42
    assert properties["care:masking"] == "h3-climate-generalized"
    assert properties["care:scope"] == "public-generalized"
    assert properties["care:sovereignty"] != []
    assert properties["energy:wh"] == 3.5
    assert properties["carbon:gco2e"] == 1.4
    assert {"weights", "xai", "telemetry", "provenance", "model-card"} <= set(make_item()["assets"])


def test_focus_item_carries_the_fields_of_the_focus_document():
    item = make_item(family="focus-mode", fusion_dimension=2048, domains=("geo", "climate"))
    assert evaluate_item(item, FILES) == []
    assert item["properties"]["focus:version"] == "v1.2.0"
    assert item["properties"]["fusion:dimension"] == 2048
    assert item["properties"]["xai:assets"] == ["xai/"]


def test_focus_item_without_a_fusion_dimension_is_refused():
    problems = evaluate_item(make_item(family="focus-mode", domains=("geo",)), FILES)
    assert any("fusion:dimension" in sentence for sentence in problems)


def test_hrefs_lead_from_the_item_to_every_file_and_checksums_are_multihashes():
    led_to = {}
    for asset in make_item()["assets"].values():
        path = posixpath.normpath(posixpath.join("stac", unquote(asset["href"])))
        led_to[path] = asset["file:checksum"]
    expected = {p: "1220" + hashlib.sha256(p.encode()).hexdigest() for p in made_facts.PATHS}
    assert led_to == expected


def test_item_beside_the_weights_has_hrefs_of_that_folder():
    item = build_item(
        made_facts.make_release(),
        FILES,
        made_facts.make_datasets(),
        made_facts.make_run(),
        item_path="model.stac.json",
    )
    assert item["assets"]["weights"]["href"] == "./model.pt"
    assert evaluate_item(item, FILES, item_path="model.stac.json") == []
    assert evaluate_item(item, FILES) != []


def test_pystac_reads_the_item_and_writes_the_same_bytes():
    item = make_item()
    again = pystac.Item.from_dict(item).to_dict(include_self_link=False, transform_hrefs=False)
    assert canonical_bytes(again) == canonical_bytes(item)
    assert parse_json(canonical_bytes(item), where="item") == item


def test_stac_model_accepts_the_mlm_fields():
    from stac_model.schema import MLModelProperties

    properties = make_item()["properties"]
    fields = {key[4:]: value for key, value in properties.items() if key.startswith("mlm:")}
    model = MLModelProperties.model_validate(fields)
    assert model.name == "climate-downscaler"
    assert model.total_parameters == 50_000


def test_order_of_files_and_data_sets_does_not_matter():
    backwards = build_item(
        made_facts.make_release(),
        FILES[::-1],
        made_facts.make_datasets()[::-1],
        made_facts.make_run(),
    )
    assert canonical_bytes(backwards) == canonical_bytes(make_item())


def test_release_across_the_antimeridian_has_a_valid_item():
    item = make_item(bbox=(170.0, -20.0, -170.0, -10.0))
    assert item["geometry"]["type"] == "MultiPolygon"
    assert evaluate_item(item, FILES) == []


def test_release_without_its_weights_is_refused(release, datasets, run):
    with pytest.raises(InputError, match=r"model\.pt"):
        build_item(release, FILES[:1], datasets, run)


def test_file_named_like_a_reserved_key_keeps_its_own_asset():
    files = (*FILES, made_facts.make_file("weights"))
    item = build_item(
        made_facts.make_release(), files, made_facts.make_datasets(), made_facts.make_run()
    )
    assert len(item["assets"]) == len(files)
    assert evaluate_item(item, files) == []


def _set(*path):
    *parents, last, value = path

    def change(item):
        for part in parents:
            item = item[part]
        item[last] = value

    return change


def _drop(*path):
    *parents, last = path

    def change(item):
        for part in parents:
            item = item[part]
        del item[last]

    return change


BROKEN = {
    "missing care:scope": (_drop("properties", "care:scope"), "care:scope is missing"),
    "misspelt care:masking": (_set("properties", "care:maskng", "x"), "unknown field care:maskng"),
    "no weights checksum": (
        _drop("assets", "weights", "file:checksum"),
        "assets.weights: file:checksum is missing",
    ),
    "no mlm:model role": (_set("assets", "weights", "roles", ["data"]), "assets"),
    "no tasks": (_drop("properties", "mlm:tasks"), "mlm:tasks is missing"),
    "misspelt mlm field": (_set("properties", "mlm:acc", "x"), "unknown field mlm:acc"),
    "shape of text": (
        _set("properties", "mlm:input", 0, "input", "shape", ["a"]),
        "properties.mlm:input[0].input.shape[0]: must be integer",
    ),
    "checksum that is no multihash": (
        _set("assets", "weights", "file:checksum", "XYZ"),
        "assets.weights.file:checksum: must match",
    ),
    "unknown extension": (
        _set("stac_extensions", 0, "https://nope.example/schema.json"),
        "https://nope.example/schema.json is unknown here",
    ),
    "extension not declared": (_drop("stac_extensions", 1), "file/v2.1.0/schema.json is missing"),
    "NaN metric": (
        _set("properties", "model:metrics", {"rmse": float("nan")}),
        "properties.model:metrics.rmse: must be a finite number",
    ),
    "infinite energy": (_set("properties", "energy:wh", float("inf")), "energy:wh: must be a fin"),
    "empty polygon": (_set("geometry", {"type": "Polygon", "coordinates": []}), "geometry: is em"),
    "no geometry": (_set("geometry", None), "geometry: is missing"),
    "bow tie": (
        _set("geometry", "coordinates", [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]),
        "geometry: crosses or touches itself",
    ),
    "longitude beyond 180": (
        _set("geometry", "coordinates", [[[0, 0], [200, 0], [200, 1], [0, 0]]]),
        "geometry: has a place outside",
    ),
    "bbox of elsewhere": (_set("bbox", 0, -103.0), "bbox: is not the box around geometry"),
    "bbox of three": (_set("bbox", [1.0, 2.0, 3.0]), "bbox"),
    "stac_version of the past": (_set("stac_version", "1.0.0"), "stac_version: must be 1.1.0"),
    "two assets of one file": (
        _set("assets", "copy", made_facts.make_files() and make_item()["assets"]["weights"]),
        "is the same file as",
    ),
    "asset of a missing file": (
        _set("assets", "care", "href", "../gone.json"),
        "gone.json is not in the release",
    ),
    "asset outside the release": (
        _set("assets", "care", "href", "../../etc/passwd"),
        "assets.care.href: points outside the release",
    ),
    "asset on another host": (
        _set("assets", "care", "href", "https://example.org/care.json"),
        "points outside the release",
    ),
    "no xai asset": (_drop("assets", "xai"), "assets.xai: is missing"),
    "no telemetry asset": (_drop("assets", "telemetry"), "assets.telemetry: is missing"),
    "no provenance asset": (_drop("assets", "provenance"), "assets.provenance: is missing"),
    "no model card asset": (_drop("assets", "model-card"), "assets.model-card: is missing"),
    "version that disagrees": (
        _set("properties", "version", "v9.9.9"),
        "properties.model:version: is not what properties.version says",
    ),
    "screening that approves": (_set("properties", "care:status", "approved"), "must be one of"),
    "no training data": (_set("properties", "model:training_data", []), "at least 1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_item_is_found_and_the_field_is_named(name):
    change, expected = BROKEN[name]
    item = make_item()
    change(item)
    problems = evaluate_item(item, FILES)
    assert any(expected in sentence for sentence in problems), problems
    assert all(len(sentence) < 300 for sentence in problems)


def test_output_that_lists_classes_is_refused_because_its_schema_is_not_at_hand():
    item = make_item()
    item["properties"]["mlm:output"][0]["classification:classes"] = [{"value": 1, "name": "dry"}]
    assert any("not at hand offline" in sentence for sentence in evaluate_item(item, FILES))


@pytest.mark.parametrize(
    "value", [None, [], "item", {}, {"assets": []}, {"assets": {"a": 1}, "stac_extensions": 3}]
)
def test_anything_that_is_no_item_gives_sentences_and_never_raises(value):
    assert evaluate_item(value, FILES) != []


@given(
    key=st.sampled_from(sorted(make_item()["assets"])),
    position=st.integers(4, 67),
    digit=st.sampled_from("0123456789abcdef"),
)
@settings(deadline=None, max_examples=40)
def test_any_changed_digit_of_any_checksum_is_found(key, position, digit):
    item = make_item()
    asset = item["assets"][key]
    said = asset["file:checksum"]
    asset["file:checksum"] = said[:position] + digit + said[position + 1 :]
    found = any(
        f"assets.{key}.file:checksum" in sentence for sentence in evaluate_item(item, FILES)
    )
    assert found == (asset["file:checksum"] != said)


@given(index=st.integers(0, len(FILES) - 1), size_bytes=st.integers(0, 100))
@settings(deadline=None, max_examples=30)
def test_any_changed_size_is_found(index, size_bytes):
    files = list(FILES)
    files[index] = replace(files[index], size_bytes=size_bytes)
    said = evaluate_item(make_item(), files)
    assert (said != []) == (size_bytes != FILES[index].size_bytes)


@given(
    name=st.text(min_size=1, max_size=20),
    role=st.sampled_from(["training", "validation"]),
    digest=st.binary(min_size=32, max_size=32),
)
@settings(deadline=None, max_examples=30)
def test_data_sets_come_back_from_the_item_as_they_were_given(name, role, digest):
    fact = DatasetFact(name, "urn:x", digest.hex(), "CC-BY-4.0", role)
    item = build_item(made_facts.make_release(), FILES, (fact,), made_facts.make_run())
    (said,) = item["properties"]["model:training_data"]
    assert (said["name"], said["role"], said["license"]) == (name, role, "CC-BY-4.0")
    assert bytes.fromhex(said["file:checksum"]) == b"\x12\x20" + digest
