"""Archives of exports: what is packed is what is unpacked, and nothing else ever is."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kfm_mlflow.errors import IntegrityError
from kfm_mlflow.release.archive import is_archive, unpack_tar, write_tar
from kfm_mlflow.release.manifest import build_manifest


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "out"
    (root / "a").mkdir(parents=True)
    (root / "a" / "ü x").write_bytes(b"1" * 700)
    (root / ("long" * 40)).write_bytes(b"")
    (root / "b").write_bytes(b"2")
    return root


@pytest.fixture
def packed(tree, tmp_path):
    write_tar(tree, tmp_path / "x.tar", "x-v1")
    return tmp_path / "x.tar"


@pytest.fixture
def into(tmp_path):
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


def hostile(path, *members, mode="w"):
    """Write an archive member by member: (name, bytes) or a TarInfo."""
    with tarfile.open(path, mode) as archive:
        for member in members:
            info, data = member if isinstance(member, tuple) else (member, b"")
            info = tarfile.TarInfo(info) if isinstance(info, str) else info
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_what_is_packed_is_unpacked(tree, packed, into):
    assert is_archive(packed)
    found = unpack_tar(packed, into)
    assert found == into / "x-v1"
    assert build_manifest(found) == build_manifest(tree)


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (("x/../../evil", b"1"), "is not a plain relative path"),
        (("/x/evil", b"1"), "is not a plain relative path"),
        (("../evil", b"1"), "is not a plain relative path"),
        (("x/./evil", b"1"), "is not a plain relative path"),
        (("x/a\\..\\evil", b"1"), "characters that some systems cannot keep"),
        (("x/.git/hooks", b"1"), "git's own files"),
        (("evil", b"1"), "lies in no folder"),
        (("y/evil", b"1"), "lies in another folder"),
        (("x/good", b"2"), "is there twice"),
        (("x/GOOD", b"2"), "is there twice"),
        (special("x/link", tarfile.SYMTYPE, "/etc/passwd"), "is not a plain file"),
        (special("x/link", tarfile.LNKTYPE, "x/good"), "is not a plain file"),
        (special("x/dev", tarfile.CHRTYPE), "is not a plain file"),
        (special("x/dev", tarfile.BLKTYPE), "is not a plain file"),
        (special("x/pipe", tarfile.FIFOTYPE), "is not a plain file"),
        (special("x/folder", tarfile.DIRTYPE), "is not a plain file"),
        (special("x/sparse", tarfile.GNUTYPE_SPARSE), "is not a plain file"),
    ],
)
def test_a_member_that_no_export_holds_is_refused_by_name(tmp_path, into, member, reason):
    path = hostile(tmp_path / "h.tar", ("x/good", b"1"), member)
    with pytest.raises(IntegrityError, match=reason) as refused:
        unpack_tar(path, into)
    assert str(refused.value).startswith("h.tar: ")
    assert {p.name for p in into.rglob("*")} <= {"x", "good"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["h.tar", "into"]


def test_equal_directories_give_equal_archives(tree, tmp_path):
    write_tar(tree, tmp_path / "1.tar", "x")
    for path in tree.rglob("*"):
        path.chmod(0o700)
    write_tar(tree, tmp_path / "2.tar", "x")
    first, second = ((tmp_path / name).read_bytes() for name in ("1.tar", "2.tar"))
    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()


def test_a_file_that_is_also_a_folder_is_refused(tmp_path, into):
    path = hostile(tmp_path / "h.tar", ("x/a", b"1"), ("x/a/b", b"2"))
    with pytest.raises(IntegrityError, match=r"h\.tar: cannot be read as an archive"):
        unpack_tar(path, into)


def test_an_archive_of_somebody_elses_packing_is_refused_with_what_to_do(tmp_path, into):
    dated = tarfile.TarInfo("x/a")
    dated.mtime = 1
    path = hostile(tmp_path / "h.tar", (dated, b"1"))
    with pytest.raises(IntegrityError, match="verify the folder, if you packed it yourself"):
        unpack_tar(path, into)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_archive_may_be_a_bomb_and_is_refused(tmp_path, into, mode):
    path = hostile(tmp_path / "h.tar", ("x/a", b"\0" * 10_000_000), mode=mode)
    with pytest.raises(IntegrityError, match="cannot be read as an archive"):
        unpack_tar(path, into)
    assert list(into.iterdir()) == []


def test_a_huge_extended_header_is_refused_before_it_is_read(tmp_path, into):
    info = tarfile.TarInfo("x/a")
    info.pax_headers = {"comment": "c" * 2**20}
    with tarfile.open(tmp_path / "h.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    with pytest.raises(IntegrityError, match="an extended header of"):
        unpack_tar(tmp_path / "h.tar", into)


@pytest.mark.parametrize("data", [b"", b"\0" * 10240, b"no archive", b"\xff" * 4096])
def test_what_is_no_archive_is_refused(tmp_path, into, data):
    (tmp_path / "h.tar").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"^h\.tar: "):
        unpack_tar(tmp_path / "h.tar", into)


def test_an_archive_in_a_link_or_a_folder_is_none(tmp_path):
    (tmp_path / "d.tar").mkdir()
    assert not is_archive(tmp_path / "d.tar")
    assert not is_archive(tmp_path / "none.tar")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(chosen=st.data())
def test_any_changed_cut_or_added_byte_is_found(tree, packed, tmp_path_factory, chosen):
    before = packed.read_bytes()
    at = chosen.draw(st.integers(0, len(before) - 1))
    how = chosen.draw(st.sampled_from(["flip", "cut", "add"]))
    changed = {
        "flip": before[:at]
        + bytes([before[at] ^ (1 << chosen.draw(st.integers(0, 7)))])
        + before[at + 1 :],
        "cut": before[:at],
        "add": before + before[:at] + b"\0",
    }[how]
    folder = tmp_path_factory.mktemp("changed")
    (folder / "c.tar").write_bytes(changed)
    (folder / "into").mkdir()
    found, problem = None, ""
    try:
        found = unpack_tar(folder / "c.tar", folder / "into")
    except IntegrityError as exc:
        problem = str(exc)
    if found is None:
        assert problem.startswith("c.tar: ")
    else:
        # A flip in a file's bytes or name is another archive, equally well packed.
        assert how == "flip"
        assert found.name != "x-v1" or build_manifest(found) != build_manifest(tree)
