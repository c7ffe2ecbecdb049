import hashlib
import json

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.canonical import (
    canonical_bytes,
    digest_bytes,
    parse_digest,
    parse_json,
    write_bytes,
    write_json,
)
from kfm_mlflow.errors import EvidenceError, InputError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text()
    | st.floats(-1e15, 1e15),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_canonical_form_is_the_example_of_rfc_8785() -> None:
    # RFC 8785, section 3.2.2: input and output of the worked example.
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
        "literals": [None, True, False],
    }
    assert (
        canonical_bytes(value)
        == (
            '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
            '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
        ).encode()
    )


@given(JSON)
def test_canonical_bytes_survive_reading_and_writing(value: object) -> None:
    once = canonical_bytes(value)
    assert canonical_bytes(parse_json(once, where="x")) == once
    assert canonical_bytes(json.loads(once)) == once


# Keys as Python allows them, and numbers that JSON and RFC 8785 write apart.
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.booleans(), inner)
    ),
    max_leaves=20,
)


@given(ANYTHING)
def test_every_value_is_written_or_refused_as_the_reference_implementation_does(
    value: object,
) -> None:
    try:
        expected = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, ValueError):
        with pytest.raises(InputError, match="canonical JSON"):
            canonical_bytes(value)
    else:
        assert canonical_bytes(value) == expected


def test_keys_are_sorted_by_utf_16_units() -> None:
    # RFC 8785, section 3.2.3: U+1F600 is a surrogate pair, and so stands before U+FB33.
    value = {"\ufb33": 1, "\U0001f600": 2}
    assert canonical_bytes(value) == '{"\U0001f600":2,"\ufb33":1}'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53 + 1, {1: 2}, object()])
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="canonical JSON"):
        canonical_bytes({"x": value})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a":1,"a":2}', "twice"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":Infinity}', "Infinity"),
        (b"\xff\xfe", "utf-8"),
        (b"{", "not valid JSON"),
        (b"[" * 65 + b"]" * 65, "deeper"),
        (b"[" * 100_000 + b"]" * 100_000, "x: "),
        (b" " * (16 * 2**20 + 1), "more than"),
    ],
)
def test_foreign_json_is_read_strictly(data: bytes, reason: str) -> None:
    with pytest.raises(EvidenceError, match=reason):
        parse_json(data, where="x")


def test_three_digest_notations_are_one() -> None:
    hexadecimal = hashlib.sha256(b"abc").hexdigest()
    # FIPS 180-4 test vector for "abc".
    assert hexadecimal == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    forms = [hexadecimal, hexadecimal.upper(), f"sha256:{hexadecimal}", f"sha256-{hexadecimal}"]
    assert {parse_digest(form) for form in forms} == {digest_bytes(b"abc")}


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha1:" + "0" * 40, "sha256:" + "g" * 64, "0" * 63]
)
def test_other_digests_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="SHA-256"):
        parse_digest(text)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def broken(handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("kfm_mlflow.canonical.os.fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b'{"old":1}'
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
