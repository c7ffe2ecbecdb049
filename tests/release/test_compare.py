"""What differs between two releases: exactly that, by file and field."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.canonical import digest_bytes
from kfm_mlflow.errors import ManifestError
from kfm_mlflow.release.compare import compare_releases

WEIGHTS, OTHERS = b"weights", b"other weights"
FILES = {
    "MLmodel": b"flavor: onnx\nversion: 1\n",
    "model.pt": WEIGHTS,
    "model_metadata.json": json.dumps(
        {"seed": 1, "weights": {"digest": digest_bytes(WEIGHTS), "size": len(WEIGHTS)}}
    ).encode(),
    "stac/model-item.json": json.dumps(
        {"assets": {"a/b": {"file:checksum": f"1220{digest_bytes(WEIGHTS)[7:]}"}}}
    ).encode(),
}


def write(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture
def pair(tmp_path):
    first = write(tmp_path / "first", FILES)
    shutil.copytree(first, tmp_path / "second")
    return first, tmp_path / "second"


def rows(pair):
    return [(one.path, one.field, one.follows) for one in compare_releases(*pair)]


def test_equal_directories_differ_in_nothing(pair):
    assert compare_releases(*pair) == ()


def test_what_only_repeats_a_changed_file_follows_from_it_and_comes_last(pair):
    changed = {
        name: data.replace(
            digest_bytes(WEIGHTS)[7:].encode(), digest_bytes(OTHERS)[7:].encode()
        ).replace(b'"size": 7', b'"size": 13')
        for name, data in FILES.items()
    }
    write(pair[1], {**changed, "model.pt": OTHERS})
    assert rows(pair) == [
        ("model.pt", "", ""),
        ("model_metadata.json", "/weights/digest", "model.pt"),
        ("model_metadata.json", "/weights/size", "model.pt"),
        ("stac/model-item.json", "/assets/a~1b/file:checksum", "model.pt"),
    ]


def test_a_digest_of_something_else_stands_for_itself(pair):
    text = FILES["model_metadata.json"].replace(
        digest_bytes(WEIGHTS).encode(), b"sha256:" + b"0" * 64
    )
    write(pair[1], {"model_metadata.json": text})
    assert rows(pair) == [("model_metadata.json", "/weights/digest", "")]


def test_files_that_only_one_has_and_lines_of_texts_are_named(pair):
    (pair[1] / "model.pt").unlink()
    write(pair[1], {"new.json": b"{}", "MLmodel": b"flavor: onnx\nversion: 2\nmore: 1\n"})
    found = {(one.path, one.field): (one.recorded, one.rebuilt) for one in compare_releases(*pair)}
    assert found == {
        ("MLmodel", "line 2"): ("version: 1", "version: 2"),
        ("MLmodel", "line 3"): ("(absent)", "more: 1"),
        ("model.pt", ""): (digest_bytes(WEIGHTS), "(absent)"),
        ("new.json", ""): ("(absent)", digest_bytes(b"{}")),
    }


@pytest.mark.parametrize(
    "text", [b'{"seed": ', b'{"seed": 1,   "seed": 1}', b"\xff", b'{ "seed": 1 }'], ids=repr
)
def test_json_that_differs_in_its_bytes_alone_or_is_none_is_a_whole_file(tmp_path, text):
    pair = [
        write(tmp_path / name, {"a.json": data})
        for name, data in (("1", b'{"seed":1}'), ("2", text))
    ]
    assert rows(pair) == [("a.json", "", "")]


def test_what_is_no_release_is_refused(pair):
    (pair[1] / "link").symlink_to("model.pt")
    with pytest.raises(ManifestError, match="symbolic link"):
        compare_releases(*pair)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab/~", max_size=3),
    lambda part: (
        st.lists(part, max_size=3) | st.dictionaries(st.text("ab/~", max_size=2), part, max_size=3)
    ),
    max_leaves=8,
)


def _at(value, pointer):
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value


@given(first=JSON, second=JSON)
def test_every_pointer_leads_to_what_is_shown(tmp_path_factory, first, second):
    root = tmp_path_factory.mktemp("pair")
    pair = [
        write(root / name, {"a.json": json.dumps(value).encode()})
        for name, value in (("1", first), ("2", second))
    ]
    found = compare_releases(*pair)
    assert bool(found) == (
        json.dumps(first, sort_keys=True) != json.dumps(second, sort_keys=True)
        or json.dumps(first) != json.dumps(second)
    )
    for one in found:
        for value, shown in ((first, one.recorded), (second, one.rebuilt)):
            if shown not in ("(absent)", "") and one.field not in ("", "/"):
                there = _at(value, one.field)
                assert shown == (
                    there if isinstance(there, str) else json.dumps(there, ensure_ascii=False)
                )
