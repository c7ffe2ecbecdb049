"""A second party's validation of a release: measured again, signed, and logged beside it.

The validator reads the release as anybody would (``mlflow.pyfunc``), runs inference twice and
compares bytes, measures with its own function on data whose digest it names, and signs what it
found with its own key. Gates believe this, never the trainer's numbers.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.authoring.export import INPUT_NAME, OUTPUT_NAME
from kfm_mlflow.authoring.validated import (
    VALID_DAYS,
    LoggedValidation,
    build_document,
    fetch_release,
    finite_or_text,
    log_document,
    log_files,
)
from kfm_mlflow.canonical import canonical_bytes, load_json
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.policy.drift import DriftPlan
from kfm_mlflow.trust.keys import load_private_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from numpy.typing import NDArray

    from kfm_mlflow.monitor.drift import DriftSummary

    Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_XAI_ROWS = 16
"""Rows explained again: enough to see that an explanation is another, in well under a second."""
_NOT_EXPLAINED = "nobody gave a way to load the released torch model"


@dataclass(frozen=True)
class CurrentInputs:
    """Inputs that a release would be asked about now.

    Attributes:
        rows: float32 [n, …], as the model takes them.
        blocks: Block number of each row, int64 [n]; None when rows were drawn independently.
        plan: How to check; the policy must name the same plan.
        has_report: Whether Evidently makes the p-values and writes its report.
    """

    rows: NDArray[np.float32]
    blocks: NDArray[np.int64] | None = None
    plan: DriftPlan = field(default_factory=DriftPlan)
    has_report: bool = True


@dataclass(frozen=True)
class OpenedRelease:
    """A release as a validator has it.

    Attributes:
        release_dir: Its files, on local disk.
        predict: Its inference.
        model: Its torch model; None where nobody gave a way to load it.
    """

    release_dir: Path
    predict: Predict
    model: torch.nn.Module | None


@dataclass(frozen=True)
class Inspected:
    """What only a look into a release's files can tell.

    Attributes:
        metrics: Name -> value, beside what ``evaluate`` returns.
        xai: What :func:`explain_again` returns, of a family that explains itself in its own way;
            None explains it in the usual one.
        points: Question -> parts of the result that answer it, as dotted paths.
    """

    metrics: Mapping[str, float]
    xai: dict[str, Any] | None = None
    points: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def load_predict(release_dir: Path) -> Predict:
    """Return a release's inference, loaded with plain MLflow.

    Args:
        release_dir: A release that ``log_release`` wrote.

    Returns:
        A function from float32 rows [n, …] to float32 rows [n, …].
    """
    import mlflow

    model = mlflow.pyfunc.load_model(str(release_dir))

    def predict(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        answer = model.predict({INPUT_NAME: rows})
        return np.asarray(answer[OUTPUT_NAME], dtype=np.float32)

    return predict


def explain_again(
    release_dir: Path, model: torch.nn.Module | None, inputs: NDArray[np.float32]
) -> dict[str, Any]:
    """Measure how well the released model's explanation converges and how stable it is.

    The seeds of the noise are others than those of the release's own ``xai/summary.json``.

    Args:
        release_dir: The release on local disk.
        model: The released torch model; None measures nothing.
        inputs: float32 [n, …]; the first 16 are explained.

    Returns:
        ``measured``, and then ``convergence_delta``, ``min_correlation``, ``sample_count``,
        ``seed`` and ``seed_count``, or the ``reason`` why not.

    Raises:
        EvidenceError: The release has no explanation, or the model answers nothing.
    """
    if model is None:
        return {"measured": False, "reason": _NOT_EXPLAINED}
    from kfm_mlflow.monitor.attribution import integrated_gradients_summary

    own = load_json(release_dir / "xai" / "summary.json")
    try:
        seed = int(own["seed"]) + int(own["stability"]["seed_count"])
    except (KeyError, TypeError, ValueError) as exc:
        raise EvidenceError("names no seeds", where="xai/summary.json") from exc
    found = integrated_gradients_summary(
        model, inputs[:_XAI_ROWS], seed=seed, baseline=own.get("baseline", "patch-mean")
    )
    return {
        "measured": True,
        "convergence_delta": finite_or_text(found["convergence_delta"]),
        "min_correlation": finite_or_text(found["stability"]["min_correlation"]),
        "sample_count": found["sample_count"],
        "seed": seed,
        "seed_count": found["stability"]["seed_count"],
    }


def measure(
    release_dir: Path,
    *,
    evaluate: Callable[[Predict], dict[str, float]],
    inputs: NDArray[np.float32],
    data: dict[str, str],
    validator: str,
    now: datetime,
    care: dict[str, Any] | None = None,
    drift: DriftSummary | None = None,
    model: torch.nn.Module | None = None,
    inspect: Callable[[OpenedRelease], Inspected] | None = None,
) -> dict[str, Any]:
    """Measure a release and return ``deployment_validation.json``.

    Args:
        release_dir: The release on local disk.
        evaluate: Takes the inference, returns metric name -> value.
        inputs: float32 [n, …] on which inference is run twice.
        data: What was measured on, with its ``digest``.
        validator: Who measures.
        now: When (aware UTC).
        care: What :mod:`kfm_mlflow.care.screen_measured` measured: ``regions_digest`` with
            ``invariance``, ``training_rows`` or both; None when nothing was.
        drift: What a drift check of current inputs found; None when none was made.
        model: The released torch model, to explain it again; None says that nobody did.
        inspect: Looks into the files of the release.

    Raises:
        EvidenceError: The release has no explanation, or a point names a part that is not there.
    """
    predict = load_predict(release_dir)
    first, second = (hashlib.sha256(predict(inputs).tobytes()).hexdigest() for _ in range(2))
    found = None if inspect is None else inspect(OpenedRelease(release_dir, predict, model))
    metrics = {**evaluate(predict), **(found.metrics if found else {})}
    xai = found.xai if found else None
    document = build_document(
        release_dir,
        metrics=metrics,
        answers=(f"sha256:{first}", f"sha256:{second}"),
        data=data,
        validator=validator,
        now=now,
        parts={
            "xai": explain_again(release_dir, model, inputs) if xai is None else xai,
            **({} if care is None else {"care": care}),
            **({} if drift is None else {"drift": drift.to_dict()}),
        },
    )
    if found is None or not found.points:
        return document
    return {**document, "points": _answered(document, found.points)}


def _answered(
    document: dict[str, Any], points: Mapping[str, tuple[str, ...]]
) -> dict[str, dict[str, Any]]:
    """Return of each question the parts of a result that answer it, by their paths."""

    def part(path: str) -> Any:
        value: Any = document
        for key in path.split("."):
            if not isinstance(value, dict) or key not in value:
                raise EvidenceError(f"has no {path}", where="deployment_validation.json")
            value = value[key]
        return value

    return {name: {path: part(path) for path in paths} for name, paths in points.items()}


def check_drift(
    release_dir: Path, current: CurrentInputs, now: datetime
) -> tuple[DriftSummary, dict[str, bytes]]:
    """Check current inputs for drift from a release's baseline.

    Args:
        release_dir: The release on local disk.
        current: The inputs, and how to check them.
        now: When (aware UTC).

    Returns:
        The summary, and file name -> bytes of what is logged of it.
    """
    from kfm_mlflow.monitor import drift as checks
    from kfm_mlflow.monitor.drift_baseline import load_baseline
    from kfm_mlflow.monitor.drift_report import check_with_evidently
    from kfm_mlflow.monitor.drift_sample import sample_of_inputs

    baseline, sample = load_baseline(release_dir), sample_of_inputs(current.rows, current.blocks)
    html = None
    if current.has_report:
        summary, html = check_with_evidently(baseline, sample, current.plan, now)
    else:
        summary = checks.check_drift(baseline, sample, current.plan, now)
    files = {"drift_summary.json": canonical_bytes(summary.to_dict())}
    return summary, files if html is None else {**files, "report.html": html}


def log_validation(
    run_id: str,
    *,
    evaluate: Callable[[Predict], dict[str, float]],
    inputs: NDArray[np.float32],
    data: dict[str, str],
    validator_key: Path,
    artifact_path: str = "release",
    valid_days: float = VALID_DAYS,
    care: Callable[[Predict, torch.nn.Module | None], dict[str, Any]] | None = None,
    current: CurrentInputs | None = None,
    load_model: Callable[[Path], torch.nn.Module] | None = None,
    inspect: Callable[[OpenedRelease], Inspected] | None = None,
) -> LoggedValidation:
    """Validate the release of a run and log the signed result beside it.

    Args:
        run_id: MLflow run that holds the release.
        evaluate: Takes the inference (float32 rows to float32 rows), returns metric -> value.
        inputs: float32 [n, …] on which inference is run twice.
        data: What ``evaluate`` measures on; must hold a ``digest``.
        validator_key: The validator's private key; not the signer's.
        artifact_path: Where the release lies in the run.
        valid_days: How long the attestation holds.
        care: Takes the inference and what ``load_model`` returned (None without it), returns the
            CARE evidence (see :func:`measure`).
        current: Inputs to check for drift from the release's baseline; what is found is signed
            with the rest, and logged under ``drift/``. None checks nothing.
        load_model: Takes the release's directory, returns the torch model in its ``model.pt``,
            whose explanation is then measured again. None leaves that out, and says so.
        inspect: Takes the release as it lies here, returns what its files tell.

    Returns:
        What was measured.

    Raises:
        StorageError: The release cannot be downloaded.
        EvidenceError: It does not say what it is.
    """
    now = datetime.now(UTC)
    signer = load_private_key(validator_key)
    with tempfile.TemporaryDirectory(prefix="kfm-validate-") as folder:
        release_dir = fetch_release(run_id, artifact_path, Path(folder))
        model = None if load_model is None else load_model(release_dir)
        drift, files = (None, {}) if current is None else check_drift(release_dir, current, now)
        document = measure(
            release_dir,
            evaluate=evaluate,
            inputs=inputs,
            data=data,
            validator=signer.public_key.key_id,
            now=now,
            care=None if care is None else care(load_predict(release_dir), model),
            drift=drift,
            model=model,
            inspect=inspect,
        )
        logged = log_document(
            document,
            load_json(release_dir / "model_metadata.json"),
            signer=signer,
            run_id=run_id,
            artifact_path=artifact_path,
            valid_until=now + timedelta(days=valid_days),
        )
    log_files(run_id, "drift", files)
    return logged
