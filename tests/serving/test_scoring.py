import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kfm_serving.scoring import ClientError, TensorSpec, parse_request, write_predictions

JSON = "application/json"
FIELD = (TensorSpec("x", "float32", (None, 1, 2, 3)),)
TWO = (TensorSpec("coarse", "float32", (None, 2)), TensorSpec("height", "float32", (None, 2, 2)))
fields = arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.just(1), st.just(2), st.just(3)),
    elements=st.floats(-1e6, 1e6, width=32),
)


def parse(document, specs=FIELD, content_type=JSON):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse_request(body, content_type, specs)


def forms(field):
    """Write one field in every form of the protocol."""
    whole, flat = field.tolist(), field.reshape(len(field), -1).tolist()
    names = [f"c{k}" for k in range(len(flat[0]))]
    return [
        {"inputs": whole},
        {"inputs": {"x": whole}},
        {"instances": whole},
        {"instances": [{"x": row} for row in whole]},
        {"instances": {"x": whole}},
        {"dataframe_split": {"columns": ["x"], "data": [[row] for row in whole]}},
        {"dataframe_split": {"columns": ["x"], "data": [[row] for row in flat]}},
        {"dataframe_split": {"columns": names, "index": list(range(len(flat))), "data": flat}},
        {"dataframe_split": {"data": flat}},
        {"dataframe_records": [dict(zip(names, row, strict=True)) for row in flat]},
        {"dataframe_records": [{"x": row} for row in whole]},
    ]


@given(fields)
def test_every_form_of_the_protocol_gives_the_same_tensor(field):
    for document in forms(field):
        request = parse(document)
        found = request.feeds["x"]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, field, err_msg=str(document))
        assert request.is_table == next(iter(document)).startswith("dataframe")


@given(fields)
def test_answers_read_back_as_what_was_written(field):
    body = write_predictions({"y": field, "z": field[:, :, 0]})
    read = json.loads(body)["predictions"]
    np.testing.assert_array_equal(np.float32(read["y"]), field)
    np.testing.assert_array_equal(np.float32(read["z"]), field[:, :, 0])


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "inputs",
                        "instances",
                        "dataframe_split",
                        "columns",
                        "data",
                        "dataframe_records",
                        "x",
                    ]
                ),
                inner,
                max_size=3,
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from([FIELD, TWO]),
)
def test_any_json_is_either_a_finite_tensor_of_the_declared_shape_or_a_clients_mistake(
    value, specs
):
    mistake = None
    try:
        request = parse(value, specs)
    except ClientError as error:
        mistake = error
    if mistake is not None:
        assert mistake.status == 400
        assert "\n" not in str(mistake)
        return
    for spec in specs:
        array = request.feeds[spec.name]
        assert array.ndim == len(spec.shape)
        assert np.isfinite(array).all()


@given(st.binary(max_size=40))
def test_any_bytes_are_refused_or_read_and_never_crash(body):
    with pytest.raises(ClientError) as caught:
        parse(body)
    assert caught.value.status == 400


def test_several_inputs_are_named():
    coarse, height = [[1, 2], [3, 4]], [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    for document in (
        {"inputs": {"coarse": coarse, "height": height}},
        {
            "dataframe_split": {
                "columns": ["height", "coarse"],
                "data": [[h, c] for h, c in zip(height, coarse, strict=True)],
            }
        },
        {
            "dataframe_records": [
                {"coarse": c, "height": [*h[0], *h[1]]} for h, c in zip(height, coarse, strict=True)
            ]
        },
    ):
        feeds = parse(document, TWO).feeds
        np.testing.assert_array_equal(feeds["coarse"], coarse)
        np.testing.assert_array_equal(feeds["height"], height)


def test_whole_numbers_are_kept_exact_and_fractions_refused_for_an_integer_input():
    tokens = (TensorSpec("ids", "int64", (None, 2)),)
    assert parse({"inputs": [[1, 2**53 + 1]]}, tokens).feeds["ids"].tolist() == [[1, 2**53 + 1]]
    with pytest.raises(ClientError, match="int64"):
        parse({"inputs": [[1, 1.5]]}, tokens)


MISTAKES = {
    "not JSON": (b"{", "not valid UTF-8 JSON"),
    "not UTF-8": (b'{"inputs": "\xff"}', "not valid UTF-8 JSON"),
    "too deep": (b'{"inputs": ' + b"[" * 100_000, "not valid UTF-8 JSON"),
    "a list": ([1], "must be a JSON object"),
    "no format": ({"data": 1}, "exactly one of"),
    "two formats": ({"inputs": [1], "instances": [1]}, "exactly one of"),
    "NaN": (b'{"inputs": [[[[NaN,1,1],[1,1,1]]]]}', "NaN"),
    "infinity": (b'{"inputs": [[[[1,1,1],[1,1,-Infinity]]]]}', "infinity"),
    "beyond float32": (b'{"inputs": [[[[1e39,1,1],[1,1,1]]]]}', "too large"),
    "beyond float64": (b'{"inputs": [[[[1e999,1,1],[1,1,1]]]]}', "infinity"),
    "null": ({"inputs": [[[[None, 1, 1], [1, 1, 1]]]]}, "list of numbers"),
    "text": ({"inputs": [[[["1", 1, 1], [1, 1, 1]]]]}, "list of numbers"),
    "ragged": ({"inputs": [[[[1, 1], [1, 1, 1]]]]}, "rectangular"),
    "empty": ({"inputs": []}, "non-empty"),
    "rank": ({"inputs": [[1, 2, 3, 4, 5, 6]]}, r"shape \(1, 6\), expected \(\*, 1, 2, 3\)"),
    "size": ({"inputs": [[[[1, 2]]]]}, "expected"),
    "name": ({"inputs": {"z": [[[[1, 2, 3], [4, 5, 6]]]]}}, "expected the inputs x, got z"),
    "missing cell": ({"dataframe_split": {"columns": ["a", "b"], "data": [[1]]}}, "one cell per"),
    "extra key": ({"dataframe_split": {"data": [[1]], "rows": 1}}, "data, columns and index"),
    "row too short": ({"dataframe_split": {"data": [[1, 2, 3, 4, 5]]}}, "5 values"),
    "records": ({"dataframe_records": {"a": 1}}, "list of objects"),
    "other columns": ({"dataframe_records": [{"a": 1}, {"b": 1}]}, "same columns"),
    "no rows": ({"dataframe_records": []}, "empty"),
    "instances": ({"instances": [{"x": 1}, {"y": 1}]}, "same inputs"),
}


@pytest.mark.parametrize(("document", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_clients_mistake_is_400_with_one_sentence(document, message):
    with pytest.raises(ClientError, match=message) as caught:
        parse(document)
    assert caught.value.status == 400
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "content_type",
    [
        JSON,
        "application/json;charset=utf-8",
        "Application/JSON; charset=UTF-8",
        'application/json; charset="utf-8"',
    ],
)
def test_json_with_or_without_its_charset_is_read(content_type):
    parse(forms(np.ones((1, 1, 2, 3)))[0], content_type=content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/csv",
        "text/plain",
        "application/json; charset=latin-1",
        "application/json; v=1",
    ],
)
def test_other_content_types_are_415(content_type):
    with pytest.raises(ClientError) as caught:
        parse(forms(np.ones((1, 1, 2, 3)))[0], content_type=content_type)
    assert caught.value.status == 415


def test_an_answer_that_is_not_finite_is_not_written():
    with pytest.raises(ValueError, match="JSON"):
        write_predictions({"y": np.float32([np.nan])})
