"""Which requests ask for weights, of which models, and who is refused them."""

from __future__ import annotations

import pytest
from registry.asking import repolicy
from registry.world import NAME
from werkzeug.datastructures import MultiDict

from kfm_mlflow.registry.weights import Asked, holds_weights, weights_asked_for, weights_refusal

RUN = "0123456789abcdef" * 2
PROXY = "/api/2.0/mlflow-artifacts"


@pytest.mark.parametrize(
    "file",
    [
        *("model.pt", "a/b.pth", "x.onnx", "x.onnx.data", "w.bin", "w.safetensors", "w.ckpt"),
        *("w.npz", "w.pkl", "w.h5", "weights", "", "a/", "model.pt/", "model.pt/.", "MODEL.PT"),
        *("model.pt%00.json", "model.pt#.json", "model.pt?.json", "model.pt;.json", "model.pt\n"),
        *("model.pt\x00.json", "model.pt\\.json", ".json"),
    ],
)
def test_what_is_not_plainly_metadata_counts_as_weights(file):
    assert holds_weights(file)


@pytest.mark.parametrize(
    "file",
    [
        *("MLmodel", "model.stac.json", "stac/model-item.json", "model-card.json", "README.md"),
        *("xai/summary.json", "provenance/p.ttl", "python_env.yaml", "conda.yaml", "model.sig"),
        *("requirements.txt", "release.evidence/validation.intoto.json", "plot 1.png"),
    ],
)
def test_metadata_stays_readable(file):
    assert not holds_weights(file)


def asked(method, route, body=None, /, **query):
    found = MultiDict(query)
    return weights_asked_for(method, route, found.getlist, lambda: body)


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (asked("GET", f"{PROXY}/artifacts/0/x/m.pt"), Asked("0/x/m.pt")),
        (asked("GET", f"/mlflow{PROXY}/presigned/0/x/m.pt"), Asked("0/x/m.pt")),
        (asked("HEAD", f"{PROXY}/artifacts/0/x/m.pt"), Asked("0/x/m.pt")),
        (asked("GET", "/get-artifact", run_id=RUN, path="m.pt"), Asked("m.pt", runs=(RUN,))),
        (
            asked("GET", "/get-artifact", path=["card.json", "m.pt"], run_uuid=[RUN, "b"]),
            Asked("m.pt", runs=(RUN, "b")),
        ),
        (
            asked("GET", "/x/model-versions/get-artifact", name="a", version="1", path="m.pt"),
            Asked("m.pt", versions=(("a", "1"),)),
        ),
        (
            asked(
                "GET",
                "/ajax-api/2.0/mlflow/logged-models/m-1/artifacts/files",
                artifact_file_path="m.pt",
            ),
            Asked("m.pt", logged=("m-1",)),
        ),
        (
            asked(
                "POST",
                "/api/2.0/mlflow/artifacts/presigned-download-url",
                {"runId": RUN, "path": "m.pt"},
            ),
            Asked("m.pt", runs=(RUN,)),
        ),
        (asked("GET", f"{PROXY}/artifacts/0/x/card.json"), None),
        (asked("GET", f"{PROXY}/artifacts", path="0/x/m.pt"), None),
        (asked("PUT", f"{PROXY}/artifacts/0/x/m.pt"), None),
        (asked("DELETE", f"{PROXY}/artifacts/0/x/m.pt"), None),
        (asked("GET", "/api/2.0/mlflow/artifacts/list", run_id=RUN, path="m.pt"), None),
        (asked("GET", "/kfm/models/m.pt"), None),
    ],
)
def test_a_request_asks_for_the_weights_that_it_would_be_sent(request_, wanted):
    assert request_ == wanted


def test_every_way_of_mlflow_to_read_a_file_is_asked_about():
    """A route that a new MLflow release adds shows here."""
    from mlflow.server import app

    reads = {
        rule.rule
        for rule in app.url_map.iter_rules()
        if "GET" in rule.methods and "artifact" in rule.rule
    }
    known = ("/get-artifact", "<path:artifact_path>", "/artifacts/files")
    others = {rule for rule in reads if not rule.endswith(known)}
    # Listings, and what a trace keeps: files of its own, with names that it gives them.
    assert all(
        rule.endswith(("/artifacts/list", "/artifacts/directories", "/mlflow-artifacts/artifacts"))
        or "trace" in rule
        for rule in others
    ), others


def test_weights_of_a_frozen_release_are_for_the_roles_of_its_policy(two):
    release = two.store.snapshot(NAME, 1).release
    frozen = release.release_id.removeprefix("sha256:")
    lies = Asked(f"kfm-frozen/{frozen}/release/model.pt")
    assert weights_refusal(two.store, "tom", lies) is None
    repolicy(
        two,
        access={
            "roles": {"operator": ["olga"], "trainer": ["tom"]},
            "may_download_weights": ["operator"],
            "weights_contact": "the council",
        },
    )
    assert weights_refusal(two.store, "olga", lies) is None
    for user in ("tom", "", "unauthenticated"):
        refused = weights_refusal(two.store, user, lies)
        assert refused.get_http_status_code() == 403
        assert refused.message == (
            f"KFM refused {lies.file}: weights of {NAME} are restricted under CARE to the roles "
            "operator; ask the council"
        )
    for odd in (
        f"kfm-frozen/{'0' * 64}/release/model.pt",
        f"kfm%2dfrozen/{frozen}/release/model.pt",
        "0/%2561/artifacts/model.pt",
        "0/a\tb/artifacts/model.pt",
    ):
        assert weights_refusal(two.store, "tom", Asked(odd)).get_http_status_code() == 403
    # What cannot be asked about is not handed out.
    two.store._dispose_engine()
    broken = weights_refusal(two.store, "olga", Asked("m.pt", versions=((NAME, "x"),)))
    assert broken.get_http_status_code() < 500
