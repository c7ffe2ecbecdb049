"""The names of stages are those of the source document, and every phase has one."""

import pytest

from kfm_mlflow.fleet.stages import STAGES, stage_of, stage_of_report, stage_of_span
from kfm_mlflow.fleet.state import FleetPhase

# Source document 003, "Sacred Tongue Deploy Mapping".
WRITTEN = [
    ("build", "CA", "Cascade", "breaking down, compiling"),
    ("test", "RU", "Runethic", "binding, validating rules"),
    ("stage", "UM", "Umbroth", "hidden, not yet revealed"),
    ("deploy", "KO", "Kor'aelin", "asserting into production"),
    ("monitor", "AV", "Avali", "listening, watching"),
    ("rollback", "DR", "Draumric", "structured retreat"),
]


def test_stages_are_those_of_the_source_document():
    assert [(s.name, s.code, s.tongue, s.meaning) for s in STAGES] == WRITTEN


@pytest.mark.parametrize("phase", FleetPhase)
def test_every_phase_belongs_to_exactly_one_stage(phase):
    assert [s for s in STAGES if phase in s.phases] == [stage_of(phase)]


def test_a_batch_after_promotion_is_deployed_and_the_first_is_staged():
    assert stage_of(FleetPhase.STARTING).code == "UM"
    assert stage_of(FleetPhase.STARTING, batch_index=1).code == "KO"


def test_no_span_and_no_report_has_two_stages():
    for names in ([n for s in STAGES for n in s.spans], [n for s in STAGES for n in s.reports]):
        assert len(set(names)) == len(names)
    assert stage_of_span("fleet.fuse").code == "CA"
    assert stage_of_span("anything else") is None
    assert stage_of_report("rollback_report.json").code == "DR"
    assert stage_of_report("anything.json") is None


def test_a_stage_reads_as_a_label():
    assert str(stage_of(FleetPhase.PROMOTING)) == "KO Kor'aelin (deploy): asserting into production"
