"""``kfm drift``: a verdict, an exit code, and files."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from kfm_mlflow.canonical import digest_file, write_json
from kfm_mlflow.cli.drift import drift
from kfm_mlflow.errors import DataError, EvidenceError, InputError
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.monitor.drift_baseline import build_baseline
from kfm_mlflow.monitor.drift_sample import DriftSample, FieldRows

RNG = np.random.Generator(np.random.PCG64(4))


def rows(count=150, shift=0.0):
    return {name: RNG.normal(size=count) + shift for name in ("rain", "wind")}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    root = tmp_path_factory.mktemp("release")
    baseline = build_baseline(DriftSample({n: FieldRows(v) for n, v in rows().items()}))
    write_json(root / "drift" / "baseline.json", {"inputs": baseline.to_dict()})
    write_json(root / "model_metadata.json", {"family": "climate"})
    return root


@pytest.fixture
def run(release, tmp_path):
    def call(columns, *options):
        path = tmp_path / "now.csv"
        pd.DataFrame(columns).to_csv(path, index=False)
        arguments = [str(release), "--current", str(path), *map(str, options)]
        return CliRunner().invoke(drift, arguments, standalone_mode=False)

    return call


def test_inputs_of_the_same_kind_exit_with_0_and_name_the_baseline(run, release):
    done = run(rows())
    assert done.return_value == 0
    digest = digest_file(release / "drift" / "baseline.json")
    assert done.output.splitlines()[-1] == f"PASS  {digest}"


@pytest.mark.parametrize(
    ("columns", "verdict", "said"),
    [
        (rows(shift=1.5), "FAIL", "find out what changed"),
        (rows(10), "INCONCLUSIVE", "collect"),
        ({"rain": rows()["rain"]}, "FAIL", "wind is not there"),
    ],
)
def test_anything_else_exits_with_1_and_says_what_to_do(run, tmp_path, columns, verdict, said):
    written = tmp_path / "drift_summary.json"
    done = run(columns, "-o", written)
    assert done.return_value == 1
    assert said in done.output
    document = json.loads(written.read_text())
    assert document["verdict"] == verdict
    assert schema_problems("drift_summary", document) == []


def test_columns_may_have_other_names(run):
    columns = {f"{name}_mm": values for name, values in rows().items()}
    named = [f"--field={name}={name}_mm" for name in ("rain", "wind")]
    assert run(columns, *named).return_value == 0
    assert isinstance(run(columns).exception, DataError)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:(evidently|numpy|litestar).*")
# A store of files is there at once; a database takes seconds to migrate.
@pytest.mark.filterwarnings("ignore:.*(file ?store|filesystem|FileStore).*:FutureWarning")
def test_summary_and_report_are_written_and_logged_to_a_run(run, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = (tmp_path / "runs").as_uri()
    client = MlflowClient(tracking_uri=store)
    experiment = client.create_experiment("drift", artifact_location=str(tmp_path / "artifacts"))
    run_id = client.create_run(experiment).info.run_id
    page = tmp_path / "report.html"
    done = run(rows(), "--html", page, "--log-to", run_id, "--server", store)
    assert done.return_value == 0
    logged = sorted(f.path for f in client.list_artifacts(run_id, "drift"))
    assert logged == ["drift/drift_summary.json", "drift/report.html"]
    assert page.read_bytes().lstrip().startswith(b"<!DOCTYPE html>")


def test_what_is_no_release_is_refused(tmp_path):
    now = str(tmp_path / "now.csv")
    for target, error in ((tmp_path / "gone", InputError), (tmp_path, EvidenceError)):
        done = CliRunner().invoke(drift, [str(target), "--current", now])
        assert isinstance(done.exception, error)
