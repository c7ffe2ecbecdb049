"""Lineage from data to deployment: true of the ledger, valid PROV, signed, the same for everybody."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import pytest
from flask import Flask
from hypothesis import given, settings
from hypothesis import strategies as st
from metadata.test_prov import GOOD
from mlflow.server import handlers
from registry.causes import DRIFTED
from registry.world import NAME

from kfm_mlflow.canonical import canonical_bytes, digest_json, load_json
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.metadata.prov_trace import evaluate_deployed
from kfm_mlflow.policy.levels import Level
from kfm_mlflow.policy.trust import TrustPolicy
from kfm_mlflow.registry import prov_api
from kfm_mlflow.registry.api import api
from kfm_mlflow.registry.deployed_prov import (
    build_deployed,
    extended_prov,
    neighbours,
    read_deployed,
    sign_deployed,
)
from kfm_mlflow.registry.history import Entry, history_of, read_entry
from kfm_mlflow.registry.page_graph import build_lineage
from kfm_mlflow.trust.keys import load_private_key

MODEL = "climate-downscaler"
RELEASED = canonical_bytes(GOOD)
NOBODY = TrustPolicy()
BEGIN = datetime(2026, 2, 1, tzinfo=UTC)
LEVELS = ["candidate", "staging", "canary", "production"]


# -- any ledger ------------------------------------------------------------------------------------


class Ledger:
    """Rows that a registry could have written, made up from a list of wishes."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.levels = dict.fromkeys((1, 2, 3), "candidate")
        self.served: list[int] = []

    def row(self, version: int, to: str, *, at: datetime, restores: bool = False) -> None:
        """Write a row, as a registry that admits it does."""
        seq, before = len(self.entries) + 1, self.production()
        target = digest_json(["release", before]) if before not in (None, version) else ""
        entry = Entry(
            seq=seq,
            at=at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            kind="moved",
            model=MODEL,
            version=version,
            hash=digest_json(["row", seq]),
            actor="olga w.",
            outcome="allowed",
            from_level=self.levels[version],
            to_level=to,
            decision_digest=digest_json(["decision", seq]),
            policy_digest=digest_json("policy"),
            release_id=digest_json(["release", version]),
            release_version=f"v1.{version}.0",
            rollback_target=target if LEVELS.index(to) > 0 else "",
            restores=restores,
            evidence=(digest_json(["statement", version]),),
            votes={"approving": ["ann", "bea"]} if to == "production" else {},
            signed_by=("ab" * 32,),
        )
        self.entries.append(entry)
        if to == "production":
            if before not in (None, version):
                self.levels[before] = "candidate"
            self.served.append(version)
        self.levels[version] = to

    def production(self) -> int | None:
        """Return the version that is Production."""
        return next((v for v, level in self.levels.items() if level == "production"), None)

    def wish(self, what: str, version: int, at: datetime) -> None:
        """Do what is asked for, where a registry would."""
        level, holder = LEVELS.index(self.levels[version]), self.production()
        if what == "up" and level < 3:
            self.row(version, LEVELS[level + 1], at=at)
        elif what == "down" and level in (1, 2):
            self.row(version, LEVELS[level - 1], at=at)
        elif what == "back" and holder not in (None, version) and version in self.served:
            self.row(holder, "candidate", at=at)
            self.row(version, "production", at=at, restores=True)
        elif what == "refused":
            self.entries.append(
                Entry(len(self.entries) + 1, "", "refused", MODEL, version, digest_json("refused"))
            )


wishes = st.lists(
    st.tuples(
        st.sampled_from(["up", "up", "up", "up", "down", "back", "refused"]),
        st.sampled_from([1, 2, 3]),
        st.integers(-2, 5),
    ),
    max_size=40,
)


@settings(max_examples=20, deadline=None)
@given(wishes)
def test_any_history_gives_valid_prov_that_agrees_with_it_and_needs_only_its_neighbours(asked):
    ledger, at = Ledger(), BEGIN
    for what, version, step_s in asked:
        at += timedelta(seconds=step_s)  # Clocks go back, too.
        ledger.wish(what, version, max(at, BEGIN))
    moves = [entry for entry in ledger.entries if entry.kind == "moved"]
    present = {t.version: str(t.level) for t in history_of(ledger.entries, MODEL).present}
    for version in (1, 2, 3):
        if version not in {entry.version for entry in moves}:
            with pytest.raises(EvidenceError):
                extended_prov(RELEASED, ledger.entries, version=version, trust=NOBODY)
            continue
        document = extended_prov(RELEASED, ledger.entries, version=version, trust=NOBODY)
        near = neighbours(moves, version)
        few = [e for e in moves if e.version == version or e.seq in near]
        assert extended_prov(RELEASED, few, version=version, trust=NOBODY) == document
        values = json.loads(document)
        assert evaluate_deployed(values) == []
        assert live(values, version) == {present[version]} - {"candidate"}
        rows = {f"ledger:row-{e.seq}" for e in moves if e.version == version}
        assert rows == {n for n, a in activities(values).items() if version_of(a) == version}
        for kind, records in GOOD.items():
            assert records.items() <= values[kind].items()


