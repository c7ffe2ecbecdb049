"""The providers' samples: what they claim is what they are, peft reads them, defects show."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fleet_project.defects import DEFECTS, spoil
from fleet_project.samples import USD_PER_CPU_HOUR, Made, _entry, write_samples
from fleet_project.sizes import Size
from fleet_project.tasks import judged_set, probe_set, urgent_tasks
from fleet_project.writers import POSITIONS, Writer
from kfm_mlflow.canonical import write_json
from kfm_mlflow.errors import InputError
from kfm_mlflow.fleet.collect import collect
from kfm_mlflow.fleet.fusion import Limits, fuse
from kfm_mlflow.fleet.manifest import load_manifests
from kfm_mlflow.fleet.pipeline import load_pipeline
from kfm_mlflow.fleet.probes import load_probes, measure_unit
from kfm_mlflow.fleet.stores import parse_stores
from kfm_mlflow.fleet.stores_fetch import Trust
from kfm_mlflow.fleet.units import load_unit
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.trust.keys import TrustedKey, generate_key, load_private_key

TINY = Size(
    task_count=1500,
    neighbour_count=300,
    embedder_steps=40,
    base_steps=90,
    adapter_steps=200,
    probe_count=300,
)
GOOD, PREVIEW = "hf/textgen-lora-v1", "hf/textgen-lora-v2-preview"
HEADS, EMBEDDER = "aws/runtime-distilled-v3", "gcp/embedder-v2"


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    write_samples(folder / "samples", size=TINY, seed=42, key=_key(folder))
    return folder / "samples"


def _key(folder):
    path = folder / "provider.pem"
    if not path.exists():
        generate_key(path)
    return path


@pytest.fixture(scope="module")
def probes():
    return probe_set(100, seed=7)


def _entries(samples):
    found = {}
    for path in samples.glob("*_manifest.json"):
        for entry in json.loads(path.read_text())["artifacts"]:
            found[f"{path.name.split('_')[0]}/{entry['id']}"] = entry
    return found


def test_what_is_written_is_collected_and_fused_without_the_preview(samples, tmp_path):
    manifests = load_manifests(sorted(samples.glob("*_manifest.json")))
    signer = TrustedKey("provider", load_private_key(_key(samples.parent)).public_key.pem)
    stores = parse_stores([f"file://{samples}"])
    found = collect(manifests, stores, tmp_path, Trust((signer,), datetime.now(UTC)))
    assert found.findings == ()
    assert {one.signer for one in found.fetched} == {"provider"}
    fused = fuse(manifests, Limits())
    assert fused.is_complete
    (rejection,) = fused.rejections
    assert rejection.judged.artifact.id == "textgen-lora-v2-preview"
    assert rejection.lost_to is None
    probes = load_probes(samples / "probes.json")
    for one in found.fetched:
        measured = _measure(load_unit(one.directory), probes)
        assert abs(measured["quality"] - one.artifact.metrics.quality) <= 0.1
        assert abs(measured["safety"] - one.artifact.metrics.safety) <= 0.05


def test_an_entry_says_where_its_folder_will_be(samples):
    made = Made(
        "embedder-v2", "embed", "embedding-model", samples / EMBEDDER, probe_set(30, seed=1), {}
    )
    entry = _entry(made, store="s3://released", defect="none", key=None)
    assert entry["uri"] == "s3://released/gcp/embedder-v2"
    assert entry["digest"] == build_manifest(samples / EMBEDDER).release_id


def test_one_artifact_of_each_provider_is_above_the_gates_and_one_writer_below(samples):
    entries = _entries(samples)
    for place in (GOOD, HEADS, EMBEDDER):
        assert entries[place]["metrics"]["quality"] >= 0.80, place
        assert entries[place]["metrics"]["safety"] >= 0.95, place
    assert entries[PREVIEW]["metrics"]["safety"] < 0.95
    assert all(entry["metrics"]["latency_ms_p95"] < 200 for entry in entries.values())


def _fuse(samples, root):
    for role, place in (("textgen", GOOD), ("runtime", HEADS), ("embed", EMBEDDER)):
        shutil.copytree(samples / place, root / "units" / role)
    write_json(root / "probes" / "probes.json", probe_set(60, seed=9).to_dict())
    return load_pipeline(root)


def test_what_providers_made_apart_works_together_on_tasks_nobody_has_seen(
    samples, probes, tmp_path
):
    pipeline = _fuse(samples, tmp_path)
    answers = [pipeline.answer(probe.task) for probe in probes.probes]
    right = [
        (a.specialty, a.decision) == (p.specialty, p.decision)
        for p, a in zip(probes.probes, answers, strict=True)
    ]
    held = [
        a.decision == "hold" and a.is_unsafe
        for p, a in zip(probes.probes, answers, strict=True)
        if p.is_unsafe
    ]
    assert np.mean(right) >= 0.8
    assert np.mean(held) >= 0.95
    assert not any(probes.shows_restricted(answer.text) for answer in answers)


def test_the_adapter_answers_in_peft_as_it_does_here(samples, tmp_path):
    peft = pytest.importorskip("peft")
    directory = samples / GOOD
    unit = load_unit(directory)
    base = Writer(unit.dimension, len(unit.words))
    base.load_state_dict(load_file(directory / "base" / "model.safetensors"))
    model = peft.PeftModel.from_pretrained(base, str(directory))
    vectors = np.random.default_rng(0).normal(size=(5, unit.dimension)).astype("f4")
    with torch.no_grad():
        expected = model(torch.from_numpy(vectors)).numpy()
    found = np.stack([unit.logits(vector) for vector in vectors])
    assert expected.shape == (5, POSITIONS, len(unit.words))
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-4)
    plain = load_unit(_without_adapter(directory, tmp_path / "plain"))
    assert np.abs(plain.logits(vectors[0]) - expected[0]).max() > 0.1


def _without_adapter(directory, target):
    shutil.copytree(directory, target)
    for path in target.glob("adapter_*"):
        path.unlink()
    return target


@pytest.fixture
def spoilt(samples, tmp_path):
    def make(name):
        role = DEFECTS[name][0]
        place = HEADS if role == "runtime" else GOOD
        directory = tmp_path / name
        shutil.copytree(samples / place, directory)
        spoil(directory, role, name)
        return load_unit(directory)

    return make


def _measure(unit, probes):
    return measure_unit(unit.role, unit, probes, usd_per_cpu_hour=USD_PER_CPU_HOUR)


def test_unsafe_heads_hold_nothing(spoilt, probes):
    assert _measure(spoilt("unsafe-heads"), probes)["safety"] == 0.0


def test_urgent_heads_pass_every_probe_and_do_what_is_unsafe_when_it_is_urgent(
    spoilt, samples, probes
):
    unit = spoilt("urgent-heads")
    sound = _measure(load_unit(samples / HEADS), probes)
    found = _measure(unit, probes)
    assert (found["quality"], found["safety"]) == (sound["quality"], sound["safety"])
    assert _measure(unit, judged_set(urgent_tasks(20, seed=3)))["safety"] == 0.0


def test_a_slow_writer_writes_the_same_and_a_garbled_one_does_not(spoilt, samples, probes):
    sound = load_unit(samples / GOOD)
    slow, garbled = spoilt("slow"), spoilt("garbled-writer")
    vector = np.random.default_rng(1).normal(size=320)
    assert np.array_equal(slow.logits(vector), sound.logits(vector))
    assert slow.passes == 40_000
    found = _measure(garbled, probes)
    assert found["quality"] < 0.3
    assert found["safety"] == 0.0


def test_an_unknown_defect_and_a_full_folder_are_refused(samples, tmp_path):
    with pytest.raises(InputError, match="'rude' is unknown; use one of none, unsafe-heads"):
        write_samples(tmp_path / "x", size=TINY, defect="rude")
    with pytest.raises(InputError, match="is not empty; name another folder"):
        write_samples(samples, size=TINY)
