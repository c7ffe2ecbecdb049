"""What a frozen release gains later: laws of the plan, without files."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.release.beside import plan_additions
from kfm_mlflow.release.bundle import SIGNATURE_FILE

DIGESTS = st.integers(0, 5).map(lambda n: f"sha256:{n:064x}")
FOLDERS = st.dictionaries(
    st.sampled_from(["a.intoto.json", "b.intoto.json", "note.txt", SIGNATURE_FILE]), DIGESTS
)


def after(frozen, new):
    return frozen | {target: new[name] for name, target in plan_additions(new, frozen).items()}


def kind(name):
    return name if name == SIGNATURE_FILE else name.rpartition(".")[2]


@given(FOLDERS, st.lists(FOLDERS, max_size=4))
def test_nothing_frozen_is_lost_whatever_is_added_and_all_that_is_added_is_there(frozen, additions):
    for new in additions:
        grown = after(frozen, new)
        for name, digest in frozen.items():
            assert grown[name] == digest or name == SIGNATURE_FILE
        for name, digest in new.items():
            assert (kind(name), digest) in {(kind(n), d) for n, d in grown.items()}
        assert grown.get(SIGNATURE_FILE) == new.get(SIGNATURE_FILE, frozen.get(SIGNATURE_FILE))
        frozen = grown


@given(FOLDERS, FOLDERS)
def test_adding_twice_is_once(frozen, new):
    assert plan_additions(new, after(frozen, new)) == {}


def test_a_name_that_is_taken_gets_the_content_before_it():
    new, frozen = {"a.intoto.json": f"sha256:{1:064x}"}, {"a.intoto.json": f"sha256:{2:064x}"}
    assert plan_additions(new, frozen) == {"a.intoto.json": "000000000000-a.intoto.json"}
    frozen["000000000000-a.intoto.json"] = f"sha256:{3:064x}"
    assert plan_additions(new, frozen) == {"a.intoto.json": f"{1:064x}-a.intoto.json"}
