"""The CycloneDX view: the official schema accepts it, and it says what the release says."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from metadata import made_facts

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.metadata.card import build_card
from kfm_mlflow.metadata.facts import PackageFact
from kfm_mlflow.metadata.sbom import build_sbom
from kfm_mlflow.metadata.sbom_cyclonedx import build_cyclonedx

ID = f"sha256:{'ab' * 32}"
PACKAGES = (
    PackageFact("torch", "2.13.0+cpu", "BSD-3-Clause"),
    PackageFact("some_odd.pkg", "1.0", None),
)


def card_bytes(**changes):
    release = made_facts.make_release()
    release = replace(release, **changes)
    files, data, run = made_facts.make_files(), made_facts.make_datasets(), made_facts.make_run()
    return canonical_bytes(build_card(release, files, data, run))


FILES = tuple(f for f in made_facts.make_files() if f.path != "model-card.json")
CARD = card_bytes()
FILES = (*FILES, made_facts.make_file("model-card.json", CARD))
BILL = build_sbom(made_facts.make_release(), FILES, made_facts.make_datasets(), PACKAGES)
WHOLE = (*FILES, made_facts.make_file("sbom.spdx.json", BILL))
GOOD = build_cyclonedx(ID, WHOLE, bill=BILL, card=CARD)
DOCUMENT = json.loads(GOOD)


def of_type(kind):
    return [one for one in DOCUMENT["components"] if one["type"] == kind]


def schema_error(data):
    """Return what the schema that CycloneDX publishes objects to, by its own library."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode())


def test_the_official_schema_accepts_it():
    assert schema_error(GOOD) is None


def test_the_official_schema_refuses_an_unknown_field():
    broken = json.loads(GOOD)
    broken["metadata"]["component"]["modelCard"]["bogus"] = 1
    assert schema_error(canonical_bytes(broken)) is not None


def test_the_official_schema_accepts_a_release_without_much_to_say():
    card = card_bytes(
        intended_uses=(), forbidden_uses=(), limitations=(), description="", metrics={"rmse": 1e-30}
    )
    files = (*FILES[:-1], made_facts.make_file("model-card.json", card))
    bill = build_sbom(made_facts.make_release(), files, (), ())
    whole = (*files, made_facts.make_file("sbom.spdx.json", bill))
    assert schema_error(build_cyclonedx(ID, whole, bill=bill, card=card)) is None


def test_equal_releases_give_equal_bytes_and_others_another_serial_number():
    assert build_cyclonedx(ID, WHOLE[::-1], bill=BILL, card=CARD) == GOOD
    other = json.loads(build_cyclonedx(f"sha256:{'cd' * 32}", WHOLE, bill=BILL, card=CARD))
    assert other["serialNumber"] != DOCUMENT["serialNumber"]
    assert DOCUMENT["serialNumber"].startswith("urn:uuid:")
    assert DOCUMENT["metadata"]["timestamp"] == json.loads(BILL)["creationInfo"]["created"]


def test_the_model_is_a_machine_learning_model_with_its_card():
    model, card = DOCUMENT["metadata"]["component"], json.loads(CARD)
    assert model["type"] == "machine-learning-model"
    assert model["licenses"] == [{"expression": "MIT"}]
    weights = next(f for f in WHOLE if f.path == card["publishing"]["weights_ref"])
    assert {"alg": "SHA-256", "content": weights.sha256.removeprefix("sha256:")} in model["hashes"]
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {m["type"] for m in metrics} == set(card["evaluation"]["metrics"])
    energy = model["modelCard"]["considerations"]["environmentalConsiderations"][
        "energyConsumptions"
    ][0]
    assert energy["activityEnergyCost"]["value"] * 1000 == pytest.approx(
        card["energy_carbon"]["energy_wh"]
    )
    assert energy["co2CostEquivalent"]["value"] * 1e6 == pytest.approx(
        card["energy_carbon"]["carbon_gco2e"]
    )


def test_data_sets_libraries_and_files_are_components():
    assert [one["hashes"][0]["content"] for one in of_type("data")] == [
        one["digest"].removeprefix("sha256:")
        for one in json.loads(CARD)["training_provenance"]["data"]
    ]
    libraries = {one["name"]: one for one in of_type("library")}
    assert libraries["torch"]["purl"] == "pkg:pypi/torch@2.13.0%2Bcpu"
    assert libraries["torch"]["licenses"] == [{"expression": "BSD-3-Clause"}]
    assert "licenses" not in libraries["some_odd.pkg"]
    assert {one["name"] for one in of_type("file")} == {fact.path for fact in WHOLE}


def test_every_reference_is_to_a_component():
    refs = [one["bom-ref"] for one in (DOCUMENT["metadata"]["component"], *DOCUMENT["components"])]
    assert len(set(refs)) == len(refs)
    named = {one["ref"] for one in DOCUMENT["dependencies"]}
    named |= {ref for one in DOCUMENT["dependencies"] for ref in one.get("dependsOn", ())}
    assert named <= set(refs)


def test_a_bill_of_other_files_is_refused():
    others = tuple(replace(f, sha256="0" * 64) if f.path == "model.pt" else f for f in WHOLE)
    with pytest.raises(EvidenceError, match=r"SHA256 is not that of model\.pt"):
        build_cyclonedx(ID, others, bill=BILL, card=CARD)


@pytest.mark.parametrize("card", [b"", b"{}", b"[]", b"\xff", b'{"a":1,"a":2}', b"[" * 5000])
def test_a_card_that_is_none_is_refused_by_name(card):
    with pytest.raises(EvidenceError, match=r"model-card\.json"):
        build_cyclonedx(ID, WHOLE, bill=BILL, card=card)


@pytest.mark.parametrize("bill", [b"", b"{}", b"\xff", b"[" * 5000])
def test_a_bill_that_is_none_is_refused_by_name(bill):
    with pytest.raises(EvidenceError, match="sbom"):
        build_cyclonedx(ID, WHOLE, bill=bill, card=CARD)
