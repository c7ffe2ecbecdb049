"""JSON under ``/kfm/api/v1``: what the pages, the command line and the controller read and write.

Thin: parse, one call to the store, JSON out. Everything that changes a level goes through the
same :meth:`KfmStore.move` as MLflow's own doors.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import wraps
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request
from werkzeug.exceptions import HTTPException

from kfm_mlflow.canonical import parse_json
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.gates.cause import parse_cause
from kfm_mlflow.gates.findings import Move, refusal_sentence
from kfm_mlflow.gates.glass import BreakGlass, parse_break_glass
from kfm_mlflow.gates.people import proposal_of
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.levels import Level, parse_level
from kfm_mlflow.registry import records
from kfm_mlflow.registry.candidates import voted_release
from kfm_mlflow.registry.journal import write_journal
from kfm_mlflow.registry.moves import Expectation, parse_version
from kfm_mlflow.registry.reversions import last_reversion
from kfm_mlflow.registry.store import KfmStore
from kfm_mlflow.registry.translate import answer_to, to_mlflow
from kfm_mlflow.release.bundle import SIGNATURE_FILE, evidence_uri

if TYPE_CHECKING:
    from collections.abc import Callable

    from kfm_mlflow.gates.findings import Finding
    from kfm_mlflow.registry.records import ReleaseRow

api = Blueprint("kfm_api", __name__, url_prefix="/kfm/api/v1")
MAX_BODY_BYTES = 8 * 2**20


def registry() -> KfmStore:
    """Return the server's registry store.

    Raises:
        MlflowException: 400 when the server was started without a ``kfm+`` registry.
    """
    from mlflow.server.handlers import _get_model_registry_store

    store = _get_model_registry_store()
    if not isinstance(store, KfmStore):
        raise to_mlflow(
            InputError(
                "this server's registry is not governed",
                where="--registry-store-uri",
                remedy="start it with `kfm server`",
            )
        )
    return store


def answers(view: Callable[..., Any]) -> Callable[..., Response]:
    """Write a view's value as JSON unless it is an answer, and errors as MLflow writes them."""

    @wraps(view)
    def wrapped(*args: Any, **kwargs: Any) -> Response:
        try:
            if "version" in kwargs:
                kwargs["version"] = parse_version(kwargs["version"])
            value = view(*args, **kwargs)
        except HTTPException:
            raise
        except Exception as exc:  # noqa: BLE001 - a caller always gets an answer that is not retried
            error = answer_to(exc)
            return Response(
                error.serialize_as_json(), error.get_http_status_code(), mimetype="application/json"
            )
        if isinstance(value, Response):
            return value
        return Response(json.dumps(value, sort_keys=True), mimetype="application/json")

    return wrapped


def body_object() -> dict[str, Any]:
    """Return the JSON object that a request brings.

    Raises:
        InputError: It brings something else, or too much.
    """
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise InputError(f"more than {MAX_BODY_BYTES} bytes", where="request")
    if request.mimetype != "application/json":
        raise InputError("must be application/json", where="Content-Type")
    try:
        value = parse_json(request.get_data(), where="request")
    except EvidenceError as exc:
        raise InputError(str(exc)) from exc
    if not isinstance(value, dict):
        raise InputError("must be a JSON object", where="request")
    return value


def _asked_glass() -> BreakGlass | None:
    """Read break-glass from the query: ``ticket``, ``hours`` and ``reason`` together, or none."""
    asked: dict[str, Any] = {
        key: request.args[key] for key in ("reason", "ticket", "hours") if key in request.args
    }
    if "hours" in asked:
        try:
            asked["hours"] = float(asked["hours"])
        except ValueError as exc:
            raise InputError("must be a number", where="hours") from exc
    return parse_break_glass(asked or None)


def _warned(warnings: tuple[tuple[str, Finding], ...]) -> list[dict[str, Any]]:
    return [{"gate": gate, **finding.to_dict()} for gate, finding in warnings]


def optional_version(value: Any, *, where: str) -> int | None:
    """Return a version that a body may leave out.

    Raises:
        InputError: It is something else.
    """
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise InputError("must be a version number or null", where=where)


@api.get("/models/<name>")
@answers
def model(name: str) -> Any:
    """Levels, family and rollout plan of a registered model."""
    store = registry()
    levels = store.levels(name)
    with store.ManagedSessionMaker(read_only=True) as session:
        head = records.ledger_head(session)
        known = records.family(session, store.key_of(name))
        reversion = last_reversion(store, session, store.key_of(name), head)
    production = next((v for v, level in levels.items() if level is Level.PRODUCTION), None)
    family = known or store.admission.policies.family_of(name)
    policy = store.admission.policy(family)
    return {
        "name": name,
        "family": family,
        "policy_digest": policy.digest,
        "levels": {str(version): str(level) for version, level in sorted(levels.items())},
        "production": production,
        "active": production,
        "rollback_of": None if reversion is None else reversion.rollback_of,
        "reversion": None if reversion is None else asdict(reversion),
        "canary": next((v for v, level in levels.items() if level is Level.CANARY), None),
        "head": head,
        "rollout": policy.rollout.model_dump(mode="json", by_alias=True),
    }


@api.get("/models/<name>/versions/<version>")
@answers
def model_version(name: str, version: int) -> Any:
    """What is recorded about a version."""
    store = registry()
    snapshot = store.snapshot(name, version)
    row = snapshot.release
    return {
        "name": name,
        "version": version,
        "family": snapshot.family,
        "level": str(snapshot.level),
        "epoch": snapshot.epoch,
        "policy_digest": store.admission.policy(snapshot.family).digest,
        "source_uri": snapshot.source_uri,
        "release": None
        if row is None
        else {"id": row.release_id, "version": row.release_version, "frozen_uri": row.frozen_uri},
        "integrity": None if row is None else integrity_block(row),
        "attestations": [envelope.decode() for envelope in snapshot.envelopes],
    }


