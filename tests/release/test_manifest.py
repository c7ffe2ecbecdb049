import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfm_mlflow.canonical import digest_bytes
from kfm_mlflow.errors import EvidenceError, ManifestError
from kfm_mlflow.release.manifest import (
    DigestMemory,
    build_manifest,
    check_path,
    compare_manifests,
    parse_manifest,
)
from kfm_mlflow.trust.keys import generate_key
from kfm_mlflow.trust.signing import sign_release

FILES = {"MLmodel": b"flavors: {}\n", "model.onnx": b"\x08\x07", "xai/summary.json": b"{}"}


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def test_release_id_is_the_sha256_of_the_canonical_manifest(tmp_path) -> None:
    root = write(tmp_path / "r", {"b": b"2", "a": b"1"})
    one, two = (hashlib.sha256(data).hexdigest() for data in (b"1", b"2"))
    by_hand = (
        '{"files":[{"path":"a","sha256":"' + one + '","size":1},'
        '{"path":"b","sha256":"' + two + '","size":1}],"schema_version":"1"}'
    )
    expected = "sha256:" + hashlib.sha256(by_hand.encode()).hexdigest()
    assert build_manifest(root).release_id == expected


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_change_of_one_byte_or_name_changes_the_release_id(tmp_path_factory, data) -> None:
    root = write(tmp_path_factory.mktemp("r"), FILES)
    before = build_manifest(root)
    name = data.draw(st.sampled_from(sorted(FILES)))
    path = root / name
    change = data.draw(st.sampled_from(["flip", "append", "truncate", "rename", "remove", "add"]))
    content = bytearray(path.read_bytes())
    if change == "flip":
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
    elif change == "append":
        path.write_bytes(bytes(content) + b"\0")
    elif change == "truncate":
        path.write_bytes(bytes(content[:-1]))
    elif change == "rename":
        path.rename(path.with_name(path.name + "2"))
    elif change == "remove":
        path.unlink()
    else:
        (root / "evil.bin").write_bytes(b"")
    after = build_manifest(root)
    assert after.release_id != before.release_id
    assert compare_manifests(before, after)


def test_a_rename_that_keeps_the_order_is_another_release(tmp_path) -> None:
    # The OMS root digest does not notice this one.
    one = write(tmp_path / "one", {"a.bin": b"1", "b.bin": b"2"})
    two = write(tmp_path / "two", {"a2.bin": b"1", "weights/b.bin": b"2"})
    assert build_manifest(one).release_id != build_manifest(two).release_id


def test_empty_directories_modes_and_times_do_not_count(tmp_path) -> None:
    one, two = write(tmp_path / "one", FILES), write(tmp_path / "two", FILES)
    (two / "empty").mkdir()
    (two / "MLmodel").chmod(0o600)
    os.utime(two / "MLmodel", (0, 0))
    assert build_manifest(one) == build_manifest(two)


def test_a_symbolic_link_is_no_release(tmp_path) -> None:
    root = write(tmp_path / "r", FILES)
    (root / "link").symlink_to("MLmodel")
    with pytest.raises(ManifestError, match="link: is a symbolic link"):
        build_manifest(root)


def test_a_linked_directory_is_no_release(tmp_path) -> None:
    root = write(tmp_path / "r", FILES)
    (tmp_path / "outside").mkdir()
    (root / "linked").symlink_to(tmp_path / "outside")
    with pytest.raises(ManifestError, match="symbolic link"):
        build_manifest(root)


def test_a_device_is_no_release(tmp_path) -> None:
    root = write(tmp_path / "r", FILES)
    os.mkfifo(root / "pipe")
    with pytest.raises(ManifestError, match="neither a file nor a directory"):
        build_manifest(root)


@pytest.mark.parametrize(
    "name",
    [".git/config", ".github/x.py", "sub/.gitattributes", "a\\b", "a\nb", "a:b", "e\u0301.bin"],
)
def test_names_that_tools_read_differently_are_refused(tmp_path, name) -> None:
    root = write(tmp_path / "r", {**FILES, name: b"x"})
    with pytest.raises(ManifestError, match="remove or rename"):
        build_manifest(root)


def test_names_that_differ_by_case_are_refused(tmp_path) -> None:
    root = write(tmp_path / "r", {"Model.pt": b"1", "model.pt": b"2"})
    with pytest.raises(ManifestError, match=r"differs from 'Model\.pt' only by case"):
        build_manifest(root)


@pytest.mark.parametrize("make", ["missing", "empty", "file"])
def test_nothing_is_no_release(tmp_path, make) -> None:
    root = tmp_path / "r"
    if make == "empty":
        root.mkdir()
    elif make == "file":
        root.write_bytes(b"x")
    with pytest.raises(ManifestError, match="r: "):
        build_manifest(root)


