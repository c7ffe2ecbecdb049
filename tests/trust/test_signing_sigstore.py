"""Keyless signatures: the real Sigstore client against an instance of our own on loopback.

What is tested is the client and our checks; the instance is a test double (`made_sigstore.py`).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trust.made_sigstore import Instance

from kfm_mlflow.errors import InputError, SignatureError
from kfm_mlflow.trust.signing import sign_release_with_sigstore, verify_release
from kfm_mlflow.trust.signing_sigstore import TrustedIdentity

WORKFLOW = "https://ci.kfm.test/release@refs/tags/v11.2.2"


@pytest.fixture(scope="module")
def instance():
    with Instance() as found:
        yield found


@pytest.fixture(scope="module")
def trust_config(instance, tmp_path_factory):
    path = tmp_path_factory.mktemp("sigstore") / "trust.json"
    path.write_text(instance.trust_config())
    return path


@pytest.fixture
def workflow(instance, trust_config):
    return TrustedIdentity("ci", WORKFLOW, instance.url, trust_config.read_text())


@pytest.fixture
def signature(release, instance, trust_config):
    path = release.parent / "keyless.sig"
    sign_release_with_sigstore(
        release, path, trust_config, token=instance.token(WORKFLOW), now=datetime.now(UTC)
    )
    return path


def _problem(release, signature, *trusted, at=None):
    report = verify_release(release, signature, trusted, at or datetime.now(UTC))
    assert not report.ok
    (problem,) = report.problems
    return problem


def test_an_identity_that_the_policy_names_is_the_signer(release, signature, workflow):
    report = verify_release(release, signature, [workflow], datetime.now(UTC))
    assert (report.ok, report.signer, report.key_id, report.problems) == (True, "ci", None, ())


def test_a_mail_address_is_an_identity_too(release, instance, trust_config, workflow):
    path = release.parent / "mail.sig"
    token = instance.token("rel@kfm.test")
    report = sign_release_with_sigstore(
        release, path, trust_config, token=token, now=datetime.now(UTC)
    )
    assert report.signer == "rel@kfm.test"
    ours = replace(workflow, name="rel", identity="rel@kfm.test")
    assert verify_release(release, path, [workflow, ours], datetime.now(UTC)).signer == "rel"


def test_checking_needs_no_server(release, tmp_path):
    with Instance() as short:
        config = tmp_path / "short.json"
        config.write_text(short.trust_config())
        token, later = short.token(WORKFLOW), short.token("later@kfm.test")
        now = datetime.now(UTC)
        sign_release_with_sigstore(release, tmp_path / "s", config, token=token, now=now)
        short.stop()
        trusted = TrustedIdentity("ci", WORKFLOW, short.url, config.read_text())
        # Years later, too: the certificate lived ten minutes, and the log says when it was used.
        assert verify_release(release, tmp_path / "s", [trusted], now + timedelta(days=1800)).ok
        with pytest.raises(SignatureError, match="model-signing failed"):
            sign_release_with_sigstore(release, tmp_path / "t", config, token=later, now=now)
    assert not (tmp_path / "t").exists()


def test_the_trusted_root_alone_is_enough_to_check(release, signature, workflow):
    root = json.dumps(json.loads(workflow.trust_config)["trustedRoot"])
    alone = replace(workflow, trust_config=root)
    assert verify_release(release, signature, [alone], datetime.now(UTC)).ok


def test_another_identity_is_named(release, signature, workflow):
    other = replace(workflow, identity="https://ci.kfm.test/evil")
    assert WORKFLOW in _problem(release, signature, other)


def test_the_same_name_from_another_provider_is_somebody_else(release, signature, workflow):
    other = replace(workflow, issuer="https://accounts.example")
    assert "OIDCIssuer does not match" in _problem(release, signature, other)


def test_another_instance_is_not_trusted(release, signature, workflow):
    with Instance() as other:
        foreign = replace(workflow, trust_config=other.trust_config())
    assert "not by 'ci'" in _problem(release, signature, foreign)


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ({"not_before": timedelta(days=1)}, "not valid before"),
        ({"not_after": timedelta(0)}, "expired"),
        ({"revoked_at": timedelta(days=1)}, "revoked"),
    ],
)
def test_an_identity_out_of_its_time_does_not_count(release, signature, workflow, bounds, reason):
    now = datetime.now(UTC)
    entry = replace(workflow, **{name: now + delta for name, delta in bounds.items()})
    assert reason in _problem(release, signature, entry, at=now)


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", '{"mediaType": "x"}'])
def test_an_unreadable_trust_config_is_a_problem_not_an_exception(
    release, signature, workflow, text
):
    problem = _problem(release, signature, replace(workflow, trust_config=text))
    assert "is not a Sigstore trust config" in problem


def test_a_key_of_the_policy_never_stands_for_an_identity(release, signature, trust):
    assert "the policy trusts no identity" in _problem(release, signature, trust("alice"))


def test_changed_added_and_renamed_files_are_named(release, signature, workflow):
    (release / "model.pt").write_bytes(b"other")
    (release / "MLmodel").rename(release / "MLmodem")
    (release / ".github").mkdir()
    report = verify_release(release, signature, [workflow], datetime.now(UTC))
    assert not report.ok
    assert ".github" in report.problems[0]
    shutil.rmtree(release / ".github")
    assert verify_release(release, signature, [workflow], datetime.now(UTC)).problems == (
        "MLmodel: signed but missing",
        "MLmodem: not signed",
        "model.pt: bytes differ from what was signed",
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda i: i.token(WORKFLOW, life_s=-60), "identity token"),
        (lambda i: i.token(WORKFLOW, audience="other"), "identity token"),
        (lambda _: "nonsense", "identity token"),
    ],
)
def test_a_bad_token_is_refused_before_any_server_is_asked(
    release, instance, trust_config, make, reason
):
    target = release.parent / "s"
    with pytest.raises(InputError, match=reason):
        sign_release_with_sigstore(
            release, target, trust_config, token=make(instance), now=datetime.now(UTC)
        )
    assert not target.exists()


def test_a_token_that_another_provider_signed_gets_no_certificate(release, instance, trust_config):
    with Instance() as forger:
        forger.url = instance.url
        token = forger.token(WORKFLOW)
    with pytest.raises(SignatureError, match="model-signing failed"):
        sign_release_with_sigstore(
            release,
            release.parent / "s",
            trust_config,
            token=token,
            now=datetime.now(UTC),
        )


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(st.data())
def test_changing_any_one_byte_of_a_bundle_is_found(release, signature, workflow, data):
    original = signature.read_bytes()
    at = data.draw(st.integers(0, len(original) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != original[at]))
    try:
        signature.write_bytes(original[:at] + bytes([byte]) + original[at + 1 :])
        assert not verify_release(release, signature, [workflow], datetime.now(UTC)).ok
    finally:
        signature.write_bytes(original)


def test_the_signers_name_in_the_logs_checkpoint_is_its_origin(release, signature, workflow):
    # The client does not look at this name, so it could change unseen.
    text = signature.read_text()
    assert text.count("kfm.test ") == 2
    head, between, tail = text.split("kfm.test ")
    signature.write_text(f"{head}kfm.test {between}evil.test {tail}")
    assert "checkpoint is not signed by its own log" in _problem(release, signature, workflow)


def _model_signing(*args):
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *map(str, args)],
        check=False,
        capture_output=True,
        text=True,
    )


def test_the_vendors_command_line_and_ours_accept_each_other(
    release, signature, instance, trust_config, workflow
):
    who = ("--identity", WORKFLOW, "--identity_provider", instance.url)
    common = ("--no-ignore-git-paths", "--trust_config", trust_config)
    done = _model_signing("verify", "sigstore", release, "--signature", signature, *who, *common)
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = release.parent / "theirs.sig"
    token = ("--identity_token", instance.token(WORKFLOW))
    done = _model_signing("sign", "sigstore", release, "--signature", theirs, *token, *common)
    assert done.returncode == 0, done.stdout + done.stderr
    assert verify_release(release, theirs, [workflow], datetime.now(UTC)).ok


def test_the_command_signs_with_a_token_and_takes_the_ci_systems_own(
    release, instance, trust_config, workflow, monkeypatch
):
    from kfm_mlflow.cli.release import sign

    args = [str(release), "--sigstore", "--trust-config", str(trust_config)]
    runner = CliRunner()
    given_token = ["--identity-token", instance.token(WORKFLOW)]
    done = runner.invoke(sign, [*args, *given_token], catch_exceptions=False)
    assert done.exit_code == 0
    path = release.with_name("release.evidence") / "release.sig"
    assert verify_release(release, path, [workflow], datetime.now(UTC)).ok
    path.unlink()
    # GitLab's way of handing a job its token (sigstore's `id` package documents both names).
    monkeypatch.setenv("GITLAB_CI", "true")
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", instance.token(WORKFLOW))
    assert runner.invoke(sign, args, catch_exceptions=False).exit_code == 0
    assert verify_release(release, path, [workflow], datetime.now(UTC)).ok


def test_without_any_token_nobody_is_asked_to_log_in(release, trust_config, monkeypatch):
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "BUILDKITE", "SIGSTORE_IDENTITY_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("id.detect_credential", lambda *_: None)
    with pytest.raises(InputError, match="no identity token"):
        sign_release_with_sigstore(
            release, release.parent / "s", trust_config, token=None, now=datetime.now(UTC)
        )
