"""The guard before the frozen area, as a function of method and path."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.utils.uri import validate_path_is_safe

from kfm_mlflow.registry.app import touches_frozen

API = "/api/2.0/mlflow-artifacts/artifacts"
TARGETS = (
    "kfm-frozen/ab/release/MLmodel",
    "x/kfm-frozen/ab",
    "./kfm-frozen/ab",
    "KFM-Frozen/ab",
    "file:kfm-frozen/ab",
    "kfm-frozen?",
    "kfm-frozen;x/ab",
    "kfm-\tfrozen/ab",
    "kfm-\nfrozen",
    "",
    ".",
    "./",
    "file:",
    "file:.",
    "/",
)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST", "PATCH", "delete", "MKCOL"])
@pytest.mark.parametrize("target", TARGETS)
def test_no_spelling_of_the_frozen_area_or_the_root_is_written(method, target):
    path = f"{API}/{target}"
    for _ in range(11):
        assert touches_frozen(method, path), path
        path = f"{API}/{quote(path.removeprefix(API + '/'), safe='')}"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_everything_may_be_read(method):
    assert not touches_frozen(method, f"{API}/kfm-frozen/ab/release/MLmodel")


@pytest.mark.parametrize(
    "path",
    [
        f"{API}/1/run/artifacts/release/MLmodel",
        f"{API}/1",
        "/api/2.0/mlflow/registered-models/alias",
        "/kfm/api/v1/models/climate-tiny/versions/1/moves",
    ],
)
def test_other_writes_pass(path):
    assert not touches_frozen("PUT", path)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "kfm-frozen",
                "kfm",
                "-frozen",
                "/",
                "file:",
                ".",
                "%",
                "2",
                "5",
                "\t",
                "\n",
                "?",
                ";",
                "a",
            ]
        ),
        max_size=8,
    ).map("".join),
    st.integers(0, 9),
)
def test_what_mlflow_makes_of_a_path_is_never_frozen_when_the_guard_lets_it_pass(text, times):
    for _ in range(times):
        text = quote(text, safe="")
    if touches_frozen("PUT", f"{API}/{text}"):
        return
    try:
        seen = validate_path_is_safe(text)
    except (MlflowException, ValueError):
        return
    parts = [part for part in seen.lower().split("/") if part not in ("", ".")]
    assert parts
    assert "kfm-frozen" not in parts
