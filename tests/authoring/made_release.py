"""One small release, composed and signed once per test process."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from kfm_mlflow.authoring.attestations import provenance_of, write_attestations
from kfm_mlflow.authoring.compose import compose_release
from kfm_mlflow.authoring.source import SourceState
from kfm_mlflow.authoring.spec import ReleaseSpec
from kfm_mlflow.metadata.facts import AgentFact, DatasetFact, RunFact
from kfm_mlflow.monitor.energy import EnergyReport
from kfm_mlflow.policy.load import load_policies
from kfm_mlflow.policy.models import Policy
from kfm_mlflow.release.bundle import Bundle, bundle_at
from kfm_mlflow.trust.keys import generate_key, load_private_key
from kfm_mlflow.trust.signing import sign_release
from kfm_mlflow.trust.slsa import UsedLock
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

if TYPE_CHECKING:
    from kfm_mlflow.release.manifest import Manifest

NAME, VERSION = "climate-tiny", "v1.0.0"
LOCK = UsedLock("constraints.txt", "sha256:" + "1c" * 32)
AT = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
ENERGY = EnergyReport(
    duration_s=1.0,
    energy_wh=0.5,
    carbon_gco2e=0.2,
    method="estimated",
    cpu_wh=0.4,
    gpu_wh=0.0,
    ram_wh=0.1,
    pue=1.0,
    intensity_g_per_kwh=400.0,
    intensity_source="given by the caller",
    region="USA/kansas",
    tool_name="codecarbon",
    tool_version="3.3",
    cpu_model="a processor",
    gpu_model=None,
    ram_gb=8.0,
)


class TinyNet(torch.nn.Module):
    """Fields [n, 6, 6] to fields [n, 6, 6]."""

    def __init__(self):
        super().__init__()
        self.hidden = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.last = torch.nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, fields):
        """Answer."""
        step = torch.relu(self.hidden(fields.unsqueeze(1)))
        return fields + self.last(step).squeeze(1)


def make_model() -> TinyNet:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return TinyNet()


def make_rows(count: int = 40) -> np.ndarray:
    return np.random.default_rng(7).normal(280, 5, (count, 6, 6)).astype(np.float32)


def make_spec(**changes) -> ReleaseSpec:
    fields = {
        "model": make_model(),
        "inputs": make_rows(),
        "name": NAME,
        "version": VERSION,
        "family": "climate",
        "task": "super-resolution",
        "bbox": (-102.0, 37.0, -94.6, 40.0),
        "datasets": tuple(
            DatasetFact(f"made-{role}", "generated:made", "sha256:" + "ab" * 32, "MIT", role)
            for role in ("training", "validation")
        ),
        "run": RunFact(
            "run-1",
            "release",
            "c" * 40,
            None,
            AT - timedelta(minutes=2),
            AT,
            {"epochs": "3"},
            7,
            "sha256:" + "ef" * 32,
        ),
        "source": SourceState("c" * 40, project=".", lock=LOCK),
        "agents": (
            AgentFact("organization", "release-team", "organization"),
            AgentFact("trainer", "key", "software", on_behalf_of="organization", signs=True),
        ),
        "energy": ENERGY,
        "released_at": AT,
        "hyperparameters": {"seed": 7, "epochs": 3},
        "config": {"width": 4},
        "metrics": {"rmse": 1.0},
        "cell_size_deg": 0.25,
        **changes,
    }
    return ReleaseSpec(**fields)


def make_policy(keys: Path, family: str = "climate") -> Policy:
    """Return the packaged policy, trusting the keys in a folder."""
    raw = load_policies(None).policy(family).model_dump(mode="json", by_alias=True)
    for duty, who in (("signers", "trainer"), ("validators", "validator")):
        raw["trust"][duty] = [{"name": who, "public_key": (keys / f"{who}.pub").read_text()}]
    return Policy.model_validate(raw)


def make_validation(manifest: Manifest, key: Path, at: datetime = AT) -> bytes:
    claims = {
        "metrics": {
            "nrmse": 0.1,
            "nmae": 0.1,
            "nbias": 0.0,
            "correlation": 0.99,
            "pattern_correlation": 0.97,
            "ssim": 0.95,
            "nbias_p95": 0.0,
            "nrmse_p95": 0.1,
            "nbias_p99": 0.0,
            "nrmse_p99": 0.1,
            "amplification_p99": 1.0,
        },
        "determinism": {"identical": True, "digest": manifest.release_id},
    }
    statement = build_statement(
        "validation", Binding(NAME, VERSION, manifest.release_id), claims, at
    )
    return sign_statement(statement, load_private_key(key))


@dataclass(frozen=True)
class Composed:
    """A signed and validated release on disk."""

    bundle: Bundle
    manifest: Manifest
    keys: Path

    @property
    def root(self) -> Path:
        """The release directory."""
        return self.bundle.release_dir


_FOLDERS: list[tempfile.TemporaryDirectory] = []


@cache
def composed() -> Composed:
    """Return the release; do not change it, copy it."""
    _FOLDERS.append(tempfile.TemporaryDirectory(prefix="kfm-test-release-"))
    folder = Path(_FOLDERS[-1].name)
    for who in ("trainer", "validator"):
        generate_key(folder / "keys" / f"{who}")
    bundle = bundle_at(folder / "release")
    spec = make_spec()
    manifest = compose_release(spec, bundle.release_dir)
    bundle.evidence_dir.mkdir()
    sign_release(bundle.release_dir, bundle.signature_path, folder / "keys" / "trainer")
    write_attestations(
        bundle,
        Binding(NAME, VERSION, manifest.release_id),
        provenance_of(spec),
        load_private_key(folder / "keys" / "trainer"),
        AT,
    )
    envelope = make_validation(manifest, folder / "keys" / "validator")
    (bundle.evidence_dir / "validation.intoto.json").write_bytes(envelope)
    return Composed(bundle, manifest, folder / "keys")
