"""The life of a policy: exemptions, warnings, broken glass, changes in the ledger."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from registry.asking import repolicy, request_of, with_roles
from registry.world import COUNCIL, NAME, claims_of, only_refused, stranger, told

from kfm_mlflow.gates.glass import BreakGlass
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.load import packaged_families
from kfm_mlflow.registry.policy_events import record_policies
from kfm_mlflow.trust.attestation import verify_envelope
from kfm_mlflow.trust.keys import TrustedKey
from kfm_mlflow.trust.ledger import verify_chain

MISSED = ("completeness", "sbom", "stac")
"""Gates that miss the SBOM of a release without one."""
GLASS = BreakGlass("the river is rising", "OPS-1", 4)


def unmeasured(registry, world, tmp_path):
    """Register a release without SBOM, which policy climate asks for."""
    bundle = world.copy(tmp_path / "broken")
    (bundle.release_dir / "sbom.spdx.json").unlink()
    world.sign(bundle)
    world.attest(bundle)
    return registry.register(bundle)


def exempt(registry, *gates, **changes):
    fields = {
        "models": NAME,
        "owner": "ada",
        "reason": "no packages inside",
        "expires_at": (registry.now + timedelta(days=1)).isoformat(),
        **changes,
    }
    return repolicy(registry, exemptions=[{"gate": gate, **fields} for gate in gates])


def last_claims(registry):
    return claims_of(registry.query("SELECT body FROM kfm_ledger ORDER BY seq")[-1][0])


def same_as_dry_run(registry, level, **asked):
    """Check, then move; return the claims of the decision, which must be what the check said."""
    before = registry.state()
    checked = registry.store.check(NAME, 1, level, **asked).report
    assert registry.state() == before
    registry.now += timedelta(seconds=3)
    if checked.outcome == "refused":
        with told(403):
            registry.store.move(NAME, 1, level, **asked)
        only_refused(before, registry.state())
    else:
        assert registry.store.move(NAME, 1, level, **asked).outcome == checked.outcome
    claims = last_claims(registry)
    assert claims["report"] == checked.to_dict()
    assert claims["report_digest"] == checked.digest
    assert claims["outcome"] == checked.outcome
    return claims


# -- exemptions --------------------------------------------------------------------------------------


def test_an_exempted_release_is_admitted_and_the_decision_shows_why(registry, world, tmp_path):
    unmeasured(registry, world, tmp_path)
    exempt(registry, *MISSED)
    claims = same_as_dry_run(registry, Level.STAGING)
    waived = [
        finding["waiver"]
        for gate in claims["report"]["gates"]
        for finding in gate["findings"]
        if "waiver" in finding
    ]
    assert claims["outcome"] == "allowed"
    assert {w["owner"] for w in waived} == {"ada"}
    assert len(waived) >= 2


def test_the_same_exemption_does_nothing_once_it_has_expired(registry, world, tmp_path):
    unmeasured(registry, world, tmp_path)
    exempt(registry, *MISSED, expires_at=(registry.now).isoformat())
    claims = same_as_dry_run(registry, Level.STAGING)
    assert claims["outcome"] == "refused"


@pytest.mark.parametrize("changes", [{"models": "climate-other"}, {"version": 2}])
def test_an_exemption_of_something_else_does_nothing(registry, world, tmp_path, changes):
    unmeasured(registry, world, tmp_path)
    exempt(registry, *MISSED, **changes)
    assert same_as_dry_run(registry, Level.STAGING)["outcome"] == "refused"


def test_the_first_successor_of_what_was_production_before_needs_an_exemption_once(registry, world):
    """Nothing could go back to what was never frozen; an adopted registry is no dead end."""
    for bundle in world.releases[:2]:
        registry.register(bundle)
    with stranger(registry.database) as connection:
        connection.execute("INSERT INTO kfm_permit VALUES ('mine')")
        connection.execute(
            "UPDATE model_versions SET current_stage = 'Production' WHERE version = 1"
        )
        connection.execute("DELETE FROM kfm_permit")
        connection.commit()
    registry.store.move(NAME, 2, Level.STAGING)
    with told(403, "rollback target v1 broken") as refused:
        registry.store.move(NAME, 2, Level.CANARY)
    gates = refused.value.__cause__.report.gates
    [remedy] = [f.remedy for gate in gates for f in gate.findings if f.code == "TARGET_BROKEN"]
    assert "before the registry was governed" in remedy
    exempt(registry, "rollback_target")
    registry.store.move(NAME, 2, Level.CANARY)
    registry.endorse(2)
    registry.store.move(NAME, 2, Level.PRODUCTION)
    assert registry.store.levels(NAME) == {2: Level.PRODUCTION}
    assert registry.query("SELECT current_stage FROM model_versions WHERE version = 1") == [
        ("Archived",)
    ]


def test_a_release_without_a_name_of_its_own_is_not_frozen_whatever_is_exempt(
    registry, world, tmp_path
):
    bundle = world.copy(tmp_path / "nameless")
    path = bundle.release_dir / "model_metadata.json"
    path.write_text("{}")
    world.sign(bundle)
    registry.register(bundle)
    exempt(
        registry,
        "completeness",
        "stac",
        "prov",
        "lineage",
        "sbom",
        "validation",
        "metrics",
        "attestations",
    )
    before = registry.state()
    for ask in (registry.store.check, registry.store.move):
        with told(403, "does not say which release version it is"):
            ask(NAME, 1, Level.STAGING)
    assert registry.state() == before


# -- modes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "outcome"), [("warn", "warned"), ("audit", "allowed")])
def test_what_is_only_recorded_admits_and_warnings_are_told(
    registry, world, tmp_path, mode, outcome
):
    unmeasured(registry, world, tmp_path)
    repolicy(registry, gates={gate: {"mode": mode} for gate in MISSED})
    assert same_as_dry_run(registry, Level.STAGING)["outcome"] == outcome
    registry.store.move(NAME, 1, Level.CANDIDATE)
    result = registry.store.move(NAME, 1, Level.STAGING)
    told_of = {gate for gate, _ in result.warnings}
    assert told_of == (set(MISSED) if mode == "warn" else set())


# -- what a decision holds ---------------------------------------------------------------------------


def test_a_decision_holds_policy_evidence_votes_actor_and_rollback_target(two):
    two.store.move(NAME, 2, Level.PRODUCTION)
    claims = last_claims(two)
    report, policy = claims["report"], two.store.admission.policy("climate")
    assert report["policy_digest"] == policy.digest
    assert len(report["evidence"]) >= 1 + 1 + len(COUNCIL)
    assert sorted(report["votes"]["approving"]) == sorted(COUNCIL)
    assert claims["actor"] == "unauthenticated"
    (target,) = two.query("SELECT release_id FROM kfm_release WHERE version = 1")[0]
    assert report["rollback_target"] == target
    assert claims["outcome"] == "allowed"
    assert claims["break_glass"] is None


# -- break-glass -------------------------------------------------------------------------------------


def glazed(registry, **settings):
    allowed = {"roles": ["operator"], "max_hours": 8, **settings}
    return with_roles(registry, break_glass=allowed)


def test_broken_glass_admits_and_the_decision_says_by_whom_why_and_until_when(
    registry, world, tmp_path
):
    with request_of("tom"):
        unmeasured(registry, world, tmp_path)
    glazed(registry)
    with request_of("olga"):
        claims = same_as_dry_run(registry, Level.STAGING, break_glass=GLASS)
    block = claims["break_glass"]
    assert claims["outcome"] == "allowed-break-glass"
    assert (claims["actor"], block["roles"], block["ticket"]) == ("olga", ["operator"], "OPS-1")
    assert block["reason"] == GLASS.reason
    assert block["expires_at"] == (registry.now + timedelta(hours=4)).strftime(
        "%Y-%m-%dT%H:%M:%S.%fZ"
    )
    assert block["needed"]
    assert {item["gate"] for item in block["passed_over"]} == set(MISSED)


def test_broken_glass_that_was_not_needed_is_recorded_all_the_same(registry, world):
    with request_of("tom"):
        registry.register(world.releases[0])
    glazed(registry)
    with request_of("olga"):
        claims = same_as_dry_run(registry, Level.STAGING, break_glass=GLASS)
    assert claims["outcome"] == "allowed-break-glass"
    assert claims["break_glass"]["needed"] is False


@pytest.mark.parametrize(
    "case",
    [
        ("", {}, "break-glass needs a login"),
        ("tom", {}, "no role for break-glass"),
        ("olga", {"max_hours": 3}, "break-glass for too long"),
        ("olga", {"keep": ["sbom"]}, "SBOM missing"),
    ],
    ids=["nobody", "role", "hours", "kept"],
)
def test_the_glass_is_not_broken_without_what_the_policy_asks(registry, world, tmp_path, case):
    user, settings, words = case
    with request_of("tom"):
        unmeasured(registry, world, tmp_path)
    glazed(registry, **settings)
    before = registry.state()
    with request_of(user), told(403, words):
        registry.store.move(NAME, 1, Level.STAGING, break_glass=GLASS)
    claims = claims_of(only_refused(before, registry.state())["body"])
    assert claims["break_glass"]["ticket"] == "OPS-1"


def test_without_logins_even_this_machine_never_breaks_the_glass(registry, world, tmp_path):
    unmeasured(registry, world, tmp_path)
    repolicy(registry, access={"break_glass": {"roles": ["operator"]}})
    with told(403, "break-glass needs a login"):
        registry.store.move(NAME, 1, Level.STAGING, break_glass=GLASS)


def test_neither_changed_bytes_nor_a_veto_nor_ones_own_release_pass_through_broken_glass(
    registry, world, tmp_path
):
    bundle = world.copy(tmp_path / "own")
    with request_of("tom"):
        registry.register(bundle)
    glazed(registry)
    (bundle.release_dir / "model_summary.json").write_text("{}")
    with request_of("olga"), told(403, "signature invalid"):
        registry.store.move(NAME, 1, Level.STAGING, break_glass=GLASS)
    with request_of("olga"):
        registry.register(world.releases[1])
        registry.to_canary(2)
        with told(403, "own release"):
            registry.store.move(NAME, 2, Level.PRODUCTION, break_glass=GLASS)
    with request_of("cora"):
        registry.vote(2, COUNCIL[3], "veto")
    with request_of("otto"), told(403, "vetoed by"):
        registry.store.move(NAME, 2, Level.PRODUCTION, break_glass=GLASS)


def test_production_in_an_emergency_without_votes_names_each_missing_thing(registry, world):
    with request_of("tom"):
        registry.register(world.releases[0])
    glazed(registry)
    with request_of("olga"):
        registry.to_canary(1)
        registry.store.move(NAME, 1, Level.PRODUCTION, break_glass=GLASS)
    passed = {item["code"] for item in last_claims(registry)["break_glass"]["passed_over"]}
    assert passed == {"CANARY_VERDICT_MISSING", "SPANS_UNKNOWN", "QUORUM_PENDING"}


def test_taking_down_and_restoring_ask_for_no_broken_glass(two):
    two.store.move(NAME, 2, Level.PRODUCTION)
    before = two.state()
    with told(400, "break-glass"):
        two.store.move(NAME, 2, Level.CANDIDATE, restore=1, break_glass=GLASS)
    assert two.state() == before


# -- changes of the policy ---------------------------------------------------------------------------


def policy_rows(registry):
    return [
        (seq, model, claims_of(body))
        for seq, model, body in registry.query(
            "SELECT seq, model, body FROM kfm_ledger WHERE kind = 'policy' ORDER BY seq"
        )
    ]


def test_the_first_start_records_every_family_and_the_next_ones_nothing(registry):
    families = list(packaged_families())
    assert record_policies(registry.store) == families
    assert record_policies(registry.store) == []
    assert record_policies(registry.open()) == []
    rows = policy_rows(registry)
    assert [(model, c["before"]) for _, model, c in rows] == [
        (f"policy:{family}", None) for family in families
    ]
    assert (
        rows[families.index("climate")][2]["after"]
        == registry.store.admission.policy("climate").digest
    )


def test_a_changed_policy_is_a_signed_row_from_digest_to_digest_and_back(registry):
    record_policies(registry.store)
    old = registry.store.admission.policy("climate")
    new = exempt(registry, "sbom")
    assert record_policies(registry.store) == ["climate"]
    repolicy(registry, exemptions=[])
    assert record_policies(registry.store) == ["climate"]
    there, back = (claims for _, _, claims in policy_rows(registry)[-2:])
    assert (there["before"], there["after"]) == (old.digest, new.digest)
    assert (back["before"], back["after"]) == (new.digest, old.digest)
    assert there["exemptions"][0]["owner"] == "ada"
    key = registry.world.signer("registry").public_key
    ((body,),) = registry.query("SELECT body FROM kfm_ledger ORDER BY seq DESC LIMIT 1")
    trusted = (TrustedKey("registry", key.pem),)
    assert verify_envelope(body.encode(), trusted, registry.now, kind="policy").ok


def test_policy_rows_are_in_the_chain_and_in_no_outbox(registry, world):
    record_policies(registry.store)
    registry.register(world.releases[0])
    registry.store.move(NAME, 1, Level.STAGING)
    columns = ("seq", "at", "kind", "model", "version", "body", "prev_hash", "row_hash")
    rows = registry.query(
        "SELECT seq, at, kind, model, version, body, prev_hash, hash FROM kfm_ledger ORDER BY seq"
    )
    count = len(packaged_families())
    assert [row[2] for row in rows] == ["policy"] * count + ["moved"]
    assert verify_chain([dict(zip(columns, row, strict=True)) for row in rows]) is None
    assert registry.query("SELECT seq, event FROM kfm_outbox") == [(count + 1, "moved")]
    assert registry.store.snapshot(NAME, 1).epoch == 0


def test_workers_that_start_at_once_record_a_change_once(registry):
    stores = [registry.store, registry.open(), registry.open()]
    barrier, problems = threading.Barrier(len(stores)), []

    def start(store):
        try:
            barrier.wait()
            record_policies(store)
        except Exception as exc:  # noqa: BLE001 - shown below
            problems.append(exc)

    threads = [threading.Thread(target=start, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert [model for _, model, _ in policy_rows(registry)] == [
        f"policy:{family}" for family in packaged_families()
    ]
    for store in stores[1:]:
        store._dispose_engine()


def test_a_process_that_still_has_the_policy_before_decides_nothing_more(registry, world):
    registry.register(world.releases[0])
    late = registry.open()
    record_policies(late)
    assert late.move(NAME, 1, Level.STAGING).level is Level.STAGING
    repolicy(registry, gates={"sbom": {"mode": "warn"}})
    assert record_policies(registry.store) == ["climate"]
    before = registry.state()
    for level in (Level.CANDIDATE, Level.PRODUCTION):
        with told(409, "policy climate is another one since row", "restart the server"):
            late.move(NAME, 1, level)
    assert registry.state() == before
    assert registry.store.move(NAME, 1, Level.CANDIDATE).level is Level.CANDIDATE
    with told(409, "policy climate is another one"):
        late.move(NAME, 1, Level.STAGING)
    record_policies(registry.open())
    assert late.move(NAME, 1, Level.STAGING).level is Level.STAGING
