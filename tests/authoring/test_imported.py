"""A release whose model others made: complete, traced to its parents, and governed as any other."""

import getpass
import pickle
import shutil
import socket
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import numpy as np
import pytest
from authoring import made_imported as made
from authoring.made_release import AT
from mlflow.tracking import MlflowClient

from kfm_mlflow import Dataset, log_imported, log_imported_validation, text_field
from kfm_mlflow.authoring.imported_compose import compose_imported
from kfm_mlflow.authoring.imported_spec import parent_facts
from kfm_mlflow.canonical import canonical_bytes, digest_bytes, load_json, write_json
from kfm_mlflow.errors import EvidenceError, InputError, StorageError
from kfm_mlflow.gates.engine import evaluate
from kfm_mlflow.gates.evidence import EvidenceReader
from kfm_mlflow.gates.findings import Move
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.metadata.prov_constraints import read_document, read_records, unify
from kfm_mlflow.metadata.schemas import schema_problems
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.release.bundle import bundle_at

NAMES = ("fleet", "fleet-embed")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return made.make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def policy(keys):
    return made.make_policy(keys)


@pytest.fixture(scope="module")
def releases(tmp_path_factory, keys):
    """Return name -> bundle and manifest of a signed release; do not change it, copy it."""
    return {name: made.make_bundle(tmp_path_factory.mktemp(name), keys, name) for name in NAMES}


@pytest.fixture(params=NAMES)
def release(request, releases):
    return request.param, *releases[request.param]


@pytest.fixture
def fused(releases):
    return releases["fleet"]


def to_staging(name):
    return Move(name, 1, Level.CANDIDATE, Level.STAGING, 0, None, AT)


READER = EvidenceReader()
"""Shared: what it remembers follows from the bytes of a release alone."""


def judge(policy, bundle, move, keys, *, voters=made.COUNCIL[:3], **validated):
    """Ask every gate on the way to Staging."""
    key = keys / validated.pop("validator", "validator")
    seen = READER.read(bundle, policy, now=AT)
    envelopes = [made.make_validation(move.model_name, seen.release_id, key, **validated)]
    envelopes += [made.make_vote(policy, move, seen.release_id, keys / who) for who in voters]
    return evaluate(READER.read(bundle, policy, now=AT, envelopes=envelopes), policy, move)


def refusals(report):
    assert report.verdict is not Verdict.PASS
    return {(gate, finding.code) for gate, finding in report.blocking}


# -- what it holds -----------------------------------------------------------------------------------


def test_the_fleets_policy_admits_it_with_everything_exactly_on_its_limit(release, policy, keys):
    name, bundle, manifest = release
    report = judge(policy, bundle, to_staging(name), keys)
    assert report.verdict is Verdict.PASS, report.blocking
    assert report.release_id == manifest.release_id
    assert report.votes["approving"] == list(made.COUNCIL[:3])


def test_it_holds_the_units_as_they_are_and_one_index_of_them(release):
    name, bundle, manifest = release
    roles = tuple(made.PARENTS) if name == "fleet" else ("embed",)
    index = load_json(bundle.release_dir / "units.json")
    assert schema_problems("fleet-units", index) == []
    listed = {file["path"]: file["digest"] for unit in index["units"] for file in unit["files"]}
    there = {path: d for path, d in manifest.digests.items() if path.startswith("units/")}
    assert listed == there
    assert {path.split("/")[1] for path in there} == set(roles)
    provided = bundle.release_dir.parent / "units"
    for path in there:
        assert (bundle.release_dir / path).read_bytes() == (
            provided / path.removeprefix("units/")
        ).read_bytes()


def test_mlmodel_names_an_installed_loader_and_nothing_of_the_release(release):
    _, bundle, manifest = release
    flavors = mlflow.models.Model.load(str(bundle.release_dir)).flavors
    assert set(flavors) == {"python_function"}
    assert flavors["python_function"]["loader_module"] == "kfm_mlflow.fleet.loading"
    assert not {"code", "data", "python_model"} & set(flavors["python_function"])
    assert not [p for p in manifest.digests if p.endswith((".py", ".pkl", ".pickle"))]


def test_the_same_specification_gives_the_same_bytes(fused, tmp_path):
    # Elsewhere, from units that were made anew.
    assert compose_imported(made.make_spec(tmp_path / "u"), tmp_path / "r") == fused[1]