def integrity_block(row: ReleaseRow) -> dict[str, Any]:
    """Return the integrity block of a registry entry (climate deployment, section 3).

    ``hash`` is the release id; ``signature`` says where the frozen signature lies, since it can
    not be inside what it signs.
    """
    return {
        "hash": row.release_id,
        "signature": f"{evidence_uri(row.frozen_uri)}/{SIGNATURE_FILE}",
        "immutable": True,
    }


@api.get("/models/<name>/versions/<version>/check")
@answers
def check(name: str, version: int) -> Any:
    """Evaluate a move and write nothing.

    ``?to=``, with ``&restores=true`` for a version that comes back on a rollback, and, to break the
    glass, ``&ticket=&hours=&reason=``.
    """
    level = parse_level(request.args.get("to", ""))
    restores = request.args.get("restores", "false")
    if restores not in {"true", "false"}:
        raise InputError("must be true or false", where="restores")
    report = (
        registry()
        .check(name, version, level, restores=restores == "true", break_glass=_asked_glass())
        .report
    )
    passed = report.verdict is Verdict.PASS
    return {
        "digest": report.digest,
        "verdict": str(report.verdict),
        "outcome": report.outcome,
        "warnings": _warned(report.warnings),
        "sentence": "" if passed else refusal_sentence(report),
        "report": report.to_dict(),
    }


@api.get("/models/<name>/versions/<version>/proposal")
@answers
def proposal(name: str, version: int) -> Any:
    """Return what a council member signs for a move."""
    store = registry()
    snapshot = store.snapshot(name, version)
    policy = store.admission.policy(snapshot.family)
    level = parse_level(request.args.get("to", ""))
    release_id, release_version = voted_release(store.admission, snapshot, policy, where="proposal")
    move = Move(
        snapshot.model_name,
        version,
        snapshot.level,
        level,
        snapshot.epoch,
        snapshot.production,
        store.admission.clock(),
    )
    found = proposal_of(release_id, policy, move)
    return {
        "proposal": found.to_dict(),
        "digest": found.digest,
        "release_version": release_version,
        "members": [
            {"name": member.name, "public_key": member.public_key}
            for member in policy.trust.council.members
        ],
    }


@api.post("/models/<name>/versions/<version>/attestations")
@answers
def attest(name: str, version: int) -> Any:
    """Keep a signed statement about a frozen release."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise InputError(f"more than {MAX_BODY_BYTES} bytes", where="request")
    return {"digest": registry().add_attestation(name, version, request.get_data())}


@api.post("/votes")
@answers
def vote() -> Any:
    """Keep a vote: ``{"model_name", "version", "envelope"}``, the envelope as JSON."""
    body = body_object()
    version = optional_version(body.get("version"), where="version")
    if version is None or not isinstance(body.get("model_name"), str):
        raise InputError("needs model_name, version and envelope", where="request")
    envelope = json.dumps(body.get("envelope"), sort_keys=True, separators=(",", ":")).encode()
    kept = registry().add_attestation(body["model_name"], version, envelope, kind="vote")
    return {"digest": kept}


@api.post("/models/<name>/versions/<version>/moves")
@answers
def move(name: str, version: int) -> Any:
    """Move a version.

    ``{"to", "expect"?: {"production", "canary"}, "restore"?, "reason"?, "cause"?,
    "break_glass"?: {"reason", "ticket", "hours"}}``.
    """
    body = body_object()
    expect = body.get("expect")
    expected = None
    if isinstance(expect, dict):
        expected = Expectation(
            optional_version(expect.get("production"), where="expect.production"),
            optional_version(expect.get("canary"), where="expect.canary"),
        )
    result = registry().move(
        name,
        version,
        parse_level(str(body.get("to", ""))),
        expect=expected,
        restore=optional_version(body.get("restore"), where="restore"),
        reason=str(body.get("reason", ""))[:1000],
        cause=parse_cause(body.get("cause"), where="cause"),
        break_glass=parse_break_glass(body.get("break_glass")),
    )
    return {
        "seq": result.seq,
        "decision_digest": result.decision_digest,
        "level": str(result.level),
        "outcome": result.outcome,
        "warnings": _warned(result.warnings),
    }


@api.get("/models/<name>/rollout")
@answers
def read_rollout(name: str) -> Any:
    """Return the rollout controller's journal of a model."""
    store = registry()
    with store.ManagedSessionMaker(read_only=True) as session:
        found = records.read_journal(session, store.key_of(name))
    return {
        "generation": found[0] if found else 0,
        "state": json.loads(found[1]) if found else None,
    }


@api.put("/models/<name>/rollout")
@answers
def write_rollout(name: str) -> Any:
    """Write the journal by compare-and-set: ``{"expected", "state", "token"?}``."""
    body = body_object()
    expected, token = body.get("expected"), body.get("token", 0)
    if not isinstance(expected, int) or isinstance(expected, bool):
        raise InputError("must be the generation that was read", where="expected")
    if not isinstance(token, int) or isinstance(token, bool):
        raise InputError("must be what came with the lease", where="token")
    state = body.get("state")
    written = write_journal(registry(), name, state, expected=expected, token=token)
    return {"generation": written}


@api.get("/policies/<family>")
@answers
def policy(family: str) -> Any:
    """Return a family's resolved policy and its digest."""
    found = registry().admission.policy(family)
    return {"digest": found.digest, "policy": found.model_dump(mode="json", by_alias=True)}