def activities(values):
    return {n: a for n, a in values["activity"].items() if n.startswith("ledger:")}


def version_of(record):
    return int(record["kfm:model_version"]["$"])


def live(values, version):
    """Return the levels at which a version is, as the document alone says it."""
    ended = {r["prov:entity"] for r in values.get("wasInvalidatedBy", {}).values()}
    return {
        entity["kfm:level"]
        for name, entity in values["entity"].items()
        if name.startswith("deployed:") and name not in ended and version_of(entity) == version
    }


def of_type(values, kind):
    return [n for n, a in values["activity"].items() if a["prov:type"]["$"] == f"kfm:{kind}"]


SAID = "wrong units at the quiet spring"


def why(values):
    """Return what the two halves of a rollback say of its cause."""
    names = of_type(values, "Rollback") + of_type(values, "Reversion")
    told = [values["activity"][name] for name in names]
    assert SAID not in json.dumps(values)
    return [
        (a["kfm:trigger"], a["kfm:drift_verdict"], a["kfm:drift_drifting_count"]["$"]) for a in told
    ]


def test_a_promotion_and_its_rollback_are_told_from_both_sides():
    ledger = Ledger()
    for version in (1, 2):
        for _ in range(3):
            ledger.wish("up", version, BEGIN)
    ledger.wish("back", 1, BEGIN)
    first, second = (
        json.loads(extended_prov(RELEASED, ledger.entries, version=v, trust=NOBODY)) for v in (1, 2)
    )
    assert of_type(first, "Promotion") == ["ledger:row-3", "ledger:row-6"]
    assert of_type(second, "Promotion") == ["ledger:row-6"]
    for values in (first, second):
        assert (of_type(values, "Rollback"), of_type(values, "Reversion")) == (
            ["ledger:row-7"],
            ["ledger:row-8"],
        )
        informed = {
            (r["prov:informed"], r["prov:informant"]) for r in values["wasInformedBy"].values()
        }
        assert ("ledger:row-8", "ledger:row-7") in informed
    revised = {
        (r["prov:generatedEntity"], r["prov:usedEntity"])
        for r in second["wasDerivedFrom"].values()
        if "prov:type" in r
    }
    assert ("deployed:row-6", digest_json(["release", 1])) in revised
    approved = {
        r["prov:agent"]
        for r in second["wasAssociatedWith"].values()
        if r["prov:activity"] == "ledger:row-6" and r.get("prov:role") == "approved"
    }
    assert approved == {"council:ann", "council:bea"}


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["prefix"].update(ledger="https://example.org/"),
        lambda d: d["prefix"].update(kfm="https://example.org/"),
        lambda d: (
            d["prefix"].update(x="https://kfm-mlflow.github.io/ledger/")
            or d["activity"].update({"x:row-1": {}})
        ),
        lambda d: d["entity"].update(
            {"release:two": d["entity"]["release:climate-downscaler-v1-2-0"]}
        ),
        lambda d: d["used"].update({f"_:deployed{n:05d}": {} for n in range(99)}),
        lambda d: d.update(entity=[]),
    ],
)
def test_a_released_document_that_speaks_for_the_ledger_is_refused(change):
    ledger = Ledger()
    for _ in range(3):
        ledger.wish("up", 1, BEGIN)
    document = json.loads(RELEASED)
    change(document)
    with pytest.raises(EvidenceError):
        extended_prov(canonical_bytes(document), ledger.entries, version=1, trust=NOBODY)


def test_a_release_that_was_made_after_it_was_admitted_is_a_problem_that_is_signed(world):
    ledger = Ledger()
    ledger.wish("up", 1, datetime(2026, 1, 1, tzinfo=UTC))
    found = build_deployed(RELEASED, ledger.entries, version=1, trust=NOBODY)
    assert any("is used before it is generated" in text for text in found.problems)
    signer = load_private_key(world.key("registry"))
    envelope = sign_deployed(found, signer, BEGIN)
    assert read_deployed(envelope, [signer.public_key], BEGIN) == found


def test_people_of_similar_names_stay_apart():
    from kfm_mlflow.registry.deployed_records import party

    names = ["a b", "a-b", "a_b", "ab ", " ab", "a b ", "é", "ü"]
    assert len({party("actor", name) for name in names}) == len(names)


# -- a real registry -------------------------------------------------------------------------------


@contextmanager
def asking(registry, monkeypatch):
    app = Flask("prov")
    app.register_blueprint(api)
    monkeypatch.setattr(handlers, "_model_registry_store", registry.store)
    with app.test_client() as client:
        yield client


PATH = f"/kfm/api/v1/models/{NAME}/versions/{{}}/prov"