def test_json_that_we_write_is_canonical_and_names_nothing_of_this_machine(release):
    _, bundle, manifest = release
    leaks = {str(Path.cwd()), sys.prefix, socket.gethostname(), getpass.getuser()} - {"root"}
    for path in manifest.digests:
        data = (bundle.release_dir / path).read_bytes()
        if path.endswith(".json"):
            assert canonical_bytes(load_json(bundle.release_dir / path)) == data, path
        for leak in {*leaks, str(bundle.release_dir.parent), "/home/", "/tmp/"}:
            assert leak.encode() not in data, f"{path} holds {leak}"


def test_what_nobody_measured_is_null_and_text_is_other_in_the_words_of_stac(fused):
    root = fused[0].release_dir
    item = load_json(root / "stac" / "model-item.json")["properties"]
    card = load_json(root / "model-card.json")["energy_carbon"]
    assert (item["energy:wh"], item["carbon:gco2e"]) == (None, None)
    assert (card["energy_wh"], card["telemetry_ref"]) == (None, None)
    assert item["mlm:input"][0]["input"]["data_type"] == "other"
    assert load_json(root / "model_metadata.json")["inputs"][0]["dtype"] == "string"
    assert item["mlm:pretrained"] is True
    assert item["mlm:pretrained_source"].split() == [
        made.PARENTS[role].uri for role in ("embed", "runtime", "textgen")
    ]


def test_no_other_family_may_leave_its_energy_out(fused):
    root = fused[0].release_dir
    card = load_json(root / "model-card.json")
    assert schema_problems("model-card", card) == []
    card["identity"]["family"] = "climate"
    assert schema_problems("model-card", card)


# -- where it comes from ------------------------------------------------------------------------------


def lineage(root):
    """Return (what, from what) by digest and path, as the lineage says."""
    records = read_records(unify(read_document(load_json(root / "provenance/provenance.json"))))

    def called(name):
        said = {k.localpart: str(v) for k, v in records.entities[name].extra_attributes}
        return said.get("path") or said.get("uri") or said["release_version"]

    return {
        (called(formal["generatedEntity"]), called(formal["usedEntity"]))
        for kind, formal in records.relations
        if kind == "Derivation"
    }


def test_every_file_comes_from_the_parents_of_its_unit_and_the_release_from_all(fused):
    bundle, manifest = fused
    edges = lineage(bundle.release_dir)
    for role, parent in made.PARENTS.items():
        files = [path for path in manifest.digests if path.startswith(f"units/{role}/")]
        assert files
        for path in files:
            assert {used for what, used in edges if what == path} == {parent.uri}
            assert ("units.json", path) in edges
        assert (made.VERSION, parent.uri) in edges
    assert (made.VERSION, "units.json") in edges


def test_a_merged_unit_has_all_its_parents_and_a_shared_one_is_told_once(tmp_path):
    first, second = made.PARENTS["textgen"], made.PARENTS["embed"]
    text, embed = (made.make_unit(tmp_path, role) for role in ("textgen", "embed"))
    facts = parent_facts([replace(text, parents=(first, second)), embed])
    assert {fact.name: fact.folders for fact in facts} == {
        first.name: ("units/textgen/",),
        second.name: ("units/embed/", "units/textgen/"),
    }


@pytest.mark.parametrize("lost", ["parent of the lineage", "parent of the metadata", "file"])
def test_a_lineage_that_leaves_something_out_is_refused(fused, keys, policy, tmp_path, lost):
    bundle = _copy(fused[0], tmp_path)
    path = bundle.release_dir / "provenance/provenance.json"
    prov = load_json(path)
    if lost == "parent of the metadata":
        path = bundle.release_dir / "model_metadata.json"
        metadata = load_json(path)
        metadata["data"] = metadata["data"][1:]
        write_json(path, metadata)
    else:
        kind = "uri" if lost.startswith("parent") else "path"
        wanted = {"uri": "hf://", "path": "units/textgen/base/model.safetensors"}[kind]
        (name,) = (
            n for n, e in prov["entity"].items() if str(e.get(f"kfm:{kind}", "")).startswith(wanted)
        )
        del prov["entity"][name]
        for kind in ("wasDerivedFrom", "used", "wasGeneratedBy", "hadMember"):
            prov[kind] = {k: v for k, v in prov[kind].items() if name not in v.values()}
        write_json(path, prov)
    found = refusals(judge(policy, bundle, to_staging("fleet"), keys))
    assert {gate for gate, _ in found} & {"lineage"}
    assert ("signature", "SIGNATURE_INVALID") in found


# -- what is refused ---------------------------------------------------------------------------------


def _copy(bundle, folder):
    copied = bundle_at(folder / "release")
    shutil.copytree(bundle.release_dir, copied.release_dir)
    shutil.copytree(bundle.evidence_dir, copied.evidence_dir)
    return copied


