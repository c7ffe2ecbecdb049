"""``kfm checkpoints``: from a training to a certificate of its council, and what stands in the way."""

from __future__ import annotations

import json
import shutil

import pytest
from checkpoints.trainings import NAMES, save_all
from registry.world import run_cli

from kfm_mlflow.canonical import load_json, write_json
from kfm_mlflow.checkpoints.records import CERTIFICATE, METRICS
from kfm_mlflow.metadata.schemas import schema_problems

COUNCIL = ("council-ann", "council-bea", "council-cyd", "council-dee-indigenous-representative")
LAST = NAMES[-1]
DOCUMENTS = (
    "checkpoints_manifest",
    "checkpoint_metrics",
    "checksum_registry",
    "focus-telemetry",
    "governance_validation",
    "explainability_summary",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with a training's checkpoints; tests work on copies."""
    root = tmp_path_factory.mktemp("trained")
    save_all(root)
    return root


@pytest.fixture
def root(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Return a folder with the keys of a council."""
    folder = tmp_path_factory.mktemp("council") / "keys"
    run_cli("keys", "new", *COUNCIL, "--dir", folder)
    return folder


@pytest.fixture(scope="module")
def policy(keys):
    """Return the packaged policy with that council, as the command line writes it."""
    folder = keys.parent / "policies"
    run_cli("policy", "init", "--family", "focus-transformer", "--keys", keys, "-o", folder)
    return folder / "focus-transformer.yaml"


@pytest.fixture
def vote(kfm, root, policy, keys):
    def cast(*members, choice="--approve", checkpoint=LAST):
        for member in members:
            key = keys / f"{member}.pem"
            options = ("--policy", policy, "--key", key, choice, "--reason", "read the audit")
            assert kfm("checkpoints", "vote", root, checkpoint, *options).code == 0

    return cast


def test_a_training_is_listed_verified_voted_on_and_certified(kfm, root, policy, vote):
    listed = kfm("checkpoints", "list", root)
    assert [line.split()[-1] for line in listed.out.splitlines()[2:]] == list(NAMES)
    assert "are whole; not certified" in kfm("checkpoints", "verify", root).out
    vote(COUNCIL[0], COUNCIL[1], COUNCIL[3])
    done = kfm("checkpoints", "certify", root, LAST, "--policy", policy)
    assert (done.code, done.err) == (0, "")
    assert "reviewed by council-ann, council-bea, council-dee" in done.out
    verified = kfm("checkpoints", "verify", root, "--policy", policy)
    assert (verified.code, verified.out.strip().endswith("; certified")) == (0, True)
    certified = [line for line in kfm("checkpoints", "list", root).out.splitlines() if LAST in line]
    assert certified[0].endswith("certified")
    # The same votes make no second certificate.
    before = (root / CERTIFICATE).read_bytes()
    assert kfm("checkpoints", "certify", root, LAST, "--policy", policy).code == 0
    assert (root / CERTIFICATE).read_bytes() == before


def test_every_document_is_as_its_schema_says_before_and_after_the_council(kfm, root, policy, vote):
    def problems():
        return [
            p for name in DOCUMENTS for p in schema_problems(name, load_json(root / f"{name}.json"))
        ]

    assert problems() == []
    vote(*COUNCIL)
    assert kfm("checkpoints", "certify", root, LAST, "--policy", policy).code == 0
    assert problems() == []
    assert schema_problems("quorum_certificate", load_json(root / CERTIFICATE)) == []


def test_below_the_quorum_nothing_is_certified(kfm, root, policy, vote):
    before = {path.name: path.read_bytes() for path in root.glob("*.json")}
    for members, missing in (
        ((), "0 of 3 approvals"),
        (COUNCIL[:2], "2 of 3 approvals"),
        (COUNCIL[2:3], "no approval of indigenous-representative"),
    ):
        vote(*members)
        refused = kfm("checkpoints", "certify", root, LAST, "--policy", policy)
        refused.fails_in_one_line(1, LAST, missing, "kfm checkpoints vote")
    assert {path.name: path.read_bytes() for path in root.glob("*.json")} == before


def test_the_indigenous_representative_stops_what_all_others_approve(kfm, root, policy, vote):
    vote(*COUNCIL[:3])
    vote(COUNCIL[3], choice="--deny")
    refused = kfm("checkpoints", "certify", root, LAST, "--policy", policy)
    refused.fails_in_one_line(1, "vetoed by council-dee-indigenous-representative")


def test_votes_on_one_checkpoint_certify_no_other(kfm, root, policy, vote):
    vote(*COUNCIL, checkpoint=NAMES[1])
    refused = kfm("checkpoints", "certify", root, LAST, "--policy", policy)
    refused.fails_in_one_line(1, "0 of 3 approvals")


def test_a_vote_needs_a_choice_a_member_and_checkpoints_that_are_whole(
    kfm, root, policy, keys, tmp_path
):
    assert kfm("keys", "new", "council-eve", "--dir", tmp_path / "others").code == 0
    ours, theirs = keys / "council-ann.pem", tmp_path / "others" / "council-eve.pem"
    options = ("--policy", policy, "--reason", "read")
    chosen = kfm("checkpoints", "vote", root, LAST, *options, "--key", ours)
    assert (chosen.code, "--approve, --deny or --veto" in chosen.err) == (2, True)
    foreign = kfm("checkpoints", "vote", root, LAST, *options, "--key", theirs, "--approve")
    foreign.fails_in_one_line(2, "no member of the policy's council")
    unknown = kfm("checkpoints", "vote", root, "checkpoint_9", *options, "--key", ours, "--deny")
    unknown.fails_in_one_line(2, "lists no checkpoint 'checkpoint_9'")
    (root / f"{NAMES[0]}.pt").write_bytes(b"other")
    changed = kfm("checkpoints", "vote", root, LAST, *options, "--key", ours, "--approve")
    changed.fails_in_one_line(1, f"{NAMES[0]}.pt")
    assert not (root / "votes").exists()


def test_verify_exits_0_when_all_is_well_1_with_findings_2_on_bad_input(kfm, root, tmp_path):
    assert kfm("checkpoints", "verify", root).code == 0
    (root / f"{NAMES[1]}.pt").unlink()
    found = kfm("checkpoints", "verify", root)
    assert found.code == 1
    assert found.out.splitlines()[0].startswith("FILE_MISSING: ")
    assert found.out.splitlines()[-1] == "3 checkpoints, 1 findings"
    for nowhere in ("nowhere", "runs:/x", "checkpoints/none"):
        missing = kfm("checkpoints", "verify", nowhere)
        missing.fails_in_one_line(2, nowhere, "neither a directory here nor a run id")
    broken = tmp_path / "policy.yaml"
    broken.write_text("family: 3\n")
    assert kfm("checkpoints", "verify", root, "--policy", broken).code == 2


def test_a_certificate_that_was_changed_holds_no_more(kfm, root, policy, vote):
    vote(*COUNCIL)
    assert kfm("checkpoints", "certify", root, LAST, "--policy", policy).code == 0
    certificate = load_json(root / CERTIFICATE)
    write_json(root / CERTIFICATE, {**certificate, "votes": certificate["votes"][:2]})
    found = kfm("checkpoints", "verify", root, "--policy", policy)
    assert found.code == 1
    assert "NOT_CERTIFIED" in found.out
    # Approval that nobody can prove stops nobody from having it proved again.
    again = kfm("checkpoints", "certify", root, LAST, "--policy", policy)
    assert again.code == 0
    assert kfm("checkpoints", "verify", root, "--policy", policy).code == 0


def test_another_manifest_that_says_something_else_is_found(kfm, root, tmp_path):
    other = load_json(root / "checkpoints_manifest.json")
    other["checkpoints"][1]["energy_wh"] = 7.0
    (tmp_path / "released.json").write_text(json.dumps(other))
    found = kfm("checkpoints", "verify", root, "--against", tmp_path / "released.json")
    assert found.code == 1
    assert "MANIFESTS_DISAGREE" in found.out
    assert "energy_wh" in found.out


@pytest.fixture
def long(tmp_path):
    """Return six checkpoints: four of the first phase, the second of which is the best."""
    from dataclasses import replace

    from checkpoints.trainings import measured, state, training

    from kfm_mlflow.checkpoints.saving import CheckpointWriter

    root = tmp_path / "long"
    phases = ("pretrain",) * 4 + ("finetune", "final")
    with CheckpointWriter(root, training(planned_epochs=6)) as writer:
        for epoch, phase in enumerate(phases, 1):
            auc = 0.95 if epoch == 2 else 0.7
            said = replace(measured(epoch), auc=auc)
            writer.save(f"epoch_{epoch}", phase, epoch, state(epoch), said)
    return root


def test_prune_keeps_best_last_of_each_phase_named_and_certified(kfm, long, policy, keys):
    digests = {
        e["id"]: e["checksum_sha256"]
        for e in load_json(long / "checkpoints_manifest.json")["checkpoints"]
    }
    named = ("--keep", "1", "--keep-digest", digests["epoch_1"])
    told = kfm("checkpoints", "prune", long, *named)
    assert told.out.splitlines() == [
        "would remove epoch_3.pt",
        "1 go, 5 stay; give --yes to remove them",
    ]
    assert len(list(long.glob("*.pt"))) == 6
    for member in COUNCIL:
        key = ("--key", keys / f"{member}.pem")
        options = ("--policy", policy, *key, "--approve", "--reason", "x")
        assert kfm("checkpoints", "vote", long, "epoch_3", *options).code == 0
    assert kfm("checkpoints", "certify", long, "epoch_3", "--policy", policy).code == 0
    assert kfm("checkpoints", "prune", long, *named).out.startswith("0 go, 6 stay")
    done = kfm("checkpoints", "prune", long, "--keep", "1", "--yes")
    assert done.out.splitlines() == ["removed epoch_1.pt", "1 go, 5 stay"]
    kept = {row["id"] for row in load_json(long / METRICS)["checkpoints"]}
    assert kept == {f"epoch_{k}" for k in (2, 3, 4, 5, 6)} == {p.stem for p in long.glob("*.pt")}
    assert kfm("checkpoints", "verify", long, "--policy", policy).code == 0
    assert kfm("checkpoints", "prune", long, "--keep", "0").code == 2