def test_the_lineage_of_a_real_release_is_extended_at_promotion_and_rollback(two, monkeypatch):
    from prov.model import ProvDocument
    from rdflib import Graph

    with asking(two, monkeypatch) as client:

        def ask(version, **options):
            answer = client.get(PATH.format(version), **options)
            assert answer.status_code == 200, answer.text
            return answer

        canary = ask(2).json
        assert live(canary, 2) == {"canary"}
        (analysis,) = of_type(canary, "CanaryAnalysis")
        used = {r["prov:entity"] for r in canary["used"].values() if r["prov:activity"] == analysis}
        assert used == {"deployed:row-5"}
        two.store.move(NAME, 2, Level.PRODUCTION)
        assert (live(ask(2).json, 2), live(ask(1).json, 1)) == ({"production"}, set())
        two.store.move(NAME, 2, Level.CANDIDATE, restore=1, reason=SAID, cause=DRIFTED)
        assert (live(ask(2).json, 2), live(ask(1).json, 1)) == (set(), {"production"})
        for version in (1, 2):
            assert evaluate_deployed(values := ask(version).json) == []
            assert why(values) == [("drift", "FAIL", "2")] * 2
            released = load_json(
                two.world.releases[version - 1].release_dir / "provenance" / "provenance.json"
            )
            assert all(records.items() <= values[k].items() for k, records in released.items())
            everything = [
                read_entry(row)
                for row in (dict(zip(COLUMNS, r, strict=True)) for r in two.query(ALL))
            ]
            policy = two.store.admission.policy("climate")
            known = [envelope for (envelope,) in two.query("SELECT envelope FROM kfm_attestation")]
            beside = [data for _, data in two.world.releases[version - 1].read_envelopes()]
            again = extended_prov(
                canonical_bytes(released),
                everything,
                version=version,
                trust=policy.trust,
                envelopes=[*beside, *(text.encode() for text in known)],
            )
            assert again == ask(version).data
        as_json = ask(1, headers={"Accept": "*/*"})
        assert as_json.mimetype == "application/json"
        provn = ask(1, headers={"Accept": "text/provenance-notation"})
        assert provn.mimetype == "text/provenance-notation"
        document = ProvDocument.deserialize(content=as_json.text, format="json")
        assert ProvDocument.deserialize(content=provn.text, format="provn") == document
        turtle = ask(1, query_string={"format": "ttl"}, headers={"Accept": "application/json"})
        assert turtle.mimetype == "text/turtle"
        assert len(Graph().parse(data=turtle.text, format="turtle")) > 100
        assert ask(1, query_string={"format": "ttl"}).data == turtle.data
        envelope = ask(1, query_string={"format": "intoto"}).data
        assert client.get(PATH.format(1), query_string={"format": "xml"}).status_code == 400
        assert client.get(PATH.format(9)).status_code == 404
    signer = two.store.admission.signer
    found = read_deployed(envelope, [signer.public_key], two.now)
    assert (found.document, found.row) == (as_json.data, 8)
    other = load_private_key(two.world.key("foreign"))
    with pytest.raises(EvidenceError):
        read_deployed(envelope, [other.public_key], two.now)
    for place in range(0, len(envelope), len(envelope) // 20):
        broken = bytearray(envelope)
        broken[place] ^= 1
        with pytest.raises(EvidenceError):
            read_deployed(bytes(broken), [signer.public_key], two.now)
    drawn(json.loads(found.document))


COLUMNS = ("seq", "at", "kind", "model", "version", "body", "hash")
ALL = f"SELECT {', '.join(COLUMNS)} FROM kfm_ledger WHERE model = '{NAME}' ORDER BY seq"


def drawn(values):
    """Assert that the page's picture is whole, narrow, and said in words, too."""
    made = build_lineage(values, {"id": "item"})
    assert not made.truncated
    root = ET.fromstring(made.picture)
    assert float(root.get("viewBox").split()[2]) <= 360
    assert len(list(root.iter("polygon"))) == sum(" ended " not in s for s in made.sentences)
    order = [node.label for node in made.nodes]
    assert order.index("made-training") < order.index("model.pt")
    assert order.index("v1 at staging") < order.index("v1 at canary")
    decisions = [node for node in made.nodes if node.role in {"Promotion", "Reversion"}]
    assert decisions
    for node in decisions:
        assert [text.partition(" ")[0] for text in node.members] == ["asked", "decided", "under"]
    assert any(s.endswith("ended Deployment “v1 at production”.") for s in made.sentences)


def test_a_frozen_release_that_changed_has_no_lineage(two, monkeypatch):
    monkeypatch.setattr(prov_api, "_released", prov_api.Remembered())
    for path in two.area.rglob("provenance.json"):
        path.chmod(0o644)
        path.write_bytes(path.read_bytes().replace(b"training", b"trainink"))
    with asking(two, monkeypatch) as client:
        answer = client.get(PATH.format(1))
    assert answer.status_code == 403
    assert "admitted was" in answer.text


def test_a_version_that_is_not_frozen_has_no_lineage_yet(fresh_three, monkeypatch):
    with asking(fresh_three(), monkeypatch) as client:
        answer = client.get(PATH.format(1))
    assert answer.status_code == 400
    assert "not frozen yet" in answer.text