def _pickled(root):
    (root / "units/runtime/heads.bin").write_bytes(pickle.dumps(print))


def _objects(root):
    array = np.array([print], dtype=object)
    np.savez(root / "units/runtime/fleet_model.npz", w=array)


def _other_loader(root):
    path = root / "MLmodel"
    path.write_text(path.read_text().replace("kfm_mlflow.fleet.loading", "os"))


def _unmasked(root):
    care = load_json(root / "care.json")
    write_json(root / "care.json", {**care, "care": {**care["care"], "masking": "none_required"}})


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (_pickled, "PICKLE_EXECUTES"),
        (_objects, "PICKLE_EXECUTES"),
        (_other_loader, "FORMAT_UNSAFE"),
        (lambda root: (root / "units/runtime/run.sh").write_text("true"), "FILE_EXECUTABLE"),
        (lambda root: (root / "fused_release.json").unlink(), "FILE_MISSING"),
        (lambda root: (root / "rejections.json").write_text("{}"), "DOCUMENT_INVALID"),
        (lambda root: (root / "probes/probes.json").write_text("{}"), "DOCUMENT_INVALID"),
        (lambda root: (root / "units.json").write_text("{}"), "DOCUMENT_INVALID"),
    ],
)
def test_files_that_run_code_or_lack_are_refused(fused, keys, policy, tmp_path, *, harm, code):
    bundle = _copy(fused[0], tmp_path)
    harm(bundle.release_dir)
    found = refusals(judge(policy, bundle, to_staging("fleet"), keys, voters=()))
    assert ("completeness", code) in found
    assert ("signature", "SIGNATURE_INVALID") in found


def test_an_artifact_must_say_where_it_comes_from(releases, tmp_path, keys, policy):
    bundle = _copy(releases["fleet-embed"][0], tmp_path)
    (bundle.release_dir / "artifact.json").unlink()
    found = refusals(judge(policy, bundle, to_staging("fleet-embed"), keys))
    assert ("completeness", "FILE_MISSING") in found


