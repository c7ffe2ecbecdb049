"""What is recorded of the checkout: commit, changes, project and lock, each named when it is wrong."""

import pytest
from authoring.made_project import ENVIRONMENT, git, make_project, pins
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.authoring.lock import parse_pins
from kfm_mlflow.authoring.source import read_source
from kfm_mlflow.canonical import digest_file


def test_a_clean_checkout_is_its_commit_its_project_and_its_lock(tmp_path):
    place = make_project(tmp_path / "repository", "models/one")
    found = read_source(place, is_project=True)
    assert found.commit == git(place, "rev-parse", "HEAD").strip()
    assert (found.tree, found.changed, found.url) == ("clean", (), None)
    assert found.project == "models/one"
    assert found.lock.path == "models/one/locked.txt"
    assert found.lock.digest == digest_file(place / "locked.txt")
    assert found.lock.problem == ""


def test_a_script_in_a_folder_below_belongs_to_the_nearest_project(tmp_path):
    place = make_project(tmp_path / "repository", "models/one")
    inner = place / "steps" / "first"
    inner.mkdir(parents=True)
    assert read_source(inner, is_project=False).project == "models/one"
    assert read_source(tmp_path / "repository", is_project=False).project is None


@pytest.mark.parametrize("how", ["changed", "new", "staged", "deleted"])
def test_any_change_makes_a_tree_dirty_and_is_named(tmp_path, caplog, how):
    place = make_project(tmp_path / "repository")
    path = place / ("new.py" if how == "new" else "train.py")
    if how == "deleted":
        path.unlink()
    else:
        path.write_text("changed = True\n")
    if how == "staged":
        git(place, "add", "train.py")
    found = read_source(place, is_project=True)
    assert (found.tree, found.changed) == ("dirty", (path.name,))
    assert path.name in caplog.text
    assert "commit or ignore" in caplog.text


def test_what_git_ignores_changes_nothing(tmp_path):
    place = make_project(tmp_path / "repository", **{".gitignore": "keys/\n"})
    (place / "keys").mkdir()
    (place / "keys" / "trainer.pem").write_text("secret")
    assert read_source(place, is_project=True).tree == "clean"


def test_outside_of_a_repository_and_without_git_nothing_is_known(tmp_path, monkeypatch):
    assert read_source(tmp_path, is_project=True) is None
    place = make_project(tmp_path / "repository")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_source(place, is_project=True) is None


def test_git_looks_where_it_is_told_to_even_inside_a_hook(tmp_path, monkeypatch):
    place = make_project(tmp_path / "repository")
    other = make_project(tmp_path / "other", locked="# none\n")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert read_source(place, is_project=True).commit == git(place, "rev-parse", "HEAD").strip()


OLD = "\n".join(line for line in pins("torch").splitlines() if not line.startswith("torch=="))
PROBLEMS = {
    "loose": (pins("torch") + "numpy>=1\n", "-c locked.txt, torch", "'numpy>=1') pins no version"),
    "wildcard": ("torch==2.*\n", "-c locked.txt, torch", "(torch==2.*') pins|'torch==2.*'"),
    "missing package": (OLD, "-c locked.txt, torch", "torch is not in it"),
    "other version": (f"{OLD}\ntorch==1.0.0\n", "-c locked.txt, torch", "it says ==1.0.0"),
    "two locks": (pins("torch"), "-c locked.txt, -r train.py", "names 2 locks"),
    "not installed": ("", "-c locked.txt, no-such-package", "no-such-package"),
    "no requirement": (pins("torch"), "-c locked.txt, torch, ==", "'==' is no requirement"),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_a_lock_that_fixes_nothing_says_why(tmp_path, case):
    locked, dependencies, message = PROBLEMS[case]
    environment = f"dependencies: [{dependencies}]\n".replace("==]", '"=="]')
    place = make_project(tmp_path / "repository", locked=locked, python_env=environment)
    problem = read_source(place, is_project=True).lock.problem
    assert any(part in problem for part in message.split("|")), problem


@pytest.mark.parametrize(
    "files",
    [
        {"python_env": "dependencies: [torch]\n"},
        {"python_env": None},
        {"locked": None},
        {"python_env": ENVIRONMENT.replace("locked.txt", "/etc/hostname")},
        {"python_env": "dependencies: ["},
    ],
    ids=["unnamed", "no environment", "no file", "outside", "no YAML"],
)
def test_without_a_lock_in_the_repository_there_is_none(tmp_path, files):
    place = make_project(tmp_path / "repository", **files)
    assert read_source(place, is_project=True).lock is None


NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,4})?", fullmatch=True)
VERSIONS = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}", fullmatch=True)


@given(st.dictionaries(NAMES, VERSIONS, max_size=6), st.booleans())
def test_every_pin_is_read_with_or_without_hashes(wanted, hashed):
    tail = f" \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{'1' * 64}" if hashed else ""
    text = "".join(f"{name}=={version}{tail}  # why\n" for name, version in wanted.items())
    found, problems = parse_pins(text)
    assert problems == []
    assert {name: str(spec) for name, spec in found.items()} == {
        name: f"=={version}" for name, version in wanted.items()
    }
