"""More parsers: what a release's own files would run, certificates, CycloneDX and STAC search."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
import zlib
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import yaml
from fuzz.mutations import broken_bytes, broken_value
from fuzz.targets import (
    ID,
    NOW,
    TARGETS,
    Target,
    _folder,
    _item,
    _json,
    _statements,
    _target,
    _texts,
    _values,
    scanned,
)
from hypothesis import strategies as st
from metadata import made_facts
from onnx import TensorProto, helper
from trust.made_pki import Pki

from kfm_mlflow.canonical import canonical_bytes, digest_bytes
from kfm_mlflow.errors import KfmError
from kfm_mlflow.metadata.card import build_card
from kfm_mlflow.metadata.facts import FileFact, PackageFact
from kfm_mlflow.metadata.sbom import build_sbom
from kfm_mlflow.metadata.sbom_cyclonedx import build_cyclonedx
from kfm_mlflow.metadata.stac_search import build_record, matches, parse_search
from kfm_mlflow.trust.signing import sign_release_with_certificate, verify_release
from kfm_mlflow.trust.signing_certificate import TrustedCertificate, parse_roots
from kfm_mlflow.trust.slsa import parse_predicate

__all__ = ["TARGETS", "Target"]


# -- what files would run ----------------------------------------------------------------------


def _mlmodel() -> bytes:
    conf = {"loader_module": "mlflow.onnx", "data": "model.onnx", "env": {"conda": "conda.yaml"}}
    onnx = {"data": "model.onnx", "providers": ["CPUExecutionProvider"], "code": None}
    return yaml.safe_dump({"flavors": {"python_function": conf, "onnx": onnx}}).encode()


def _yaml_of(value: Any) -> bytes:
    return yaml.safe_dump(value).encode("utf-8", "replace")


@_target(
    lambda: (
        broken_bytes(_mlmodel())
        | broken_value(json.dumps(yaml.safe_load(_mlmodel())).encode()).map(_yaml_of)
    )
)
def mlmodel(data: bytes) -> None:
    (_folder() / "MLmodel").write_bytes(data)
    scanned("MLmodel")


@cache
def _onnx() -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="model.onnx")
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Odd", ["x"], [], domain="z")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], initializer=[weights])
    return helper.make_model(graph).SerializeToString()


@_target(lambda: broken_bytes(_onnx()))
def onnx_model(data: bytes) -> None:
    (_folder() / "model.onnx").write_bytes(data)
    scanned("model.onnx")


def _array(*, archived: bool) -> bytes:
    held = io.BytesIO()
    (np.savez if archived else np.save)(held, np.zeros((2, 2)))
    return held.getvalue()


def _keras() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("config.json", '{"class_name": "Dense", "module": "keras.layers"}')
    return held.getvalue()


@cache
def _unnamed() -> tuple[bytes, ...]:
    plain = pickle.dumps({"a": [1, "x"], "b": complex(1, 2)}, 0)
    return _array(archived=False), _array(archived=True), _keras(), plain, zlib.compress(plain)


@_target(lambda: st.sampled_from(range(5)).flatmap(lambda which: broken_bytes(_unnamed()[which])))
def file_by_its_bytes(data: bytes) -> None:
    (_folder() / "weights").write_bytes(data)
    scanned("weights")


# -- certificates ------------------------------------------------------------------------------


@cache
def _pki() -> Pki:
    folder = _folder() / "pki"
    folder.mkdir()
    return Pki(folder, NOW)


@cache
def _certified() -> bytes:
    root, signature = _folder() / "certified", _folder() / "certified.sig"
    root.mkdir()
    (root / "model.pt").write_bytes(b"weights")
    leaf, middle = _pki().leaf, _pki().middle
    sign_release_with_certificate(
        root,
        signature,
        leaf.key_path,
        certificate_path=leaf.pem,
        chain_paths=[middle.pem],
        now=NOW,
    )
    return signature.read_bytes()


@_target(_texts(_certified))
def certified_signature(data: bytes) -> None:
    good = _certified()
    path = _folder() / "broken-certified.sig"
    path.write_bytes(data)
    digests = {"model.pt": digest_bytes(b"weights")}
    report = verify_release(_folder(), path, [_pki().trusted], NOW, digests=digests)
    if report.ok:
        assert json.loads(data)["dsseEnvelope"]["payload"] in good.decode()


@_target(lambda: broken_bytes(_pki().root.text.encode()))
def root_certificates(data: bytes) -> None:
    text = data.decode("latin-1")
    with suppress(KfmError):
        parse_roots(text, where="roots")
    report = verify_release(
        _folder(),
        _kept_certified(),
        [TrustedCertificate("bot", text)],
        NOW,
        digests={"model.pt": digest_bytes(b"weights")},
    )
    assert report.ok or report.problems


@cache
def _kept_certified() -> Any:
    _certified()
    return _folder() / "certified.sig"


@_target(_values(lambda: canonical_bytes(json.loads(_statements()[1])["predicate"])))
def slsa_predicate(value: Any) -> None:
    with suppress(KfmError):
        parse_predicate(value)


# -- metadata ----------------------------------------------------------------------------------


@cache
def _card() -> bytes:
    files, data = made_facts.make_files(), made_facts.make_datasets()
    return canonical_bytes(
        build_card(made_facts.make_release(), files, data, made_facts.make_run())
    )


@cache
def _billed() -> tuple[bytes, tuple[FileFact, ...]]:
    kept = [fact for fact in made_facts.make_files() if fact.path != "model-card.json"]
    files = (*kept, made_facts.make_file("model-card.json", _card()))
    packages = [PackageFact("torch", "2.13.0+cpu", "BSD-3-Clause")]
    bill = build_sbom(made_facts.make_release(), files, made_facts.make_datasets(), packages)
    return bill, (*files, made_facts.make_file("sbom.spdx.json", bill))


@_target(_texts(lambda: _billed()[0]))
def cyclonedx_of_a_bill(data: bytes) -> None:
    with suppress(KfmError):
        build_cyclonedx(ID, _billed()[1], bill=data, card=_card())


@_target(_texts(_card))
def cyclonedx_of_a_card(data: bytes) -> None:
    with suppress(KfmError):
        build_cyclonedx(ID, _billed()[1], bill=_billed()[0], card=data)


_SEARCH = {
    "bbox": [-102.05, 36.99, -94.58, 40.0],
    "datetime": "2020-01-01T00:00:00Z/..",
    "ids": ["a"],
    "collections": ["climate"],
    "intersects": {"type": "Point", "coordinates": [-98.0, 38.0]},
    "query": {"mlm:name": {"eq": "x"}},
    "limit": 5,
}


@_target(_values(lambda: _json(_SEARCH)))
def stac_search(value: Any) -> None:
    if isinstance(value, dict):
        with suppress(KfmError):
            matches(build_record(json.loads(_item()), "climate", 1), parse_search(value))


@_target(_values(_item))
def stac_record(value: Any) -> None:
    with suppress(KfmError):
        matches(build_record(value, "climate", 1), parse_search(_SEARCH))