@pytest.mark.parametrize("path", ["", "/a", "a//b", "./a", "a/../b", "a/", " a", "a "])
def test_paths_that_are_not_plain_are_refused(path) -> None:
    assert check_path(path) is not None


def test_a_manifest_survives_writing_and_reading(tmp_path) -> None:
    manifest = build_manifest(write(tmp_path / "r", FILES))
    assert parse_manifest(manifest.to_dict()) == manifest


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"schema_version": "2", "files": []},
        {"schema_version": "1", "files": [{"path": "b"}]},
    ],
)
def test_a_malformed_manifest_is_refused(value) -> None:
    with pytest.raises(EvidenceError):
        parse_manifest(value)


def test_unsorted_or_repeated_paths_are_refused(tmp_path) -> None:
    good = build_manifest(write(tmp_path / "r", FILES)).to_dict()
    for files in (good["files"][::-1], [good["files"][0]] * 2):
        with pytest.raises(EvidenceError, match="sorted and unique"):
            parse_manifest({"schema_version": "1", "files": files})


def test_a_file_that_was_written_just_now_is_not_remembered(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    memory = DigestMemory()
    build_manifest(tmp_path, memory)
    assert memory.recall((tmp_path / "a").lstat()) is None


def test_a_remembered_file_is_read_again_after_any_write(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"1")
    memory = DigestMemory()
    state = path.stat()
    long_after_ns = state.st_ctime_ns + 10**10
    memory.keep(state, digest_bytes(b"1"), long_after_ns)
    assert build_manifest(tmp_path, memory) == build_manifest(tmp_path)
    while path.stat().st_ctime_ns == state.st_ctime_ns:  # Until the file system's clock ticks.
        path.write_bytes(b"2")
    # The same size and modification time again: the change time alone gives it away.
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_mtime_ns == state.st_mtime_ns
    assert build_manifest(tmp_path, memory).digests == {"a": digest_bytes(b"2")}


def test_what_is_remembered_is_not_read(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"1")
    memory = DigestMemory()
    state = path.stat()
    memory.keep(state, digest_bytes(b"something else"), state.st_ctime_ns + 10**10)
    assert build_manifest(tmp_path, memory).digests == {"a": digest_bytes(b"something else")}


def test_only_so_many_files_are_remembered(tmp_path):
    memory = DigestMemory(size=1)
    states = []
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())
        states.append((tmp_path / name).stat())
        memory.keep(states[-1], digest_bytes(name.encode()), states[-1].st_ctime_ns + 10**10)
    assert [memory.recall(state) for state in states] == [None, digest_bytes(b"b")]


def test_files_that_the_caller_wrote_and_read_are_not_read_again(tmp_path) -> None:
    root = write(tmp_path / "r", FILES)
    honest = build_manifest(root)
    assert build_manifest(root, written=honest.digests) == honest
    told = {**honest.digests, "MLmodel": f"sha256:{'0' * 64}"}
    assert build_manifest(root, written=told).digests["MLmodel"] == told["MLmodel"]
    (root / "added.bin").write_bytes(b"x")
    assert "added.bin" in build_manifest(root, written=told).digests


@pytest.mark.parametrize("size_bytes", [2**20 - 1, 2**20, 2**20 + 1])
def test_small_and_big_files_are_digested_alike(tmp_path, size_bytes) -> None:
    data = bytes(range(256)) * (size_bytes // 256 + 1)
    files = {f"{number}.bin": data[number : number + size_bytes] for number in range(3)}
    root = write(tmp_path / "r", files)
    for name, digest in build_manifest(root).digests.items():
        assert digest == f"sha256:{hashlib.sha256(files[name]).hexdigest()}"


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts what is read")
def test_signing_and_verifying_read_each_byte_once(tmp_path) -> None:
    """By the kernel's own count; what is read besides (keys, modules) is small."""
    root = write(tmp_path / "r", {"model.pt": bytes(8 * 2**20)})
    generate_key(tmp_path / "key.pem")

    def read_bytes(act) -> int:
        counts = []
        for step in (lambda: None, act):
            step()
            text = Path("/proc/self/io").read_text()
            counts.append(int(text.partition("rchar: ")[2].split()[0]))
        return counts[1] - counts[0]

    digests = build_manifest(root).digests
    sign_release(root, tmp_path / "warm.sig", tmp_path / "key.pem", digests=digests)
    once = read_bytes(lambda: sign_release(root, tmp_path / "r.sig", tmp_path / "key.pem"))
    assert 8 * 2**20 <= once < 9 * 2**20
    told = {"digests": build_manifest(root).digests}
    again = read_bytes(lambda: sign_release(root, tmp_path / "s.sig", tmp_path / "key.pem", **told))
    assert again < 2**20
