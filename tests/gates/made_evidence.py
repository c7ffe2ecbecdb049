"""Evidence, policies and moves, made up by hand: everything is good until a test changes it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from gates import made_checkpoints

from kfm_mlflow.canonical import digest_json
from kfm_mlflow.care.score import CARE_PARTS
from kfm_mlflow.care.screen import Check, Screening, Status
from kfm_mlflow.gates.content import Document, ReleaseContent
from kfm_mlflow.gates.engine import GATES
from kfm_mlflow.gates.evidence import Evidence
from kfm_mlflow.gates.findings import Move
from kfm_mlflow.gates.people import proposal_of
from kfm_mlflow.gates.verdict import worst
from kfm_mlflow.policy.drift import DriftPlan
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.load import load_policies
from kfm_mlflow.policy.models import LIMIT_GATES, Policy
from kfm_mlflow.release.manifest import FileEntry, Manifest
from kfm_mlflow.trust.attestation import AttestationReport
from kfm_mlflow.trust.keys import Signer, generate_key, load_private_key
from kfm_mlflow.trust.quorum import build_vote_claims
from kfm_mlflow.trust.signing import SignatureReport
from kfm_mlflow.trust.slsa import SLSA_KIND, Provenance, UsedData, UsedLock, build_predicate
from kfm_mlflow.trust.statement import Binding, build_slsa_statement, build_statement

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
MODEL, VERSION, EPOCH = "climate-tiny", 3, 1
RELEASE_VERSION = "v1.2.0"
PEOPLE = ("ada", "ben", "cas", "dee")
MAX_AGE_S = 3600.0
PATHS = (
    "MLmodel",
    "care.json",
    *(f"checkpoints/{name}.pt" for name in made_checkpoints.IDS),
    "drift/baseline.json",
    "model.pt",
    "model_metadata.json",
    "provenance/provenance.json",
    "sbom.spdx.json",
    "stac/model-item.json",
    "telemetry/training.json",
    "xai/summary.json",
)
GATE_NAMES = tuple(GATES)
METADATA = {
    "model_name": MODEL,
    "release_version": RELEASE_VERSION,
    "seed": 42,
    "code": {"entry_point": "release", "git_commit": "deadbeef" * 5, "git_url": None},
    "data": [{"name": "fields", "role": "training", "digest": f"sha256:{'d' * 64}"}],
}


def make_lineage() -> dict:
    """Return the lineage of one file of weights, of a release, and of one data set."""

    def typed(name: str, **more) -> dict:
        return {"prov:type": {"$": f"kfm:{name}", "type": "xsd:QName"}, **more}

    def ends(**names: str) -> dict:
        return {f"prov:{role}": name for role, name in names.items()}

    paths = ("model.pt", *(f"checkpoints/{name}.pt" for name in made_checkpoints.IDS))
    weights = {f"x:weights{k or ''}": path for k, path in enumerate(paths)}
    return {
        "prefix": {"kfm": "https://kfm-mlflow.github.io/ns#", "x": "https://example.org/"},
        "entity": {
            "x:data": typed("Dataset", **{"kfm:sha256": METADATA["data"][0]["digest"]}),
            **{
                name: typed("Weights", **{"kfm:path": path, "kfm:sha256": digest_json(path)})
                for name, path in weights.items()
            },
            "x:release": typed("Release"),
        },
        "activity": {"x:training": typed("Training"), "x:composing": typed("Composing")},
        "used": {
            "_:1": ends(activity="x:training", entity="x:data"),
            **{f"_:u{n}": ends(activity="x:composing", entity=n) for n in weights},
        },
        "wasGeneratedBy": {
            **{f"_:g{n}": ends(entity=n, activity="x:training") for n in weights},
            "_:4": ends(entity="x:release", activity="x:composing"),
        },
    }


@cache
def signer(name: str) -> Signer:
    """Return the private key of somebody; always the same one."""
    with tempfile.TemporaryDirectory() as folder:
        generate_key(Path(folder) / name)
        return load_private_key(Path(folder) / name)


def trusted(name: str, **more) -> dict:
    return {"name": name, "public_key": signer(name).public_key.pem, **more}


@cache
def base_policy() -> Policy:
    """Return a policy that asks every gate for Production."""
    rollout = load_policies(None).policy("baseline").rollout.model_dump(mode="json", by_alias=True)
    return Policy.model_validate(
        {
            "schema_version": "1",
            "family": "tiny",
            "gates": {
                "integrity": {},
                "completeness": {
                    "required": ["MLmodel", "model.pt", "xai/"],
                    "forbidden_suffixes": [".pkl", ".py"],
                    "schemas": {"xai/summary.json": "xai-summary"},
                },
                "signature": {},
                "care": {},
                "authority": {},
                "prov": {"path": "provenance/provenance.json"},
                "lineage": {},
                "stac": {"path": "stac/model-item.json"},
                "sbom": {"path": "sbom.spdx.json"},
                "attestations": {"require_commit": True, "require_lock": True},
                "telemetry": {"max_energy_wh": 10, "max_carbon_gco2e": 4},
                "xai": {"max_convergence_delta_ratio": 0.05, "min_stability": 0.8},
                "validation": {"max_age_s": MAX_AGE_S},
                "metrics": {
                    "limits": [
                        {"metric": "nrmse", "max": 0.2},
                        {"metric": "nbias", "min": -0.02, "max": 0.02},
                    ]
                },
                **{
                    name: {"limits": [{"metric": f"{name}_of_it", "min": 0.5}]}
                    for name in LIMIT_GATES[1:]
                },
                "checkpoints": {"min_auc": 0.7, "max_bias_index": 0.1},
                "drift": {},
                "canary": {},
                "votes": {},
                "rollback_target": {},
            },
            "levels": {key: list(GATE_NAMES) for key in ("staging", "canary", "production")},
            "trust": {
                "signers": [trusted("trainer")],
                "validators": [trusted("validator")],
                "controllers": [trusted("controller")],
                "council": {
                    "members": [
                        trusted(name, roles=["indigenous-representative"] if name == "ada" else [])
                        for name in PEOPLE
                    ],
                    "required_roles": ["indigenous-representative"],
                    "veto_roles": ["indigenous-representative"],
                },
            },
            "rollout": rollout,
        }
    )


def changed_policy(policy: Policy | None = None, **sections) -> Policy:
    """Return a policy with fields merged into its sections (``gates``, ``levels``, ``trust``)."""
    raw = (policy or base_policy()).model_dump(mode="json", by_alias=True)
    for name, fields in sections.items():
        for key, value in fields.items():
            old = raw[name].get(key)
            raw[name][key] = {**old, **value} if isinstance(value, dict) and old else value
    return Policy.model_validate(raw)


def make_move(**changes) -> Move:
    move = Move(MODEL, VERSION, Level.CANARY, Level.PRODUCTION, EPOCH, 2, NOW)
    return replace(move, **changes)


def make_manifest(*paths: str) -> Manifest:
    return Manifest(tuple(FileEntry(path, 7, digest_json(path)) for path in sorted(paths or PATHS)))


RELEASE_ID = make_manifest().release_id


def checkpoint_documents(policy: Policy | None = None, **changes) -> dict:
    """Return the documents of certified checkpoints, by their paths in the release."""
    digests = {
        entry.path.removeprefix("checkpoints/"): entry.digest
        for entry in make_manifest().files
        if entry.path.startswith("checkpoints/")
    }
    signers = [signer(name) for name in PEOPLE]
    made = made_checkpoints.make_documents(
        policy or base_policy(), signers, digests, NOW, **changes
    )
    return {f"checkpoints/{name}": value for name, value in made.items()}


@cache
def _good_checkpoints() -> dict:
    return checkpoint_documents()


def telemetry_document(**changes) -> dict:
    return {
        "schema_version": "1",
        "duration_s": 60.0,
        "energy_wh": 5.0,
        "carbon_gco2e": 2.0,
        "method": "estimated",
        "energy": {"cpu_wh": 4.0, "gpu_wh": 0.0, "ram_wh": 1.0, "pue": 1.0},
        "carbon": {
            "intensity_g_per_kwh": 400.0,
            "intensity_source": "a table",
            "region": "USA/kansas",
        },
        "tool": {"name": "codecarbon", "version": "3.3"},
        "hardware": {"cpu": "a processor", "gpu": None, "ram_gb": 8.0},
        "metrics": {},
        "otel": {"trace_id": None, "span_name": "train", "latency_ms": 60000.0},
        **changes,
    }


def xai_document(*, delta=0.01, stability=0.95, **changes) -> dict:
    return {
        "schema_version": "1",
        "method": "integrated-gradients",
        "library": "captum",
        "baseline": "mean of the sample",
        "step_count": 32,
        "sample_count": 8,
        "seed": 1,
        "convergence_delta": delta,
        "features": [{"name": "row 1", "importance_ratio": 1.0}],
        "stability": {"seed_count": 2, "min_correlation": stability},
        "notes": [],
        **changes,
    }


def make_content(**documents) -> ReleaseContent:
    """Return good content; ``telemetry``, ``xai``, ``lineage`` and ``sbom`` replace documents.

    ``checkpoints`` gives all of them, by path.
    """
    values = {
        "care.json": {"care": {}},
        "model_metadata.json": documents.get("metadata", METADATA),
        "provenance/provenance.json": documents.get("lineage", make_lineage()),
        "sbom.spdx.json": documents.get("sbom", {}),
        "stac/model-item.json": {
            "id": MODEL,
            "properties": {"model:version": RELEASE_VERSION, "license": "MIT"},
            "assets": {"model": {"href": "../model.onnx"}},
            "stac_extensions": ["https://stac-extensions.github.io/mlm/v1.4.0/schema.json"],
        },
        **documents.get("checkpoints", _good_checkpoints()),
        "telemetry/training.json": documents.get("telemetry", telemetry_document()),
        "xai/summary.json": documents.get("xai", xai_document()),
    }
    problems = {
        "texts": (),
        "pickles": (),
        "prov:provenance/provenance.json": (),
        "stac:stac/model-item.json": (),
        "sbom:sbom.spdx.json": (),
    }
    return ReleaseContent({p: Document(v) for p, v in values.items()}, {}, problems)


def with_problem(content: ReleaseContent, name: str, *sentences: str) -> ReleaseContent:
    return replace(content, problems={**content.problems, name: sentences})


def without_document(content: ReleaseContent, path: str) -> ReleaseContent:
    kept = {p: d for p, d in content.documents.items() if p != path}
    gone = {k: v for k, v in content.problems.items() if not k.endswith(f":{path}")}
    return replace(content, documents=kept, problems=gone)


def make_binding(policy: Policy | None = None, **changes) -> Binding:
    digest = policy.digest if policy else None
    return replace(Binding(MODEL, RELEASE_VERSION, RELEASE_ID, digest, VERSION), **changes)


def attest(
    kind: str, claims: dict, binding: Binding, *signers: str, at: datetime = NOW, **changes
) -> AttestationReport:
    """Return what verifying a good envelope would have given."""
    statement = build_statement(kind, binding, claims, at)
    report = AttestationReport(
        ok=True,
        kind=kind,
        statement=statement,
        signers=signers,
        problems=(),
        binding=binding,
        claims=claims,
        issued_at=at,
        digest=digest_json([statement, list(signers)]),
    )
    return replace(report, **changes)


def drift_claims(**changes) -> dict:
    """Return a drift summary that passes: what the gate reads of it."""
    inputs = {
        "baseline_digest": make_manifest().digests["drift/baseline.json"],
        "plan": DriftPlan().model_dump(mode="json"),
        "checks": [
            {"check": "range", "verdict": "PASS"},
            {"check": "distribution", "verdict": "PASS"},
        ],
    }
    parts = {key: changes.pop(key) for key in tuple(changes) if key in inputs}
    return {"verdict": "PASS", "reason": "no drift", "inputs": {**inputs, **parts}, **changes}


def validation_claims(**changes) -> dict:
    return {
        "drift": drift_claims(),
        "metrics": {
            "nrmse": 0.1,
            "nbias": 0.0,
            **{f"{name}_of_it": 0.5 for name in LIMIT_GATES[1:]},
        },
        "determinism": {"identical": True, "digest": RELEASE_ID},
        **changes,
    }


def make_validation(*, claims=None, signed_by="validator", binding=None, **changes):
    bound = binding or make_binding(version=None)
    return attest("validation", claims or validation_claims(), bound, signed_by, **changes)


def make_provenance(*, signed_by="trainer", binding=None, **changes) -> AttestationReport:
    """Return what verifying a good envelope of SLSA provenance would have given."""
    said = {
        "entry_point": "release",
        "parameters": {"size": "small"},
        "seed": 42,
        "started_at": NOW,
        "finished_at": NOW,
        "git_commit": "deadbeef" * 5,
        "git_tree": "clean",
        "environment_lock": f"sha256:{'e' * 64}",
        "lock": UsedLock("constraints.txt", f"sha256:{'f' * 64}"),
        "data": (UsedData("fields", f"sha256:{'d' * 64}", "fields.nc", "training"),),
        "invocation_id": "run",
        **changes,
    }
    bound = binding or make_binding(version=None)
    statement = build_slsa_statement(bound, build_predicate(Provenance(**said)))
    return AttestationReport(
        ok=True,
        kind=SLSA_KIND,
        statement=statement,
        signers=(signed_by,),
        problems=(),
        binding=bound,
        claims=statement["predicate"],
        issued_at=NOW,
        digest=digest_json(statement),
    )


def make_repeated(kind: str, path: str, /, **changes) -> AttestationReport:
    """Return what verifying a good statement about a document would have given."""
    claims = {"path": path, "document": make_content().document(path).value, **changes}
    return attest(kind, claims, make_binding(version=None), "trainer")


def make_canary(policy: Policy, *, claims=None, signed_by="controller", binding=None, **changes):
    said = {"verdict": "PASS", "epoch": EPOCH, "sample_count": 400} if claims is None else claims
    bound = binding or make_binding(policy)
    return attest("canary-verdict", said, bound, signed_by, **changes)


def make_vote(
    policy: Policy, name: str, choice="approve", *, move=None, binding=None, voter=None, **changes
):
    proposal = replace(
        proposal_of(RELEASE_ID, policy, move or make_move()),
        **({"release_id": binding.release_id} if binding else {}),
    )
    claims = build_vote_claims(proposal, voter or name, choice, "as I see it")
    return attest("vote", claims, binding or make_binding(policy), name, **changes)


def make_screening(*checks: Check) -> Screening:
    names = [name for part in CARE_PARTS.values() for name in part if name != "telemetry-present"]
    good = (Check(name, Status.NO_KNOWN_CONFLICT) for name in names)
    found = checks or tuple(good)
    return Screening(max(c.status for c in found), found, RELEASE_ID)


def make_evidence(policy: Policy | None = None, **changes) -> Evidence:
    """Return evidence that passes every gate of a policy."""
    policy = policy or base_policy()
    attestations = changes.pop("attestations", None)
    if attestations is None:
        attestations = (
            make_provenance(),
            make_repeated("care-screening", "care.json"),
            make_repeated("stac-item", "stac/model-item.json"),
            make_validation(),
            make_canary(policy),
            *(make_vote(policy, name) for name in PEOPLE),
        )
    evidence = Evidence(
        manifest=make_manifest(),
        manifest_problem="",
        content=make_content(),
        signature=SignatureReport(
            ok=True, signer="trainer", problems=(), key_id=signer("trainer").public_key.key_id
        ),
        attestations=tuple(attestations),
        envelope_digests=tuple(report.digest for report in attestations),
        screening=make_screening(),
        target_release_id=RELEASE_ID,
        predecessor=make_content(),
    )
    return replace(evidence, **changes)


def nothing() -> Evidence:
    """Return the evidence of a place where nothing is."""
    return Evidence(None, "no such directory", ReleaseContent({}, {}), None, (), (), None)


def ask(gate: str, evidence: Evidence, policy: Policy | None = None, move: Move | None = None):
    """Return (verdict, codes) of one gate."""
    findings = GATES[gate](evidence, policy or base_policy(), move or make_move())
    return str(worst(f.verdict for f in findings)), [f.code for f in findings]
