"""The layout of an export: paths, lists of digests, commands, archives."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.errors import InputError
from kfm_mlflow.release.export import (
    byte_problems,
    export_facts,
    is_export,
    key_path,
    release_path,
    sums_text,
)
from kfm_mlflow.release.export_readme import _signature_command, readme_text
from kfm_mlflow.release.manifest import build_manifest, check_path


@pytest.mark.parametrize(
    ("family", "version", "path"),
    [
        ("climate", "v11.2.2", "climate/models/v11.2.2"),
        ("focus-mode", "v11.2.2", "focus/models/v11.2.2"),
        ("fleet", "v1.0.0-rc.1+b2", "fleet/models/v1.0.0-rc.1+b2"),
    ],
)
def test_a_release_lies_where_the_source_documents_put_it(family, version, path):
    assert release_path(family, version) == path


@pytest.mark.parametrize("version", ["", "..", ".", "a/b", "$(id)", "v1 0", "v1`x`", ".git", 'v"'])
def test_a_version_that_a_shell_or_a_system_would_misread_is_refused(version):
    with pytest.raises(InputError, match="cannot be the name of a folder"):
        release_path("climate", version)


@given(st.text(min_size=1), st.sampled_from(["signers", "council"]))
def test_whatever_a_holder_is_called_the_key_has_a_plain_path(holder, duty):
    path = key_path(duty, holder, "ab" * 32)
    assert check_path(path) is None
    assert path.count("/") == 2
    assert path == shlex.quote(path)


@pytest.mark.parametrize(
    ("signer", "wanted"),
    [
        ({"kind": "key", "path": "k.pem"}, ["key", "--public_key", "k.pem"]),
        (
            {"kind": "certificate", "path": "r.crt"},
            ["certificate", "--certificate_chain", "r.crt"],
        ),
        (
            {"kind": "sigstore", "path": "t.json", "identity": "a b; id", "issuer": "https://i"},
            ["sigstore", "--identity", "a b; id", "--identity_provider", "https://i"],
        ),
    ],
)
def test_the_command_for_the_signature_has_the_options_of_model_signing(signer, wanted):
    facts = {"signer": signer, "release_path": "r", "integrity": {"signature": "r.sig"}}
    words = shlex.split(_signature_command(facts).partition("\n")[0])
    assert words[:4] == ["python", "-m", "model_signing", "verify"]
    assert set(wanted) <= set(words)
    assert words[-1] == "--no-ignore-git-paths"


def test_a_model_name_cannot_put_commands_into_the_page():
    facts = {
        **export_facts(
            model_name="a\n```sh\nrm -rf ~\n```\n$(id)",
            version=1,
            family="climate",
            release_version="v1",
            release_id="sha256:" + "0" * 64,
            policy_digest="sha256:" + "1" * 64,
        ),
        "level": "staging",
        "exported_at": "2026-01-01T00:00:00Z",
        "signer": {"kind": "key", "path": "keys/signers/k.pem"},
        "keys": [{"duty": "registry", "path": "keys/registry/r.pem"}],
        "documents": {"deployed.json": "provenance/deployed.json"},
        "files": [{"path": "climate/models/v1/care.json"}],
    }
    text = readme_text(facts).decode()
    assert text.splitlines()[0] == "# a '''sh rm -rf ~ ''' $(id), version 1: release v1"
    assert text.count("```sh\n") == 6
    assert "pyspdxtools -i" not in text  # There is no bill of materials.
    assert '"climate/models/v1/care.json": "care"' in text
    assert "model_summary.json" not in text
    bare = readme_text({**facts, "documents": {}}).decode()
    assert ("deployed.json" in bare, bare.count("```sh\n")) == (False, 5)
    # The one script that compares the name holds it as a string of Python's.
    assert '"a\\n```sh\\nrm -rf ~' in text


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "out"
    (root / "a").mkdir(parents=True)
    (root / "a" / "ü x").write_bytes(b"1")
    (root / "b").write_bytes(b"")
    (root / "SHA256SUMS").write_bytes(sums_text(build_manifest(root)))
    return root


def test_coreutils_reads_the_list_and_it_is_enough_without_an_index(tree):
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=tree, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"OK") == 2
    assert is_export(tree)
    assert byte_problems(tree, build_manifest(tree), None) == []
    (tree / "b").write_bytes(b"2")
    assert byte_problems(tree, build_manifest(tree), None) == ["b: is not what SHA256SUMS lists"]
    (tree / "SHA256SUMS").write_bytes(b"\xff" * 2**21)
    assert byte_problems(tree, build_manifest(tree), None) == [
        "SHA256SUMS: is far too large (2097152 bytes)"
    ]
    (tree / "SHA256SUMS").unlink()
    assert byte_problems(tree, build_manifest(tree), None) == ["SHA256SUMS: is missing"]
    assert not is_export(tree)
