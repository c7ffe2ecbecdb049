"""A checkpoint is there whole or not at all, and a training that was cut ends in the same bytes."""

from __future__ import annotations

import errno
import json
from datetime import UTC, datetime, timedelta

import pytest
import torch
from checkpoints.trainings import NAMES, measured, save_all, state, training

import kfm_mlflow.canonical as canonical_module
from kfm_mlflow.canonical import digest_file
from kfm_mlflow.checkpoints import saving
from kfm_mlflow.checkpoints.directory import verify_directory
from kfm_mlflow.checkpoints.records import DOCUMENTS, MANIFEST
from kfm_mlflow.checkpoints.saving import CheckpointWriter
from kfm_mlflow.checkpoints.state import checkpoint_bytes
from kfm_mlflow.errors import ConflictError, EvidenceError, InputError, StorageError

FILES = [f"{name}.pt" for name in NAMES]


class _Cut(BaseException):
    """The process ends here."""


@pytest.fixture
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    save_all(root)
    return {name: digest_file(root / name) for name in FILES}


def test_a_training_leaves_all_documents_and_nothing_is_found_wrong(tmp_path):
    save_all(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {*FILES, *DOCUMENTS, ".lock"}
    found = verify_directory(tmp_path)
    assert found.ok, [str(f) for f in found.findings]
    assert [entry.epoch for entry in found.entries] == [1, 2, 3]


def test_files_load_without_running_code_and_hold_what_was_given(tmp_path):
    save_all(tmp_path)
    loaded = torch.load(tmp_path / FILES[1], weights_only=True)
    assert loaded["rng"] == [1, 2, 2]
    assert torch.equal(loaded["model"]["w"], state(2)["model"]["w"])


# Each save writes a file and six documents.
@pytest.mark.parametrize("cut", range(21))
def test_cut_before_any_write_and_resumed_it_ends_in_the_same_bytes(
    cut, tmp_path, monkeypatch, undisturbed
):
    written = canonical_module.write_bytes
    count = 0

    def cutting(path, data, *, mode=0o644):
        nonlocal count
        if count == cut:
            # A killed process leaves its temporary file.
            (path.parent / f".{path.name}.killed").write_bytes(data[: len(data) // 2])
            raise _Cut
        count += 1
        written(path, data, mode=mode)

    with monkeypatch.context() as patched:
        patched.setattr(canonical_module, "write_bytes", cutting)
        patched.setattr(saving, "write_bytes", cutting)
        with pytest.raises(_Cut):
            save_all(tmp_path)
    listed = []
    if (tmp_path / MANIFEST).is_file():
        listed = json.loads((tmp_path / MANIFEST).read_bytes())["checkpoints"]
    assert all((tmp_path / row["file"]).is_file() for row in listed)
    assert len(listed) == cut // 7
    save_all(tmp_path)
    assert {name: digest_file(tmp_path / name) for name in FILES} == undisturbed
    found = verify_directory(tmp_path)
    assert found.ok, [str(f) for f in found.findings]
    assert not list(tmp_path.glob(".checkpoint*"))


def test_a_full_disk_loses_no_listed_checkpoint_and_says_what_to_do(tmp_path, monkeypatch):
    save_all(tmp_path, up_to=2)

    def full(path, data, *, mode=0o644):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(saving, "write_bytes", full)
        with pytest.raises(StorageError, match=r"checkpoint_003_final\.pt.*No space.*resume"):
            save_all(tmp_path)
    assert verify_directory(tmp_path).ok
    save_all(tmp_path)
    assert len(verify_directory(tmp_path).entries) == 3


def test_a_second_trainer_is_refused_and_the_first_goes_on(tmp_path):
    with CheckpointWriter(tmp_path, training()) as first:
        with pytest.raises(ConflictError, match="another trainer"):
            CheckpointWriter(tmp_path, training())
        first.save(NAMES[0], "pretrain", 1, state(1), measured(1))
    with CheckpointWriter(tmp_path, training()) as later:
        assert later.latest()[0].id == NAMES[0]


def test_instants_never_go_back_when_the_clock_does(tmp_path):
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    ticks = iter([now, now - timedelta(days=400), now + timedelta(hours=1)])
    with CheckpointWriter(tmp_path, training(), clock=lambda: next(ticks)) as writer:
        for epoch in (1, 2, 3):
            writer.save(NAMES[epoch - 1], "final", epoch, state(epoch), measured(epoch))
    rows = json.loads((tmp_path / "checkpoint_metrics.json").read_bytes())["checkpoints"]
    assert [row["timestamp"] for row in rows] == [
        "2026-05-01T12:00:00Z",
        "2026-05-01T12:00:00Z",
        "2026-05-01T13:00:00Z",
    ]


def test_a_truncated_checkpoint_is_not_resumed_from(tmp_path):
    save_all(tmp_path, up_to=2)
    path = tmp_path / FILES[1]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(EvidenceError, match=r"checkpoint_002_finetune\.pt.*restore"):
        save_all(tmp_path)


def test_an_epoch_that_does_not_follow_and_energy_that_falls_are_refused(tmp_path):
    save_all(tmp_path, up_to=2)
    with CheckpointWriter(tmp_path, training()) as writer:
        with pytest.raises(InputError, match="epoch 2 does not follow 2"):
            writer.save(NAMES[2], "final", 2, state(3), measured(3))
        with pytest.raises(InputError, match=r"energy_wh.*less than"):
            writer.save(NAMES[2], "final", 3, state(3), measured(1))


def test_the_directory_of_another_training_is_refused(tmp_path):
    save_all(tmp_path)
    with pytest.raises(InputError, match="a directory of its own"):
        CheckpointWriter(tmp_path, training(version="v10.0.1"))


def test_a_state_that_needs_code_to_be_read_is_refused():
    with pytest.raises(InputError, match=r"state\.model: is a Linear"):
        checkpoint_bytes({"model": torch.nn.Linear(1, 1)})


def test_what_is_trained_on_after_the_call_is_not_what_is_saved(tmp_path):
    weights = torch.ones(3)
    with CheckpointWriter(tmp_path, training()) as writer:
        writer.save(NAMES[0], "pretrain", 1, {"w": weights}, measured(1))
        weights.add_(1.0)
        writer.wait()
        assert torch.equal(writer.latest()[1]["w"], torch.ones(3))
