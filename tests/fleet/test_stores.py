"""Which URIs may name an artifact, and which stores allow them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfm_mlflow.errors import InputError
from kfm_mlflow.fleet.stores import find_store, parse_stores, split_uri, uri_problem

GOOD = [
    "hf://owner/repository@main/adapter",
    "hf://datasets/owner/repository",
    "gs://bucket/models/embedder_v2",
    "s3://bucket/runtime/v3/",
    "s3://bucket",
    "file:///srv/models/a+b",
]
BAD = [
    "",
    "model",
    "https://example.org/m",
    "s3:/bucket/a",
    "S3://bucket/a",
    "simplecache::s3://bucket/a",
    "s3://bucket/a::file:///etc/passwd",
    "s3://key:secret@bucket/a",
    "gs://token@bucket/a",
    "hf://token@owner/repository",
    "s3://bucket/../other/a",
    "s3://bucket/./a",
    "s3://bucket//a",
    "s3:///a",
    "s3://bucket/%2e%2e/a",
    "s3://bucket/a*",
    "s3://bucket/a?versionId=1",
    "s3://bucket/a#b",
    "s3://bucket/a b",
    "s3://bucket/a\n",
    "s3://bucket/a\\b",
    "file://host/a",
    "file://a",
    "file:///srv/../etc",
    "hf://owner",
    "hf://datasets/owner",
    "s3://bucket/" + "a" * 2000,
]


@pytest.mark.parametrize("uri", GOOD)
def test_plain_uri_may_name_an_artifact(uri):
    assert uri_problem(uri) is None


@pytest.mark.parametrize("uri", BAD)
def test_uri_that_could_be_read_in_two_ways_is_refused(uri):
    problem = uri_problem(uri)
    assert problem
    assert "secret" not in problem
    assert "token" not in problem


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["s3://", "gs://", "hf://", "file:///", "ftp://", ""]),
    st.text(alphabet="ab/.@:%*?#\\ \n~=", max_size=12) | st.text(max_size=12),
)
def test_what_is_taken_reads_in_one_way_only(start, rest):
    uri = start + rest
    if uri_problem(uri) is None:
        scheme, segments = split_uri(uri)
        assert uri.removesuffix("/").removeprefix("file:///").removeprefix(
            f"{scheme}://"
        ) == "/".join(segments)
        assert not {"", ".", ".."} & set(segments)
        assert find_store(uri, (uri.removesuffix("/"),))


def test_nothing_is_allowed_by_default():
    with pytest.raises(InputError, match="--store"):
        parse_stores([])


@pytest.mark.parametrize(
    ("store", "uri", "is_allowed"),
    [
        ("s3://bucket", "s3://bucket/a", True),
        ("s3://bucket/a/", "s3://bucket/a", True),
        ("s3://bucket/a", "s3://bucket/ab", False),
        ("s3://bucket", "s3://bucket2/a", False),
        ("s3://bucket", "gs://bucket/a", False),
        ("hf://owner", "hf://owner/any@main/a", True),
        ("hf://owner/one", "hf://owner/one@v2/a", True),
        ("hf://owner/one", "hf://owner/one2", False),
        ("file:///srv", "file:///srv/a", True),
        ("file:///srv", "file:///srv2/a", False),
    ],
)
def test_store_allows_what_lies_below_it_and_nothing_else(store, uri, is_allowed):
    stores = parse_stores([store])
    if is_allowed:
        assert find_store(uri, stores) == store.removesuffix("/")
    else:
        with pytest.raises(InputError, match="no store that is allowed"):
            find_store(uri, stores)


def test_store_that_is_no_plain_prefix_is_refused():
    for store in ("s3://", "s3://*", "bucket", "file://", "hf://"):
        with pytest.raises(InputError):
            parse_stores([store])


def test_longest_store_that_fits_is_the_one():
    stores = parse_stores(["file:///srv", "file:///srv/models"])
    assert find_store("file:///srv/models/a", stores) == "file:///srv/models"


def test_segments_of_a_local_uri_are_without_the_root():
    assert split_uri("file:///srv/a") == ("file", ("srv", "a"))
