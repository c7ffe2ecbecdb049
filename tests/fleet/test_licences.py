"""Licences of what is made from artifacts: none is lost, and none that forbids it is passed over."""

from __future__ import annotations

import pytest
from fleet.made_manifests import entry, manifest
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.canonical import write_json
from kfm_mlflow.care.licences import read_licence
from kfm_mlflow.errors import InputError
from kfm_mlflow.fleet.licences import join_licences, merge_licences, unit_licence
from kfm_mlflow.fleet.manifest import combine_manifests, parse_manifest
from kfm_mlflow.metadata.packages import spdx_expression
from kfm_mlflow.release.manifest import build_manifest

STATED = st.sampled_from(
    ["MIT", "Apache-2.0", "MIT OR BSD-3-Clause", "MIT AND CC-BY-4.0", "LicenseRef-own", "mit"]
)


@pytest.mark.parametrize(
    ("stated", "whole"),
    [
        (["MIT"], "MIT"),
        (["MIT", "mit"], "MIT"),
        (["MIT", "Apache-2.0"], "Apache-2.0 AND MIT"),
        # SPDX 2.3, annex D.4: AND binds closer than OR, so a choice keeps its brackets.
        (["MIT OR Apache-2.0", "ISC"], "ISC AND (MIT OR Apache-2.0)"),
        (["MIT AND ISC", "ISC"], "ISC AND MIT"),
        (["LicenseRef-llama", "MIT"], "LicenseRef-llama AND MIT"),
        (["MIT", None], "NOASSERTION"),
        (["MIT", "NOASSERTION"], "NOASSERTION"),
        (["MIT", "free for all"], "NOASSERTION"),
        (["MIT AND"], "NOASSERTION"),
        ([], "NOASSERTION"),
    ],
)
def test_a_whole_is_under_all_licences_of_its_parts_or_under_none(stated, whole):
    assert join_licences(stated) == whole


@given(st.lists(STATED, min_size=1, max_size=4), st.randoms())
def test_joining_ignores_order_and_repetition_and_allows_no_more_than_each(stated, random):
    whole = join_licences(stated)
    shuffled = [*stated, *stated]
    random.shuffle(shuffled)
    assert join_licences(shuffled) == join_licences([whole]) == whole
    assert spdx_expression(whole, custom=True) == whole
    is_known = {read_licence(one).derivatives for one in stated} == {True}
    assert (read_licence(whole).derivatives is True) == is_known


def folder_of(root, name, text):
    root.joinpath(name).mkdir()
    root.joinpath(name, "weights").write_text(text)
    return root / name


def stating(**licences):
    """Return manifests that state a licence, or None, for the folder of each digest."""
    entries = [
        entry("hf", id=f"a{k}", digest=digest, **({} if text is None else {"license": text}))
        for k, (digest, text) in enumerate(licences.items())
    ]
    return combine_manifests([parse_manifest(manifest("hf", *entries), where="hf.json")])


@pytest.fixture
def parents(tmp_path):
    one, two, base = (folder_of(tmp_path, name, name) for name in ("one", "two", "base"))
    return one, two, base, [build_manifest(place).release_id for place in (one, two, base)]


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (None, r"two: license: its manifest names no SPDX expression \(none\); ask its provider"),
        ("NOASSERTION", r"no SPDX expression \('NOASSERTION'\)"),
        ("see the readme", r"no SPDX expression \('see the readme'\)"),
        ("CC-BY-ND-4.0", "two: license: CC-BY-ND-4.0 does not let others pass on what is made"),
        ("cc-by-nc-nd-4.0", "CC-BY-NC-ND-4.0 does not let others"),
        ("MIT AND CC-BY-ND-4.0", "does not let others"),
    ],
)
def test_a_parent_without_a_licence_or_that_forbids_what_is_made_from_it_is_refused(
    parents, stated, message
):
    one, two, base, digests = parents
    with pytest.raises(InputError, match=message):
        merge_licences([one, two], base, stating(**{digests[0]: "MIT", digests[1]: stated}))


def test_a_parent_in_no_manifest_or_with_other_bytes_is_refused(parents):
    one, two, base, digests = parents
    manifests = stating(**dict.fromkeys(digests[:2], "MIT"))
    (two / "weights").write_text("other")
    with pytest.raises(InputError, match="two: is in no manifest, so nobody says"):
        merge_licences([one, two], base, manifests)


def test_a_choice_that_allows_it_and_a_licence_of_its_own_are_carried(parents):
    one, two, base, digests = parents
    stated = ("MIT OR CC-BY-ND-4.0", "LicenseRef-own", "Apache-2.0")
    found = merge_licences([one, two], base, stating(**dict(zip(digests, stated, strict=True))))
    assert (found.adapters, found.base) == (stated[:2], "Apache-2.0")
    assert found.whole == "Apache-2.0 AND LicenseRef-own AND (MIT OR CC-BY-ND-4.0)"


def test_a_base_that_forbids_it_is_refused_where_a_manifest_names_it(parents):
    one, two, base, digests = parents
    manifests = stating(**dict(zip(digests, ("MIT", "MIT", "CC-BY-ND-4.0"), strict=True)))
    with pytest.raises(InputError, match=r"base: license: CC-BY-ND-4\.0"):
        merge_licences([one, two], base, manifests)


def test_a_merged_unit_keeps_its_parents_licences_whatever_is_stated_of_it(tmp_path):
    write_json(tmp_path / "merge.json", {"schema_version": "1", "license": "Apache-2.0 AND MIT"})
    assert unit_licence("ISC", tmp_path) == "Apache-2.0 AND ISC AND MIT"
    assert unit_licence(None, tmp_path) == "NOASSERTION"
    (tmp_path / "merge.json").write_text("[")
    assert unit_licence("ISC", tmp_path) == "NOASSERTION"
