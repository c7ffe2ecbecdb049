"""``kfm vote`` and signed rollbacks over real HTTP; the commands of ``docs/votes.md`` are run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from registry.asking import repolicy
from registry.loopback import listening
from registry.world import COUNCIL, NAME, claims_of, told

from kfm_mlflow.cli.main import main
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.rollout.remote import RemoteRegistry
from kfm_mlflow.trust.keys import load_private_key
from kfm_mlflow.trust.remote_signing import build_envelope

DOCS = Path(__file__).resolve().parents[2] / "docs" / "votes.md"
URI = f"models:/{NAME}/1"


@pytest.fixture
def place(world, tmp_path, monkeypatch):
    """Work in a folder where ``ann.pem`` and ``bea.pem`` lie."""
    for index, name in enumerate(("ann.pem", "bea.pem")):
        (tmp_path / name).write_bytes(world.key(COUNCIL[index]).read_bytes())
        (tmp_path / name).chmod(0o600)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def serve(registry, monkeypatch):
    registry.now = datetime.now(UTC)
    return listening(registry, monkeypatch)


@pytest.fixture
def url(canary, place, monkeypatch):
    with serve(canary, monkeypatch) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        yield address


def kfm(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(item) for item in arguments])
    return int(ended.value.code or 0)


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def tally(registry) -> dict:
    return registry.store.check(NAME, 1, Level.PRODUCTION).report.votes


def documented(section: str) -> list[list[str]]:
    """Return the commands in a section of the page, on the model that there is here."""
    text = DOCS.read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    lines = [
        line
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.split("\n")
    ]
    names = {"climate-downscaler/3": f"{NAME}/1", "climate-downscaler/4": f"{NAME}/2"}
    for old, new in names.items():
        lines = [line.replace(old, new) for line in lines]
    return [shlex.split(line) for line in lines if line]


def run(command: list[str]) -> None:
    if command[0] == "kfm":
        assert kfm(*command[1:]) == 0, command
    else:
        openssl(*command[1:])


def test_the_page_votes_with_a_key_here_and_with_a_signer_elsewhere(canary, url, place, capsys):
    (here,) = documented("With a key on this machine")
    run(here)
    assert tally(canary)["approving"] == ["council-ann"]
    prepare, sign, send, envelope = documented("With a key somewhere else")
    run(prepare)
    printed = capsys.readouterr().out
    assert shlex.join(send).removeprefix("kfm ") in printed.replace("'", "")
    assert "openssl dgst -sha256 -sign KEY.pem -out vote.pae.sig vote.pae" in printed
    assert "pkcs11-tool" in printed
    assert "cosign sign-blob" in printed
    for command in (sign, send):
        run(command)
    assert tally(canary)["approving"] == ["council-ann", "council-bea"]
    kept = canary.query("SELECT envelope FROM kfm_attestation WHERE kind = 'vote'")
    (place / "vote.json").write_text(kept[0][0])
    run(envelope)
    assert canary.query("SELECT envelope FROM kfm_attestation WHERE kind = 'vote'") == kept


def test_a_signature_is_taken_as_tokens_and_cosign_write_it_and_no_other(canary, url, place, world):
    said = ("--to", "production", "--approve", "--reason", "read", "--as", COUNCIL[0])
    assert kfm("vote", URI, *said, "--unsigned", "v.pae") == 0
    openssl("dgst", "-sha256", "-sign", "ann.pem", "-out", "der.sig", "v.pae")
    openssl("base64", "-in", "der.sig", "-out", "b64.sig")
    r, s = decode_dss_signature((place / "der.sig").read_bytes())
    (place / "raw.sig").write_bytes(r.to_bytes(32) + s.to_bytes(32))
    openssl("dgst", "-sha256", "-sign", "bea.pem", "-out", "bea.sig", "v.pae")
    (place / "none.sig").write_text("hello")
    sent = ("vote", URI, "--unsigned", "v.pae", "--signature")
    assert [kfm(*sent, f"{name}.sig") for name in ("der", "b64", "raw")] == [0, 0, 0]
    assert [kfm(*sent, f"{name}.sig") for name in ("bea", "none", "missing")] == [2, 2, 2]
    changed = (place / "v.pae").read_bytes().replace(b'"approve"', b'"abstain"')
    (place / "v.pae").write_bytes(changed)
    assert kfm(*sent, "der.sig") == 2
    assert tally(canary)["approving"] == [COUNCIL[0]]
    key = load_private_key(world.key(COUNCIL[0])).public_key
    signed = build_envelope(
        (changed.replace(b'"abstain"', b'"approve"')), (place / "raw.sig").read_bytes(), key
    )
    kept = {text for (text,) in canary.query("SELECT envelope FROM kfm_attestation")}
    assert signed.decode() in kept


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--key", "ann.pem"),
        ("--key", "ann.pem", "--to", "production", "--reason", "x"),
        ("--key", "ann.pem", "--envelope", "v.json"),
        ("--as", "council-ann", "--to", "production", "--reason", "x", "--approve"),
        ("--unsigned", "v.pae"),
        ("--signature", "v.sig"),
        ("--key", "ann.pem", "--unsigned", "v.pae", "--to", "canary", "--reason", "x", "--deny"),
    ],
    ids=" ".join,
)
def test_options_that_do_not_go_together_are_bad_usage(place, monkeypatch, options):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert kfm("vote", URI, *options) == 2


def test_who_is_no_member_prepares_and_signs_nothing(canary, url, place, world):
    said = ("vote", URI, "--to", "production", "--deny", "--reason", "x")
    assert kfm(*said, "--as", "nobody", "--unsigned", "v.pae") == 2
    assert not (place / "v.pae").exists()
    assert kfm(*said, "--key", world.key("trainer")) == 2


# -- the same liars over HTTP ------------------------------------------------------------------------


def test_liars_over_http_are_refused_or_count_for_nothing(canary, url, world):
    """One of four lies in every way; two honest members are one short, the third decides."""
    remote, liar = RemoteRegistry(url), COUNCIL[0]
    post = f"{url}/kfm/api/v1/votes"

    def envelope_of(member, choice):
        before = set(canary.query("SELECT digest FROM kfm_attestation"))
        canary.vote(1, member, choice)
        after = set(canary.query("SELECT digest FROM kfm_attestation"))
        ((digest,),) = after - before
        ((envelope,),) = canary.query(
            "SELECT envelope FROM kfm_attestation WHERE digest = ?", digest
        )
        return json.loads(envelope)

    good = envelope_of(liar, "approve")
    assert tally(canary)["approving"] == [liar]
    for body, status in (
        ({"model_name": NAME, "version": 1, "envelope": good}, 200),
        ({"model_name": NAME, "version": 1, "envelope": {**good, "signatures": []}}, 400),
        ({"model_name": NAME, "version": 1, "envelope": {**good, "payload": "e30="}}, 400),
        ({"model_name": NAME, "version": 2, "envelope": good}, 404),
        ({"model_name": "climate-other", "version": 1, "envelope": good}, 404),
        ({"model_name": NAME, "version": 1, "envelope": None}, 400),
    ):
        assert requests.post(post, json=body, timeout=30).status_code == status, body
    verdict = canary.query("SELECT envelope FROM kfm_attestation WHERE kind = 'canary-verdict'")
    other_kind = {"model_name": NAME, "version": 1, "envelope": json.loads(verdict[0][0])}
    answer = requests.post(post, json=other_kind, timeout=30)
    assert (answer.status_code, "not a vote" in answer.text) == (400, True)
    envelope_of(liar, "deny")
    for member in (COUNCIL[1], COUNCIL[3]):
        remote.cast_vote(
            *(NAME, 1, "production"),
            key=world.key(member),
            choice="approve",
            reason="looked at it",
            now=canary.now,
            expires_at=canary.now.replace(year=canary.now.year + 1),
        )
    counted = tally(canary)
    assert (counted["outcome"], counted["equivocators"]) == ("pending", [liar])
    with told(403, "votes 2 of 3"):
        canary.store.move(NAME, 1, Level.PRODUCTION)
    canary.vote(1, COUNCIL[2])
    canary.store.move(NAME, 1, Level.PRODUCTION)


# -- signed rollbacks --------------------------------------------------------------------------------


def replaced(two, **trust):
    """Put v2 in Production, then ask for the signatures of those named."""
    two.now = datetime.now(UTC)
    two.store.move(NAME, 2, Level.PRODUCTION)
    repolicy(two, trust=trust)


def test_without_the_signature_that_the_policy_names_nothing_comes_back(two):
    replaced(two, rollback_approvers=["controllers"])
    with told(403, "rollback missing"):
        two.store.move(NAME, 2, Level.CANDIDATE, restore=1)
    assert [two.level(1), two.level(2)] == ["candidate", "production"]
    with told(400, "rollback"):
        two.attest(1, "rollback", approval(two), COUNCIL[0])
    signed = approval(two)
    two.attest(1, "rollback", signed, "controller")
    two.store.move(NAME, 2, Level.CANDIDATE, restore=1)
    assert [two.level(1), two.level(2)] == ["production", "candidate"]
    assert two.store.snapshot(NAME, 1).epoch > signed["epoch"], "it could be used again"


def approval(registry):
    epoch = registry.store.snapshot(NAME, 1).epoch
    return {"restored_version": 1, "replaced_version": 2, "epoch": epoch, "reason": "x"}


def test_the_page_signs_a_rollback_by_hand(two, place, monkeypatch):
    replaced(two, rollback_approvers=["controllers", "council"])
    ((*_, restore),) = [documented("Signing a rollback")]
    restore = ["1" if word == "3" else word for word in restore]
    with serve(two, monkeypatch) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        without = [word for word in restore if word not in {"--key", "ann.pem"}]
        assert kfm(*without[1:]) == 1
        run(restore)
    assert two.level(1) == "production"
    ((body,),) = two.query("SELECT body FROM kfm_ledger ORDER BY seq DESC LIMIT 1")
    gates = {gate["gate"]: gate["findings"] for gate in claims_of(body)["report"]["gates"]}
    assert "council-ann signed that v1 comes back for v2" in gates["rollback_approval"][0]["detail"]


def test_the_controller_signs_its_own_rollback(two, world, monkeypatch):
    replaced(two, rollback_approvers=["controllers"])
    expect = {"expect_production": 2, "expect_canary": None}
    with serve(two, monkeypatch) as address:
        keyed = RemoteRegistry(address, controller_key=world.key("controller"))
        keyed.move(NAME, 1, "production", reason="drift", **expect)
    assert [two.level(1), two.level(2)] == ["production", "candidate"]
