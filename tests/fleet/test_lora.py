"""Merging LoRA adapters: exact where it is done, refused where peft would be wrong."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from fleet.made_manifests import entry, manifest
from safetensors.numpy import load_file, save_file

from kfm_mlflow.canonical import digest_file, write_json
from kfm_mlflow.errors import DataError, InputError, IntegrityError
from kfm_mlflow.fleet import lora
from kfm_mlflow.fleet.lora import merge_adapters
from kfm_mlflow.fleet.lora_kinds import parse_plain_lora
from kfm_mlflow.fleet.manifest import Manifests, combine_manifests, parse_manifest
from kfm_mlflow.fleet.writer import load_writer
from kfm_mlflow.metadata.prov import prov_views
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.release.manifest import build_manifest

# As peft 0.21.2 writes it for LoraConfig(r=2, lora_alpha=4, target_modules=["hidden", "words"]).
SETTINGS = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None,
    "auto_mapping": {"base_model_class": "B", "parent_library": "__main__"},
    "base_model_name_or_path": "owner/base", "bias": "none", "corda_config": None,
    "ensure_weight_tying": False, "eva_config": None, "exclude_modules": None,
    "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
    "kasa_config": None, "layer_replication": None, "layers_pattern": None,
    "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 4, "lora_bias": False,
    "lora_dropout": 0.0, "lora_ga_config": None, "megatron_config": None,
    "megatron_core": "megatron.core", "modules_to_save": None, "monteclora_config": None,
    "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": 2,
    "rank_pattern": {}, "revision": None, "target_modules": ["words", "hidden"],
    "target_parameters": None, "task_type": None, "trainable_token_indices": None,
    "use_bdlora": None, "use_dora": False, "use_qalora": False, "use_rslora": False,
    "velora_config": None,
}  # fmt: skip
SIZES = {"hidden": (6, 8), "words": (12, 6)}


def make_base(folder, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, (rows, columns) in SIZES.items():
        arrays[f"{name}.weight"] = rng.normal(size=(rows, columns)).astype("float32")
        arrays[f"{name}.bias"] = rng.normal(size=rows).astype("float32")
    folder.mkdir(parents=True)
    save_file(arrays, folder / "model.safetensors")
    config = {"dimension": 8, "hidden": 6, "positions": 3, "words": ["", "a", "b", "c"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def make_adapter(folder, base, seed, rank=2, modules=("hidden", "words"), **changed):
    rng = np.random.default_rng(seed)
    arrays = {}
    for name in modules:
        rows, columns = SIZES[name]
        key = f"base_model.model.{name}.lora"
        arrays[f"{key}_A.weight"] = rng.normal(size=(rank, columns)).astype("float32")
        arrays[f"{key}_B.weight"] = rng.normal(size=(rows, rank)).astype("float32")
    folder.mkdir()
    save_file(arrays, folder / "adapter_model.safetensors")
    settings = {**SETTINGS, "r": rank, "target_modules": list(modules), **changed}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    unit = {
        "schema_version": "1",
        "format": "text-writer",
        "base_digest": build_manifest(base).release_id,
    }
    (folder / "unit.json").write_text(json.dumps(unit))
    shutil.copytree(base, folder / "base")
    return folder


def provided(*folders, licences=("MIT", "Apache-2.0")):
    """Return a provider's manifest of adapters, with the licence of each; None leaves it out."""
    entries = []
    for folder, licence in zip(folders, licences, strict=False):
        stated = {} if licence is None else {"license": licence}
        digest = build_manifest(folder).release_id
        entries.append(entry("hf", id=folder.name, digest=digest, **stated))
    return manifest("hf", *entries)


def known(*folders, **changed):
    return combine_manifests([parse_manifest(provided(*folders, **changed), where="hf.json")])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("lora") / "base")


