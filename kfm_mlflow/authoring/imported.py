"""``log_imported``: from files that others made to a signed release in an MLflow run."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfm_mlflow.authoring.imported_compose import compose_imported
from kfm_mlflow.authoring.imported_spec import ImportedSpec, ImportedUnit, Parent, parent_facts
from kfm_mlflow.authoring.logged import LoggedRelease, log_composed, release_agents, require_run
from kfm_mlflow.authoring.release import run_source
from kfm_mlflow.authoring.replay import is_rebuild
from kfm_mlflow.authoring.spec import DEFAULT_LICENSE
from kfm_mlflow.authoring.training_run import run_fact
from kfm_mlflow.errors import InputError
from kfm_mlflow.metadata.extent import wgs84_bbox
from kfm_mlflow.metadata.facts import TensorFact
from kfm_mlflow.trust.keys import load_private_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kfm_mlflow.authoring.release import Dataset, Measurement

__all__ = ["ImportedUnit", "Parent", "TensorFact", "log_imported", "text_field"]


def text_field(name: str, *, optional: bool = False) -> TensorFact:
    """Return a column of text, one per request, for ``inputs`` and ``outputs``.

    Args:
        name: Of the column.
        optional: Whether a request may leave it out.
    """
    return TensorFact(name, "string", (-1,), ("batch",), optional)


def log_imported(
    units: Sequence[ImportedUnit],
    *,
    name: str,
    version: str,
    bbox: tuple[float, float, float, float],
    signing_key: str | Path,
    metrics: Mapping[str, float],
    task: str,
    loader_module: str,
    inputs: Sequence[TensorFact],
    outputs: Sequence[TensorFact],
    family: str = "fleet",
    documents: Mapping[str, Any] | None = None,
    datasets: Sequence[Dataset] = (),
    hyperparameters: Mapping[str, Any] | None = None,
    seed: int = 0,
    care: Mapping[str, Any] | None = None,
    regions: Path | None = None,
    energy: Measurement | None = None,
    architecture: str = "",
    description: str = "",
    license: str = DEFAULT_LICENSE,  # noqa: A002 - the field's own name
    predecessor: str | None = None,
    responsible: str = "release-team",
    source: Path | None = None,
) -> LoggedRelease:
    """Compose a release from files that others made, sign it, and log it to the active MLflow run.

    The lineage says that the run took every unit from its parents. Beside the release lie its
    signature and what the signer says of it, as with ``log_release``.

    Args:
        units: The model: files that are copied as they are to ``units/<role>/``, with parents.
        name: Registered model that it is meant for.
        version: Release version, ``v1.2.3``, unique per registered model for ever.
        bbox: West, south, east, north in degrees where the model is used.
        signing_key: Private key (``kfm keys new``) that a policy must trust.
        metrics: What the makers claim of it, at least one; no gate believes them.
        task: In MLM's vocabulary, for example ``generative``.
        loader_module: Installed module whose ``_load_pyfunc(release_dir)`` loads the release.
        inputs: What a request holds; :func:`text_field` for text. What a request may leave out is
            an optional column of MLflow's signature.
        outputs: What an answer holds.
        family: Policy family.
        documents: Path, ending in ``.json`` -> JSON value to write there.
        datasets: Training and validation data, where they are known.
        hyperparameters: Name -> JSON value.
        seed: The one seed from which all randomness followed; 0 when nothing was random.
        care: Parts of the CARE block that differ from
            :data:`~kfm_mlflow.authoring.imported_compose.DEFAULT_CARE`.
        regions: GeoJSON of sovereign regions for the screening.
        energy: From ``measure_energy`` around what made the units; None when nobody measured it.
        architecture: Name of the architecture; empty takes the formats of the units.
        description: One or two sentences.
        license: SPDX expression.
        predecessor: Release version that this one revises.
        responsible: Organisation on whose behalf the software acts.
        source: Folder of the code, whose commit is recorded; by default as ``log_release`` does.

    Returns:
        Where it was logged; ``mlflow.register_model(logged.model_uri, name)`` registers it.

    Raises:
        InputError: There is no active run, or an argument is wrong; nothing is logged.
    """
    run = require_run("log_imported")
    if is_rebuild():
        raise InputError(
            "is not computed again, it is taken as others made it",
            where="log_imported",
            remedy="verify the release instead: kfm verify",
        )
    key_path = Path(signing_key)
    report = energy.finish() if energy else None
    state = run_source(run, source)
    began = energy.started_at if energy else datetime.fromtimestamp(run.info.start_time / 1e3, UTC)
    ended = energy.ended_at if energy else None
    spec = ImportedSpec(
        units=tuple(units),
        name=name,
        version=version,
        family=family,
        task=task,
        loader_module=loader_module,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        bbox=wgs84_bbox(*bbox),
        datasets=(*parent_facts(units), *(dataset.fact() for dataset in datasets)),
        run=replace(run_fact(run, state, (began, ended), seed, None), kind="importing"),
        agents=release_agents(responsible, load_private_key(key_path).public_key.key_id),
        released_at=datetime.now(UTC),
        metrics=metrics,
        hyperparameters={"seed": seed, **(hyperparameters or {})},
        documents=documents or {},
        care=care or {},
        energy=report,
        architecture=architecture,
        description=description,
        license=license,
        predecessor=predecessor,
        source=state,
    )
    return log_composed(
        spec,
        partial(compose_imported, spec, regions=regions),
        run_id=run.info.run_id,
        signing_key=key_path,
    )
