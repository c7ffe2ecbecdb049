"""What the signer of a release says beside it: provenance, CARE screening, STAC item.

The last two lie in the release and are signed with it already; said once more in a statement of
their own, they can be handed on alone and still name the release that they are about.
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

from kfm_mlflow.canonical import digest_file, load_json, write_bytes
from kfm_mlflow.release.bundle import ENVELOPE_SUFFIX, ITEM_PATH
from kfm_mlflow.trust.slsa import Provenance, UsedData, build_predicate
from kfm_mlflow.trust.statement import build_slsa_statement, build_statement, sign_statement

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.authoring.imported_spec import ImportedSpec
    from kfm_mlflow.authoring.spec import ReleaseSpec
    from kfm_mlflow.release.bundle import Bundle
    from kfm_mlflow.trust.keys import Signer
    from kfm_mlflow.trust.statement import Binding

PROVENANCE_NAME = f"provenance{ENVELOPE_SUFFIX}"
_SOFTWARE = ("kfm-mlflow", "mlflow", "torch")


def provenance_of(spec: ReleaseSpec | ImportedSpec) -> Provenance:
    """Return the run of a release as SLSA provenance is made from.

    Raises:
        InputError: It cannot be written, for example because a commit is none.
    """
    run, source = spec.run, spec.source
    provenance = Provenance(
        entry_point=run.entry_point,
        parameters=dict(run.parameters),
        seed=run.seed,
        started_at=run.started_at,
        finished_at=run.ended_at,
        git_commit=run.git_commit,
        git_url=run.git_url,
        git_tree=source.tree if source else None,
        project=source.project if source else None,
        lock=source.lock if source else None,
        environment_lock=run.environment_lock_sha256,
        data=tuple(UsedData(d.name, d.sha256, d.uri, d.role) for d in spec.datasets),
        invocation_id=run.run_id,
        settings=dict(spec.hyperparameters),
        kind=run.kind,
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in _SOFTWARE},
        },
    )
    build_predicate(provenance)
    return provenance


def write_attestations(
    bundle: Bundle,
    binding: Binding,
    provenance: Provenance,
    signer: Signer,
    at: datetime,
    *,
    item_path: str = ITEM_PATH,
) -> None:
    """Sign and write the statements of the signer beside a release.

    Args:
        bundle: The release; its evidence folder exists.
        binding: Model name, release version and release id.
        provenance: From :func:`provenance_of`.
        signer: Who signed the release.
        at: When the statements are made (aware).
        item_path: Where the STAC item lies, relative to the release.
    """
    statements = {PROVENANCE_NAME: build_slsa_statement(binding, build_predicate(provenance))}
    for kind, path in (("care-screening", "care.json"), ("stac-item", item_path)):
        document = bundle.release_dir / path
        claims = {"path": path, "digest": digest_file(document), "document": load_json(document)}
        statements[f"{kind}{ENVELOPE_SUFFIX}"] = build_statement(kind, binding, claims, at)
    for name, statement in statements.items():
        write_bytes(bundle.evidence_dir / name, sign_statement(statement, signer))
