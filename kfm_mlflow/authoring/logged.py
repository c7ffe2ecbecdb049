"""From a composed release to a signed one in an MLflow run: the same for whoever made its model."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfm_mlflow.authoring.attestations import provenance_of, write_attestations
from kfm_mlflow.errors import InputError
from kfm_mlflow.metadata.facts import AgentFact
from kfm_mlflow.release.bundle import ITEM_PATH, bundle_at, evidence_uri
from kfm_mlflow.trust.keys import load_private_key
from kfm_mlflow.trust.signing import sign_release
from kfm_mlflow.trust.statement import Binding

if TYPE_CHECKING:
    from collections.abc import Callable

    from kfm_mlflow.authoring.imported_spec import ImportedSpec
    from kfm_mlflow.authoring.spec import ReleaseSpec
    from kfm_mlflow.release.manifest import Manifest

ARTIFACT_PATH = "release"


@dataclass(frozen=True)
class LoggedRelease:
    """Where a release was logged.

    Attributes:
        release_id: ``sha256:<hex>`` of its manifest.
        run_id: The MLflow run.
        model_uri: What to give to ``mlflow.register_model``.
        evidence_uri: Where signature and attestations lie.
    """

    release_id: str
    run_id: str
    model_uri: str
    evidence_uri: str


def require_run(where: str) -> Any:
    """Return the active MLflow run, as the tracking server has it.

    Raises:
        InputError: There is none.
    """
    import mlflow

    active = mlflow.active_run()
    if active is None:
        raise InputError(
            "there is no active MLflow run",
            where=where,
            remedy="call it inside mlflow.start_run()",
        )
    return mlflow.tracking.MlflowClient().get_run(active.info.run_id)


def release_agents(responsible: str, signer: str) -> tuple[AgentFact, ...]:
    """Return who answers for a release: an organisation, and the software that signs for it.

    Args:
        responsible: The organisation.
        signer: Identifier of the key that signs.
    """
    return (
        AgentFact("organization", responsible, "organization"),
        AgentFact("trainer", signer, "software", on_behalf_of="organization", signs=True),
    )


def log_composed(
    spec: ReleaseSpec | ImportedSpec,
    compose: Callable[[Path], Manifest],
    *,
    run_id: str,
    signing_key: Path,
    item_path: str = ITEM_PATH,
) -> LoggedRelease:
    """Compose a release, sign it, attest it, and log it to an MLflow run.

    Args:
        spec: What the release is.
        compose: Writes it into a directory that does not exist yet.
        run_id: The active run.
        signing_key: Private key of who signs.
        item_path: Where the STAC item lies.
    """
    import mlflow

    provenance = provenance_of(spec)
    with tempfile.TemporaryDirectory(prefix="kfm-release-") as folder:
        bundle = bundle_at(Path(folder) / ARTIFACT_PATH)
        manifest = compose(bundle.release_dir)
        bundle.evidence_dir.mkdir()
        sign_release(
            bundle.release_dir, bundle.signature_path, signing_key, digests=manifest.digests
        )
        write_attestations(
            bundle,
            Binding(spec.name, spec.version, manifest.release_id),
            provenance,
            load_private_key(signing_key),
            datetime.now(UTC),
            item_path=item_path,
        )
        mlflow.log_artifacts(str(bundle.release_dir), ARTIFACT_PATH)
        mlflow.log_artifacts(str(bundle.evidence_dir), evidence_uri(ARTIFACT_PATH))
        mlflow.set_tags(
            {"kfm.release_id": manifest.release_id, "kfm.release_version": spec.version}
        )
    uri = f"runs:/{run_id}/{ARTIFACT_PATH}"
    return LoggedRelease(manifest.release_id, run_id, uri, evidence_uri(uri))
