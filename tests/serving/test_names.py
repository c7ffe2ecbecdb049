import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.errors import InputError
from kfm_serving.names import model_slug, parse_release_app, release_app, router_app

names = st.text(min_size=1, max_size=80)


@given(names)
def test_every_model_name_gives_a_short_name_of_safe_ascii_characters(name):
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,63}", model_slug(name))


@given(names, names, st.integers(1, 10**6))
def test_two_models_never_share_an_application(one, other, version):
    assert parse_release_app(one, release_app(one, version)) == version
    if one != other:
        assert parse_release_app(other, release_app(one, version)) is None
        assert router_app(one) != router_app(other)


def test_a_plain_name_stays_readable():
    assert release_app("climate-downscaler", 3) == "climate-downscaler--v3"
    assert router_app("climate-downscaler") == "climate-downscaler--router"
    assert release_app("a--v1", 2) != "a--v1--v2"


def test_a_model_without_a_name_is_refused():
    with pytest.raises(InputError, match="needs a name"):
        model_slug("")
