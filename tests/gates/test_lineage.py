"""Gate lineage: the release, its bill of materials and the signed provenance name the same data."""

from __future__ import annotations

import time

import pytest
from gates import made_evidence as made

from kfm_mlflow.trust.slsa import UsedData

DATA = made.METADATA["data"][0]["digest"]
OTHER = f"sha256:{'1' * 64}"


def asked(content=None, **changes):
    evidence = made.make_evidence(content=content or made.make_content(), **changes)
    return made.ask("lineage", evidence)


def sbom(*digests):
    packages = [
        {
            "SPDXID": f"SPDXRef-Dataset-{index}",
            "name": "fields",
            "checksums": [{"algorithm": "SHA256", "checksumValue": digest.removeprefix("sha256:")}],
        }
        for index, digest in enumerate(digests)
    ]
    relationships = [
        {"spdxElementId": package["SPDXID"], "relationshipType": "DATA_FILE_OF"}
        for package in packages
    ]
    return {"packages": packages, "relationships": relationships}


def test_a_lineage_that_holds_passes_with_and_without_a_bill_of_materials():
    assert asked() == ("PASS", ["LINEAGE_TRACED"])
    assert asked(made.make_content(sbom=sbom(DATA))) == ("PASS", ["LINEAGE_TRACED"])


@pytest.mark.parametrize("digests", [(), (OTHER,), (DATA, OTHER)])
def test_a_bill_of_materials_with_other_data_is_refused(digests):
    verdict, codes = asked(made.make_content(sbom=sbom(*digests)))
    assert (verdict, set(codes)) == ("FAIL", {"LINEAGE_DISAGREES"})


@pytest.mark.parametrize("digests", [(OTHER,), (DATA, OTHER)], ids=["another", "one more"])
def test_signed_provenance_of_other_data_is_refused(digests):
    used = tuple(UsedData("fields", digest, "fields.nc", "training") for digest in digests)
    report = made.make_provenance(data=used)
    verdict, codes = asked(attestations=(report,))
    assert (verdict, set(codes)) == ("FAIL", {"LINEAGE_DISAGREES"})


def test_metadata_that_names_other_data_than_the_lineage_is_refused():
    listed = [{"name": "fields", "role": "training", "digest": OTHER}]
    content = made.make_content(metadata={**made.METADATA, "data": listed})
    assert asked(content)[0] == "FAIL"


def test_a_missing_lineage_is_refused():
    content = made.without_document(made.make_content(), "provenance/provenance.json")
    assert asked(content) == ("FAIL", ["LINEAGE_MISSING"])


def changed(change):
    lineage = made.make_lineage()
    change(lineage)
    return made.make_content(lineage=lineage)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda d: d["used"].pop("_:1"), "LINEAGE_BROKEN"),
        (lambda d: d["entity"]["x:data"].pop("kfm:sha256"), "LINEAGE_UNDIGESTED"),
        (lambda d: d["entity"]["x:weights"].update({"kfm:sha256": OTHER}), "LINEAGE_DISAGREES"),
        (
            lambda d: d["used"].update(
                {"_:9": {"prov:activity": "x:training", "prov:entity": "x:release"}}
            ),
            "LINEAGE_CYCLE",
        ),
        (lambda d: d.update(activity=[]), "LINEAGE_UNREADABLE"),
    ],
)
def test_a_break_has_its_own_code(change, code):
    verdict, codes = asked(changed(change))
    assert verdict == "FAIL"
    assert code in codes


@pytest.mark.parametrize("value", [None, True, 3, "text", [], {}, {"data": 5}, {"data": [3, {}]}])
def test_documents_of_a_foreign_shape_are_findings_and_not_exceptions(value):
    for content in (made.make_content(lineage=value), made.make_content(metadata=value)):
        assert asked(content)[0] == "FAIL"
    odd = made.make_content(sbom={"packages": value, "relationships": value, "x": 1})
    assert asked(odd)[0] == "FAIL"


def test_a_warm_release_is_walked_once():
    evidence = made.make_evidence()
    made.ask("lineage", evidence)
    best_s = 1.0
    for _ in range(10):
        begin = time.perf_counter()
        made.ask("lineage", evidence)
        best_s = min(best_s, time.perf_counter() - begin)
    assert best_s < 0.002