@pytest.fixture(scope="module")
def merged(base):
    """Two adapters of other ranks and modules, merged at (0.7, -0.4)."""
    folder = base.parent
    adapters = [
        make_adapter(folder / "polite", base, 1),
        make_adapter(folder / "brief", base, 2, rank=3, modules=("words",)),
    ]
    write_json(folder / "hf_manifest.json", provided(*adapters))
    arguments = [*map(str, adapters), "--base", str(base), "--weights", "0.7,-0.4"]
    arguments += ["--manifests", str(folder / "*_manifest.json")]
    from kfm_mlflow.cli.fleet_merge import merge

    result = CliRunner().invoke(merge, [*arguments, "--output", str(folder / "merged")])
    assert result.exit_code == 0, result.output
    assert "license: Apache-2.0 AND MIT" in result.output
    assert "refused" not in result.output
    return folder / "merged"


def deltas(folder):
    """Return module -> B A x lora_alpha / r of an adapter, read here and in float64."""
    settings = json.loads((folder / "adapter_config.json").read_text())
    arrays = {
        n: a.astype("float64") for n, a in load_file(folder / "adapter_model.safetensors").items()
    }
    scaling = settings["lora_alpha"] / settings["r"]
    names = {name.split(".")[2] for name in arrays}
    key = "base_model.model.{}.lora_{}.weight"
    return {
        n: scaling * arrays[key.format(n, "B")] @ arrays[key.format(n, "A")] for n in sorted(names)
    }


def test_merge_is_the_weighted_sum_of_the_adapters(merged):
    one, two = deltas(merged.parent / "polite"), deltas(merged.parent / "brief")
    found = deltas(merged)
    np.testing.assert_allclose(found["hidden"], 0.7 * one["hidden"], atol=1e-5)
    np.testing.assert_allclose(found["words"], 0.7 * one["words"] - 0.4 * two["words"], atol=1e-5)


def test_merge_is_a_unit_that_answers_as_base_plus_weighted_sum(merged, base):
    one, two = deltas(merged.parent / "polite"), deltas(merged.parent / "brief")
    weights = load_file(base / "model.safetensors")
    vector = np.linspace(-1, 1, 8)
    hidden = np.tanh(
        (weights["hidden.weight"] + 0.7 * one["hidden"]) @ vector + weights["hidden.bias"]
    )
    words = weights["words.weight"] + 0.7 * one["words"] - 0.4 * two["words"]
    wanted = (words @ hidden + weights["words.bias"]).reshape(3, 4)
    np.testing.assert_allclose(load_writer(merged).logits(vector), wanted, atol=1e-4)


