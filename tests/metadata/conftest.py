"""The facts of :mod:`metadata.made_facts` as fixtures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from metadata import made_facts

if TYPE_CHECKING:
    from kfm_mlflow.metadata.facts import AgentFact, DatasetFact, FileFact, ReleaseFact, RunFact


@pytest.fixture
def files() -> tuple[FileFact, ...]:
    return made_facts.make_files()


@pytest.fixture
def datasets() -> tuple[DatasetFact, ...]:
    return made_facts.make_datasets()


@pytest.fixture
def run() -> RunFact:
    return made_facts.make_run()


@pytest.fixture
def agents() -> tuple[AgentFact, ...]:
    return made_facts.make_agents()


@pytest.fixture
def release() -> ReleaseFact:
    return made_facts.make_release()
