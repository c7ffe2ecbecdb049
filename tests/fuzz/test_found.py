"""What fuzzing found once, each as the smallest input that showed it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from fuzz import targets, targets_files
from metadata import made_facts

from kfm_mlflow.canonical import parse_json
from kfm_mlflow.care.geojson import parse_regions
from kfm_mlflow.errors import DataError, EvidenceError
from kfm_mlflow.metadata.prov import evaluate_prov, prov_views
from kfm_mlflow.metadata.sbom import evaluate_sbom
from kfm_mlflow.metadata.stac import evaluate_item
from kfm_mlflow.registry.history import read_entry
from kfm_mlflow.release.manifest import parse_manifest
from kfm_mlflow.release.scan import scan_file


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 400])
def test_a_number_that_no_double_holds_is_not_read(number):
    with pytest.raises(EvidenceError, match="beyond a double"):
        parse_manifest(parse_json(f'{{"size": {number}}}'.encode(), where="manifest"))


def test_a_derivation_from_nothing_is_a_sentence_and_has_no_view():
    lineage = json.loads(targets._lineage())
    derivation = next(iter(lineage["wasDerivedFrom"].values()))
    del derivation["prov:usedEntity"]
    found = evaluate_prov(lineage, weights_sha256=targets.ID, dataset_sha256s=[targets.ID])
    assert "Derivation: names no usedEntity" in found


def test_a_relation_without_a_subject_has_no_turtle():
    lineage = json.loads(targets._lineage())
    for member in lineage["hadMember"].values():
        del member["prov:collection"]
    with pytest.raises(EvidenceError, match="no such view"):
        prov_views(json.dumps(lineage).encode())


def test_a_listed_file_without_sha1_is_a_sentence_and_opens_nothing(tmp_path, monkeypatch):
    bill = json.loads(targets._bill())
    listed = bill["files"][0]
    listed["checksums"] = [c for c in listed["checksums"] if c["algorithm"] != "SHA1"]
    monkeypatch.chdir(tmp_path)
    path = Path(listed["fileName"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not of the release")
    found = evaluate_sbom(json.dumps(bill).encode(), made_facts.make_files())
    assert f"files: {path} has no SHA1" in found


def test_an_href_with_a_broken_address_is_a_sentence():
    item = copy.deepcopy(json.loads(targets._item()))
    key = next(iter(item["assets"]))
    item["assets"][key]["href"] = "http://["
    found = evaluate_item(item, made_facts.make_files())
    assert f"assets.{key}.href: points outside the release" in found


def test_a_geometry_whose_type_is_a_list_is_refused_by_name():
    regions = json.loads(targets._regions())
    regions["features"][0]["geometry"]["type"] = []
    with pytest.raises(DataError, match="is not a Polygon or MultiPolygon"):
        parse_regions(json.dumps(regions).encode(), where="regions")


def test_a_row_without_its_columns_is_refused():
    row = json.loads(targets._rows())[0]
    del row["at"]
    with pytest.raises(EvidenceError, match="holds no statement"):
        read_entry(row)


def test_an_onnx_path_that_is_not_utf_8_is_a_sentence(tmp_path):
    """Found by coverage: protobuf gives such a string as bytes."""
    broken = (
        targets_files._onnx()
        .replace(b"location", b"locat\xffon")
        .replace(b"model.onnx", b"model.onn\xff")
    )
    (tmp_path / "m.onnx").write_bytes(broken)
    found = scan_file(tmp_path, "m.onnx", {"m.onnx": len(broken)}).formats
    assert any("is not a plain relative path" in sentence for sentence in found)
    outside = targets_files._onnx().replace(b"model.onnx", b"model.onn\xff")
    (tmp_path / "m.onnx").write_bytes(outside)
    found = scan_file(tmp_path, "m.onnx", {"m.onnx": len(outside)}).formats
    assert any("is not in the release" in sentence for sentence in found)
