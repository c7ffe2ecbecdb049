"""``kfm rebuild`` of directories: what is run, what is compared, and what is refused before that.

That a real training gives the same release id is shown by the demo (``tests/test_demo.py``) and by
``tests/authoring/test_release.py``; the project here hands over a release that it is given.
"""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from authoring.made_project import git, make_project
from registry.world import AT, digest_of

from kfm_mlflow.authoring.attestations import PROVENANCE_NAME
from kfm_mlflow.authoring.environment import recorded_packages, require_same_packages
from kfm_mlflow.authoring.rebuild import merged_parameters
from kfm_mlflow.authoring.training_run import packages_digest
from kfm_mlflow.canonical import digest_bytes, digest_path, load_json, write_bytes
from kfm_mlflow.errors import DataError, EvidenceError, InputError
from kfm_mlflow.metadata.packages import resolved_packages
from kfm_mlflow.trust.slsa import Provenance, UsedData, UsedLock, build_predicate
from kfm_mlflow.trust.statement import Binding, build_slsa_statement, sign_statement

if TYPE_CHECKING:
    from pathlib import Path

    from kfm_mlflow.release.bundle import Bundle

TRAIN = """\
import os, shutil, sys
from pathlib import Path
folder = Path(os.environ["KFM_REBUILD"])
assert not list((folder / "recorded").rglob("model.*t")), "weights were handed over"
assert not any(name.startswith("MLFLOW_REGISTRY") for name in os.environ)
if not Path(sys.argv[-1]).is_dir():
    sys.exit("kfm: the data is gone")
shutil.copytree(sys.argv[-1], folder / "release")
"""


@dataclass(frozen=True)
class Made:
    """A release whose provenance names a commit of a real repository."""

    world: object
    bundle: Bundle
    project: Path
    provenance: Provenance

    def sign(self, *, key: str = "trainer", release_id: str = "", **changes) -> None:
        """Put another provenance beside the release."""
        metadata = load_json(self.bundle.release_dir / "model_metadata.json")
        binding = Binding(
            metadata["model_name"],
            metadata["release_version"],
            release_id or digest_of(self.bundle),
        )
        predicate = build_predicate(replace(self.provenance, **changes))
        envelope = sign_statement(build_slsa_statement(binding, predicate), self.world.signer(key))
        write_bytes(self.bundle.evidence_dir / PROVENANCE_NAME, envelope)


@pytest.fixture(scope="module")
def installed():
    return {package.name: package.version for package in resolved_packages(None)}


@pytest.fixture
def made(world, tmp_path, installed) -> Made:
    bundle = world.copy(tmp_path)
    project = make_project(tmp_path / "repository", train=TRAIN, locked="# nothing\n")
    lock = UsedLock("locked.txt", digest_path(project / "locked.txt"))
    provenance = Provenance(
        entry_point="release",
        parameters={"data": "release", "logged": "by the code"},
        seed=42,
        started_at=AT - timedelta(hours=3),
        finished_at=AT - timedelta(hours=2),
        git_commit=git(project, "rev-parse", "HEAD").strip(),
        git_tree="clean",
        project=".",
        environment_lock=packages_digest(installed),
        lock=lock,
        invocation_id="run",
        versions={"python": platform.python_version()},
    )
    found = Made(world, bundle, project, provenance)
    found.sign()
    return found


