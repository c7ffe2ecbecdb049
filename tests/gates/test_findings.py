"""The one sentence of a refusal: one line, under 300 characters, ending in the page's path."""

from dataclasses import replace
from urllib.parse import unquote

import pytest
from gates import made_evidence as made
from hypothesis import example, given
from hypothesis import strategies as st

from kfm_mlflow.gates.findings import Finding, GateReport, GateResult, page_path, refusal_sentence
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.levels import Level


def report_of(*summaries, name="climate-downscaler", version=3, level=Level.PRODUCTION):
    findings = tuple(Finding("CODE", Verdict.FAIL, text, text) for text in summaries)
    move = made.make_move(model_name=name, version=version, to_level=level)
    results = tuple(GateResult(f"gate-{i}", "enforce", (f,)) for i, f in enumerate(findings))
    return GateReport(move, "tiny", "sha256:p", "sha256:r", "v1.0.0", (), results)


def test_the_sentence_of_the_design():
    report = report_of("signature missing", "votes 1 of 3")
    assert refusal_sentence(report) == (
        "KFM refused Production for climate-downscaler v3: "
        "signature missing; votes 1 of 3; see /kfm/models/climate-downscaler/3"
    )


def test_a_summary_is_said_once_and_what_does_not_fit_is_counted():
    assert refusal_sentence(report_of("same", "same")).count("same") == 1
    many = refusal_sentence(report_of(*(f"finding number {i} of many" for i in range(40))))
    shown = many.count("finding number")
    assert shown > 3
    assert f"; {40 - shown} more; see /kfm/models/" in many


def test_without_any_gate_it_says_so():
    assert ": no gate passed; see " in refusal_sentence(report_of())


def test_passing_and_merely_warning_gates_are_not_mentioned():
    report = report_of("bad")
    good = GateResult("good", "enforce", (Finding("C", Verdict.PASS, "good", "good"),))
    warned = GateResult("warned", "warn", (Finding("C", Verdict.FAIL, "warned", "warned"),))
    sentence = refusal_sentence(replace(report, gates=(*report.gates, good, warned)))
    assert "good" not in sentence
    assert "warned" not in sentence


@pytest.mark.parametrize("length", [1, 60, 61, 90, 120, 200, 255, 256])
@pytest.mark.parametrize("version", [1, 999, 10**9])
def test_a_name_of_any_length_that_mlflow_takes_keeps_its_own_page(length, version):
    name = "n" * length
    sentence = refusal_sentence(report_of("signature missing", name=name, version=version))
    assert len(sentence) < 300
    assert sentence.endswith(f" see /kfm/models/{name}/{version}")
    assert sentence.startswith("KFM refused")
    assert ("signature missing" in sentence) == (length <= 200)


# MLflow allows every character in a name but "/" and ":".
NAMES = st.text(min_size=1, max_size=256).filter(lambda name: "/" not in name and ":" not in name)
SUMMARIES = st.lists(st.text(max_size=400), max_size=30)


@given(NAMES, st.integers(1, 10**9), SUMMARIES, st.sampled_from(list(Level)))
@example("a\nb\u2028c\x1b[31m d", 1, ["two\nlines", "bell\x07", "\u2029"], Level.STAGING)
@example(" " * 255 + "x", 1, ["x" * 400] * 30, Level.PRODUCTION)
@example("é" * 256, 10**9, ["x" * 400], Level.PRODUCTION)
@example("n" * 256, 10**9, ["x" * 400], Level.PRODUCTION)
def test_any_name_and_any_finding_give_one_short_line_that_ends_in_the_path(
    name, version, summaries, level
):
    sentence = refusal_sentence(report_of(*summaries, name=name, version=version, level=level))
    path = page_path(name, version)
    assert len(sentence) < 300
    assert sentence.isprintable()
    assert sentence.splitlines() == [sentence]
    assert sentence.startswith("KFM refused")
    assert sentence.endswith(f" see {path}")


@given(NAMES, st.integers(1, 10**9))
def test_the_path_is_one_word_and_leads_to_that_version(name, version):
    path = page_path(name, version)
    assert len(path.split()) == 1
    assert unquote(path) == f"/kfm/models/{name}/{version}" or path == "/kfm/"
    assert "?" not in path
    assert "#" not in path
