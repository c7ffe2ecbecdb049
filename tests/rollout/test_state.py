"""The journal: every state is read back as it was written."""

import pytest
from hypothesis import given
from rollout.strategies import START, states

from kfm_mlflow.canonical import canonical_bytes, parse_json
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.rollout.state import RolloutState, initial_state


@given(states)
def test_state_is_read_back_from_canonical_json_as_it_was(state):
    data = canonical_bytes(state.to_dict())
    assert RolloutState.from_dict(parse_json(data, where="journal")) == state


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema_version": "2"}, "schema_version"),
        ({"phase": "Canari"}, "phase"),
        ({"split": {"ratio": "much"}}, "split.ratio"),
        ({"entered_at": "yesterday"}, "entered_at"),
    ],
)
def test_journal_that_is_none_is_refused_by_the_name_of_its_field(change, named):
    with pytest.raises(EvidenceError, match=named):
        RolloutState.from_dict({**initial_state("m", START).to_dict(), **change})


def test_empty_journal_is_refused():
    with pytest.raises(EvidenceError):
        RolloutState.from_dict({"schema_version": "1"})
