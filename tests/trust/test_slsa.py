"""SLSA provenance: of the official structure, bound by its subject, and read strictly."""

from __future__ import annotations

import copy
import json
from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.trust.attestation import binding_problems, verify_envelope
from kfm_mlflow.trust.keys import load_private_key
from kfm_mlflow.trust.slsa import Provenance, UsedData, UsedLock, build_predicate, parse_predicate
from kfm_mlflow.trust.statement import (
    Binding,
    build_slsa_statement,
    build_statement,
    sign_statement,
)

ID = f"sha256:{'ab' * 32}"
BINDING = Binding("climate@home", "v1.0.0", ID)
START = datetime(2026, 5, 1, 8, tzinfo=UTC)
RUN = Provenance(
    entry_point="release",
    parameters={"data": "fields.nc", "size": "small"},
    seed=42,
    started_at=START,
    finished_at=START + timedelta(hours=1),
    git_commit="0123456789abcdef0123456789abcdef01234567",
    git_url="https://example.org/models.git",
    git_tree="clean",
    project="models/one",
    environment_lock=f"sha256:{'cd' * 32}",
    lock=UsedLock("models/locked.txt", f"sha256:{'ef' * 32}", "numpy is not in it"),
    data=(
        UsedData("fields", f"sha256:{'01' * 32}", "https://example.org/fields.nc", "training"),
        UsedData("held", f"sha256:{'02' * 32}", "held.nc", "validation"),
    ),
    invocation_id="4c1f",
    settings={"learning_rate": 0.001, "width": 2048},
    versions={"python": "3.11.2"},
)


def official(predicate):
    """Read a predicate with in-toto's own definition, which refuses unknown fields."""
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2

    return json_format.Parse(json.dumps(predicate), provenance_pb2.Provenance())


def signed(key_dir, run=RUN, binding=BINDING, who="alice"):
    statement = build_slsa_statement(binding, build_predicate(run))
    return sign_statement(statement, load_private_key(key_dir / who))


def test_the_official_definition_reads_every_part():
    message = official(build_predicate(RUN))
    definition, details = message.build_definition, message.run_details
    assert definition.external_parameters["entryPoint"] == "release"
    assert dict(definition.external_parameters["parameters"]) == RUN.parameters
    assert definition.external_parameters["seed"] == 42
    found = {item.name: item for item in definition.resolved_dependencies}
    assert dict(found["source"].digest) == {"gitCommit": RUN.git_commit}
    assert found["source"].uri == f"git+https://example.org/models.git@{RUN.git_commit}"
    assert dict(found["installed-packages"].digest) == {"sha256": "cd" * 32}
    assert dict(found["fields"].digest) == {"sha256": "01" * 32}
    assert found["fields"].uri == "https://example.org/fields.nc"
    assert not found["held"].uri
    assert details.metadata.invocation_id == "4c1f"
    assert details.metadata.started_on.ToDatetime(UTC) == RUN.started_at
    assert details.metadata.finished_on.ToDatetime(UTC) == RUN.finished_at
    assert details.builder.id.startswith("https://")


def test_the_official_definition_refuses_a_field_that_slsa_does_not_have():
    from google.protobuf.json_format import ParseError

    with pytest.raises(ParseError):
        official({**build_predicate(RUN), "binding": {}})


def test_every_dependency_is_a_resource_descriptor_by_the_reference_library():
    from google.protobuf import json_format
    from in_toto_attestation.v1 import resource_descriptor_pb2
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor

    for item in build_predicate(RUN)["buildDefinition"]["resolvedDependencies"]:
        message = json_format.ParseDict(item, resource_descriptor_pb2.ResourceDescriptor())
        ResourceDescriptor.copy_from_pb(message).validate()


def test_the_statement_has_the_predicate_type_that_slsa_names(key_dir):
    from google.protobuf import json_format
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    payload = b64decode(json.loads(signed(key_dir))["payload"])
    message = json_format.Parse(payload, statement_pb2.Statement())
    Statement.copy_from_pb(message).validate()
    assert message.predicate_type == "https://slsa.dev/provenance/v1"
    assert canonical_bytes(json.loads(payload)) == payload


_TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
_DIGEST = st.binary(min_size=32, max_size=32).map(lambda data: f"sha256:{data.hex()}")
_DATA = st.builds(UsedData, _TEXT, _DIGEST, _TEXT, st.sampled_from(["training", "validation"]))
_RUNS = st.builds(
    Provenance,
    entry_point=_TEXT,
    parameters=st.dictionaries(_TEXT, _TEXT, max_size=3),
    seed=st.integers(-(2**53) + 1, 2**53 - 1),
    started_at=st.datetimes(max_value=datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - the zone is given
    finished_at=st.datetimes(min_value=datetime(2100, 1, 2), timezones=st.just(UTC)),  # noqa: DTZ001 - the zone is given
    git_commit=st.none() | st.binary(min_size=20, max_size=20).map(bytes.hex),
    environment_lock=st.none() | _DIGEST,
    data=st.lists(_DATA, max_size=3).map(
        lambda items: tuple(sorted(items, key=lambda d: (d.role, d.name, d.digest)))
    ),
    invocation_id=st.none() | st.text("abc", min_size=1),
    versions=st.dictionaries(_TEXT, _TEXT, max_size=2),
)


@given(_RUNS)
def test_what_is_written_is_read_back(run):
    predicate = build_predicate(run)
    assert parse_predicate(json.loads(canonical_bytes(predicate))) == run
    official(predicate)


def test_what_is_signed_comes_back(key_dir, trust, now):
    report = verify_envelope(signed(key_dir), [trust("alice")], now, kind="slsa-provenance")
    assert (report.ok, report.problems, report.kind) == (True, (), "slsa-provenance")
    assert report.binding == BINDING
    assert parse_predicate(report.claims) == RUN
    assert (report.issued_at, report.expires_at) == (RUN.finished_at, None)
    assert binding_problems(report.statement, BINDING) == []


FOREIGN = {
    "is about model 'climate@home', not 'climate'": {"model_name": "climate"},
    "is about release version 'v1.0.0', not 'v1.0.1'": {"release_version": "v1.0.1"},
    f"is about release id '{ID}', not 'sha256:{'0' * 64}'": {"release_id": f"sha256:{'0' * 64}"},
}


@pytest.mark.parametrize("sentence", FOREIGN)
def test_replay_under_another_name_version_or_id_is_refused_by_name(key_dir, trust, now, sentence):
    report = verify_envelope(signed(key_dir), [trust("alice")], now)
    assert binding_problems(report, replace(BINDING, **FOREIGN[sentence])) == [sentence]


def test_a_run_that_ends_in_the_future_is_not_valid_yet(key_dir, trust):
    report = verify_envelope(signed(key_dir), [trust("alice")], START)
    assert report.problems == ("not yet valid: issued at 2026-05-01T09:00:00.000000Z",)


def test_provenance_is_no_other_kind_and_no_other_kind_is_provenance(key_dir, trust, now):
    report = verify_envelope(signed(key_dir), [trust("alice")], now, kind="validation")
    assert report.problems == ("is a slsa-provenance attestation, not validation",)
    statement = build_statement("validation", BINDING, {}, now)
    statement["predicateType"] = "https://slsa.dev/provenance/v1"
    report = verify_envelope(
        sign_statement(statement, load_private_key(key_dir / "alice")), [trust("alice")], now
    )
    assert not report.ok
    assert report.problems[0].startswith("provenance: lacks buildDefinition, runDetails")


def _set(value, *path):
    def change(predicate):
        for name in path[:-1]:
            predicate = predicate[name]
        if value is None:
            del predicate[path[-1]]
        else:
            predicate[path[-1]] = value

    return change


_DEFINITION, _DETAILS = "buildDefinition", "runDetails"
_DEPENDENCIES = (_DEFINITION, "resolvedDependencies")
BAD = {
    "buildType is not": _set("https://example.org/build", _DEFINITION, "buildType"),
    "builder is not": _set("https://example.org/builder", _DETAILS, "builder", "id"),
    "has unknown 'more'": _set(1, "more"),
    "lacks seed": _set(None, _DEFINITION, "externalParameters", "seed"),
    "seed is not an integer": _set(1.5, _DEFINITION, "externalParameters", "seed"),
    "parameters: is not text": _set({"a": 1}, _DEFINITION, "externalParameters", "parameters"),
    "finished before": _set("2020-01-01T00:00:00Z", _DETAILS, "metadata", "finishedOn"),
    "is not an instant": _set("soon", _DETAILS, "metadata", "startedOn"),
    "resolvedDependencies: is not a list": _set({}, *_DEPENDENCIES),
    "source: must have one digest, gitCommit": _set({"sha1": "0"}, *_DEPENDENCIES, 0, "digest"),
    "source: is no git commit": _set({"gitCommit": "main"}, *_DEPENDENCIES, 0, "digest"),
    "is not a SHA-256 digest": _set({"sha256": "12"}, *_DEPENDENCIES, 2, "digest"),
    "of unknown role 'test'": _set({"role": "test"}, *_DEPENDENCIES, 2, "annotations"),
    "a second environment": _set({"role": "environment"}, *_DEPENDENCIES, 2, "annotations"),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_predicate_that_is_not_ours_is_refused_with_its_reason(reason):
    predicate = copy.deepcopy(build_predicate(RUN))
    BAD[reason](predicate)
    with pytest.raises(EvidenceError, match=reason):
        parse_predicate(predicate)


def test_what_cannot_be_said_is_not_written():
    wrong = {
        "no git commit": {"git_commit": "main"},
        "not a SHA-256": {"environment_lock": "12"},
        "no role": {"data": (UsedData("x", ID, "x", "test"),)},
        "before it started": {"finished_at": START - timedelta(seconds=1)},
        "no time zone": {"started_at": START.replace(tzinfo=None)},
        "canonical JSON": {"settings": {"rate": float("nan")}},
    }
    for reason, change in wrong.items():
        with pytest.raises(InputError, match=reason):
            build_predicate(replace(RUN, **change))
    with pytest.raises(InputError, match="bound to a release alone"):
        build_slsa_statement(replace(BINDING, version=3), build_predicate(RUN))
    with pytest.raises(InputError, match="predicate of its own"):
        build_statement("slsa-provenance", BINDING, {}, START)


@pytest.mark.parametrize(
    "subject",
    [[], "x", [{"name": "climate", "digest": {"sha256": "ab" * 32}}], [{"name": "a@v1.0.0"}],
     [{"name": "a@v1.0.0", "digest": {"sha256": "12"}}], [{"name": 5, "digest": {"sha256": "ab" * 32}}],
     [{"name": "a@v1.0.0", "digest": {"sha256": "ab" * 32}}] * 2],
    ids=str,
)  # fmt: skip
def test_a_subject_that_binds_to_nothing_is_refused(key_dir, trust, now, subject):
    statement = {**build_slsa_statement(BINDING, build_predicate(RUN)), "subject": subject}
    envelope = sign_statement(statement, load_private_key(key_dir / "alice"))
    report = verify_envelope(envelope, [trust("alice")], now)
    assert (report.ok, report.binding, report.signers) == (False, None, ("alice",))
