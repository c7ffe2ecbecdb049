"""What a version's page says of the drift check before promotion, and where its report is."""

from dataclasses import replace

from flask import Flask
from mlflow.server import handlers
from registry.test_pages import words
from registry.world import AT, NAME

from kfm_mlflow.registry.api import api
from kfm_mlflow.registry.page_drift import drift_checked
from kfm_mlflow.registry.pages import pages
from kfm_mlflow.trust.attestation import AttestationReport

BASELINE, REPORT = "sha256:" + "a" * 64, "sha256:" + "b" * 64
DRIFT = {
    "verdict": "FAIL",
    "reason": "input (mean) is 0.41 from its baseline",
    "inputs": {"baseline_digest": BASELINE, "report_digest": REPORT},
}
SIGNED = AttestationReport(
    ok=True,
    kind="validation",
    statement={},
    signers=("validator",),
    problems=(),
    claims={"drift": DRIFT},
    issued_at=AT,
)


def test_the_page_says_what_the_validator_signed_and_links_the_report_as_a_download(
    registry, world, tmp_path, monkeypatch
):
    bundle = world.copy(tmp_path)
    world.attest(bundle, drift=DRIFT)
    registry.register(bundle)
    registry.to_canary(1)
    app = Flask("pages")
    app.register_blueprint(api)
    app.register_blueprint(pages)
    monkeypatch.setattr(handlers, "_model_registry_store", registry.store)
    with app.test_client() as client:
        page = client.get(f"/kfm/models/{NAME}/1")
    said = words(page)
    assert "FAIL input (mean) is 0.41 from its baseline" in said
    assert 'href="/get-artifact?run_uuid=run&amp;path=drift%2Freport.html" download' in page.text
    assert f'title="{REPORT}"' in page.text
    assert f'title="{BASELINE}"' in page.text
    # The page stays one that runs no script: the report is never shown in it.
    assert "<iframe" not in page.text
    assert "script-src" not in page.headers["Content-Security-Policy"]


def test_only_a_validation_that_verifies_is_believed_and_the_newest_of_them():
    unsigned, vote = replace(SIGNED, ok=False), replace(SIGNED, kind="vote")
    silent = replace(SIGNED, claims={"metrics": {}})
    assert drift_checked([unsigned, vote, silent], "run") is None
    later = {**DRIFT, "verdict": "PASS"}
    newer = replace(SIGNED, claims={"drift": later}, issued_at=AT.replace(year=AT.year + 1))
    for reports in ([SIGNED, newer], [newer, SIGNED]):
        assert drift_checked(reports, "run").verdict == "PASS"


def test_without_a_report_or_a_run_there_is_no_link():
    bare = {**DRIFT, "inputs": {"baseline_digest": BASELINE}}
    assert drift_checked([replace(SIGNED, claims={"drift": bare})], "run").report_url == ""
    assert drift_checked([SIGNED], None).report_url == ""
