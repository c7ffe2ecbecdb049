"""Why no node takes an instance, and what keeps a wrong release or GPU from coming up."""

import pytest
from fleet.made_release import write_release

from kfm_mlflow.errors import IntegrityError, PlaneError
from kfm_mlflow.release.manifest import build_manifest
from kfm_serving.fleet_gpu import check_gpu
from kfm_serving.fleet_instance import load_verified
from kfm_serving.fleet_placement import Node, explain_unplaced

NODES = (
    Node("n0", {"agent": "a0", "zone": "west"}, 0.0),
    Node("n1", {"agent": "a1", "zone": "east"}, 2.0),
)


@pytest.mark.parametrize(
    ("labels", "gpu_ratio", "said"),
    [
        ({}, 0, ""),
        ({"agent": "a0"}, 0, ""),
        ({"agent": "a1", "zone": "east"}, 2, ""),
        ({"agent": "a9"}, 0, "no node has label agent=a9"),
        ({"agent": "a0", "zone": "east"}, 0, "no node has all labels of agent=a0, zone=east"),
        ({"agent": "a0"}, 0.5, "no node with agent=a0 has 0.5 GPU"),
        ({}, 4, "no node has 4 GPU"),
    ],
)
def test_message_names_what_is_missing(labels, gpu_ratio, said):
    assert explain_unplaced(labels, gpu_ratio, NODES) == said


def test_instance_reports_the_release_id_that_it_computed(tmp_path):
    root = write_release(tmp_path / "release")
    wanted = build_manifest(root).release_id
    pipeline, found = load_verified(root, wanted.removeprefix("sha256:").upper())
    assert found == wanted
    assert pipeline.answer("plan a page").specialty == "doc_plan"


def test_release_with_one_byte_changed_is_not_loaded(tmp_path):
    root = write_release(tmp_path / "release")
    wanted = build_manifest(root).release_id
    path = root / "units" / "runtime" / "fleet_model.npz"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="expected " + wanted):
        load_verified(root, wanted)


@pytest.mark.parametrize("library", ["libthere-is-none.so.1", "libc.so.6"])
def test_gpu_that_was_lent_and_has_no_driver_is_refused(library):
    with pytest.raises(PlaneError, match="the GPU that was lent does not work"):
        check_gpu(library)
