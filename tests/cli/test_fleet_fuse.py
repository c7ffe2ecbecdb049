"""``kfm fleet fuse``: the source document's command line, its outputs and exit codes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from fleet.made_manifests import SAMPLES, entry, manifest

from kfm_mlflow.canonical import canonical_bytes, load_json
from kfm_mlflow.cli.main import cli
from kfm_mlflow.errors import InputError
from kfm_mlflow.metadata.schemas import schema_problems

GATES = ["--min-quality", "0.80", "--min-safety", "0.95"]
GATES += ["--max-latency-ms-p95", "200", "--max-cost-per-1k-tokens", "1.00"]


@pytest.fixture
def manifests(tmp_path):
    folder = tmp_path / "manifests"
    folder.mkdir()
    for provider in SAMPLES:
        (folder / f"{provider}_manifest.json").write_text(json.dumps(manifest(provider)))
    return folder


def fuse(*arguments):
    result = CliRunner().invoke(cli, ["fleet", "fuse", *map(str, arguments)], standalone_mode=False)
    if result.exception:
        raise result.exception
    return result


def test_command_of_the_specification_writes_release_and_rejections(manifests, tmp_path):
    output = tmp_path / "fused_release.json"
    result = fuse("--manifests", manifests / "*.json", "--output", output, *GATES)
    assert result.return_value == 0
    release = load_json(output)
    assert schema_problems("fused_release", release) == []
    assert output.read_bytes() == canonical_bytes(release)
    assert schema_problems("fused_rejections", load_json(tmp_path / "rejections.json")) == []
    assert release["fused_model_id"] in result.stdout


def test_names_of_a_shell_and_a_pattern_give_the_same_bytes(manifests, tmp_path):
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    fuse("--manifests", manifests / "*.json", "--output", one)
    names = sorted(manifests.iterdir(), reverse=True)
    fuse("--manifests", *names, "--output", two, *GATES)
    assert one.read_bytes() == two.read_bytes()


def test_failure_leaves_no_release_and_says_what_was_asked(manifests, tmp_path):
    output = tmp_path / "fused_release.json"
    fuse("--manifests", manifests / "*.json", "--output", output)
    low = entry("hf", metrics={**entry("hf")["metrics"], "quality": 0.4})
    (manifests / "hf_manifest.json").write_text(json.dumps(manifest("hf", low)))
    result = fuse("--manifests", manifests / "*.json", "--output", output, *GATES)
    assert result.return_value == 1
    assert not output.exists()
    assert "no artifacts passing promotion gates" in result.stderr
    assert "min_quality: 0.4, limit 0.8" in result.stderr
    assert load_json(tmp_path / "rejections.json")["fused_model_id"] is None


def test_missing_provider_and_doubled_provider_fail(manifests, tmp_path):
    output = tmp_path / "fused_release.json"
    (manifests / "copy.json").write_text(json.dumps(manifest("aws")))
    result = fuse("--manifests", manifests / "*.json", "--output", output)
    assert (result.return_value, output.exists()) == (1, False)
    assert "2 manifests are of provider aws" in result.stderr
    for name in ("copy.json", "aws_manifest.json"):
        (manifests / name).unlink()
    result = fuse("--manifests", manifests / "*.json", "--output", output)
    assert (result.return_value, output.exists()) == (1, False)
    assert "no manifest is of provider aws" in result.stderr


def test_measured_values_decide_from_a_file(manifests, tmp_path):
    metrics = {**entry("gcp")["metrics"], "safety": 0.5}
    measured = tmp_path / "measured.json"
    entries = [{"digest": entry("gcp")["digest"], "metrics": metrics}]
    measured.write_text(json.dumps({"schema_version": "1", "measured": entries}))
    output = tmp_path / "fused_release.json"
    result = fuse("--manifests", manifests / "*.json", "--output", output, "--measured", measured)
    assert result.return_value == 1
    gaps = {g["metric"]: g["gap"] for g in load_json(tmp_path / "rejections.json")["gaps"]}
    assert gaps["safety"] == pytest.approx(0.49)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--min-quality", "nan"], "min_quality"),
        (["--register"], "--artifacts"),
        (["--measure"], "--artifacts"),
    ],
)
def test_usage_that_makes_no_sense_is_refused(manifests, tmp_path, arguments, words):
    with pytest.raises(InputError, match=words):
        fuse("--manifests", manifests / "*.json", "--output", tmp_path / "o.json", *arguments)


def test_pattern_that_names_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="names no file"):
        fuse("--manifests", tmp_path / "*.json", "--output", tmp_path / "o.json")
