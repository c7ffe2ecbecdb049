"""SPDX expressions, in a server that evaluates several releases at once."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from kfm_mlflow.metadata.packages import licensing, spdx_expression


@pytest.fixture
def unbuilt(monkeypatch):
    """Return to the state of a process that has parsed no expression yet."""
    monkeypatch.setattr(licensing(), "advanced_tokenizer", None)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_first_expressions_of_several_threads_at_once_are_all_understood(unbuilt):
    text, barrier = "MIT OR (Apache-2.0 AND BSD-3-Clause)", threading.Barrier(6)

    def read(_: int) -> set[str | None]:
        barrier.wait()
        return {spdx_expression(text) for _ in range(20)}

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(read, range(6))) == [{text}] * 6