def test_merge_keeps_the_name_of_the_base_and_asks_no_hub_about_it(merged):
    # The tests have no network, and the warning of a look-up that failed would be an error.
    settings = json.loads((merged / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "owner/base"


def test_report_names_every_adapter_and_self_test(merged):
    report = json.loads((merged / "merge.json").read_text())
    assert schema_problems("lora-merge", report) == []
    assert [(a["name"], a["weight"]) for a in report["adapters"]] == [
        ("polite", 0.7),
        ("brief", -0.4),
    ]
    assert {check["name"] for check in report["checks"]} == {
        "identity of polite",
        "identity of brief",
        "saved and loaded",
        "weighted sum",
    }
    assert all(check["max_difference"] <= check["limit"] for check in report["checks"])
    assert report["result_digest"] == digest_file(merged / "adapter_model.safetensors")


def test_lineage_derives_the_merge_from_every_adapter_and_the_base(merged, base):
    text = (merged / "provenance.json").read_bytes()
    document = json.loads(text)
    used = {one["prov:usedEntity"] for one in document["wasDerivedFrom"].values()}
    digests = {document["entity"][name]["kfm:sha256"] for name in used}
    parents = [merged.parent / name / "adapter_model.safetensors" for name in ("polite", "brief")]
    assert digests == {*map(digest_file, parents), build_manifest(base).release_id}
    assert prov_views(text)["provn"].count("wasDerivedFrom") == 3


def test_a_merge_is_under_the_licences_of_its_parents_and_its_lineage_says_so(merged):
    report = json.loads((merged / "merge.json").read_text())
    assert [adapter["license"] for adapter in report["adapters"]] == ["MIT", "Apache-2.0"]
    assert report["license"] == "Apache-2.0 AND MIT"
    entities = json.loads((merged / "provenance.json").read_bytes())["entity"].values()
    licences = {one["prov:label"]: one.get("kfm:license") for one in entities}
    assert licences == {
        "polite": "MIT",
        "brief": "Apache-2.0",
        "base": None,
        "merged adapter": "Apache-2.0 AND MIT",
    }


def test_merging_again_gives_the_same_bytes(merged, base):
    adapters = [merged.parent / name for name in ("polite", "brief")]
    again = merged.parent / "again"
    merge_adapters(adapters, base, [0.7, -0.4], again, known(*adapters))
    names = sorted(p.relative_to(merged) for p in merged.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert [n for n in names if (merged / n).read_bytes() != (again / n).read_bytes()] == []


def test_failed_self_test_writes_nothing(merged, base, monkeypatch):
    monkeypatch.setattr(lora, "MAX_DIFFERENCE", -1.0)
    output = merged.parent / "wrong"
    adapter = merged.parent / "polite"
    with pytest.raises(IntegrityError, match="nothing was written"):
        merge_adapters([adapter], base, [1.0], output, known(adapter))
    assert not output.exists()
    assert not list(merged.parent.glob(".merge-*"))


def test_adapter_of_another_base_is_refused(base, tmp_path):
    other = make_base(tmp_path / "base", seed=9)
    adapters = [make_adapter(tmp_path / "a", base, 1), make_adapter(tmp_path / "b", other, 2)]
    with pytest.raises(InputError, match="trained on base"):
        merge_adapters(adapters, base, [0.5, 0.5], tmp_path / "out", known(*adapters))
    assert not (tmp_path / "out").exists()


def test_units_that_say_different_things_are_not_merged(base, tmp_path):
    adapters = [make_adapter(tmp_path / name, base, k) for k, name in enumerate("ab")]
    unit = json.loads((adapters[1] / "unit.json").read_text())
    (adapters[1] / "unit.json").write_text(json.dumps({**unit, "passes": 3}))
    with pytest.raises(InputError, match="passes"):
        merge_adapters(adapters, base, [0.5, 0.5], tmp_path / "out", known(*adapters))


@pytest.mark.parametrize("weights", [[1.0], [1.0, float("nan")], [1.0, 0.0], []])
def test_weights_that_are_none_are_refused(base, tmp_path, weights):
    with pytest.raises(InputError, match="--weights"):
        merge_adapters(
            [tmp_path / "a", tmp_path / "b"], base, weights, tmp_path / "out", Manifests()
        )


def test_adapter_of_a_module_that_is_not_there_or_of_other_shape_is_refused(base, tmp_path):
    adapter = make_adapter(tmp_path / "a", base, 1, target_modules=["hidden", "attention"])
    with pytest.raises(InputError, match="attention"):
        merge_adapters([adapter], base, [1.0], tmp_path / "out", known(adapter))
    wrong = make_adapter(tmp_path / "b", base, 1, r=3)
    with pytest.raises(DataError, match="shape"):
        merge_adapters([wrong], base, [1.0], tmp_path / "out", known(wrong))


def test_settings_that_peft_writes_are_plain():
    plain = parse_plain_lora(SETTINGS, where="a")
    assert (plain.rank, plain.scaling, plain.target_modules) == (2, 2.0, ("hidden", "words"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"use_rslora": True}, "rsLoRA"),
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "lora_bias"),
        ({"kasa_config": {"beta": 1e-4}}, "KaSA"),
        ({"rank_pattern": {"words": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"words": 4}}, "alpha_pattern"),
        ({"modules_to_save": ["words"]}, "whole modules"),
        ({"peft_type": "ADALORA"}, "ADALORA"),
        ({"bias": "all"}, "biases"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"target_modules": ".*"}, "target_modules"),
        ({"r": True}, "whole number"),
        ({"lora_alpha": "8"}, "lora_alpha"),
        ({"a_kind_of_next_year": {"x": 1}}, "a_kind_of_next_year"),
    ],
)
def test_kind_that_is_not_known_to_merge_is_refused(changed, words):
    with pytest.raises(InputError, match=words):
        parse_plain_lora({**SETTINGS, **changed}, where="adapter_config.json")
