import shutil
from pathlib import Path

import pytest
from registry.made_bundle import make_bundle

from kfm_mlflow.errors import ManifestError, StorageError
from kfm_mlflow.release.freeze import ArtifactArea, freeze, local_bundle
from kfm_mlflow.release.manifest import build_manifest


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "source")


def frozen_names(tmp_path: Path) -> set[str]:
    """Return what lies in the frozen area beside the lock that freezers take."""
    return {path.name for path in (tmp_path / "artifacts" / "kfm-frozen").iterdir()} - {".lock"}


def area(tmp_path: Path) -> ArtifactArea:
    return ArtifactArea(str(tmp_path / "artifacts"), proxied=True)


def test_a_frozen_copy_is_addressed_by_its_release_id_and_holds_its_evidence(
    tmp_path, bundle
) -> None:
    manifest = build_manifest(bundle.release_dir)
    uri = freeze(bundle, manifest, area(tmp_path))
    assert (
        uri == f"mlflow-artifacts:/kfm-frozen/{manifest.release_id.removeprefix('sha256:')}/release"
    )
    with local_bundle(area(tmp_path).resolve(uri)) as copy:
        assert build_manifest(copy.release_dir) == manifest
        assert copy.signature_path.read_bytes() == b"sig"


def test_changing_the_source_afterwards_changes_nothing(tmp_path, bundle) -> None:
    manifest = build_manifest(bundle.release_dir)
    uri = freeze(bundle, manifest, area(tmp_path))
    (bundle.release_dir / "MLmodel").write_bytes(b"evil")
    shutil.rmtree(bundle.release_dir / "xai")
    with local_bundle(area(tmp_path).resolve(uri)) as copy:
        assert build_manifest(copy.release_dir) == manifest


def test_freezing_twice_is_once(tmp_path, bundle) -> None:
    manifest = build_manifest(bundle.release_dir)
    assert freeze(bundle, manifest, area(tmp_path)) == freeze(bundle, manifest, area(tmp_path))
    assert frozen_names(tmp_path) == {manifest.release_id.removeprefix("sha256:")}


def test_evidence_that_came_later_is_added_and_none_is_lost(tmp_path, bundle) -> None:
    manifest = build_manifest(bundle.release_dir)
    first = bundle.evidence_dir / "validation-a.intoto.json"
    first.write_bytes(b"old")
    uri = freeze(bundle, manifest, area(tmp_path))
    first.write_bytes(b"renewed")
    (bundle.evidence_dir / "validation-b.intoto.json").write_bytes(b"another")
    freeze(bundle, manifest, area(tmp_path))
    freeze(bundle, manifest, area(tmp_path))
    with local_bundle(area(tmp_path).resolve(uri)) as copy:
        assert sorted(data for _, data in copy.read_envelopes()) == [b"another", b"old", b"renewed"]
        assert copy.signature_path.read_bytes() == b"sig"


def test_a_release_that_changes_while_it_is_frozen_leaves_nothing(tmp_path, bundle) -> None:
    manifest = build_manifest(bundle.release_dir)
    (bundle.release_dir / "MLmodel").write_bytes(b"changed after the gates judged")
    with pytest.raises(ManifestError, match="changed while it was copied"):
        freeze(bundle, manifest, area(tmp_path))
    assert frozen_names(tmp_path) == set()


def test_a_tampered_frozen_copy_is_found_when_frozen_again(tmp_path, bundle) -> None:
    manifest = build_manifest(bundle.release_dir)
    uri = freeze(bundle, manifest, area(tmp_path))
    victim = Path(area(tmp_path).resolve(uri)) / "MLmodel"
    victim.chmod(0o644)
    victim.write_bytes(b"evil")
    with pytest.raises(ManifestError, match="release id"):
        freeze(bundle, manifest, area(tmp_path))


def test_a_uri_cannot_climb_out_of_the_artifact_root(tmp_path) -> None:
    for uri in ("mlflow-artifacts:/../etc", "mlflow-artifacts:/a/%2e%2e/%2e%2e/etc"):
        with pytest.raises(StorageError, match="climbs out"):
            area(tmp_path).resolve(uri)


def test_a_missing_source_is_named(tmp_path) -> None:
    with (
        pytest.raises(StorageError, match="nowhere: no such directory"),
        local_bundle(str(tmp_path / "nowhere")),
    ):
        pass
