"""A council that votes before a version is frozen: on the way of a fleet's release to Staging."""

from __future__ import annotations

import shutil
from datetime import timedelta

import mlflow
import pytest
from authoring import made_imported as made
from registry.asking import repolicy
from registry.world import AT, COUNCIL, claims_of, told

from kfm_mlflow import log_imported, log_imported_validation, text_field
from kfm_mlflow.authoring.attestations import provenance_of, write_attestations
from kfm_mlflow.authoring.imported_compose import compose_imported
from kfm_mlflow.cli.main import main
from kfm_mlflow.gates.findings import Move
from kfm_mlflow.gates.people import proposal_of
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.release.bundle import bundle_at
from kfm_mlflow.trust.ledger import EQUIVOCATION
from kfm_mlflow.trust.quorum import build_vote_claims
from kfm_mlflow.trust.signing import sign_release
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

NAME = "fleet"


@pytest.fixture(scope="module")
def bundle(world, tmp_path_factory):
    """Return a fused release, signed and validated; a test that breaks it works on a copy."""
    folder = tmp_path_factory.mktemp("fused")
    spec = made.make_spec(folder / "units")
    found = bundle_at(folder / "release")
    manifest = compose_imported(spec, found.release_dir)
    found.evidence_dir.mkdir()
    sign_release(found.release_dir, found.signature_path, world.key("trainer"))
    binding = Binding(NAME, spec.version, manifest.release_id)
    write_attestations(found, binding, provenance_of(spec), world.signer("trainer"), AT)
    claims = {
        "metrics": made.measured(NAME),
        "determinism": {"identical": True, "digest": manifest.release_id},
    }
    statement = build_statement("validation", binding, claims, AT)
    path = found.evidence_dir / "validation.intoto.json"
    path.write_bytes(sign_statement(statement, world.signer("validator")))
    return found, manifest.release_id


@pytest.fixture
def candidate(registry, bundle):
    """Return a registry whose ``fleet`` v1 is a candidate that lacks nothing but votes."""
    registry.register(bundle[0], NAME)
    return registry


def vote(registry, level, release_id, member, choice="approve"):
    """Send a member's vote on the next step of v1."""
    known = registry.store.snapshot(NAME, 1)
    policy = registry.store.admission.policy(known.family)
    move = Move(NAME, 1, known.level, level, known.epoch, known.production, registry.now)
    claims = build_vote_claims(proposal_of(release_id, policy, move), member, choice, "because")
    binding = Binding(NAME, made.VERSION, release_id, policy.digest, 1)
    ends = registry.now + timedelta(days=1)
    statement = build_statement("vote", binding, claims, registry.now, ends)
    return registry.store.add_attestation(
        NAME, 1, sign_statement(statement, registry.world.signer(member))
    )


def test_staging_and_canary_each_need_votes_of_their_own(candidate, bundle):
    with told(403, "votes 0 of 3"):
        candidate.store.move(NAME, 1, Level.STAGING)
    for member in COUNCIL[:3]:
        vote(candidate, Level.STAGING, bundle[1], member)
    candidate.store.move(NAME, 1, Level.STAGING)
    with told(403, "votes 0 of 3"):
        candidate.store.move(NAME, 1, Level.CANARY)
    for member in COUNCIL[1:]:
        vote(candidate, Level.CANARY, bundle[1], member)
    candidate.store.move(NAME, 1, Level.CANARY)
    rows = candidate.query("SELECT body FROM kfm_ledger WHERE kind = 'moved' ORDER BY seq")
    assert [claims_of(body)["report"]["votes"]["approving"] for (body,) in rows] == [
        list(COUNCIL[:3]),
        list(COUNCIL[1:]),
    ]


def test_a_vote_on_other_bytes_than_lie_there_is_not_kept(candidate, bundle):
    before = candidate.state()
    with told(400, "is about another release"):
        vote(candidate, Level.STAGING, f"sha256:{'2' * 64}", COUNCIL[0])
    assert candidate.state() == before


