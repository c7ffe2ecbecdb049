"""Whatever is changed in an export is found, and the verdict names the file and the reason."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shutil
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from cli.export_world import list_anew
from model_signing import hashing, signing
from registry.world import NAME

from kfm_mlflow.canonical import canonical_bytes, load_json
from kfm_mlflow.registry.exported import verify_export
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.quorum import Proposal, build_vote_claims
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

pytestmark = pytest.mark.server
RELEASE = {"key": "climate/models/v1.0.0", "certificate": "climate/models/v1.1.0"}
PLACES = {
    "a key": rb'"[A-Za-z_]+":',
    "a number": rb"[0-9]+",
    "base64": rb'"(?:sig|payload|rawBytes|public_key)":"([^"]+)"',
}


def problems_of(root, **options):
    return verify_export(root, **{"now": datetime.now(UTC), **options}).problems


@pytest.fixture
def copied(exports, tmp_path):
    shutil.copytree(exports.made["key"], tmp_path / "copy")
    return tmp_path / "copy"


def offsets(path, data, chance):
    """Return one position of every class that a file has: any, the ends, and inside JSON."""
    found = {"any": chance.randrange(len(data))}
    if not path.startswith("schemas/"):
        found |= {"first": 0, "last": len(data) - 1}
    if data.startswith(b"{"):
        for name, pattern in PLACES.items():
            spots = list(re.finditer(pattern, data))
            if spots:
                found[name] = chance.randrange(
                    *chance.choice(spots).span(re.compile(pattern).groups)
                )
    return found


@pytest.mark.parametrize("kind", ["key", "certificate", "sigstore"])
def test_a_flipped_bit_of_any_file_and_class_of_position_is_found_and_named(
    exports, tmp_path, kind
):
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    root = tmp_path / "copy"
    shutil.copytree(exports.made[kind], root)
    assert problems_of(root) == ()
    paths = [entry.path for entry in build_manifest(root).files]
    if kind != "key":
        # What the first export has, too, was tried there.
        paths = [path for path in paths if path.endswith(("release.sig", ".crt", ".intoto.json"))]
        paths += [path for path in paths if path.startswith("keys/sigstore")]
    for path in paths:
        before = (root / path).read_bytes()
        for place, at in offsets(path, before, chance).items():
            changed = bytearray(before)
            changed[at] ^= 1 << chance.randrange(8)
            (root / path).write_bytes(changed)
            problems = problems_of(root)
            assert any(text.startswith(f"{path}: ") for text in problems), (
                *(path, place, at, f"seed {seed}"),
                problems,
            )
        (root / path).write_bytes(before)
    assert problems_of(root) == ()


def test_files_of_another_release_are_found_each_by_name(exports, copied):
    other = exports.made["certificate"]
    swapped = [
        path
        for path in ("export.json", "export.intoto.json", "SHA256SUMS", "README.md")
        if (other / path).read_bytes() != (copied / path).read_bytes()
    ]
    assert len(swapped) == 4
    for path in swapped:
        before = (copied / path).read_bytes()
        shutil.copy(other / path, copied / path)
        assert any(path in text for text in problems_of(copied)), path
        (copied / path).write_bytes(before)
    # Index, list and signature together are whole; the files are then not theirs.
    for path in ("export.json", "export.intoto.json", "SHA256SUMS"):
        shutil.copy(other / path, copied / path)
    problems = problems_of(copied)
    assert f"{RELEASE['key']}/model.pt: is not listed in export.json" in problems
    assert f"{RELEASE['certificate']}/model.pt: is missing" in problems


@pytest.mark.parametrize("kind", ["certificate", "sigstore"])
def test_a_bundle_of_another_kind_is_no_signature_of_this_release(exports, copied, kind):
    (theirs,) = exports.made[kind].rglob("release.sig")
    shutil.copy(theirs, copied / f"{RELEASE['key']}.evidence" / "release.sig")
    list_anew(copied, exports)
    problems = problems_of(copied)
    assert any("bytes differ from what was signed" in text for text in problems), problems


def test_an_envelope_of_another_kind_is_no_signature_of_the_index(exports, copied):
    statement = next((copied / "attestations").iterdir()).read_bytes()
    row = load_json(copied / "ledger" / "ledger_snapshot.json")["rows"][-1]["body"].encode()
    for data, reason in (
        (statement, "is signed by a key that is not the registry's"),
        (row, "statement: "),
        (b"{}", "lacks payload, payloadType, signatures"),
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 50_000, "not valid JSON"),
        (b" " * 2**17, "is larger than"),
    ):
        (copied / "export.intoto.json").write_bytes(data)
        (problem,) = problems_of(copied)
        assert problem.startswith("export.intoto.json: ")
        assert reason in problem or "is no signature over an export" in problem, problem
    (copied / "export.intoto.json").unlink()
    assert problems_of(copied) == ("export.intoto.json: is missing",)


def test_a_signature_from_tomorrow_is_not_believed_today(exports, copied):
    yesterday = datetime.now(UTC) - timedelta(days=1)
    (problem,) = problems_of(copied, now=yesterday)
    assert problem.startswith("export.intoto.json: not yet valid: signed at ")


def test_added_files_links_and_empty_files_are_found(copied):
    (copied / "schemas" / "more.json").write_text("{}")
    os.link(copied / "README.md", copied / "keys" / "README.md")
    (copied / RELEASE["key"] / "model.onnx").write_bytes(b"")
    problems = problems_of(copied)
    assert "schemas/more.json: is not listed in export.json" in problems
    assert "keys/README.md: is not listed in export.json" in problems
    assert any(
        text.startswith(f"{RELEASE['key']}/model.onnx: is not what export.json lists (0 bytes")
        for text in problems
    )
    (copied / "policy" / "link").symlink_to(copied / "README.md")
    (problem,) = problems_of(copied)
    assert problem.startswith("policy/link: is a symbolic link")


def test_a_public_key_of_the_forgers_own_is_found(exports, copied):
    index = load_json(copied / "export.json")
    (own,) = [key for key in index["keys"] if key["duty"] == "registry"]
    foreign = f"{exports.world.key('foreign')}.pub"
    shutil.copy(foreign, copied / own["path"])
    assert any(text.startswith(f"{own['path']}: ") for text in problems_of(copied))
    list_anew(copied)
    assert any(text.startswith(f"{own['path']}: ") for text in problems_of(copied))


def test_a_lineage_that_the_registry_did_not_tell_is_found_though_it_signed_the_list(
    exports, copied
):
    told, signed = (
        copied / "provenance" / name for name in ("deployed.json", "deployed.intoto.json")
    )
    before, envelope = told.read_bytes(), signed.read_bytes()
    ours = load_json(told)
    del ours["wasInvalidatedBy"]
    other = exports.made["certificate"] / "provenance" / signed.name
    for changed, words in (
        ({told: canonical_bytes(ours)}, "deployed.json: does not follow from release, ledger"),
        ({signed: other.read_bytes()}, "deployed.intoto.json: was signed for another lineage"),
        (
            {signed: next((copied / "attestations").iterdir()).read_bytes()},
            "deployed.intoto.json: ",
        ),
        ({signed: b"{" * 9}, "deployed.intoto.json: "),
    ):
        for path, data in changed.items():
            path.write_bytes(data)
        list_anew(copied, exports)
        (problem,) = problems_of(copied)
        assert problem.startswith(f"provenance/{words}"), problem
        told.write_bytes(before)
        signed.write_bytes(envelope)
    told.unlink()
    list_anew(copied, exports)
    assert problems_of(copied) == ("provenance/deployed.json: is missing",)


# -- statements ------------------------------------------------------------------------------------


def of_kind(root, kind):
    return [
        path
        for path in sorted((root / "attestations").iterdir())
        if f"/attestations/{kind}/".encode()
        in base64.b64decode(json.loads(path.read_bytes())["payload"])
    ]


def payload_of(path):
    return json.loads(base64.b64decode(json.loads(path.read_bytes())["payload"]))


FOREIGN = {
    "release": ({"release_id": f"sha256:{'ab' * 32}"}, {}, "is about release id"),
    "model": ({"model_name": "climate-else"}, {}, "is about model"),
    "release version": ({"release_version": "v9.9.9"}, {}, "is about release version"),
    "policy": ({"policy_digest": f"sha256:{'ab' * 32}"}, {}, "approval of"),
    "epoch": ({}, {"epoch": 7}, "approval of"),
    "move": ({}, {"to_level": "canary"}, "approval of"),
    "tomorrow": ({}, {}, "not yet valid"),
    "past": ({}, {}, "expired at"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_vote_for_something_else_does_not_stand_for_one_that_counts(exports, copied, what):
    """Signed by a member, and listed and signed by the registry itself."""
    bound, proposed, words = FOREIGN[what]
    (path, *_) = of_kind(copied, "vote")
    claims, binding = (payload_of(path)["predicate"][name] for name in ("claims", "binding"))
    voter = claims["voter"]
    proposal = Proposal(**{**claims["proposal"], **proposed})
    now = datetime.now(UTC)
    at = {"tomorrow": now + timedelta(days=1), "past": now - timedelta(days=9)}.get(what, now)
    statement = build_statement(
        "vote",
        Binding(**{**binding, **bound}),
        build_vote_claims(proposal, voter, "approve", "looked at it"),
        at,
        at + timedelta(days=3),
    )
    path.write_bytes(sign_statement(statement, exports.world.signer(voter)))
    list_anew(copied, exports)
    report = verify_export(copied, now=now)
    assert any(f"the approval of {voter} is missing" in text for text in report.problems)
    assert any("is missing, which row" in text for text in report.problems)
    name = path.relative_to(copied).as_posix()
    if words != "approval of":
        told = [text for text in (*report.problems, *report.notes) if text.startswith(name)]
        assert any(words in text for text in told), told


def test_every_statement_left_out_is_found_without_the_lists(exports, copied):
    for path in [*of_kind(copied, "vote"), *of_kind(copied, "canary-verdict")]:
        before = path.read_bytes()
        path.unlink()
        list_anew(copied, exports)
        assert any("is missing, which row" in text for text in problems_of(copied)), path
        path.write_bytes(before)


# -- certificates ----------------------------------------------------------------------------------


@pytest.fixture
def certified(exports, tmp_path):
    shutil.copytree(exports.made["certificate"], tmp_path / "certified")
    return tmp_path / "certified"


@pytest.mark.parametrize(
    ("begins_days", "ends_days", "words"),
    [(-400, -1, "expired at"), (1, 300, "not valid before")],
)
def test_a_certificate_out_of_date_is_found_even_in_a_list_that_the_registry_signed(
    exports, certified, begins_days, ends_days, words
):
    pki = exports.pki
    begins, ends = timedelta(days=begins_days), timedelta(days=ends_days)
    leaf = pki.issue(
        "release-bot", pki.middle, begins=begins, ends=ends, file=f"dated{begins_days}"
    )
    release = certified / RELEASE["certificate"]
    everything = hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)
    signing.Config().use_certificate_signer(
        private_key=leaf.key_path, signing_certificate=leaf.pem, certificate_chain=[pki.middle.pem]
    ).set_hashing_config(everything).sign(release, certified / f"{release}.evidence/release.sig")
    list_anew(certified, exports)
    problems = problems_of(certified)
    assert any("release.sig" in text and words in text for text in problems), problems


@pytest.mark.parametrize("how", ["certificate", "holder", "authority"])
def test_a_certificate_revoked_since_is_found_with_the_policy_of_today(
    kfm, exports, certified, tmp_path, how
):
    shutil.copytree(exports.world.policies, tmp_path / "policies")
    path = tmp_path / "policies" / "climate.yaml"
    policy = yaml.safe_load(path.read_text())
    root = exports.world.root
    policy["regions_file"] = str(root / "regions.geojson")
    policy["trust"]["sigstore_signers"][0]["trust_config_file"] = str(root / "sigstore.json")
    (entry,) = policy["trust"]["certificate_signers"]
    pki = exports.pki
    entry |= {
        "certificate": {"revoked_certificates": [pki.leaf.digest]},
        "authority": {"revoked_certificates": [pki.middle.digest]},
        "holder": {"revoked_at": "2026-01-01T00:00:00Z"},
    }[how]
    path.write_text(yaml.safe_dump(policy))
    done = kfm("verify", certified, "--policy-dir", tmp_path / "policies")
    assert (done.code, done.err) == (1, "")
    assert "release.sig: " in done.out
    assert "revoked" in done.out


@pytest.mark.parametrize("kind", ["certificate", "sigstore"])
def test_releases_signed_without_a_bare_key_are_verified_offline(kfm, exports, kind):
    root = exports.made[kind]
    done = kfm("verify", root, "--key", exports.registry_key)
    assert (done.code, done.err) == (0, ""), done.out
    index = load_json(root / "export.json")
    assert index["signer"]["kind"] == kind
    assert index["signer"]["path"].startswith(f"keys/{kind.replace('certificate', 'certificates')}")
    assert (root / index["signer"]["path"]).is_file()
    assert index["model_name"] == NAME
