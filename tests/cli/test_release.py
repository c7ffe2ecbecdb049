"""``kfm sign`` and ``kfm verify`` of directories, offline."""

from __future__ import annotations

import json

import pytest
from registry.world import digest_of


def verify(kfm, world, target, *more):
    return kfm("verify", target, "--policy-dir", world.policies, *more)


def test_a_good_release_verifies(kfm, world, monkeypatch):
    good = world.releases[0]
    done = verify(kfm, world, good.release_dir)
    assert (done.code, done.err) == (0, "")
    assert done.out.rstrip().endswith(f"PASS  {digest_of(good)}")
    monkeypatch.chdir(good.release_dir)
    assert verify(kfm, world, ".").code == 0
    assert verify(kfm, world, f"{good.release_dir}/").code == 0


def test_verify_as_json_is_the_report_of_the_gates(kfm, world):
    done = verify(kfm, world, world.releases[0].release_dir, "--json")
    report = json.loads(done.out)
    assert (report["verdict"], report["to_level"]) == ("PASS", "staging")
    assert report["release_id"] == digest_of(world.releases[0])


@pytest.mark.parametrize(
    "path", ["model.onnx", "model.pt", "care.json", "provenance/provenance.ttl"]
)
def test_a_tampered_file_is_named_and_exits_1(kfm, world, tmp_path, path):
    bundle = world.copy(tmp_path)
    target = bundle.release_dir / path
    target.write_bytes(target.read_bytes() + b" ")
    done = verify(kfm, world, bundle.release_dir)
    assert (done.code, done.err) == (1, "")
    assert f"{path}: bytes differ from what was signed" in done.out


def test_added_missing_and_linked_files_are_named(kfm, world, tmp_path):
    bundle = world.copy(tmp_path)
    (bundle.release_dir / "added.bin").write_bytes(b"x")
    (bundle.release_dir / "drift" / "baseline.json").unlink()
    done = verify(kfm, world, bundle.release_dir)
    assert done.code == 1
    assert "added.bin: not signed" in done.out
    assert "drift/baseline.json: signed but missing" in done.out
    (bundle.release_dir / "link").symlink_to("/etc/hostname")
    done = verify(kfm, world, bundle.release_dir)
    assert done.code == 1
    assert "link: is a symbolic link" in done.out


def test_the_packaged_policies_trust_nobody(kfm, world):
    done = kfm("verify", world.releases[0].release_dir)
    assert done.code == 1
    assert "signed by a key that the policy does not trust" in done.out


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"family": []}', '{"family": "weather"}', '{"family": 7}']
)
def test_a_release_that_says_nonsense_about_itself_is_no_traceback(kfm, world, tmp_path, text):
    bundle = world.copy(tmp_path)
    (bundle.release_dir / "model_metadata.json").write_text(text)
    done = verify(kfm, world, bundle.release_dir)
    assert done.code in (1, 2)
    assert "Traceback" not in done.err
    assert done.err.count("\n") <= 1


def test_a_directory_that_is_not_there_is_bad_input(kfm, world, tmp_path):
    verify(kfm, world, tmp_path / "none").fails_in_one_line(2, "no such directory")


def test_signing_again_makes_a_release_that_verifies(kfm, world, tmp_path, monkeypatch):
    bundle = world.copy(tmp_path)
    bundle.signature_path.unlink()
    monkeypatch.chdir(bundle.release_dir)
    done = kfm("sign", ".", "--key", world.key("trainer"))
    assert done.code == 0
    assert digest_of(bundle) in done.out
    assert verify(kfm, world, bundle.release_dir).code == 0


def test_signing_with_no_key_is_bad_input_and_leaves_the_old_signature(kfm, world, tmp_path):
    bundle = world.copy(tmp_path)
    before = bundle.signature_path.read_bytes()
    done = kfm("sign", bundle.release_dir, "--key", tmp_path / "none.pem")
    done.fails_in_one_line(2, "no such key file")
    assert bundle.signature_path.read_bytes() == before