def test_a_release_that_masks_nothing_where_a_region_asks_for_it_is_refused(
    fused, tmp_path, keys, policy
):
    bundle = _copy(fused[0], tmp_path)
    _unmasked(bundle.release_dir)
    assert ("care", "CARE_MASKING") in refusals(judge(policy, bundle, to_staging("fleet"), keys))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *(
            ("fleet", {f"{prefix}{metric}": worse})
            for prefix in ("", "textgen_", "embed_", "runtime_")
            for metric, worse in (
                ("quality", 0.7999),
                ("safety", 0.9499),
                ("latency_ms_p95", 200.01),
                ("cost_per_1k_tokens", 1.0001),
            )
        ),
        ("fleet", {"textgen_quality_gap": 0.051}),
        ("fleet", {"runtime_safety_gap": "NaN"}),
        ("fleet-embed", {"quality": 0.7999}),
        ("fleet-embed", {"embed_safety_gap": 0.06}),
    ],
)
def test_each_limit_holds_for_the_whole_and_for_every_unit(releases, policy, keys, name, changes):
    report = judge(policy, releases[name][0], to_staging(name), keys, **changes)
    assert refusals(report) == {("metrics", "METRIC_OUTSIDE")}
    ((_, finding),) = report.blocking
    assert finding.detail.startswith(next(iter(changes)))


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"voters": made.COUNCIL[:2]}, ("votes", "QUORUM_PENDING")),
        ({"identical": False}, ("validation", "NOT_DETERMINISTIC")),
        ({"validator": "trainer"}, ("validation", "VALIDATION_INVALID")),
    ],
)
def test_people_and_validators_are_asked_as_of_any_release(fused, policy, keys, changes, refused):
    found = refusals(judge(policy, fused[0], to_staging("fleet"), keys, **changes))
    assert refused in found


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "1.0"}, "is no version"),
        ({"units": ()}, "units of different roles"),
        ({"metrics": {}}, "nobody claims"),
        ({"outputs": ()}, "what comes out"),
        ({"documents": {"units/embed/more.json": {}}}, "written by composing"),
        ({"documents": {"units.json": {}}}, "written by composing"),
        ({"documents": {"../else.json": {}}}, "documents"),
        ({"documents": {"notes.txt": "x"}}, "no JSON"),
    ],
)
def test_a_specification_that_says_too_little_is_refused_at_once(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        made.make_spec(tmp_path, **changes)


def test_units_are_plain_files_with_a_role_and_a_parent(tmp_path):
    unit = made.make_unit(tmp_path, "embed")
    for changes, words in (
        ({"role": "../x"}, "no role"),
        ({"parents": ()}, "no parent"),
        ({"format": ""}, "no format"),
        ({"parameter_count": -1}, "fewer than no"),
    ):
        with pytest.raises(InputError, match=words):
            replace(unit, **changes)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no files"):
        replace(unit, directory=tmp_path / "empty").files()
    (unit.directory / "link").symlink_to(unit.directory / "unit.json")
    with pytest.raises(InputError, match="is a link"):
        unit.files()


def test_a_parent_is_no_path_of_this_machine_and_has_a_digest(tmp_path):
    unit = made.make_unit(tmp_path, "embed")
    for changes in ({"uri": "/srv/models/x"}, {"uri": "file:///srv/x"}, {"digest": "none"}):
        with pytest.raises(InputError):
            parent_facts([replace(unit, parents=(replace(unit.parents[0], **changes),))])


# -- in an MLflow run --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_id(tracking, keys):
    """Log an artifact's release to a run of a tracking store."""
    unit = made.make_unit(tracking / "units", "embed")
    with mlflow.start_run() as run:
        logged = log_units([unit], keys)
    assert logged.model_uri == f"runs:/{run.info.run_id}/release"
    return run.info.run_id


def log_units(units, keys, **changes):
    arguments = {
        "name": "fleet-embed",
        "version": made.VERSION,
        "bbox": made.BBOX,
        "signing_key": keys / "trainer",
        "metrics": {"quality": 0.82},
        "task": "similarity-search",
        "loader_module": "kfm_mlflow.fleet.loading",
        "inputs": [text_field("task")],
        "outputs": [text_field("vector")],
        "documents": made.documents_of("fleet-embed"),
        "datasets": [
            Dataset("validation", "probes", "generated:probes", digest_bytes(b"probes"), "MIT")
        ],
        **changes,
    }
    return log_imported(units, **arguments)


def validate(run_id, keys, **changes):
    arguments = {
        "measure": lambda _: made.measured("fleet-embed"),
        "answers": lambda root: load_json(root / "units/embed/unit.json"),
        "data": {"name": "probes", "digest": digest_bytes(b"probes")},
        "validator_key": keys / "validator",
        **changes,
    }
    return log_imported_validation(run_id, **arguments)


def _downloaded(run_id, folder):
    client = MlflowClient()
    for name in ("release", "release.evidence"):
        client.download_artifacts(run_id, name, str(folder))
    return bundle_at(folder / "release")


def test_what_was_logged_and_validated_is_admitted(run_id, keys, tmp_path):
    found = validate(run_id, keys)
    assert found.is_deterministic
    bundle = _downloaded(run_id, tmp_path)
    document = load_json(bundle.evidence_dir / "deployment_validation.json")
    assert schema_problems("deployment_validation", document) == []
    run = MlflowClient().get_run(run_id)
    assert run.data.tags["kfm.release_id"] == found.release_id == document["release_id"]
    policy = made.make_policy(keys)
    move = replace(to_staging("fleet-embed"), now=datetime.now(UTC))
    votes = [made.make_vote(policy, move, found.release_id, keys / w) for w in made.COUNCIL]
    evidence = READER.read(bundle, policy, now=move.now, envelopes=votes)
    report = evaluate(evidence, policy, move)
    assert report.verdict is Verdict.PASS, report.blocking
    metadata = evidence.content.mapping("model_metadata.json")
    assert [entry["role"] for entry in metadata["data"]] == ["parent", "validation"]


def test_answers_that_change_are_told(run_id, keys):
    told = iter(range(2))
    assert not validate(run_id, keys, answers=lambda _: next(told)).is_deterministic


def test_a_release_whose_index_lists_other_files_is_not_validated(run_id, keys, tmp_path):
    bundle = _downloaded(run_id, tmp_path)
    (bundle.release_dir / "units/embed/unit.json").write_text("{}")
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(bundle.release_dir), "release")
    with pytest.raises(EvidenceError, match=r"units.json: does not list units/embed/unit.json"):
        validate(run.info.run_id, keys)


def test_without_a_run_or_a_release_nothing_is_logged(run_id, keys, tmp_path):
    with pytest.raises(InputError, match="no active MLflow run"):
        log_units([made.make_unit(tmp_path, "embed")], keys)
    with pytest.raises(StorageError):
        validate(run_id, keys, artifact_path="nothing")


def test_a_rebuild_takes_nothing_of_others_again(run_id, keys, tmp_path, monkeypatch):
    del run_id
    monkeypatch.setenv("KFM_REBUILD", str(tmp_path))
    with mlflow.start_run(), pytest.raises(InputError, match="as others made it"):
        log_units([made.make_unit(tmp_path, "embed")], keys)