@pytest.fixture
def rebuild(kfm, made, monkeypatch, tmp_path):
    """Return the command on the made release, with a temporary folder that must be empty after."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    def run(*more, policies=None, source=None):
        done = kfm(
            "rebuild",
            made.bundle.release_dir,
            *("--policy-dir", policies or made.world.policies),
            *("--source", source or made.project),
            *("--env-manager", "local"),
            *more,
        )
        assert list(folder.iterdir()) == []
        return done

    return run


def test_what_differs_is_listed_by_file_and_field_and_exits_1(rebuild, made, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")
    other = tmp_path / "other"
    shutil.copytree(made.bundle.release_dir, other)
    text = (other / "model_metadata.json").read_text()
    (other / "model_metadata.json").write_text(text.replace('"seed":42', '"seed":43'))
    head = git(made.project, "rev-parse", "HEAD")
    (made.project / "train.py").write_text("raise SystemExit('not committed, so not run')")
    done = rebuild("-P", f"data={other}", "--json")
    assert (done.code, done.err) == (1, "")
    report = json.loads(done.out)
    assert report["recorded_release_id"] == digest_of(made.bundle)
    assert report["same"] is False
    own = [one for one in report["differences"] if not one["follows"]]
    assert [(one["path"], one["field"]) for one in own][-1] == ("model_metadata.json", "/seed")
    assert (own[-1]["recorded"], own[-1]["rebuilt"]) == ("42", "43")
    assert git(made.project, "rev-parse", "HEAD") == head
    assert not (made.project / ".git" / "worktrees").exists()


def test_a_run_that_fails_says_its_last_word(rebuild):
    rebuild("-P", "data=nowhere").fails_in_one_line(2, "release at", "the data is gone")


REFUSED = {
    "dirty": ({"git_tree": "dirty"}, "changed working copy"),
    "unknown tree": ({"git_tree": None}, "no clean working copy"),
    "no commit": ({"git_commit": None}, "no commit"),
    "no project": ({"project": None}, "no MLflow project"),
    "no packages": ({"environment_lock": None}, "no list of packages"),
    "other packages": ({"environment_lock": digest_bytes(b"")}, "sbom.spdx.json"),
    "other Python": ({"versions": {"python": "2.7.18"}}, "made with 2.7.18"),
    "other commit": ({"git_commit": "0" * 40}, "has no commit 000000000000"),
    "other lock": ({"lock": UsedLock("locked.txt", digest_bytes(b""))}, "locked.txt of the commit"),
    "other signer": ({"key": "validator"}, "--policy-dir"),
    "other bytes": ({"release_id": digest_bytes(b"")}, "about other bytes"),
    "entry point": ({"entry_point": "none"}, "no entry point 'none'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_made_again_is_refused_by_name_and_nothing_is_left(rebuild, made, case):
    changes, message = REFUSED[case]
    made.sign(**changes)
    rebuild().fails_in_one_line(2, message)


def test_bad_arguments_are_refused_by_name(rebuild, made, kfm, tmp_path):
    rebuild("-P", "data").fails_in_one_line(2, "NAME=VALUE")
    rebuild("-P", "size=9").fails_in_one_line(2, "'size' is no parameter", "data")
    rebuild(source=tmp_path / "nowhere").fails_in_one_line(2, "nowhere", "--source DIR")
    rebuild(source="ext::sh -c id").fails_in_one_line(2, "URL of a repository")
    rebuild(source=tmp_path).fails_in_one_line(2, "cannot be cloned")
    kfm("rebuild", made.bundle.release_dir).fails_in_one_line(2, "trusted signer")
    kfm("rebuild", tmp_path / "nowhere").fails_in_one_line(2, "no such directory")


RUN = Provenance(
    entry_point="release",
    parameters={"data": "fields.nc", "remote": "https://example.org/f.nc", "size": "small"},
    seed=1,
    started_at=AT,
    finished_at=AT,
    data=(
        UsedData("fields", digest_bytes(b"fields"), "fields.nc", "training"),
        UsedData("far", digest_bytes(b"far"), "https://example.org/f.nc", "validation"),
    ),
)


def test_data_that_was_a_path_must_be_given_and_have_the_recorded_digest(tmp_path):
    path = tmp_path / "mine.nc"
    path.write_bytes(b"fields")
    assert merged_parameters(RUN, {"data": str(path)}) == {**RUN.parameters, "data": str(path)}
    path.write_bytes(b"other")
    for given, message in (
        ({"data": str(path)}, f"has digest {digest_bytes(b'other')}, recorded is"),
        ({"data": str(tmp_path / "no.nc")}, "no such file"),
        ({}, "file of the training machine; give the data with digest sha256:"),
    ):
        with pytest.raises(DataError, match="data set fields") as caught:
            merged_parameters(RUN, given)
        assert message in str(caught.value)


def test_an_environment_is_the_recorded_one_or_what_differs_is_named(installed):
    require_same_packages(installed, installed)
    other = {**installed, "torch": "1.0", "extra": "2"}
    del other["numpy"]
    with pytest.raises(InputError) as caught:
        require_same_packages(installed, other)
    for part in ("torch 1.0 (recorded", "extra 2 (recorded none)", "numpy is missing"):
        assert part in str(caught.value)


def test_a_bill_of_materials_that_the_provenance_does_not_name_restores_nothing(world, installed):
    sbom = load_json(world.releases[0].release_dir / "sbom.spdx.json")
    assert recorded_packages(sbom, packages_digest(installed)) == installed
    for value, digest in (
        (sbom, digest_bytes(b"")),
        (sbom, None),
        ([], packages_digest(installed)),
    ):
        with pytest.raises(EvidenceError, match=r"sbom\.spdx\.json"):
            recorded_packages(value, digest)
