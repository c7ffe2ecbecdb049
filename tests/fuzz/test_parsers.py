"""A short fuzz of every parser; ``make fuzz`` runs the same for longer."""

from __future__ import annotations

import pytest
from fuzz.run import fuzz
from fuzz.targets_files import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_bad_input_is_an_error_of_ours_or_a_sentence(name):
    assert fuzz(TARGETS[name], example_count=25, seed=0) == 25
