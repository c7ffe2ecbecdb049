"""Every parser of foreign input, and what it promises about input that is bad.

A target takes one broken input and returns nothing. It fails by raising anything but a
``KfmError``, or by an assertion when the parser believed what it should not have.
"""

from __future__ import annotations

import base64
import io
import json
import tempfile
import warnings
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from fuzz.mutations import broken_bytes, broken_value
from hypothesis import strategies as st
from metadata import made_facts
from trust import made_ledger

from kfm_mlflow.canonical import canonical_bytes, digest_bytes, parse_json
from kfm_mlflow.care.geojson import parse_regions
from kfm_mlflow.care.regions import load_regions
from kfm_mlflow.care.screen import OutputGrid, screen_release
from kfm_mlflow.errors import InputError, KfmError
from kfm_mlflow.metadata.facts import PackageFact
from kfm_mlflow.metadata.prov import build_prov, evaluate_prov, prov_views
from kfm_mlflow.metadata.sbom import build_sbom, evaluate_sbom
from kfm_mlflow.metadata.schemas import schema_names, schema_problems
from kfm_mlflow.metadata.stac import build_item, evaluate_item
from kfm_mlflow.registry.history import read_entry
from kfm_mlflow.release.manifest import FileEntry, Manifest, parse_manifest
from kfm_mlflow.release.scan import scan_file
from kfm_mlflow.trust.attestation import verify_envelope
from kfm_mlflow.trust.keys import TrustedKey, generate_key, load_private_key, parse_public_key
from kfm_mlflow.trust.ledger_head import parse_head
from kfm_mlflow.trust.ledger_rows import row_problem, verify_rows
from kfm_mlflow.trust.quorum import Proposal, build_vote_claims, parse_vote
from kfm_mlflow.trust.signing import sign_release, verify_release
from kfm_mlflow.trust.slsa import Provenance, build_predicate
from kfm_mlflow.trust.statement import (
    Binding,
    build_slsa_statement,
    build_statement,
    sign_statement,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy

    from kfm_mlflow.trust.keys import Signer

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
ID = f"sha256:{'ab' * 32}"


@dataclass(frozen=True)
class Target:
    """One parser: how its input is broken, and what is asked of it."""

    name: str
    inputs: Callable[[], SearchStrategy[Any]]
    ask: Callable[[Any], None]

    def run(self, broken: Any) -> None:
        """Ask, with vendors' warnings silenced: it is exceptions that are looked for."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.ask(broken)


TARGETS: dict[str, Target] = {}


def _target(inputs: Callable[[], SearchStrategy[Any]]) -> Callable[..., Any]:
    def keep(ask: Callable[[Any], None]) -> Callable[[Any], None]:
        name = ask.__name__
        TARGETS[name] = Target(name, inputs, ask)
        return ask

    return keep


@cache
def _folder() -> Path:
    holder = tempfile.TemporaryDirectory(prefix="kfm-fuzz-")
    _HOLDERS.append(holder)
    return Path(holder.name)


_HOLDERS: list[tempfile.TemporaryDirectory[str]] = []


@cache
def _signer() -> Signer:
    generate_key(_folder() / "key")
    return load_private_key(_folder() / "key")


@cache
def _trusted() -> TrustedKey:
    return TrustedKey("somebody", _signer().public_key.pem)


@cache
def _vote() -> dict[str, Any]:
    proposal = Proposal("climate", ID, "canary", "production", ID, 0)
    claims = build_vote_claims(proposal, "somebody", "approve", "because")
    return build_statement("vote", Binding("climate", "v1.0.0", ID, ID, 1), claims, NOW)


@cache
def _statements() -> tuple[bytes, ...]:
    run = Provenance(
        "release",
        {"a": "b"},
        1,
        NOW,
        NOW,
        git_commit="ab" * 20,
        git_url="https://example.org/x",
        environment_lock=ID,
    )
    binding = Binding("climate", "v1.0.0", ID)
    provenance = build_slsa_statement(binding, build_predicate(run))
    return canonical_bytes(_vote()), canonical_bytes(provenance)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _texts(good: Callable[[], bytes]) -> Callable[[], SearchStrategy[bytes]]:
    """Return how JSON text is broken: as bytes, or as a value that is written again."""
    return lambda: broken_bytes(good()) | broken_value(good()).map(_json)


def _values(good: Callable[[], bytes]) -> Callable[[], SearchStrategy[Any]]:
    """Return how a JSON value is broken, as far as the strict reader lets it through."""

    def read(value: Any) -> Any:
        try:
            return parse_json(_json(value), where="input")
        except KfmError:
            return None

    return lambda: broken_value(good()).map(read)


def _sentences(found: Any) -> None:
    assert isinstance(found, list)
    assert all(isinstance(sentence, str) and sentence for sentence in found)


# -- canonical, release ------------------------------------------------------------------------


def _manifest() -> bytes:
    entries = (FileEntry("MLmodel", 3, ID), FileEntry("xai/summary.json", 4, ID))
    return canonical_bytes(Manifest(entries).to_dict())


@_target(_texts(_manifest))
def json_and_manifest(data: bytes) -> None:
    with suppress(KfmError):
        manifest = parse_manifest(parse_json(data, where="manifest"))
        with suppress(InputError):
            assert parse_manifest(manifest.to_dict()) == manifest


@cache
def _checkpoint() -> bytes:
    held = io.BytesIO()
    torch.save({"weight": torch.zeros(2, 2)}, held)
    return held.getvalue()


def scanned(path: str) -> None:
    """Scan one file of the folder, and fail where the scan itself tripped."""
    found = scan_file(_folder(), path, {path: 1, "model.onnx": 1})
    sentences = [*found.pickles, *found.formats]
    _sentences(sentences)
    assert not any("Error: " in sentence for sentence in sentences), sentences


@_target(lambda: broken_bytes(_checkpoint()))
def checkpoint(data: bytes) -> None:
    (_folder() / "model.pt").write_bytes(data)
    scanned("model.pt")


@cache
def _pickle() -> bytes:
    with zipfile.ZipFile(io.BytesIO(_checkpoint())) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        return archive.read(name)


@_target(lambda: broken_bytes(_pickle()))
def pickle_in_a_checkpoint(data: bytes) -> None:
    with zipfile.ZipFile(_folder() / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", data)
    scanned("model.pt")


# -- trust -------------------------------------------------------------------------------------


@cache
def _envelope() -> bytes:
    return sign_statement(_vote(), _signer())


@_target(_texts(_envelope))
def envelope(data: bytes) -> None:
    report = verify_envelope(data, [_trusted()], NOW)
    assert not report.ok or report.statement == _vote()


@_target(
    lambda: st.one_of(*(_texts(lambda which=which: _statements()[which])() for which in (0, 1)))
)
def signed_payload(payload: bytes) -> None:
    # The signer is trusted and writes nonsense.
    from securesystemslib.dsse import Envelope

    made = Envelope(payload, "application/vnd.in-toto+json", {})
    made.sign(_signer().crypto_signer)
    report = verify_envelope(canonical_bytes(made.to_dict()), [_trusted()], NOW)
    assert report.problems or report.binding is not None


@_target(_values(lambda: _statements()[0]))
def vote(statement: Any) -> None:
    with suppress(KfmError):
        assert parse_vote(statement, signers=("somebody",)).voter == "somebody"


@cache
def _signed_release() -> tuple[Path, bytes, dict[str, str]]:
    root, signature = _folder() / "release", _folder() / "release.sig"
    root.mkdir()
    (root / "model.pt").write_bytes(b"weights")
    _signer()
    sign_release(root, signature, _folder() / "key")
    return root, signature.read_bytes(), {"model.pt": digest_bytes(b"weights")}


@_target(_texts(lambda: _signed_release()[1]))
def release_signature(data: bytes) -> None:
    root, good, digests = _signed_release()
    path = _folder() / "broken.sig"
    path.write_bytes(data)
    report = verify_release(root, path, [_trusted()], NOW, digests=digests)
    if report.ok:
        assert json.loads(data)["dsseEnvelope"]["payload"] in good.decode()


@_target(lambda: broken_bytes(_signer().public_key.pem.encode()))
def public_key(data: bytes) -> None:
    with suppress(KfmError):
        parse_public_key(data.decode("latin-1"))


@cache
def _rows() -> bytes:
    return canonical_bytes(made_ledger.good()[:2])


@_target(_values(_rows))
def ledger(rows: Any) -> None:
    good = json.loads(_rows())
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return
    report = verify_rows(rows, keys=[made_ledger.signer().public_key])
    assert rows[: report.row_count] == good[: report.row_count]
    for row in rows:
        with suppress(KfmError):
            read_entry(row)


@cache
def _decision() -> bytes:
    envelope = json.loads(json.loads(_rows())[1]["body"])
    return base64.b64decode(envelope["payload"])


@_target(_values(_decision))
def ledger_statement(statement: Any) -> None:
    # The registry signed it, and it is nonsense.
    try:
        body = sign_statement(statement, made_ledger.signer()).decode()
    except (KfmError, TypeError, ValueError):  # no statement to begin with
        return
    row = {**json.loads(_rows())[1], "body": body}
    key = made_ledger.signer().public_key
    problem = row_problem(row, [TrustedKey("registry", key.pem)])
    assert problem is None or isinstance(problem, str)
    with suppress(KfmError):
        read_entry(row)


@_target(_values(lambda: b'{"schema_version":"1","seq":3,"hash":"%s","at":null}' % ID.encode()))
def ledger_head(value: Any) -> None:
    with suppress(KfmError):
        parse_head(value)


# -- metadata ----------------------------------------------------------------------------------


@cache
def _lineage() -> bytes:
    return canonical_bytes(
        build_prov(
            made_facts.make_release(),
            made_facts.make_files(),
            made_facts.make_datasets(),
            made_facts.make_run(),
            made_facts.make_agents(),
        )
    )


@_target(_values(_lineage))
def lineage(value: Any) -> None:
    _sentences(evaluate_prov(value, weights_sha256=ID, dataset_sha256s=[ID]))


@_target(_texts(_lineage))
def lineage_views(data: bytes) -> None:
    with suppress(KfmError):
        prov_views(data)


@cache
def _bill() -> bytes:
    release, files = made_facts.make_release(), made_facts.make_files()
    return build_sbom(
        release,
        files,
        made_facts.make_datasets(),
        [PackageFact("torch", "2.13.0+cpu", "BSD-3-Clause")],
    )


@_target(_texts(_bill))
def bill_of_materials(data: bytes) -> None:
    _sentences(evaluate_sbom(data, made_facts.make_files()))


@cache
def _item() -> bytes:
    release, files = made_facts.make_release(), made_facts.make_files()
    item = build_item(release, files, made_facts.make_datasets(), made_facts.make_run())
    return canonical_bytes(item)


@_target(_values(_item))
def stac_item(value: Any) -> None:
    _sentences(evaluate_item(value, made_facts.make_files()))


@_target(_values(_item))
def schemas(value: Any) -> None:
    for name in schema_names():
        _sentences(schema_problems(name, value))


# -- CARE --------------------------------------------------------------------------------------


@cache
def _regions() -> bytes:
    return (resources.files("kfm_mlflow.care") / "defaults" / "regions.geojson").read_bytes()


@_target(_texts(_regions))
def regions(data: bytes) -> None:
    with suppress(KfmError):
        parse_regions(data, where="regions")


_CARE = {
    "masking": "h3-climate-generalized",
    "scope": "public-generalized",
    "notes": ["x"],
    "authority": None,
    "labels": ["TK A"],
    "h3_max_resolution": 6,
    "output_grid": {"bbox": [-102.05, 36.99, -94.58, 40.0], "cell_size_deg": 0.5},
}


@_target(_values(lambda: canonical_bytes(_CARE)))
def care_block(value: Any) -> None:
    block = value if isinstance(value, dict) else {}
    grid = OutputGrid.from_mapping(block.get("output_grid"))
    screen_release(value, grid, {}, load_regions(None), NOW + timedelta(days=1))