def test_votes_are_void_when_other_bytes_lie_there_later(registry, bundle, tmp_path):
    copied = bundle_at(tmp_path / "copied")
    shutil.copytree(bundle[0].release_dir, copied.release_dir)
    shutil.copytree(bundle[0].evidence_dir, copied.evidence_dir)
    registry.register(copied, NAME)
    for member in COUNCIL:
        vote(registry, Level.STAGING, bundle[1], member)
    (copied.release_dir / "fused_release.json").write_text("{}")
    with told(403, "votes 0 of 3"):
        registry.store.move(NAME, 1, Level.STAGING)


def test_who_contradicts_themselves_before_staging_is_written_down_and_not_counted(
    candidate, bundle
):
    for member in COUNCIL[:3]:
        vote(candidate, Level.STAGING, bundle[1], member)
    vote(candidate, Level.STAGING, bundle[1], COUNCIL[2], "abstain")
    rows = candidate.query("SELECT model, body FROM kfm_ledger WHERE kind = ?", EQUIVOCATION)
    assert [(model, claims_of(body)["voter"]) for model, body in rows] == [(NAME, COUNCIL[2])]
    with told(403, "votes 2 of 3"):
        candidate.store.move(NAME, 1, Level.STAGING)


def test_a_family_that_does_not_vote_before_staging_keeps_no_vote_before_it(candidate, bundle):
    levels = candidate.store.admission.policy("fleet").levels
    repolicy(candidate, "fleet", levels={"staging": [n for n in levels.staging if n != "votes"]})
    with told(400, "is not frozen yet"):
        vote(candidate, Level.STAGING, bundle[1], COUNCIL[0])


def test_what_is_no_release_cannot_be_voted_on(registry, tmp_path, bundle):
    empty = bundle_at(tmp_path / "nothing")
    empty.release_dir.mkdir()
    registry.register(empty, NAME)
    with told(400, "holds no release"):
        vote(registry, Level.STAGING, bundle[1], COUNCIL[0])


@pytest.mark.server
def test_from_a_providers_files_to_a_canary_by_kfm_vote(server, world, tmp_path, monkeypatch):
    before = mlflow.get_tracking_uri()
    units = [made.make_unit(tmp_path, role) for role in made.PARENTS]
    mlflow.set_tracking_uri(server.url)
    try:
        with mlflow.start_run(experiment_id="0") as run:
            logged = log_imported(
                units,
                name=NAME,
                version="v0.9.0-votes",
                bbox=made.BBOX,
                signing_key=world.key("trainer"),
                metrics={"quality": 0.82},
                task="generative",
                loader_module="kfm_mlflow.fleet.loading",
                inputs=[text_field("task")],
                outputs=[text_field("text")],
                documents=made.documents_of(NAME),
            )
        log_imported_validation(
            run.info.run_id,
            measure=lambda _: made.measured(NAME),
            answers=lambda _: "the same",
            data={"name": "probes", "digest": f"sha256:{'a' * 64}"},
            validator_key=world.key("validator"),
        )
    finally:
        mlflow.set_tracking_uri(before)
    client = server.client()
    if not client.search_registered_models(f"name = '{NAME}'"):
        client.create_registered_model(NAME)
    source = f"{run.info.artifact_uri}/release"
    version = client.create_model_version(NAME, source, run.info.run_id, await_creation_for=0)
    uri = f"models:/{NAME}/{version.version}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    page = server.ask("GET", f"/kfm/models/{NAME}/{version.version}").text
    assert f"kfm vote {uri} --to staging" in page
    for level in ("staging", "canary"):
        assert kfm("move", uri, "--to", level) == 1
        for member in COUNCIL[:3]:
            said = ("--approve", "--reason", "read the report", "--key", world.key(member))
            assert kfm("vote", uri, "--to", level, *said) == 0
        assert kfm("move", uri, "--to", level) == 0
    shown = server.ask("GET", f"/kfm/api/v1/models/{NAME}/versions/{version.version}").json()
    assert shown["level"] == "canary"
    assert shown["release"]["id"] == logged.release_id


def kfm(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(item) for item in arguments])
    return int(ended.value.code or 0)
