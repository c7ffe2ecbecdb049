"""PROV, STAC, SBOM, telemetry and XAI: present, valid, true, and within limits on both sides."""

import math
from dataclasses import replace

import pytest
from gates import made_evidence as made

from kfm_mlflow.gates.content import Document

PATH = {
    "prov": "provenance/provenance.json",
    "stac": "stac/model-item.json",
    "sbom": "sbom.spdx.json",
}
INF, NAN = math.inf, math.nan


@pytest.mark.parametrize("gate", PATH)
def test_a_document_that_is_missing_invalid_or_unknown_is_refused(gate):
    path, label = PATH[gate], gate.upper()
    good = made.make_content()
    for content, code in (
        (good, f"{label}_VALID"),
        (made.without_document(good, path), f"{label}_MISSING"),
        (made.with_problem(good, f"{gate}:{path}", "one", "two"), f"{label}_INVALID"),
        (
            replace(good, documents={**good.documents, path: Document(problem="not JSON")}),
            f"{label}_INVALID",
        ),
        (replace(good, problems={}), f"{label}_INVALID"),
    ):
        verdict, codes = made.ask(gate, made.make_evidence(content=content))
        assert set(codes) == {code}
        assert verdict == ("PASS" if code.endswith("_VALID") else "FAIL")


@pytest.mark.parametrize("gate", PATH)
def test_the_document_that_counts_is_the_one_that_the_policy_names(gate):
    policy = made.changed_policy(gates={gate: {"path": "elsewhere.json"}})
    assert made.ask(gate, made.make_evidence(policy), policy)[0] == "FAIL"


@pytest.mark.parametrize("said", ["v1.2.1", "1.2.0", "", 1, True])
def test_a_stac_item_of_another_version_is_refused(said):
    content = made.make_content()
    item = Document({"properties": {"model:version": said}})
    content = replace(content, documents={**content.documents, PATH["stac"]: item})
    verdict, codes = made.ask("stac", made.make_evidence(content=content))
    assert (verdict, codes[-1]) == ("FAIL", "STAC_DISAGREES")


def _telemetry(**changes):
    return made.make_evidence(
        content=made.make_content(telemetry=made.telemetry_document(**changes))
    )


def _energy(energy_wh, carbon_gco2e, intensity=400.0):
    carbon = {**made.telemetry_document()["carbon"], "intensity_g_per_kwh": intensity}
    return _telemetry(energy_wh=energy_wh, carbon_gco2e=carbon_gco2e, carbon=carbon)


@pytest.mark.parametrize(
    ("evidence", "verdict", "code"),
    [
        # The policy allows 10 Wh and 4 g, both inclusive.
        (_energy(10.0, 4.0), "PASS", "ENERGY_WITHIN"),
        (_energy(math.nextafter(10.0, 11), 1.0, 100.0), "FAIL", "ENERGY_EXCEEDED"),
        (_energy(5.0, 4.0, 800.0), "PASS", "CARBON_WITHIN"),
        (_energy(5.0, math.nextafter(4.0, 5), 800.0), "FAIL", "CARBON_EXCEEDED"),
        (_energy(0.0, 0.0), "PASS", "ENERGY_WITHIN"),
        # Carbon is energy times intensity within 1 %: 5 Wh at 400 g/kWh are 2 g.
        (_energy(5.0, 2.019), "PASS", "CARBON_WITHIN"),
        (_energy(5.0, 2.03), "FAIL", "TELEMETRY_INCONSISTENT"),
        (_energy(5.0, 0.0), "FAIL", "TELEMETRY_INCONSISTENT"),
        (_energy(NAN, 2.0), "FAIL", "TELEMETRY_INVALID"),
        (_energy(INF, INF), "FAIL", "TELEMETRY_INVALID"),
        (_energy(5.0, 2.0, NAN), "FAIL", "TELEMETRY_INVALID"),
        (_energy(-1.0, -0.4), "FAIL", "TELEMETRY_INVALID"),
        (_telemetry(energy_wh=True, carbon_gco2e=0.0004), "FAIL", "TELEMETRY_INVALID"),
        (_energy("5", 2.0), "FAIL", "TELEMETRY_INVALID"),
        (_telemetry(energy_wh=None), "FAIL", "TELEMETRY_INVALID"),
        (_telemetry(carbon=None), "FAIL", "TELEMETRY_INVALID"),
    ],
)
def test_telemetry(evidence, verdict, code):
    found, codes = made.ask("telemetry", evidence)
    assert found == verdict
    assert code in codes


def test_telemetry_without_limits_must_still_be_complete():
    none = {"max_energy_wh": None, "max_carbon_gco2e": None}
    policy = made.changed_policy(gates={"telemetry": none})
    assert made.ask("telemetry", made.make_evidence(), policy) == ("PASS", ["TELEMETRY_COMPLETE"])
    gone = made.without_document(made.make_content(), "telemetry/training.json")
    assert made.ask("telemetry", made.make_evidence(content=gone), policy)[0] == "FAIL"


def _xai(**changes):
    return made.make_evidence(content=made.make_content(xai=made.xai_document(**changes)))


@pytest.mark.parametrize(
    ("changes", "verdict", "code"),
    [
        # At most 0.05 and at least 0.8, both inclusive; the sign of the error does not matter.
        ({"delta": 0.05}, "PASS", "XAI_DELTA_WITHIN"),
        ({"delta": -0.05}, "PASS", "XAI_DELTA_WITHIN"),
        ({"delta": math.nextafter(0.05, 1)}, "FAIL", "XAI_DELTA_EXCEEDED"),
        ({"delta": -0.06}, "FAIL", "XAI_DELTA_EXCEEDED"),
        ({"stability": 0.8}, "PASS", "XAI_STABLE"),
        ({"stability": math.nextafter(0.8, 0)}, "FAIL", "XAI_UNSTABLE"),
        ({"stability": -1.0}, "FAIL", "XAI_UNSTABLE"),
        ({"delta": NAN}, "FAIL", "XAI_INVALID"),
        ({"delta": False}, "FAIL", "XAI_INVALID"),
        ({"stability": NAN}, "FAIL", "XAI_INVALID"),
        ({"stability": True}, "FAIL", "XAI_INVALID"),
        ({"stability": None}, "FAIL", "XAI_INVALID"),
        ({"features": []}, "FAIL", "XAI_INVALID"),
    ],
)
def test_xai(changes, verdict, code):
    found, codes = made.ask("xai", _xai(**changes))
    assert found == verdict
    assert code in codes


@pytest.mark.parametrize("gate", ["telemetry", "xai"])
def test_a_missing_report_is_refused(gate):
    policy = made.base_policy()
    gone = made.without_document(made.make_content(), getattr(policy.gates, gate).path)
    verdict, codes = made.ask(gate, made.make_evidence(content=gone))
    assert (verdict, codes) == ("FAIL", [f"{gate.upper()}_INVALID"])
