"""Who asks: what a request can and cannot make us believe."""

from __future__ import annotations

import pytest
from flask import Flask, g, request
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.registry.actor import (
    IN_PROCESS,
    UNAUTHENTICATED,
    UNKNOWN_ADDRESS,
    Actor,
    current_actor,
    is_loopback,
    may_read,
)
from kfm_mlflow.registry.permissions import asks_for_frozen, models_named, release_asked_for

app = Flask("asked")
HEX = "0123456789abcdef" * 4
PROXY = "/api/2.0/mlflow-artifacts/artifacts"
header_text = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)


def test_outside_a_request_the_caller_is_in_process_and_local():
    assert (
        current_actor()
        == IN_PROCESS
        == Actor(UNAUTHENTICATED, authenticated=False, remote_address="")
    )
    assert IN_PROCESS.is_local
    assert may_read("any")


def test_without_a_login_the_name_is_unauthenticated_and_the_address_the_sockets():
    with app.test_request_context("/", environ_base={"REMOTE_ADDR": "203.0.113.9"}):
        actor = current_actor()
    assert actor == Actor(UNAUTHENTICATED, authenticated=False, remote_address="203.0.113.9")
    assert not actor.is_local


def test_the_name_is_the_one_that_mlflow_let_in():
    with app.test_request_context("/", environ_base={"REMOTE_ADDR": "127.0.0.1"}):
        g.mlflow_authenticated_user = "ann"
        assert current_actor() == Actor("ann", authenticated=True, remote_address="127.0.0.1")


def test_a_user_called_unauthenticated_is_authenticated_all_the_same():
    with app.test_request_context("/"):
        g.mlflow_authenticated_user = UNAUTHENTICATED
        assert current_actor().authenticated


@given(headers=st.dictionaries(st.from_regex(r"[A-Z][A-Za-z-]{0,20}", fullmatch=True), header_text))
def test_no_header_gives_a_name_an_address_or_more_trust(headers):
    with app.test_request_context(
        "/", headers=headers, environ_overrides={"REMOTE_ADDR": "203.0.113.9"}
    ):
        actor = current_actor()
    assert (actor.name, actor.authenticated) == (UNAUTHENTICATED, False)
    assert actor.remote_address == "203.0.113.9"
    assert not actor.is_local


@pytest.mark.parametrize(
    "header", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via"]
)
def test_who_came_through_a_proxy_of_this_machine_is_not_local(header):
    environ = {"REMOTE_ADDR": "127.0.0.1"}
    with app.test_request_context("/", headers={header: "127.0.0.1"}, environ_base=environ):
        assert not current_actor().is_local
    with app.test_request_context("/", environ_base=environ):
        assert current_actor().is_local


def test_a_socket_without_an_address_is_not_in_process():
    with app.test_request_context("/", environ_overrides={"REMOTE_ADDR": ""}):
        actor = current_actor()
    assert actor.remote_address == UNKNOWN_ADDRESS
    assert not actor.is_local


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("localhost", False),
        ("127.0.0.1.example.org", False),
        ("127.1", False),
        ("", False),
        (UNKNOWN_ADDRESS, False),
    ],
)
def test_only_loopback_addresses_are_loopback(address, loopback):
    assert is_loopback(address) is loopback


def test_what_may_be_read_is_what_the_request_says():
    with app.test_request_context("/"):
        assert may_read("climate-tiny")
        g.kfm_may_read = "climate-tiny".__eq__
        assert may_read("climate-tiny")
        assert not may_read("secret")


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        (f"{PROXY}/kfm-frozen/{HEX}/release/MLmodel", []),
        (f"{PROXY}/kfm-frozen/{HEX}", []),
        (f"/ajax{PROXY}/kfm-frozen/{HEX}/release/a b.json", []),
        (f"/api/2.0/mlflow-artifacts/presigned/kfm-frozen/{HEX}/release", []),
        (PROXY, [f"kfm-frozen/{HEX}/release"]),
        (PROXY, [f"/kfm-frozen/{HEX}"]),
    ],
)
def test_a_frozen_release_is_found_in_the_plain_way_of_asking(path, asked):
    assert asks_for_frozen(path, asked)
    assert release_asked_for(path, asked) == f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        (f"{PROXY}/kfm-frozen", []),
        (f"{PROXY}/kfm-frozen/{HEX[:-1]}", []),
        (f"{PROXY}/kfm-frozen/{HEX.upper()}/x", []),
        (f"{PROXY}/kfm-frozen/{HEX}/../{HEX}", []),
        (f"{PROXY}/x/../kfm-frozen/{HEX}", []),
        (f"{PROXY}/kfm-frozen/{HEX}/%2e%2e/x", []),
        (f"{PROXY}/kfm%2dfrozen/{HEX}/x", []),
        (f"{PROXY}/kfm-frozen/{HEX}/..\\x", []),
        (f"{PROXY}/KFM-FROZEN/{HEX}/x", []),
        (PROXY, [f"kfm-frozen/{HEX}", f"kfm-frozen/{HEX[::-1]}"]),
        (f"{PROXY}/kfm-frozen/{HEX}", [f"kfm-frozen/{HEX[::-1]}"]),
        (PROXY, [f"file:kfm-frozen/{HEX}"]),
    ],
)
def test_any_other_way_into_the_frozen_area_names_no_release(path, asked):
    assert asks_for_frozen(path, asked)
    assert release_asked_for(path, asked) is None


def test_other_artifacts_and_routes_are_mlflows_own_affair():
    assert not asks_for_frozen(f"{PROXY}/0/abc/artifacts/model/MLmodel", [])
    assert not asks_for_frozen("/kfm/models/kfm-frozen", [])


def test_a_model_in_a_body_is_seen_whatever_the_query_names():
    body = {"model_name": "hidden", "version": 1}
    with app.test_request_context("/kfm/api/v1/votes?name=mine", method="POST", json=body):
        assert models_named(request) == ["mine", "hidden"]
