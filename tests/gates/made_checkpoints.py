"""The checkpoints of a training, certified by the council of :mod:`gates.made_evidence`."""

from __future__ import annotations

from kfm_mlflow.checkpoints.records import (
    CERTIFICATE,
    CHECKSUMS,
    EXPLAINABILITY,
    GOVERNANCE,
    MANIFEST,
    METRICS,
    TELEMETRY,
)
from kfm_mlflow.gates.certificates import Candidate, build_certificate, sign_vote

MODEL_ID, VERSION = "tiny_transformer", "v1.2.0"
IDS = ("checkpoint_001_pretrain", "checkpoint_002_finetune", "checkpoint_003_final")


def make_votes(candidate, policy, signers, now, *, choice="approve", expires_at=None):
    """Return each member's signed vote on a candidate."""
    return [
        sign_vote(
            candidate,
            policy,
            signer,
            choice=choice,
            reason="read the audit",
            now=now,
            expires_at=expires_at,
        )
        for signer in signers
    ]


def make_documents(policy, signers, digests, now, **changed):
    """Return name -> JSON of a directory whose last checkpoint is certified.

    Args:
        policy: Whose council votes.
        signers: Of its members who approve.
        digests: File of a checkpoint -> digest.
        now: When they vote.
        changed: Fields of the last checkpoint in both lists.
    """
    entries, rows = [], []
    for epoch, name in enumerate(IDS, 1):
        said = {"auc": 0.8 + epoch / 100, "faircare_score": 99.0, "energy_wh": 2.0 * epoch}
        if epoch == len(IDS):
            said |= {key: value for key, value in changed.items() if key in said}
        entries.append(
            {
                "id": name,
                "epoch": epoch,
                "file": f"{name}.pt",
                "phase": name.rpartition("_")[2],
                "checksum_sha256": digests[f"{name}.pt"],
                **said,
            }
        )
        rows.append(
            {
                "id": name,
                "training_epoch": epoch,
                "bias_index": changed.get("bias_index", 0.01),
                "carbon_gco2e": changed.get("carbon_gco2e", 0.8 * epoch),
                "checksum_verified": True,
                **said,
            }
        )
    candidate = Candidate(MODEL_ID, VERSION, IDS[-1], digests[f"{IDS[-1]}.pt"])
    certificate = build_certificate(
        make_votes(candidate, policy, signers, now), candidate, policy, now, auditor="@auditor"
    )
    files = [{"file": name, "checksum_sha256": digest} for name, digest in digests.items()]
    return {
        MANIFEST: {
            "model_id": MODEL_ID,
            "version": VERSION,
            "checkpoints": entries,
            "approved": True,
            "planned_epochs": 3,
        },
        METRICS: {"model_id": MODEL_ID, "version": VERSION, "checkpoints": rows},
        CHECKSUMS: {"model_id": MODEL_ID, "files": files},
        TELEMETRY: {"model_id": MODEL_ID},
        GOVERNANCE: {"violations": changed.get("violations", [])},
        EXPLAINABILITY: {"model": MODEL_ID},
        CERTIFICATE: certificate,
    }
