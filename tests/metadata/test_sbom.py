"""The bill of materials: valid SPDX, and every file of the release accounted for."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metadata import made_facts

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.errors import InputError
from kfm_mlflow.metadata.facts import FileFact, PackageFact
from kfm_mlflow.metadata.packages import spdx_expression
from kfm_mlflow.metadata.sbom import build_sbom, evaluate_sbom, resolved_packages

FILES = made_facts.make_files()
PACKAGES = (
    PackageFact("torch", "2.13.0+cpu", "BSD-3-Clause"),
    PackageFact("some_odd.pkg", "1.0", None),
)


def make_sbom(files=FILES, **options):
    release, data = made_facts.make_release(), made_facts.make_datasets()
    return build_sbom(release, files, data, PACKAGES, **options)


GOOD = make_sbom()
WHOLE = (
    *FILES,
    made_facts.make_file("sbom.spdx.json", GOOD),
    made_facts.make_file("stac/model-item.json"),
)


def test_bill_of_a_complete_release_has_no_problem():
    assert evaluate_sbom(GOOD, WHOLE) == []


def test_spdx_tools_reads_the_file_as_valid_spdx_2_3(tmp_path):
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    path = tmp_path / "sbom.spdx.json"
    path.write_bytes(GOOD)
    document = parse_file(str(path))
    assert validate_full_spdx_document(document) == []
    assert document.creation_info.spdx_version == "SPDX-2.3"
    assert [package.name for package in document.packages] == [
        "climate-downscaler",
        "era-interim monthly",
        "era-interim monthly",
        "some_odd.pkg",
        "torch",
    ]


def test_verification_code_is_the_sha1_of_the_sorted_sha1s():
    """SPDX 2.3, section 7.9."""
    sums = sorted(hashlib.sha1(path.encode()).hexdigest() for path in made_facts.PATHS)
    (model, *_) = json.loads(GOOD)["packages"]
    code = model["packageVerificationCode"]
    assert code["packageVerificationCodeValue"] == hashlib.sha1("".join(sums).encode()).hexdigest()


def test_unstated_licence_is_noassertion():
    declared = {p["name"]: p["licenseDeclared"] for p in json.loads(GOOD)["packages"]}
    assert declared["some_odd.pkg"] == "NOASSERTION"
    assert declared["torch"] == "BSD-3-Clause"
    assert declared["climate-downscaler"] == "MIT"


def test_manifest_without_sha1_is_enough_to_check_a_bill():
    manifest = tuple(replace(fact, sha1=None) for fact in WHOLE)
    assert evaluate_sbom(GOOD, manifest) == []


@given(index=st.integers(0, len(FILES) - 1), digest=st.binary(min_size=32, max_size=32))
@settings(deadline=None, max_examples=15)
def test_any_changed_file_is_found(index, digest):
    files = list(WHOLE)
    files[index] = replace(files[index], sha256=digest.hex())
    assert any(files[index].path in sentence for sentence in evaluate_sbom(GOOD, files))


def test_added_missing_and_renamed_files_are_found():
    added = (*WHOLE, made_facts.make_file("payload.bin"))
    assert "files: payload.bin is in the release and not listed" in evaluate_sbom(GOOD, added)
    missing = tuple(fact for fact in WHOLE if fact.path != "care.json")
    assert "files: care.json is not in the release" in evaluate_sbom(GOOD, missing)
    renamed = tuple(
        replace(fact, path="core.json") if fact.path == "care.json" else fact for fact in WHOLE
    )
    assert len(evaluate_sbom(GOOD, renamed)) == 2


def test_bill_that_leaves_out_the_weights_is_found():
    bill = make_sbom(excluded=("sbom.spdx.json", "stac/model-item.json", "model.pt"))
    assert "files: model.pt may not be left out" in evaluate_sbom(bill, WHOLE)


def _edited(change):
    document = json.loads(GOOD)
    change(document)
    return canonical_bytes(document)


def test_verification_code_of_other_files_is_found():
    code = {"packageVerificationCodeValue": "0" * 40, "packageVerificationCodeExcludedFiles": []}
    bill = _edited(lambda d: d["packages"][0].update(packageVerificationCode=code))
    assert evaluate_sbom(bill, FILES) == [
        "packages: the verification code is not that of the listed files"
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b"\xff",
        GOOD.replace(b"SPDXRef-Model", b"bad id"),
        GOOD.replace(b"SPDX-2.3", b"SPDX-9.9"),
        _edited(lambda d: d.pop("files")),
        _edited(lambda d: d["files"].append(d["files"][0])),
        _edited(lambda d: d["packages"].pop(0)),
        _edited(lambda d: d["files"][0]["checksums"].pop()),
        _edited(lambda d: d["packages"][0].update(packageVerificationCode=3)),
    ],
)
def test_broken_bill_gives_sentences_and_never_raises(data):
    assert evaluate_sbom(data, WHOLE) != []


def test_file_without_sha1_is_refused_with_what_to_do():
    with pytest.raises(InputError, match="read_file_fact"):
        make_sbom(files=(FileFact("model.pt", 1, "ab" * 32),))


def test_resolved_packages_follow_requirements_and_match_the_environment():
    found = {fact.name: fact for fact in resolved_packages(["Jinja2"])}
    assert set(found) == {"jinja2", "markupsafe"}
    assert found["jinja2"].version == importlib.metadata.version("jinja2")
    with pytest.raises(InputError, match="no-such-package"):
        resolved_packages(["no-such-package"])


def test_resolved_packages_of_the_whole_environment_make_a_valid_bill():
    packages = resolved_packages()
    assert {"kfm-mlflow", "torch", "prov"} <= {fact.name for fact in packages}
    bill = build_sbom(made_facts.make_release(), FILES, (), packages)
    assert evaluate_sbom(bill, FILES) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MIT", "MIT"),
        ("Apache-2.0 AND MIT", "Apache-2.0 AND MIT"),
        ("Our own terms", None),
        ("BSD", None),
        ("", None),
        (None, None),
        ("MIT\n" + "x" * 1000, None),
        ("(", None),
    ],
)
def test_only_spdx_expressions_are_licences(text, expected):
    assert spdx_expression(text) == expected
