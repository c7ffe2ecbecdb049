"""Certificate signatures: who counts, when, and everything that the vendor lets pass and we do not."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from trust.made_pki import SUBJECT, WORKFLOW, Pki

from kfm_mlflow.errors import InputError, SignatureError
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.keys import load_public_key
from kfm_mlflow.trust.signing import sign_release_with_certificate, verify_release
from kfm_mlflow.trust.signing_certificate import TrustedCertificate


@pytest.fixture(scope="module")
def pki(tmp_path_factory, now):
    return Pki(tmp_path_factory.mktemp("pki"), now)


@pytest.fixture
def sign(release, pki):
    """Sign the release with a certificate, by the vendor alone: whatever it does not refuse."""
    from model_signing import hashing, signing

    def run(holder, *chain):
        path = release.parent / "model.sig"
        everything = hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)
        signing.Config().use_certificate_signer(
            private_key=holder.key_path,
            signing_certificate=holder.pem,
            certificate_chain=[one.pem for one in chain or (pki.middle,)],
        ).set_hashing_config(everything).sign(release, path)
        return path

    return run


@pytest.fixture
def signature(release, pki):
    path = release.parent / "model.sig"
    sign_release_with_certificate(
        release,
        path,
        pki.leaf.key_path,
        certificate_path=pki.leaf.pem,
        chain_paths=[pki.middle.pem],
        now=pki.now,
    )
    return path


@pytest.fixture
def problem(release, pki):
    """Return the one problem of a signature, both ways of reading agreeing."""

    def run(path, *entries, at=pki.now):
        report = verify_release(release, path, entries, at)
        digests = build_manifest(release).digests
        assert verify_release(release, path, entries, at, digests=digests) == report
        assert not report.ok
        (only,) = report.problems
        return only

    return run


def _vendor_accepts(release, path, *roots):
    from model_signing import hashing, verifying

    everything = hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)
    verifier = verifying.Config().use_certificate_verifier(
        certificate_chain=[root.pem for root in roots]
    )
    try:
        verifier.set_hashing_config(everything).verify(release, path)
    except Exception:  # noqa: BLE001 - the vendor raises many types, all of them mean no
        return False
    return True


def test_a_certificate_under_a_root_of_the_policy_is_good(release, signature, pki):
    report = verify_release(release, signature, [pki.trusted], pki.now)
    assert (report.ok, report.signer, report.problems) == (True, "bot", ())
    # The key id is the one of the same key held bare, so duties stay apart whatever it signs with.
    public = pki.leaf.key.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert report.key_id == load_public_key(pem.decode()).key_id


def test_the_root_may_come_along_in_the_bundle_and_counts_only_if_the_policy_has_it(
    release, sign, pki, problem
):
    path = sign(pki.leaf, pki.middle, pki.root)
    assert verify_release(release, path, [pki.trusted], pki.now).ok
    other = pki.issue("other-root", authority=True, usage=None)
    reason = problem(path, replace(pki.trusted, roots_pem=other.text))
    assert (
        reason
        == "model.sig: not by 'bot': certificate does not lead to a root that the policy trusts"
    )


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_larger_curves_count_with_their_own_hash(release, sign, pki, curve):
    path = sign(pki.issue("release-bot", pki.middle, curve=curve, file="large"))
    assert verify_release(release, path, [pki.trusted], pki.now).ok


def test_an_expired_certificate_is_refused_although_the_vendor_accepts_it(
    release, sign, pki, problem
):
    path = sign(pki.issue("release-bot", pki.middle, ends=-timedelta(days=1), file="expired"))
    assert _vendor_accepts(release, path, pki.root)
    assert "certificate CN=release-bot,O=KFM expired at 2026-05-31" in problem(path, pki.trusted)
    assert verify_release(release, path, [pki.trusted], pki.now - timedelta(days=2)).ok


def test_a_certificate_that_is_not_yet_valid_is_refused_although_the_vendor_accepts_it(
    release, sign, pki, problem
):
    path = sign(pki.issue("release-bot", pki.middle, begins=timedelta(days=1), file="early"))
    assert _vendor_accepts(release, path, pki.root)
    assert "is not valid before 2026-06-02" in problem(path, pki.trusted)


@pytest.mark.parametrize(
    ("days", "ok"), [(0, True), (364, True), (366, False), (-364, True), (-366, False)]
)
def test_a_certificate_counts_from_its_first_to_its_last_day(release, signature, pki, days, ok):
    assert (
        verify_release(release, signature, [pki.trusted], pki.now + timedelta(days=days)).ok is ok
    )


def test_an_expired_authority_is_named(sign, pki, problem):
    old = pki.issue("old", pki.root, authority=True, usage=None, ends=-timedelta(days=1))
    reason = problem(sign(pki.issue("release-bot", old, file="under-old"), old), pki.trusted)
    assert "certificate CN=old,O=KFM expired" in reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("root", "certificate chain is not good (certificate signature failure)"),
        ("another", "certificate does not lead to a root that the policy trusts"),
    ],
)
def test_another_root_is_refused_whatever_its_name(signature, pki, problem, name, reason):
    other = pki.issue(name, authority=True, usage=None, file="another")
    found = problem(signature, replace(pki.trusted, roots_pem=other.text))
    assert found == f"model.sig: not by 'bot': {reason}"


def test_a_missing_link_is_refused(sign, pki, problem):
    assert "does not lead to a root" in problem(sign(pki.leaf, pki.root), pki.trusted)


def test_a_self_signed_certificate_is_no_root_of_its_own(sign, pki, problem):
    alone = pki.issue("release-bot", file="alone")
    assert "does not lead to a root" in problem(sign(alone, alone), pki.trusted)


def test_a_policy_cannot_name_a_self_signed_leaf_as_root_although_the_vendor_would(
    release, sign, pki, problem
):
    alone = pki.issue("release-bot", file="alone2")
    path = sign(alone, alone)
    assert _vendor_accepts(release, path, alone)
    reason = problem(path, replace(pki.trusted, roots_pem=alone.text))
    assert "CN=release-bot,O=KFM is no certificate authority, so no root" in reason


def test_a_leaf_can_not_issue_certificates(sign, pki, problem):
    below = pki.issue("below", pki.leaf)
    assert "certificate chain is not good" in problem(
        sign(below, pki.leaf, pki.middle), pki.trusted
    )


def test_an_authority_does_not_sign_releases(sign, pki, problem):
    boss = pki.issue("release-bot", pki.root, authority=True, file="boss")
    reason = problem(sign(boss, pki.root), pki.trusted)
    assert "may not make signatures" in reason


@pytest.mark.parametrize("usage", [None, (ExtendedKeyUsageOID.SERVER_AUTH,)])
def test_a_certificate_for_something_else_is_refused_although_the_vendor_accepts_it(
    release, sign, pki, problem, usage
):
    path = sign(pki.issue("release-bot", pki.middle, usage=usage, file="web"))
    assert _vendor_accepts(release, path, pki.root)
    assert "not meant for code signing (extended key usage)" in problem(path, pki.trusted)


def test_key_usage_without_signatures_is_refused(sign, pki, problem):
    path = sign(pki.issue("release-bot", pki.middle, may_sign=False, file="mute"))
    assert "may not make signatures (key usage)" in problem(path, pki.trusted)


def test_an_authority_for_web_servers_can_not_vouch_for_code(sign, pki, problem):
    web = pki.issue("web", pki.root, authority=True, usage=(ExtendedKeyUsageOID.SERVER_AUTH,))
    path = sign(pki.issue("release-bot", web, file="under-web"), web)
    assert "authority CN=web,O=KFM may not vouch for code signing" in problem(path, pki.trusted)


@pytest.mark.parametrize(
    ("names", "ok"),
    [
        ({"subject": SUBJECT}, True),
        ({"subject": "CN=release-*,O=KFM"}, True),
        ({"subject": "CN=release"}, False),
        ({"subject": "cn=release-bot,o=kfm"}, False),
        ({"subject": None, "alternative_name": f"URI:{WORKFLOW}"}, True),
        ({"subject": None, "alternative_name": "email:*@kfm.test"}, True),
        ({"subject": None, "alternative_name": "DNS:*"}, False),
        ({"subject": None, "alternative_name": "email:https://*"}, False),
        ({"alternative_name": "email:other@kfm.test"}, False),
        ({"subject": "CN=other", "alternative_name": f"URI:{WORKFLOW}"}, False),
        ({"subject": None}, False),
    ],
)
def test_subject_and_alternative_name_must_both_fit(release, signature, pki, names, ok):
    report = verify_release(release, signature, [replace(pki.trusted, **names)], pki.now)
    assert report.ok is ok
    assert ok or "name" in report.problems[0] or "subject" in report.problems[0]


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ({"not_before": timedelta(days=1)}, "is not valid before"),
        ({"not_after": timedelta(0)}, "expired"),
        ({"revoked_at": timedelta(days=1)}, "was revoked"),
    ],
)
def test_an_entry_out_of_its_time_does_not_count(signature, pki, problem, bounds, reason):
    entry = replace(pki.trusted, **{name: pki.now + delta for name, delta in bounds.items()})
    assert f"trust in certificates of 'bot' {reason}" in problem(signature, entry)


@pytest.mark.parametrize("which", ["leaf", "middle", "root"])
def test_a_revoked_certificate_anywhere_in_the_chain_ends_it(signature, pki, problem, which):
    holder = getattr(pki, which)
    entry = replace(pki.trusted, revoked_certificates=("sha256:" + "0" * 64, holder.digest))
    assert "a certificate of the chain was revoked" in problem(signature, entry)


def test_a_root_given_twice_among_others_counts_once(release, signature, pki):
    other = pki.issue("third-root", authority=True, usage=None)
    roots = other.text + pki.root.text * 2
    assert verify_release(release, signature, [replace(pki.trusted, roots_pem=roots)], pki.now).ok


def test_each_entry_is_tried(release, signature, pki):
    other = replace(pki.trusted, name="other", subject="CN=other")
    assert verify_release(release, signature, [other, pki.trusted], pki.now).signer == "bot"


@pytest.mark.parametrize(
    "text", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"]
)
def test_unreadable_roots_are_a_problem_not_an_exception(signature, pki, problem, text):
    assert "are not certificates in PEM" in problem(signature, replace(pki.trusted, roots_pem=text))


def test_no_trusted_certificate_passes_nothing_and_system_roots_never_count(
    signature, problem, trust
):
    reason = "model.sig: signed with a certificate, and the policy trusts none"
    assert problem(signature) == reason
    assert problem(signature, trust("alice")) == reason


def test_the_key_of_a_certificate_does_not_make_key_signatures_count(release, signature, pki):
    from kfm_mlflow.trust.signing import sign_release

    path = release.parent / "key.sig"
    sign_release(release, path, pki.leaf.key_path)
    report = verify_release(
        release, path, [TrustedCertificate("bot", pki.leaf.text, subject="*")], pki.now
    )
    assert report.problems == ("key.sig: signed by a key that the policy does not trust",)


def test_files_are_compared_as_for_keys(release, signature, pki):
    (release / "model.pt").write_bytes(b"other")
    (release / "evil.py").write_text("import os")
    (release / "xai" / "summary.json").unlink()
    assert verify_release(release, signature, [pki.trusted], pki.now).problems == (
        "xai/summary.json: signed but missing",
        "evil.py: not signed",
        "model.pt: bytes differ from what was signed",
    )


@pytest.mark.parametrize("path", [".git/hook", ".github/x.py", ".gitignore", ".gitattributes"])
def test_git_paths_are_not_ignored(release, signature, pki, path):
    (release / path).parent.mkdir(exist_ok=True)
    (release / path).write_text("x")
    report = verify_release(release, signature, [pki.trusted], pki.now)
    assert not report.ok
    assert ".git" in report.problems[0]


def _change(path, change):
    bundle = json.loads(path.read_text())
    change(bundle)
    path.write_text(json.dumps(bundle))


def _entries(bundle):
    return bundle["verificationMaterial"]["x509CertificateChain"]["certificates"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda b: _entries(b).clear(), "holds no certificate"),
        (lambda b: _entries(b).reverse(), "signature does not match its certificate"),
        (lambda b: _entries(b)[0].update(rawBytes="AAAA"), "not base64 of DER"),
        (lambda b: _entries(b)[0].update(rawBytes=7), "not base64 of DER"),
        (lambda b: _entries(b)[0].update(rawBytes="é"), "not base64 of DER"),
        (lambda b: _entries(b)[1].update(more=1), "unknown 'more'"),
        (lambda b: _entries(b).append(7), "not an object"),
        (lambda b: b["verificationMaterial"].update(tlogEntries=[{}]), "log entries"),
        (lambda b: b["verificationMaterial"].update(x509CertificateChain=7), "not an object"),
        (lambda b: b["verificationMaterial"].update(publicKey={}), "unknown 'publicKey'"),
        (lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="AAAA"), "does not match"),
        (lambda b: b["dsseEnvelope"].update(payload="e30="), "does not match"),
    ],
)
def test_a_changed_bundle_is_refused_with_its_reason(signature, pki, problem, change, reason):
    _change(signature, change)
    assert reason in problem(signature, pki.trusted)


def test_a_certificate_of_no_known_version_is_refused(signature, pki, problem):
    # cryptography raises InvalidVersion, which is no ValueError: found by flipping every byte.
    der = bytearray(pki.leaf.certificate.public_bytes(Encoding.DER))
    assert der.count(b"\xa0\x03\x02\x01\x02") == 1
    der[der.index(b"\xa0\x03\x02\x01\x02") + 4] = 106
    raw = base64.b64encode(bytes(der)).decode()
    _change(signature, lambda b: _entries(b)[0].update(rawBytes=raw))
    assert "a certificate is malformed" in problem(signature, pki.trusted)


def test_a_certificate_that_does_not_belong_is_refused(signature, pki, problem):
    stray = pki.issue("stray", authority=True, usage=None)
    der = base64.b64encode(stray.certificate.public_bytes(Encoding.DER)).decode()
    _change(signature, lambda b: _entries(b).append({"rawBytes": der}))
    assert "carries a certificate that is not part of the chain" in problem(signature, pki.trusted)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@pytest.mark.parametrize("bit", [0x01, 0x20])
def test_changing_any_one_byte_of_a_bundle_is_found(release, signature, pki, bit):
    original = signature.read_bytes()
    digests = build_manifest(release).digests
    for at in range(len(original)):
        changed = bytearray(original)
        changed[at] ^= bit
        signature.write_bytes(changed)
        report = verify_release(release, signature, [pki.trusted], pki.now, digests=digests)
        assert not report.ok, original[max(0, at - 30) : at + 10]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        ({"ends": -timedelta(days=1)}, "expired"),
        ({"begins": timedelta(days=1)}, "not valid before"),
        ({"usage": None}, "code signing"),
    ],
)
def test_what_would_be_refused_is_not_signed(release, pki, make, reason):
    bad = pki.issue("release-bot", pki.middle, file="bad", **make)
    target = release.parent / "s"
    with pytest.raises(SignatureError, match=reason):
        sign_release_with_certificate(
            release,
            target,
            bad.key_path,
            certificate_path=bad.pem,
            chain_paths=[pki.middle.pem],
            now=pki.now,
        )
    assert not target.exists()


def test_a_key_that_is_not_the_certificates_is_refused(release, pki):
    with pytest.raises(SignatureError, match="does not match"):
        sign_release_with_certificate(
            release,
            release.parent / "s",
            pki.middle.key_path,
            certificate_path=pki.leaf.pem,
            now=pki.now,
        )


def test_a_missing_file_is_named(release, pki, tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.pem"):
        sign_release_with_certificate(
            release,
            tmp_path / "s",
            pki.leaf.key_path,
            certificate_path=tmp_path / "nowhere.pem",
            now=pki.now,
        )


def _model_signing(*args):
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *map(str, args)],
        check=False,
        capture_output=True,
        text=True,
    )


def test_the_vendors_command_line_and_ours_accept_each_other(release, signature, pki):
    done = _model_signing(
        "verify", "certificate", release, "--no-ignore-git-paths",
        "--signature", signature, "--certificate_chain", pki.root.pem,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = release.parent / "theirs.sig"
    done = _model_signing(
        "sign", "certificate", release, "--no-ignore-git-paths", "--signature", theirs,
        "--private_key", pki.leaf.key_path, "--signing_certificate", pki.leaf.pem,
        "--certificate_chain", pki.middle.pem,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert verify_release(release, theirs, [pki.trusted], pki.now).ok


def test_the_command_signs_with_a_certificate_and_its_chain(release, tmp_path, pki):
    from kfm_mlflow.cli.release import sign

    today = Pki(tmp_path, datetime.now(UTC))
    pki.root = today.issue("root", authority=True, usage=None)
    pki.leaf = today.issue("release-bot", pki.root)
    done = CliRunner().invoke(
        sign,
        [
            str(release),
            "--key",
            str(pki.leaf.key_path),
            "--certificate",
            str(pki.leaf.pem),
            "--chain",
            str(pki.root.pem),
        ],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    path = release.with_name("release.evidence") / "release.sig"
    pki.trusted = TrustedCertificate("bot", pki.root.text, subject=SUBJECT)
    assert verify_release(release, path, [pki.trusted], today.now).ok


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--sigstore"],
        ["--trust-config", "t"],
        ["--key", "k", "--sigstore", "--trust-config", "t"],
        ["--key", "k", "--trust-config", "t"],
        ["--key", "k", "--chain", "c"],
        ["--certificate", "c"],
        ["--pkcs11", "pkcs11:object=x"],
        ["--key", "k", "--public-key", "p"],
        ["--pkcs11", "pkcs11:object=x", "--public-key", "p", "--certificate", "c"],
        ["--sigstore", "--trust-config", "t", "--certificate", "c"],
    ],
)
def test_the_command_refuses_ways_of_signing_that_do_not_go_together(release, args):
    from kfm_mlflow.cli.release import sign

    assert CliRunner().invoke(sign, [str(release), *args]).exit_code == 2
