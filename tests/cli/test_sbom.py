"""``kfm sbom`` of a directory: what the release says, after a look at its files."""

from __future__ import annotations

import json


def test_spdx_is_the_file_of_the_release(kfm, world, tmp_path):
    release = world.releases[0].release_dir
    assert json.loads(kfm("sbom", release).out) == json.loads(
        (release / "sbom.spdx.json").read_bytes()
    )
    done = kfm("sbom", release, "-o", tmp_path / "bill.json")
    assert done.code == 0
    assert (tmp_path / "bill.json").read_bytes() == (release / "sbom.spdx.json").read_bytes()


def test_cyclonedx_of_a_real_release_is_the_same_twice(kfm, world, tmp_path):
    release = world.releases[0].release_dir
    for name in ("a", "b"):
        done = kfm("sbom", release, "--format", "cyclonedx", "-o", tmp_path / name)
        assert (done.code, done.err) == (0, "")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = json.loads((tmp_path / "a").read_bytes())
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert any(one["name"] == "torch" for one in found["components"])


def test_a_release_whose_files_are_not_its_bills_is_refused(kfm, world, tmp_path):
    bundle = world.copy(tmp_path)
    target = bundle.release_dir / "model.onnx"
    target.write_bytes(target.read_bytes() + b" ")
    for kind in ("spdx", "cyclonedx"):
        done = kfm("sbom", bundle.release_dir, "--format", kind)
        assert done.code == 1
        assert "SHA256 is not that of model.onnx" in done.err
    (bundle.release_dir / "sbom.spdx.json").unlink()
    assert "sbom.spdx.json" in kfm("sbom", bundle.release_dir).err
    assert kfm("sbom", tmp_path / "nowhere").code == 2
