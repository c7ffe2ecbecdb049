"""Freezing on a local disk when something goes wrong in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from registry.made_bundle import make_bundle

from kfm_mlflow.errors import ManifestError, StorageError
from kfm_mlflow.release import claim
from kfm_mlflow.release.bundle import MAX_ENVELOPE_COUNT
from kfm_mlflow.release.freeze import ArtifactArea, freeze, local_bundle
from kfm_mlflow.release.manifest import build_manifest

MB = 2**20


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "source", large_bytes=3 * MB)


@pytest.fixture
def area(tmp_path):
    return ArtifactArea(str(tmp_path / "artifacts"), proxied=True)


def frozen_names(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "artifacts" / "kfm-frozen").glob("*")} - {".lock"}


def key_of(bundle) -> str:
    return build_manifest(bundle.release_dir).release_id.removeprefix("sha256:")


CHILD = """
import os, resource, signal, sys
from pathlib import Path
from kfm_mlflow.errors import KfmError
from kfm_mlflow.release import claim, freeze as front, frozen_disk
from kfm_mlflow.release.bundle import bundle_at
from kfm_mlflow.release.manifest import build_manifest

source, area, point = sys.argv[1:]
left = int(point.partition("@")[2] or 0)

def dies(after):
    def wrapped(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return after(*args, **kwargs)
    return wrapped

if point.startswith("byte"):
    front.Meter.add = dies(front.Meter.add)
elif point.startswith("flush"):
    os.fsync = dies(os.fsync)
elif point.startswith("rename"):
    Path.rename = dies(Path.rename)
elif point.startswith("limit"):
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, left))
bundle = bundle_at(Path(source))
try:
    front.freeze(bundle, build_manifest(bundle.release_dir), front.ArtifactArea(area, True))
except KfmError as exc:
    print(f"{type(exc).__name__}: {exc}")
