"""Pickles are read and never opened: whatever trick hides the call, it is named."""

import collections
import pickle

import pytest
import torch
from gates import made_pickles
from hypothesis import given
from hypothesis import strategies as st
from torch._weights_only_unpickler import _get_allowed_globals

from kfm_mlflow.release.pickle_scan import _PLAIN, scan_pickle, scan_unnamed

NAMES = sorted(made_pickles.tricks(made_pickles.Path("x")))


@pytest.mark.parametrize("name", NAMES)
def test_every_trick_is_named_and_nothing_runs(tmp_path, name):
    data = made_pickles.tricks(tmp_path / "ran")[name]
    assert scan_pickle(data)
    assert any("would call" in problem for problem in scan_unnamed(data))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["protocol 0", "protocol 4", "INST", "OBJ", "NEWOBJ"])
def test_the_made_pickles_would_run_if_they_were_opened(tmp_path, name):
    """Otherwise the test above would prove nothing; ``touch`` is all that they run."""
    popen = pickle.loads(
        made_pickles.tricks(tmp_path / "ran")[name].replace(
            b"csubprocess\nPopen", b"cpathlib\nPath"
        )
    )
    assert popen is not None
    assert (tmp_path / "ran").exists() or name == "NEWOBJ"


def test_what_is_plain_is_what_torch_loads_with_weights_only():
    assert set(_get_allowed_globals()) >= _PLAIN


@pytest.mark.parametrize("protocol", range(6))
def test_plain_containers_of_every_protocol_are_plain(protocol):
    value = {"a": [1, 2.5, "x", b"y", None, True], "b": (2**70, -1), "c": {3}}
    data = pickle.dumps(value, protocol)
    found = scan_pickle(data)
    # Sets and bytes are rebuilt by calls in the protocols that have no opcode for them.
    called = {"__builtin__.set", "_codecs.encode"} if protocol < 4 else set()
    called -= {"_codecs.encode"} if protocol == 3 else set()
    called = {"builtins.set"} if protocol == 3 else called
    assert found == [f"would call {name} when opened" for name in sorted(called)]


def test_an_ordered_dict_of_tensors_is_plain_by_its_names():
    data = pickle.dumps(collections.OrderedDict(a=torch.Size([1])), protocol=2)
    assert scan_pickle(data) == []


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\nbird\n",
        "cities\nwichita\nRiley\nbuilt\n",
        "Is this a pickle?\nno\n",
        "(a)\n.\n",
        "0.1,0.2\n",
        "N.\n",
        "café\nété\n",
        "{}",
        "",
    ],
)
def test_text_that_begins_like_a_pickle_is_text(text):
    assert scan_unnamed(text.encode()) == []


@given(st.binary(max_size=200))
def test_any_bytes_give_sentences(data):
    for scan in (scan_pickle, scan_unnamed):
        assert all(isinstance(sentence, str) and sentence for sentence in scan(data))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=8,
    ),
    st.sampled_from([4, 5]),
)
def test_what_the_pickler_writes_is_walked_to_its_end(value, protocol):
    """Of the opcodes and their lengths, pickle itself is the independent source."""
    data = pickle.dumps(value, protocol)
    assert not any("no whole pickle" in p or "goes on" in p for p in scan_pickle(data))
    assert any("no whole pickle" in p for p in scan_pickle(data[:-1]))


@given(st.binary(max_size=40))
def test_where_the_walk_goes_through_pickletools_goes_no_further(data):
    """A walk that stops before pickletools does could be led past a call."""
    import pickletools

    try:
        ends = [place + 1 for op, _, place in pickletools.genops(data) if op.name == "STOP"]
    except ValueError:
        return
    problems = scan_pickle(data)
    underflow = any("too little" in problem for problem in problems)
    assert underflow or not any("no whole pickle" in problem for problem in problems), ends


def test_many_plain_pickles_in_a_row_are_read_in_one_go():
    assert scan_unnamed(b"N." * 200_000) == []
