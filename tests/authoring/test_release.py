"""``log_release`` and ``log_validation`` against a real tracking store, all in this process."""

from datetime import UTC, datetime

import mlflow
import numpy as np
import pytest
import torch
from authoring import made_release as made
from authoring.made_project import make_project
from mlflow.tracking import MlflowClient

from kfm_mlflow import (
    CurrentInputs,
    Dataset,
    is_rebuild,
    log_release,
    log_validation,
    measure_energy,
)
from kfm_mlflow.authoring.replay import write_record
from kfm_mlflow.authoring.training_run import placeless, public_url
from kfm_mlflow.canonical import canonical_bytes, digest_file, load_json
from kfm_mlflow.errors import DataError, EvidenceError, InputError, StorageError
from kfm_mlflow.gates.engine import evaluate
from kfm_mlflow.gates.evidence import EvidenceReader
from kfm_mlflow.gates.findings import Move
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.release.bundle import bundle_at
from kfm_mlflow.release.compare import compare_releases
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.attestation import verify_envelope
from kfm_mlflow.trust.keys import TrustedKey, generate_key
from kfm_mlflow.trust.slsa import parse_predicate
from kfm_mlflow.trust.statement import Binding

BBOX = (-102.0, 37.0, -94.6, 40.0)


class Table(torch.nn.Module):
    """Rows [n, 5] to rows [n, 2]: no field, and answers of another shape."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.hidden = torch.nn.Linear(5, 8)
            self.last = torch.nn.Linear(8, 2)

    def forward(self, rows):
        """Answer."""
        return self.last(torch.tanh(self.hidden(rows)))


def table_rows(count=40):
    return np.random.default_rng(3).normal(0, 1, (count, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    for who in ("trainer", "validator"):
        generate_key(folder / who)
    return folder


@pytest.fixture(scope="module")
def energy():
    with measure_energy() as measured:
        torch.zeros(10).sum()
    return measured


def release_table(tracking, key, energy, **changes):
    """Log the release of a table model to the active run."""
    mlflow.log_params({"data": str(tracking / "fields.nc"), "family": "climate"})
    mlflow.set_tag("mlflow.source.git.repoURL", "https://somebody:secret@example.org/models.git")
    arguments = {
        "name": made.NAME,
        "version": "v2.0.0",
        "bbox": BBOX,
        "signing_key": key,
        "energy": energy,
        "datasets": datasets("ab" * 32),
        "cell_size_deg": 0.25,
        "source": tracking / "project",
        **changes,
    }
    return log_release(Table(), table_rows(), **arguments)


def datasets(digest):
    return [
        Dataset(role, "fields", "fields.nc", digest, license="MIT")
        for role in ("training", "validation")
    ]


@pytest.fixture(scope="module")
def story(tracking, keys, energy):
    """A table model, released and validated."""
    make_project(tracking / "project")
    with mlflow.start_run() as run:
        released = release_table(tracking, keys / "trainer", energy)
    validated = log_validation(
        run.info.run_id,
        evaluate=lambda predict: {
            "nrmse": float(np.abs(predict(table_rows(4))).min()) * 0,
            "nmae": 0.0,
            "nbias": 0.0,
            "correlation": 1.0,
            "pattern_correlation": 1.0,
            "ssim": 1.0,
            "nbias_p95": 0.0,
            "nrmse_p95": 0.0,
            "nbias_p99": 0.0,
            "nrmse_p99": 0.0,
            "amplification_p99": 1.0,
        },
        inputs=table_rows(8),
        data={"name": "fields", "digest": "sha256:" + "ab" * 32},
        validator_key=keys / "validator",
        current=CurrentInputs(table_rows(200), has_report=False),
    )
    root = tracking / "artifacts" / run.info.run_id / "artifacts" / "release"
    return released, validated, bundle_at(root)


def test_the_tag_the_manifest_and_the_validation_name_the_same_release(story):
    released, validated, bundle = story
    release_id = build_manifest(bundle.release_dir).release_id
    tags = MlflowClient().get_run(released.run_id).data.tags
    assert tags["kfm.release_id"] == release_id == released.release_id == validated.release_id
    assert tags["kfm.release_version"] == "v2.0.0"
    assert released.model_uri == f"runs:/{released.run_id}/release"
    assert released.evidence_uri == f"runs:/{released.run_id}/release.evidence"
    assert load_json(bundle.release_dir / "model_metadata.json")["run_id"] == released.run_id


def test_the_validation_says_what_a_drift_check_against_the_frozen_baseline_found(story):
    released, _, bundle = story
    document = load_json(bundle.evidence_dir / "deployment_validation.json")
    assert schema_problems("deployment_validation", document) == []
    found = document["drift"]
    baseline = bundle.release_dir / "drift" / "baseline.json"
    assert found["inputs"]["baseline_digest"] == digest_file(baseline)
    assert {check["check"] for check in found["inputs"]["checks"]} >= {"schema", "distribution"}
    logged = [f.path for f in MlflowClient().list_artifacts(released.run_id, "drift")]
    assert logged == ["drift/drift_summary.json"]


def test_what_was_logged_is_admitted_to_staging(story, keys):
    _, validated, bundle = story
    assert validated.is_deterministic
    policy = made.make_policy(keys)
    now = datetime.now(UTC)
    evidence = EvidenceReader().read(bundle, policy, now=now)
    move = Move(made.NAME, 1, Level.CANDIDATE, Level.STAGING, 0, None, now)
    report = evaluate(evidence, policy, move)
    assert report.verdict is Verdict.PASS, report.blocking


def test_provenance_of_the_run_lies_beside_and_repeats_no_secret_and_no_place(
    story, keys, tracking
):
    released, _, bundle = story
    envelope = (bundle.evidence_dir / "provenance.intoto.json").read_bytes()
    trusted = TrustedKey("trainer", (keys / "trainer.pub").read_text())
    report = verify_envelope(envelope, [trusted], datetime.now(UTC), kind="slsa-provenance")
    assert report.problems == ()
    assert report.binding == Binding(made.NAME, "v2.0.0", released.release_id)
    run = parse_predicate(report.claims)
    assert (run.invocation_id, run.seed) == (released.run_id, 42)
    assert run.parameters == {"data": "fields.nc", "family": "climate"}
    assert run.data_digests == {"sha256:" + "ab" * 32}
    assert run.environment_lock is not None
    assert (run.git_tree, run.project) == ("clean", ".")
    assert run.lock is not None
    assert (run.lock.path, run.lock.problem) == ("locked.txt", "")
    assert run.started_at < run.finished_at
    assert set(run.versions) == {"python", "kfm-mlflow", "mlflow", "torch"}
    said = canonical_bytes(report.claims)
    assert str(tracking).encode() not in said
    assert b"secret" not in said


@pytest.mark.parametrize(
    ("kind", "path"), [("care-screening", "care.json"), ("stac-item", "stac/model-item.json")]
)
def test_screening_and_item_are_attested_as_they_lie_in_the_release(story, keys, kind, path):
    released, _, bundle = story
    envelope = (bundle.evidence_dir / f"{kind}.intoto.json").read_bytes()
    trusted = TrustedKey("trainer", (keys / "trainer.pub").read_text())
    report = verify_envelope(envelope, [trusted], datetime.now(UTC), kind=kind)
    assert report.problems == ()
    assert report.binding == Binding(made.NAME, "v2.0.0", released.release_id)
    assert report.claims == {
        "path": path,
        "digest": build_manifest(bundle.release_dir).digests[path],
        "document": load_json(bundle.release_dir / path),
    }


def test_a_release_without_metrics_tells_how_far_onnx_is_from_torch(story):
    (told,) = load_json(story[2].release_dir / "model_summary.json")["metrics"].items()
    assert told[0] == "onnx_max_relative_difference"
    assert 0 <= told[1] <= 1e-5


def test_tables_are_described_by_their_own_dimensions(story):
    item = load_json(story[2].release_dir / "stac" / "model-item.json")["properties"]
    (given,), (answer,) = item["mlm:input"], item["mlm:output"]
    assert given["input"]["dim_order"] == ["batch", "feature"]
    assert given["input"]["shape"] == [-1, 5]
    assert answer["result"]["shape"] == [-1, 2]


def test_neither_paths_nor_credentials_of_the_run_are_published(story, tracking, keys):
    prov = (story[2].release_dir / "provenance" / "provenance.json").read_text()
    assert "fields.nc" in prov
    for path in story[2].release_dir.parent.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            for secret in (str(tracking), str(keys), "secret", "/tmp/"):
                assert secret.encode() not in data, f"{path.name} holds {secret}"


def test_the_registered_model_loads_with_plain_mlflow(story):
    model = mlflow.pyfunc.load_model(story[0].model_uri)
    rows = table_rows(3)
    with torch.no_grad():
        ours = Table()(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(model.predict({"input": rows})["output"], ours, rtol=1e-4, atol=1e-6)


@pytest.fixture
def told(story, tmp_path, monkeypatch):
    """A second process as ``kfm rebuild`` starts it: told what the record says."""
    bundle = story[2]
    envelope = (bundle.evidence_dir / "provenance.intoto.json").read_bytes()
    write_record(bundle, envelope, tmp_path)
    monkeypatch.setenv("KFM_REBUILD", str(tmp_path))
    return tmp_path


def test_a_second_run_gives_the_same_release_and_neither_signs_nor_logs(
    story, told, tracking, energy
):
    assert is_rebuild()
    with mlflow.start_run() as run, pytest.raises(SystemExit) as ended:
        release_table(tracking, "no/such/key", energy)
    assert ended.value.code == 0
    assert compare_releases(story[2].release_dir, told / "release") == ()
    assert build_manifest(told / "release").release_id == story[0].release_id
    assert sorted(path.name for path in told.iterdir()) == ["recorded", "release"]
    assert MlflowClient().list_artifacts(run.info.run_id) == []


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"version": "v2.0.1"}, (InputError, "the record is of climate-tiny v2.0.0")),
        ({"datasets": datasets("cd" * 32)}, (DataError, "fields-training: has digest sha256:cd")),
        ({"datasets": datasets("ab" * 32)[:1]}, (DataError, "fields-validation: has digest none")),
    ],
    ids=["version", "digest", "missing"],
)
def test_a_second_run_of_something_else_hands_over_nothing(
    told, tracking, energy, changes, refusal
):
    with mlflow.start_run(), pytest.raises(refusal[0], match=refusal[1]):
        release_table(tracking, "no/such/key", energy, **changes)
    assert [path.name for path in told.iterdir()] == ["recorded"]


def test_a_release_that_is_not_there_cannot_be_validated(tracking, keys):
    with mlflow.start_run() as run:
        pass
    with pytest.raises(StorageError, match="cannot be downloaded"):
        log_validation(
            run.info.run_id,
            evaluate=lambda _: {},
            inputs=table_rows(2),
            data={},
            validator_key=keys / "validator",
        )


class NotForOnnx(torch.nn.Module):
    """Answers otherwise while it is exported."""

    def forward(self, rows):
        """Answer."""
        return rows * 2 if torch.compiler.is_exporting() else rows * 2.001


NAN = table_rows()
NAN[3, 2] = np.nan
PATH = Dataset("training", "fields", "/data/fields.nc", "ab" * 32)

BAD = {
    "NaN": ({"inputs": NAN}, InputError, "finite"),
    "too large": ({"inputs": np.full((40, 5), 1e300)}, InputError, "finite"),
    "words": ({"inputs": [["a", "b"]] * 40}, InputError, "no numbers"),
    "one dimension": ({"inputs": np.zeros(40)}, InputError, "batch first"),
    "too few rows": ({"inputs": table_rows(29)}, InputError, "29 rows are too few"),
    "no rows": ({"inputs": table_rows(0)}, InputError, "0 rows are too few"),
    "version": ({"version": "1.0"}, InputError, r"'1\.0' is no version"),
    "predecessor": ({"predecessor": "old"}, InputError, "'old' is no version"),
    "bbox order": ({"bbox": (-94.0, 40.0, -102.0, 37.0)}, InputError, "bbox|south|north"),
    "bbox NaN": ({"bbox": (-102.0, 37.0, float("nan"), 40.0)}, InputError, "bbox|extent|degrees"),
    "key": ({"signing_key": "no/such/key"}, InputError, "no such key file"),
    "ONNX": ({"model": NotForOnnx()}, EvidenceError, "ONNX differs from torch"),
    "metrics": ({"metrics": {"rmse": float("nan")}}, InputError, "canonical JSON"),
    "path": ({"datasets": [PATH]}, InputError, "path of this machine"),
    "digest": ({"datasets": [Dataset("training", "a", "b", "c")]}, InputError, "digest"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error_and_nothing_is_logged(tracking, keys, energy, case):
    changes, error, message = BAD[case]
    arguments = {
        "model": Table(),
        "inputs": table_rows(),
        "name": made.NAME,
        "version": "v1.0.0",
        "bbox": BBOX,
        "signing_key": keys / "trainer",
        "energy": energy,
        "source": tracking,
        **changes,
    }
    model, inputs = arguments.pop("model"), arguments.pop("inputs")
    with mlflow.start_run() as run, pytest.raises(error, match=message) as caught:
        log_release(model, inputs, **arguments)
    assert "\n" not in str(caught.value)
    client = MlflowClient()
    assert client.list_artifacts(run.info.run_id) == []
    assert not any(tag.startswith("kfm.") for tag in client.get_run(run.info.run_id).data.tags)


def test_without_a_run_there_is_nowhere_to_log(tracking, keys, energy):
    before = len(mlflow.search_runs(output_format="list"))
    with pytest.raises(InputError, match="no active MLflow run"):
        log_release(
            Table(),
            table_rows(),
            name=made.NAME,
            version="v1.0.0",
            bbox=BBOX,
            signing_key=keys / "trainer",
            energy=energy,
        )
    assert mlflow.active_run() is None
    assert len(mlflow.search_runs(output_format="list")) == before


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/home/ada/data/era.nc", "era.nc"),
        ("/home/ada/", "ada"),
        ("file:///home/ada/era.nc", "era.nc"),
        ("C:\\Users\\ada\\era.nc", "era.nc"),
        ("/", "path"),
        ("../data/era.nc", "../data/era.nc"),
        ("generated:kansas?seed=42", "generated:kansas?seed=42"),
        ("https://example.org/era.nc", "https://example.org/era.nc"),
        ("s3://bucket/era.nc", "s3://bucket/era.nc"),
        ("42", "42"),
        ("", ""),
    ],
)
def test_of_a_path_only_the_last_part_is_told(text, kept):
    assert placeless(text) == kept


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://ada:token@example.org/m.git", "https://example.org/m.git"),
        ("https://token@example.org:8443/m.git?a=b", "https://example.org:8443/m.git?a=b"),
        ("https://example.org/m.git", "https://example.org/m.git"),
        ("git@example.org:ada/m.git", "git@example.org:ada/m.git"),
        ("/srv/git/m.git", None),
        ("file:///srv/git/m.git", None),
        ("", None),
        (None, None),
    ],
)
def test_a_repository_is_named_without_credentials_or_local_paths(url, told):
    assert public_url(url) == told
