"""One small governed world: keys, a policy, three signed releases of a tiny model, registries.

Releases are real: composed, signed and validated with the product's own functions. They are made
once per session, and tests that break one work on a copy.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pytest
import torch
from mlflow.exceptions import MlflowException

with warnings.catch_warnings():
    # MLflow's tables use a loader strategy that SQLAlchemy 2.1 deprecates.
    warnings.simplefilter("ignore")
    import mlflow.store.model_registry.sqlalchemy_store  # noqa: F401 - for its warning only

from kfm_mlflow.authoring.attestations import write_attestations
from kfm_mlflow.authoring.compose import compose_release
from kfm_mlflow.authoring.spec import ReleaseSpec
from kfm_mlflow.authoring.validation import measure
from kfm_mlflow.canonical import digest_bytes, digest_file, load_json, write_bytes
from kfm_mlflow.cli.main import cli
from kfm_mlflow.gates.evidence import EvidenceReader
from kfm_mlflow.gates.findings import Move
from kfm_mlflow.gates.people import proposal_of
from kfm_mlflow.metadata.facts import AgentFact, DatasetFact, RunFact
from kfm_mlflow.monitor.energy import EnergyReport
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.load import load_policies
from kfm_mlflow.registry.admission import Admission
from kfm_mlflow.registry.settings import Settings
from kfm_mlflow.registry.store import KfmStore
from kfm_mlflow.release.bundle import Bundle, bundle_at
from kfm_mlflow.trust.keys import load_private_key
from kfm_mlflow.trust.quorum import build_vote_claims
from kfm_mlflow.trust.signing import sign_release
from kfm_mlflow.trust.slsa import Provenance, UsedData, UsedLock
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from kfm_mlflow.trust.keys import Signer

NAME = "climate-tiny"
AT = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
"""When the releases were validated; the in-process registries start one hour later."""
COUNCIL = ("council-ann", "council-bea", "council-cyd", "council-dee-indigenous-representative")
KEYS = ("trainer", "validator", "controller", "foreign", "registry", *COUNCIL)
GOOD_METRICS = {
    "nrmse": 0.1,
    "nmae": 0.08,
    "nbias": 0.001,
    "correlation": 0.99,
    "pattern_correlation": 0.97,
    "ssim": 0.95,
    "nbias_p95": -0.01,
    "nrmse_p95": 0.1,
    "nbias_p99": -0.02,
    "nrmse_p99": 0.12,
    "amplification_p99": 0.99,
}
GOOD_CANARY = {
    "verdict": "PASS",
    "sample_count": 500,
    "telemetry": {"request_count": 500, "span_count": 500},
}
"""What a controller signs of a canary that passed, with a span for each of its answers."""
BOTH = ("sqlite", "postgresql")
"""What ``database_kind`` is parametrised with by tests that run on both databases."""
SERVES = "_MLFLOW_SERVER_SERVE_ARTIFACTS"


class Tiny(torch.nn.Module):
    """Answers [n, 8, 8] for [n, 4, 4]: each cell repeated and scaled."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain))
        self.register_buffer("repeat", torch.eye(4).repeat_interleave(2, dim=0))
        self.last = torch.nn.Identity()

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        """Answer one field per row."""
        return self.last(self.gain * (self.repeat @ field @ self.repeat.T))


def tiny_rows(count: int = 40) -> np.ndarray:
    return np.random.default_rng(7).normal(10, 3, (count, 4, 4)).astype(np.float32)


