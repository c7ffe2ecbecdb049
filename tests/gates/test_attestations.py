"""Gate attestations: what the signer says is about this release, and agrees with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from gates import made_evidence as made

from kfm_mlflow.gates.attestations import attestations
from kfm_mlflow.gates.content import Document
from kfm_mlflow.gates.evidence import read_attestation
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.load import load_policies
from kfm_mlflow.trust.slsa import UsedLock
from kfm_mlflow.trust.statement import build_slsa_statement, sign_statement

PASS = ("PASS", ["SLSA_PROVENANCE_VALID"])
ONLY = made.changed_policy(gates={"attestations": {"required": ["slsa-provenance"]}})


def ask(*attestations, policy=None, **metadata):
    content = made.make_content()
    said = Document({**made.METADATA, **metadata})
    content = replace(content, documents={**content.documents, "model_metadata.json": said})
    return made.ask(
        "attestations",
        made.make_evidence(attestations=attestations, content=content),
        policy or ONLY,
    )


def test_without_provenance_it_is_inconclusive():
    assert ask() == ("INCONCLUSIVE", ["SLSA_PROVENANCE_MISSING"])
    assert ask(made.make_validation()) == ("INCONCLUSIVE", ["SLSA_PROVENANCE_MISSING"])


@pytest.mark.parametrize(
    "change",
    [
        {"model_name": "climate-other"},
        {"release_version": "v9.9.9"},
        {"release_id": f"sha256:{'0' * 64}"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_provenance_of_another_release_fails_even_if_it_agrees(change):
    foreign = made.make_provenance(binding=made.make_binding(version=None, **change))
    assert ask(foreign) == ("FAIL", ["SLSA_PROVENANCE_INVALID"])
    assert ask(foreign, made.make_provenance()) == PASS


def test_only_signers_of_releases_may_say_how_it_was_trained():
    report = made.make_provenance()
    statement = build_slsa_statement(report.binding, report.claims)
    verdicts = {}
    for who in ("trainer", "validator", "mallory"):
        envelope = sign_statement(statement, made.signer(who))
        read = read_attestation(envelope, made.base_policy().trust, made.NOW)
        verdicts[who] = ask(read)
    assert verdicts == {
        "trainer": PASS,
        "validator": ("FAIL", ["SLSA_PROVENANCE_INVALID"]),
        "mallory": ("INCONCLUSIVE", ["SLSA_PROVENANCE_MISSING"]),
    }


@pytest.mark.parametrize(
    "stated",
    [
        {"seed": 43},
        {"code": {"entry_point": "other", "git_commit": "deadbeef" * 5}},
        {"code": {"entry_point": "release", "git_commit": None}},
        {"data": []},
        {"data": [{"digest": f"sha256:{'1' * 64}"}]},
        {"data": [5]},
        {"code": "main"},
    ],
    ids=str,
)
def test_a_release_that_says_something_else_of_its_training_fails(stated):
    verdict, codes = ask(made.make_provenance(), **stated)
    assert verdict == "FAIL"
    assert set(codes) == {"SLSA_PROVENANCE_DISAGREES"}


LOOSE = UsedLock("locked.txt", f"sha256:{'f' * 64}", "line 3 ('numpy>=1') pins no version")
LACKING = {
    "commit": ({"git_commit": None}, "names no commit"),
    "clean tree": ({"git_tree": "dirty"}, "differed from commit deadbeefdead"),
    "known tree": ({"git_tree": None}, "nobody says"),
    "packages": ({"environment_lock": None}, "names no list of installed packages"),
    "lock": ({"lock": None}, "names no file of pinned versions"),
    "whole lock": ({"lock": LOOSE}, "locked.txt does not fix what was installed: line 3"),
}


@pytest.mark.parametrize("lacking", LACKING)
def test_what_the_policy_requires_must_be_there_and_is_named(lacking):
    changes, message = LACKING[lacking]
    report = made.make_provenance(**changes)
    stated = {} if lacking != "commit" else {"code": {"entry_point": "release"}}
    assert ask(report, **stated) == ("FAIL", ["SLSA_PROVENANCE_INCOMPLETE"])
    findings = attestations(made.make_evidence(attestations=[report]), ONLY, made.make_move())
    told = [one for one in findings if one.code == "SLSA_PROVENANCE_INCOMPLETE"]
    assert [message in one.detail for one in told] == [True]
    assert told[0].remedy
    free = made.changed_policy(
        ONLY, gates={"attestations": {"require_commit": False, "require_lock": False}}
    )
    assert ask(report, policy=free, **stated) == PASS


def test_the_packaged_climate_policy_lets_only_what_can_be_made_again_above_candidate():
    policy = load_policies(None).policy("climate")
    settings = policy.gates.attestations
    assert (settings.mode, settings.require_commit, settings.require_lock) == (
        "enforce",
        True,
        True,
    )
    for level in (Level.STAGING, Level.CANARY, Level.PRODUCTION):
        assert "attestations" in policy.gate_names(level)


REPEATED = {"care-screening": "care.json", "stac-item": "stac/model-item.json"}


@pytest.mark.parametrize("kind", REPEATED)
def test_every_required_statement_is_asked_for(kind):
    good = made.make_evidence()
    left = tuple(report for report in good.attestations if report.kind != kind)
    verdict, codes = made.ask("attestations", replace(good, attestations=left))
    assert verdict == "INCONCLUSIVE"
    assert f"{kind.upper().replace('-', '_')}_MISSING" in codes
    assert len(codes) == 3


@pytest.mark.parametrize("kind", REPEATED)
@pytest.mark.parametrize(
    "changes", [{"document": {"other": 1}}, {"path": "none.json"}, {"path": 5}], ids=str
)
def test_a_statement_about_another_document_fails(kind, changes):
    report = made.make_repeated(kind, REPEATED[kind], **changes)
    policy = made.changed_policy(gates={"attestations": {"required": [kind]}})
    code = f"{kind.upper().replace('-', '_')}_DISAGREES"
    assert ask(report, policy=policy) == ("FAIL", [code])
