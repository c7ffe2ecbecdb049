"""``kfm keys`` and ``kfm policy``."""

from __future__ import annotations

import stat

import pytest
import yaml

from kfm_mlflow.policy.load import load_policies


def test_new_keys_are_private_to_their_owner_and_never_overwritten(kfm, tmp_path):
    folder = tmp_path / "keys"
    done = kfm("keys", "new", "trainer", "validator", "--dir", folder)
    assert done.code == 0
    assert len(done.out.splitlines()) == 2
    assert stat.S_IMODE((folder / "trainer.pem").stat().st_mode) == 0o600
    before = {path: path.read_bytes() for path in folder.iterdir()}
    kfm("keys", "new", "trainer", "--dir", folder).fails_in_one_line(2, "exists already")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_key_folder_that_is_a_file_is_one_clear_error(kfm, tmp_path):
    (tmp_path / "keys").write_text("")
    kfm("keys", "new", "a", "--dir", tmp_path / "keys").fails_in_one_line(2, "keys")


def test_show_prints_the_public_half_and_refuses_the_private_one(kfm, world):
    done = kfm("keys", "show", world.keys / "trainer.pem.pub")
    assert done.code == 0
    assert done.out.startswith(world.signer("trainer").public_key.key_id)
    assert "PRIVATE" not in done.out
    failed = kfm("keys", "show", world.keys / "trainer.pem")
    failed.fails_in_one_line(2, "private key where a public one belongs")


def test_init_trusts_each_key_for_the_duty_that_its_name_says(kfm, world, tmp_path):
    folder = tmp_path / "policies"
    assert (
        kfm("policy", "init", "--family", "climate", "--keys", world.keys, "-o", folder).code == 0
    )
    trust = load_policies(folder).policy("climate").trust
    assert [key.name for key in trust.signers] == ["trainer"]
    assert [key.name for key in trust.validators] == ["validator"]
    assert [key.name for key in trust.controllers] == ["controller"]
    assert len(trust.council.members) == 4
    assert trust.council.members[3].roles == ("indigenous-representative",)
    again = kfm("policy", "init", "--family", "climate", "--keys", world.keys, "-o", folder)
    again.fails_in_one_line(2, "exists already")


def test_lint_names_file_and_field_of_an_unknown_field(kfm, world, tmp_path):
    text = (world.policies / "climate.yaml").read_text()
    path = tmp_path / "climate.yaml"
    path.write_text(text + "treshold: 3\n")
    for target in (path, tmp_path):
        kfm("policy", "lint", target).fails_in_one_line(2, "climate.yaml", "treshold")


def test_lint_notes_what_only_records_and_what_can_never_pass_and_strict_fails_on_it(kfm, world):
    good = kfm("policy", "lint", "--strict", world.policies / "climate.yaml")
    # Of what the overlay keeps of the packaged policy, one gate only records.
    assert (good.code, good.out.count("note: ")) == (1, 1)
    assert "gates.drift.mode is audit" in good.out
    assert kfm("policy", "lint", world.policies / "climate.yaml").code == 0
    packaged = kfm("policy", "lint", "--strict")
    assert packaged.code == 1
    assert "trust.signers is empty" in packaged.out
    kfm("policy", "lint", world.root / "nowhere").fails_in_one_line(2, "no such folder")


def test_show_prints_a_policy_that_reads_back_to_the_same_digest(kfm, world, tmp_path):
    done = kfm("policy", "show", "climate", "--policy-dir", world.policies)
    assert done.code == 0
    (tmp_path / "climate.yaml").write_text(done.out)
    digest = load_policies(world.policies).policy("climate").digest
    assert done.out.startswith(f"# {digest}\n")
    assert load_policies(tmp_path).policy("climate").digest == digest
    assert yaml.safe_load(done.out)["family"] == "climate"


def test_show_of_an_unknown_family_says_which_there_are(kfm):
    kfm("policy", "show", "weather").fails_in_one_line(2, "known families: baseline, climate")


@pytest.mark.parametrize(
    "arguments", [("--help",), ("policy", "-h"), ("ledger", "-h"), ("--version",)]
)
def test_help_and_version_are_no_errors(kfm, arguments):
    done = kfm(*arguments)
    assert (done.code, done.err) == (0, "")


def test_every_command_that_help_lists_can_be_loaded(kfm):
    from kfm_mlflow.cli.main import _COMMANDS

    for name in _COMMANDS:
        assert kfm(name, "--help").code == 0


@pytest.mark.parametrize("arguments", [("nonsense",), ("check",), ("keys", "new"), ()])
def test_wrong_usage_exits_2_without_a_traceback(kfm, arguments):
    done = kfm(*arguments)
    assert done.code == 2
    assert "Traceback" not in done.err