def tiny_spec(version: str, gain: float, *, signer_id: str, name: str = NAME) -> ReleaseSpec:
    energy = EnergyReport(
        duration_s=1.0,
        energy_wh=0.1,
        carbon_gco2e=0.05,
        method="estimated",
        cpu_wh=0.08,
        gpu_wh=0.0,
        ram_wh=0.02,
        pue=1.0,
        intensity_g_per_kwh=500.0,
        intensity_source="test",
        region="USA/kansas",
        tool_name="codecarbon",
        tool_version="3.3.0",
        cpu_model="test",
        gpu_model=None,
        ram_gb=8.0,
    )
    return ReleaseSpec(
        model=Tiny(gain),
        inputs=tiny_rows(),
        name=name,
        version=version,
        family="climate",
        task="super-resolution",
        bbox=(-102.05, 36.99, -94.58, 40.0),
        datasets=tuple(
            DatasetFact(
                name=f"made-{role}",
                uri=f"generated:{role}",
                sha256=digest_bytes(role.encode()),
                license="MIT",
                role=role,
            )
            for role in ("training", "validation")
        ),
        run=RunFact(
            run_id="0123456789abcdef",
            entry_point="release",
            git_commit="deadbeef" * 5,
            git_url="https://example.org/tiny.git",
            started_at=AT - timedelta(hours=3),
            ended_at=AT - timedelta(hours=2),
            parameters={},
            seed=42,
        ),
        agents=(
            AgentFact("organization", "test-team", "organization"),
            AgentFact("trainer", signer_id, "software", on_behalf_of="organization", signs=True),
        ),
        energy=energy,
        released_at=AT - timedelta(hours=2),
        hyperparameters={"seed": 42},
        metrics={"rmse": 0.3},
        cell_size_deg=0.5,
    )


@dataclass(frozen=True, eq=False)
class World:
    """Where keys and policies lie, and the good releases v1.0.0, v1.1.0 and v1.2.0."""

    root: Path
    releases: tuple[Bundle, ...]
    documents: dict[Path, dict[str, Any]]

    @property
    def keys(self) -> Path:
        """Where the keys lie."""
        return self.root / "keys"

    @property
    def policies(self) -> Path:
        """Where the policy lies."""
        return self.root / "policies"

    def key(self, name: str) -> Path:
        """Return the path of a private key."""
        return self.keys / f"{name}.pem"

    def signer(self, name: str) -> Signer:
        """Return a key, ready to sign."""
        return load_private_key(self.key(name))

    def copy(self, folder: Path, index: int = 0) -> Bundle:
        """Return a copy of a good release that a test may break."""
        bundle = bundle_at(folder / "release")
        original = self.releases[index]
        shutil.copytree(original.release_dir, bundle.release_dir)
        shutil.copytree(original.evidence_dir, bundle.evidence_dir)
        return bundle

    def attest(
        self,
        bundle: Bundle,
        *,
        key: str = "validator",
        at: datetime = AT,
        expires_at: datetime | None = AT + timedelta(days=60),
        **changed: Any,
    ) -> None:
        """Put a validation beside a release, instead of any other."""
        for old in bundle.evidence_dir.glob("*.intoto.json"):
            old.unlink()
        metadata = load_json(bundle.release_dir / "model_metadata.json")
        self.vouch(bundle, metadata)
        document = {**next(iter(self.documents.values())), **changed}
        document["release_id"] = digest_of(bundle)
        binding = Binding(
            metadata["model_name"], metadata["release_version"], document["release_id"]
        )
        statement = build_statement("validation", binding, document, at, expires_at)
        write_bytes(
            bundle.evidence_dir / "validation.intoto.json",
            sign_statement(statement, self.signer(key)),
        )

    def vouch(self, bundle: Bundle, metadata: dict[str, Any]) -> None:
        """Put what the trainer says beside a release, as its documents have it."""
        provenance = Provenance(
            entry_point=metadata["code"]["entry_point"],
            parameters={},
            seed=metadata["seed"],
            started_at=AT - timedelta(hours=3),
            finished_at=AT - timedelta(hours=2),
            git_commit=metadata["code"]["git_commit"],
            git_tree="clean",
            environment_lock=digest_bytes(b"packages"),
            lock=UsedLock("constraints.txt", digest_bytes(b"constraints")),
            data=tuple(
                UsedData(item["name"], item["digest"], item["uri"], item["role"])
                for item in metadata["data"]
            ),
            invocation_id=metadata["run_id"],
        )
        binding = Binding(metadata["model_name"], metadata["release_version"], digest_of(bundle))
        write_attestations(bundle, binding, provenance, self.signer("trainer"), AT)

    def sign(self, bundle: Bundle, key: str = "trainer") -> None:
        """Sign a release again."""
        sign_release(bundle.release_dir, bundle.signature_path, self.key(key))


def digest_of(bundle: Bundle) -> str:
    from kfm_mlflow.release.manifest import build_manifest

    return build_manifest(bundle.release_dir).release_id


