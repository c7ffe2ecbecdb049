"""``kfm prov``: the signed lineage of a version, in every format, from a real server."""

from __future__ import annotations

import json

import pytest
from prov.model import ProvDocument
from rdflib import Graph
from registry.world import NAME

from kfm_mlflow.metadata.prov_trace import evaluate_deployed

pytestmark = pytest.mark.server
URI = f"models:/{NAME}/1"


def test_kfm_prov_writes_each_format_of_one_document_after_checking_its_signature(
    exports, kfm, tmp_path
):
    def ask(chosen, *more):
        target = tmp_path / chosen
        said = kfm("prov", URI, "-o", target, "--format", chosen, *more, *server)
        assert (said.code, said.err) == (0, "")
        assert "ledger row" in said.out
        return target.read_text(encoding="utf-8")

    server = ("--server", exports.server.url)
    text = ask("json", "--key", exports.server.data / "registry.pem.pub")
    document = ProvDocument.deserialize(content=text, format="json")
    assert evaluate_deployed(json.loads(text)) == []
    assert ProvDocument.deserialize(content=ask("provn"), format="provn") == document
    assert len(Graph().parse(data=ask("ttl"), format="turtle")) > 100
    assert set(json.loads(ask("intoto"))) == {"payload", "payloadType", "signatures"}
    assert kfm("prov", URI, *server).out == text
    foreign = exports.world.key("trainer").with_suffix(".pem.pub")
    refused = kfm("prov", URI, "--key", foreign, *server)
    refused.fails_in_one_line(1, "deployed-prov")
    kfm("prov", f"models:/{NAME}/99", *server).fails_in_one_line(2, "99")