"""


def child(bundle, area, point):
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(bundle.release_dir), area.destination, point],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("point", ["byte@0", "byte@2", "byte@5", "flush@1", "flush@5", "rename@0"])
def test_a_freeze_killed_in_the_middle_leaves_nothing_that_counts_and_the_next_one_cleans_up(
    tmp_path, bundle, area, point
):
    assert child(bundle, area, point).returncode == -signal.SIGKILL
    left = frozen_names(tmp_path)
    assert left
    assert all(name.startswith(".") for name in left)
    freeze(bundle, build_manifest(bundle.release_dir), area)
    assert frozen_names(tmp_path) == {key_of(bundle)}


def test_a_freeze_that_was_killed_after_the_rename_counts(tmp_path, bundle, area):
    for point in range(4, 20):
        killed = child(bundle, area, f"flush@{point}")
        if key_of(bundle) in frozen_names(tmp_path):
            break
    assert killed.returncode == -signal.SIGKILL
    uri = freeze(bundle, build_manifest(bundle.release_dir), area)
    with local_bundle(area.resolve(uri)) as copy:
        assert build_manifest(copy.release_dir) == build_manifest(bundle.release_dir)
    (bundle.release_dir / "MLmodel").write_bytes(b"another release")
    before = frozen_names(tmp_path)
    freeze(bundle, build_manifest(bundle.release_dir), area)
    assert {name for name in frozen_names(tmp_path) if name.startswith(".")} == set()
    assert len(before) == len(frozen_names(tmp_path)) == 2


def test_leftovers_of_the_dead_are_removed_and_work_of_the_living_is_not(tmp_path, bundle, area):
    frozen = tmp_path / "artifacts" / "kfm-frozen"
    frozen.mkdir(parents=True)
    (frozen / ".dead.0000" / "release").mkdir(parents=True)
    (frozen / ".dead.0000" / "release").chmod(0o555)
    (frozen / ".dead.0000.lock").touch()
    (frozen / ".from-before").mkdir()
    with claim.working_folder(frozen, "living") as living:
        (living / "half").write_bytes(b"x")
        freeze(bundle, build_manifest(bundle.release_dir), area)
        assert (living / "half").read_bytes() == b"x"
        assert frozen_names(tmp_path) == {key_of(bundle), living.name, f"{living.name}.lock"}
    assert frozen_names(tmp_path) == {key_of(bundle)}


def test_a_full_disk_is_said_with_what_to_do_and_leaves_nothing(tmp_path, bundle, area):
    done = child(bundle, area, f"limit@{MB}")
    assert done.stdout.startswith("StorageError: mlflow-artifacts:/kfm-frozen/"), done
    size_bytes = build_manifest(bundle.release_dir).size_bytes
    assert f"cannot be written (File too large); make room for {size_bytes} bytes" in done.stdout
    assert str(tmp_path) not in done.stdout
    assert frozen_names(tmp_path) == set()


def test_a_disk_that_cannot_hold_the_release_is_not_begun_on(tmp_path, bundle, area, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 3 * MB})())
    with pytest.raises(StorageError, match=r"No space left on device.*make room"):
        freeze(bundle, build_manifest(bundle.release_dir), area)
    assert frozen_names(tmp_path) == set()


def test_an_artifact_root_that_is_a_file_is_a_storage_error(tmp_path, bundle):
    (tmp_path / "artifacts").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"):
        freeze(
            bundle,
            build_manifest(bundle.release_dir),
            ArtifactArea(str(tmp_path / "artifacts"), proxied=True),
        )


@pytest.mark.parametrize("kind", ["link", "pipe", "gone", "folder"])
def test_a_file_that_is_no_longer_one_is_refused_by_its_name(tmp_path, bundle, area, kind):
    manifest = build_manifest(bundle.release_dir)
    victim = bundle.release_dir / "xai" / "a.json"
    victim.rename(tmp_path / "elsewhere.json")
    if kind == "link":
        victim.symlink_to(tmp_path / "elsewhere.json")
    elif kind == "pipe":
        os.mkfifo(victim)
    elif kind == "folder":
        victim.mkdir()
    with pytest.raises(ManifestError, match=r"^xai/a\.json: "):
        freeze(bundle, manifest, area)
    assert frozen_names(tmp_path) == set()


@pytest.mark.parametrize("kind", ["link", "folder", "name"])
def test_evidence_is_plain_files_or_refused_by_name(tmp_path, bundle, area, kind):
    victim = bundle.evidence_dir / ("a:b" if kind == "name" else "secret")
    if kind == "link":
        victim.symlink_to("/etc/hostname")
    elif kind == "folder":
        victim.mkdir()
    else:
        victim.write_bytes(b"x")
    with pytest.raises(ManifestError, match=rf"^release\.evidence/{victim.name}: "):
        freeze(bundle, build_manifest(bundle.release_dir), area)
    assert frozen_names(tmp_path) == set()


def test_what_was_put_beside_the_judged_files_is_not_copied(bundle, area):
    manifest = build_manifest(bundle.release_dir)
    (bundle.release_dir / "xai" / "late").symlink_to("/etc/hostname")
    (bundle.release_dir / "late").write_bytes(b"x")
    uri = freeze(bundle, manifest, area)
    with local_bundle(area.resolve(uri)) as copy:
        assert build_manifest(copy.release_dir) == manifest


@pytest.mark.parametrize("change", ["add", "remove", "alter", "link", "folder"])
def test_any_change_of_a_frozen_copy_is_found_and_named(tmp_path, bundle, area, change):
    manifest = build_manifest(bundle.release_dir)
    folder = Path(area.resolve(freeze(bundle, manifest, area))) / "xai"
    victim = folder / "a.json"
    folder.chmod(0o755)
    victim.chmod(0o644)
    if change == "add":
        (folder / "new.json").write_bytes(b"{}")
    elif change == "alter":
        victim.write_bytes(b"[]")
    elif change == "remove":
        victim.unlink()
    elif change == "link":
        victim.rename(tmp_path / "same.json")
        victim.symlink_to(tmp_path / "same.json")
    else:
        folder.parent.chmod(0o755)
        folder.rename(tmp_path / "same")
        folder.symlink_to(tmp_path / "same")
    with pytest.raises(ManifestError, match=r"no longer has its release id \(xai.*freezing\.md"):
        freeze(bundle, manifest, area)


def test_many_freezers_of_the_same_bytes_are_one(tmp_path, bundle, area):
    manifest = build_manifest(bundle.release_dir)
    others = []
    for number in range(6):
        other = make_bundle(tmp_path / f"source-{number}", large_bytes=3 * MB)
        (other.evidence_dir / "validation.intoto.json").write_bytes(b"%d" % number)
        others.append(other)
    told = []
    with ThreadPoolExecutor(6) as pool:
        uris = set(pool.map(lambda one: freeze(one, manifest, area, told.append), others))
    assert len(uris) == 1
    assert [progress.phase for progress in told].count("copying") == 1
    assert frozen_names(tmp_path) == {key_of(bundle)}
    with local_bundle(area.resolve(uris.pop())) as copy:
        assert build_manifest(copy.release_dir) == manifest
        assert sorted(data for _, data in copy.read_envelopes()) == [b"%d" % n for n in range(6)]


def test_more_evidence_than_is_ever_read_is_not_added(bundle, area):
    manifest = build_manifest(bundle.release_dir)
    uri = freeze(bundle, manifest, area)
    for number in range(MAX_ENVELOPE_COUNT + 1):
        (bundle.evidence_dir / f"{number}.intoto.json").write_bytes(b"%d" % number)
    with pytest.raises(Exception, match="more than 1000 attestations"):
        freeze(bundle, manifest, area)
    with local_bundle(area.resolve(uri)) as copy:
        assert copy.read_envelopes() == ()