def run_cli(*arguments: object) -> Any:
    return cli.main(args=[str(item) for item in arguments], prog_name="kfm", standalone_mode=False)


@lru_cache(maxsize=1)
def make_world(root: Path) -> World:
    run_cli("keys", "new", *KEYS, "--dir", root / "keys")
    for family in ("climate", "fleet"):
        run_cli(
            "policy", "init", "--family", family, "--keys", root / "keys", "-o", root / "policies"
        )
    world = World(root, tuple(bundle_at(root / f"v1.{i}.0" / "release") for i in range(3)), {})
    signer_id = world.signer("trainer").public_key.key_id
    for index, bundle in enumerate(world.releases):
        spec = tiny_spec(f"v1.{index}.0", 1.0 + index / 100, signer_id=signer_id)
        bundle.release_dir.parent.mkdir()
        with warnings.catch_warnings():
            # torch.export and captum warn about each other's and their own deprecations.
            warnings.simplefilter("ignore")
            compose_release(spec, bundle.release_dir)
            bundle.evidence_dir.mkdir()
            world.sign(bundle)
            if index == 0:
                world.documents[bundle.release_dir] = measure(
                    bundle.release_dir,
                    evaluate=lambda _: GOOD_METRICS,
                    inputs=tiny_rows(4),
                    data={"name": "made", "digest": digest_bytes(b"validation")},
                    validator=world.signer("validator").public_key.key_id,
                    now=AT,
                )
        world.attest(bundle)
    return world


READER = EvidenceReader()
"""Shared: what it remembers follows from the bytes of a release alone."""


@dataclass
class Registry:
    """A governed registry in this process, with a clock that the test holds.

    Attributes:
        database: Path of a SQLite file, or SQLAlchemy URL of a PostgreSQL database.
    """

    world: World
    database: Path | str
    area: Path
    now: datetime = AT + timedelta(hours=1)
    store: KfmStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = self.open()

    def open(self) -> KfmStore:
        """Open the database once more, as another worker would."""
        admission = Admission(
            settings=Settings(self.world.policies, self.world.key("registry")),
            policies=load_policies(self.world.policies),
            signer=self.world.signer("registry"),
            environ={"KFM_ARTIFACTS_DESTINATION": str(self.area), SERVES: "true"},
            clock=lambda: self.now,
            reader=READER,
        )
        return KfmStore(uri_of(self.database), admission=admission)

    # -- doing ---------------------------------------------------------------------------------

    def register(self, bundle: Bundle, name: str = NAME) -> int:
        """Register a release as the next candidate."""
        if not self.query("SELECT 1 FROM registered_models WHERE name = ?", name):
            self.store.create_registered_model(name)
        return int(self.store.create_model_version(name, str(bundle.release_dir), "run").version)

    def attest(
        self, version: int, kind: str, claims: dict[str, Any], key: str, **changed: Any
    ) -> str:
        """Send a signed statement about a frozen version."""
        known = self.store.snapshot(NAME, version)
        policy = self.store.admission.policy(known.family)
        binding = Binding(
            changed.get("model_name", NAME),
            known.release.release_version,
            changed.get("release_id", known.release.release_id),
            changed.get("policy_digest", policy.digest),
            version,
        )
        statement = build_statement(
            kind, binding, claims, self.now, changed.get("expires_at", self.now + timedelta(days=7))
        )
        envelope = sign_statement(statement, self.world.signer(key))
        return self.store.add_attestation(NAME, version, envelope)

    def verdict(self, version: int, outcome: str = "PASS", **changed: Any) -> None:
        """Send what a controller found about a canary."""
        epoch = changed.get("epoch", self.store.snapshot(NAME, version).epoch)
        claims = {**GOOD_CANARY, "verdict": outcome, "epoch": epoch}
        self.attest(version, "canary-verdict", claims, "controller")

    def vote(self, version: int, member: str, choice: str = "approve", **changed: Any) -> None:
        """Send a member's vote on Production."""
        known = self.store.snapshot(NAME, version)
        policy = self.store.admission.policy(known.family)
        move = Move(
            NAME,
            version,
            known.level,
            Level.PRODUCTION,
            changed.get("epoch", known.epoch),
            known.production,
            self.now,
        )
        proposal = proposal_of(changed.get("release_id", known.release.release_id), policy, move)
        if "policy_digest" in changed:
            proposal = replace(proposal, policy_digest=changed["policy_digest"])
        claims = build_vote_claims(proposal, member, choice, "because")
        self.attest(version, "vote", claims, member, **changed)

    def to_canary(self, version: int) -> None:
        """Move a candidate to canary."""
        self.store.move(NAME, version, Level.STAGING)
        self.store.move(NAME, version, Level.CANARY)

    def endorse(self, version: int) -> None:
        """Give a canary everything that Production asks for."""
        self.verdict(version)
        for member in COUNCIL:
            self.vote(version, member)

    def to_production(self, version: int) -> None:
        """Move a candidate to Production with everything it needs."""
        self.to_canary(version)
        self.endorse(version)
        self.store.move(NAME, version, Level.PRODUCTION)

    # -- seeing --------------------------------------------------------------------------------

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read the database as a stranger would."""
        return query(self.database, sql, *values)

    def state(self) -> dict[str, Any]:
        """Return everything that a refusal must leave alone."""
        return {**dump(self.database), "files": files_of(self.area)}

    def level(self, version: int) -> str:
        """Return the level of a version."""
        return str(self.store.snapshot(NAME, version).level)


def uri_of(database: Path | str) -> str:
    """Return the plain SQLAlchemy URI of a database."""
    return database if isinstance(database, str) else f"sqlite:///{database}"


def query(database: Path | str, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """Read the database as a stranger would, not through the store; values stand for ``?``."""
    with stranger(database) as connection:
        if isinstance(database, str):
            sql = sql.replace("?", "%s")
        return [tuple(row) for row in connection.execute(sql, values).fetchall()]


@contextmanager
def stranger(database: Path | str) -> Iterator[Any]:
    """Open a raw connection, as sqlite3 or psql would; what is not committed is rolled back."""
    connection = (
        psycopg.connect(re.sub(r"\+\w+", "", database, count=1))
        if isinstance(database, str)
        else sqlite3.connect(database, timeout=20)
    )
    try:
        yield connection
    finally:
        connection.close()


REGISTRY_TABLES = (
    "registered_models",
    "registered_model_tags",
    "registered_model_aliases",
    "model_versions",
    "model_version_tags",
    "kfm_model",
    "kfm_release",
    "kfm_ledger",
    "kfm_outbox",
    "kfm_attestation",
    "kfm_journal",
    "kfm_rollout_lease",
    "kfm_registration",
    "kfm_permit",
)


def dump(database: Path | str) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of MLflow's and our registry tables, in order."""
    return {
        table: sorted(query(database, f"SELECT * FROM {table}"), key=repr)
        for table in REGISTRY_TABLES
    }


def files_of(folder: Path) -> dict[str, str]:
    """Return path -> digest of every file below a folder."""
    found: Iterable[Path] = sorted(folder.rglob("*")) if folder.is_dir() else ()
    return {
        str(path.relative_to(folder)): digest_file(path) if path.is_file() else "directory"
        for path in found
    }


def only_refused(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Assert that nothing changed but one refused row of the ledger, and return that row."""
    added = [row for row in after["kfm_ledger"] if row not in before["kfm_ledger"]]
    assert len(added) == 1
    assert {**before, "kfm_ledger": None} == {**after, "kfm_ledger": None}
    names = ("seq", "at", "kind", "model", "version", "body", "prev_hash", "hash")
    row = dict(zip(names, added[0], strict=True))
    assert row["kind"] == "refused"
    return row


def claims_of(body: str) -> dict[str, Any]:
    """Return what a decision in the ledger says."""
    import base64
    import json

    return json.loads(base64.b64decode(json.loads(body)["payload"]))["predicate"]["claims"]


@contextmanager
def told(status: int, *words: str) -> Iterator[pytest.ExceptionInfo[MlflowException]]:
    """Assert that MLflow's client is told a sentence under a status that it does not retry."""
    with pytest.raises(MlflowException) as caught:
        yield caught
    message = str(caught.value.message)
    assert caught.value.get_http_status_code() == status, message
    assert "\n" not in message
    for word in words:
        assert word in message, message
