"""JSON Schemas of the bodies, answers and errors of ``/kfm/api/v1``, for its OpenAPI document."""

from __future__ import annotations

from typing import Any, get_args

from kfm_mlflow.gates.cause import TriggerWord

Schema = dict[str, Any]


def ref(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "required": sorted(required),
        "properties": {**required, **(optional or {})},
    }


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_ANY_OBJECT: Schema = {"type": "object"}
_HOLDER: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": 128,
    "description": "Name of the controller, which no other has.",
}
_DIGEST = ref("Digest")
_LEVEL = ref("Level")
_VERSION = ref("Version")
_VERDICT = ref("Verdict")
_ORDER: Schema = {
    "type": "string",
    "enum": ["pause", "resume", "abort", "promote", "rollback"],
}

_FINDING = {
    "code": {**_TEXT, "description": "Reason code, stable over releases."},
    "verdict": _VERDICT,
    "summary": _TEXT,
    "detail": _TEXT,
    "observed": _TEXT,
    "limit": _TEXT,
    "unit": _TEXT,
    "remedy": _TEXT,
}

SCHEMAS: dict[str, Schema] = {
    "OpenApi": _object({"openapi": _TEXT, "info": _ANY_OBJECT, "paths": _ANY_OBJECT}),
    "Digest": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
    "Level": {"type": "string", "enum": ["candidate", "staging", "canary", "production"]},
    "Verdict": {"type": "string", "enum": ["PASS", "INCONCLUSIVE", "ERROR", "FAIL"]},
    "Version": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
    "Problem": _object(
        {
            "error_code": {**_TEXT, "description": "MLflow's own name of the status."},
            "message": {**_TEXT, "description": "One sentence: what, where, what to do."},
        }
    ),
    "Waiver": _object(
        {
            "by": {"type": "string", "enum": ["exemption", "break-glass"]},
            "owner": _TEXT,
            "reason": _TEXT,
            "until": _TEXT,
        }
    ),
    "Finding": _object(_FINDING, {"waiver": ref("Waiver")}),
    "Warning": _object({"gate": _TEXT, **_FINDING}, {"waiver": ref("Waiver")}),
    "GateResult": _object(
        {
            "gate": _TEXT,
            "mode": {"type": "string", "enum": ["enforce", "warn", "audit"]},
            "verdict": _VERDICT,
            "findings": _list(ref("Finding")),
        }
    ),
    "BreakGlassRequest": _object(
        {"reason": _TEXT, "ticket": _TEXT, "hours": {"type": "number", "exclusiveMinimum": 0}}
    ),
    "Report": _object(
        {
            "schema_version": {"const": "1"},
            "model_name": _TEXT,
            "version": _VERSION,
            "from_level": _LEVEL,
            "to_level": _LEVEL,
            "epoch": _COUNT,
            "restores": {"type": "boolean"},
            "family": _TEXT,
            "policy_digest": _DIGEST,
            "release_id": {**_TEXT, "description": "Empty when the bytes are no release."},
            "release_version": _TEXT,
            "evidence": _list(_DIGEST),
            "rollback_target": _TEXT,
            "votes": {**_ANY_OBJECT, "description": "The tally, where votes are asked for."},
            "verdict": _VERDICT,
            "gates": _list(ref("GateResult")),
        },
        {"break_glass": _nullable(ref("BreakGlassRequest"))},
    ),
    "Model": _object(
        {
            "name": _TEXT,
            "family": _TEXT,
            "policy_digest": _DIGEST,
            "levels": {
                "type": "object",
                "description": "Version -> level, of every version above candidate.",
                "additionalProperties": _LEVEL,
            },
            "production": _nullable(_VERSION),
            "canary": _nullable(_VERSION),
            "active": {**_nullable(_VERSION), "description": "The version at production."},
            "rollback_of": {
                **_nullable(_VERSION),
                "description": "The version that was taken back last, until another is promoted.",
            },
            "reversion": _nullable(ref("Reversion")),
            "head": {**_COUNT, "description": "Number of the ledger's last row."},
            "rollout": {**_ANY_OBJECT, "description": "The family's rollout plan."},
        }
    ),
    "Reversion": _object(
        {
            "row": {**_COUNT, "description": "The ledger's row that took it back."},
            "rollback_of": _VERSION,
            "restored": {
                **_nullable(_VERSION),
                "description": "The version that came back; null where none did.",
            },
            "at": _TEXT,
            "cause": _nullable(ref("Cause")),
        }
    ),
    "Integrity": _object(
        {"hash": _DIGEST, "signature": _TEXT, "immutable": {"const": True}},
    ),
    "ModelVersion": _object(
        {
            "name": _TEXT,
            "version": _VERSION,
            "family": _TEXT,
            "level": _LEVEL,
            "epoch": _COUNT,
            "policy_digest": _DIGEST,
            "source_uri": _TEXT,
            "release": _nullable(_object({"id": _DIGEST, "version": _TEXT, "frozen_uri": _TEXT})),
            "integrity": _nullable(ref("Integrity")),
            "attestations": {**_list(_TEXT), "description": "DSSE envelopes, each as JSON text."},
        }
    ),
    "Check": _object(
        {
            "digest": _DIGEST,
            "verdict": _VERDICT,
            "outcome": {
                "type": "string",
                "enum": ["allowed", "warned", "allowed-break-glass", "refused"],
            },
            "warnings": _list(ref("Warning")),
            "sentence": {**_TEXT, "description": "The refusal; empty when nothing refuses."},
            "report": ref("Report"),
        }
    ),
    "Proposal": _object(
        {
            "model_name": _TEXT,
            "release_id": _DIGEST,
            "from_level": _LEVEL,
            "to_level": _LEVEL,
            "policy_digest": _DIGEST,
            "epoch": _COUNT,
        }
    ),
    "Proposed": _object(
        {
            "proposal": ref("Proposal"),
            "digest": _DIGEST,
            "release_version": _TEXT,
            "members": _list(_object({"name": _TEXT, "public_key": _nullable(_TEXT)})),
        }
    ),
    "Envelope": _object(
        {
            "payload": {**_TEXT, "description": "Base64 of an in-toto statement."},
            "payloadType": _TEXT,
            "signatures": _list(_object({"sig": _TEXT}, {"keyid": _TEXT})),
        }
    ),
    "ExportIndex": {**_ANY_OBJECT, "description": "See docs/formats/export.md."},
    "PublicRegions": _object(
        {
            "schema_version": {"const": "1"},
            "regions_digest": _DIGEST,
            "regions": _list(_ANY_OBJECT),
        }
    ),
    "Prov": {**_ANY_OBJECT, "description": "PROV-JSON; see docs/formats/provenance.md."},
    "Kept": _object({"digest": _DIGEST}),
    "Vote": _object({"model_name": _TEXT, "version": _VERSION, "envelope": ref("Envelope")}),
    "CertificateSent": _object(
        {
            "model_name": _TEXT,
            "certificate": {
                **_ANY_OBJECT,
                "description": "See docs/formats/quorum_certificate.md.",
            },
        }
    ),
    "CertificateKept": _object(
        {
            "seq": {**_COUNT, "description": "Ledger row."},
            "digest": {**_DIGEST, "description": "Of the certificate."},
            "recorded": {"type": "boolean", "description": "False when it was there already."},
        }
    ),
    "Move": _object(
        {"to": _LEVEL},
        {
            "expect": _object(
                {}, {"production": _nullable(_VERSION), "canary": _nullable(_VERSION)}
            ),
            "restore": _nullable(_VERSION),
            "reason": {**_TEXT, "maxLength": 1000},
            "cause": _nullable(ref("Cause")),
            "break_glass": _nullable(ref("BreakGlassRequest")),
        },
    ),
    "Cause": _object(
        {"trigger": {"enum": list(get_args(TriggerWord))}},
        {
            "drift": _nullable(
                _object(
                    {
                        "verdict": {"enum": ["PASS", "INCONCLUSIVE", "ERROR", "FAIL"]},
                        "mode": {"enum": ["enforce", "audit"]},
                        "false_alarm_ratio": {"type": "number", "minimum": 0, "maximum": 1},
                        "column_count": _COUNT,
                        "drifting_count": _COUNT,
                    },
                    {"baseline_digest": _TEXT},
                )
            )
        },
    ),
    "Moved": _object(
        {
            "seq": {**_COUNT, "description": "Ledger row; 0 when nothing had to change."},
            "decision_digest": _TEXT,
            "level": _LEVEL,
        },
        {"outcome": _TEXT, "warnings": _list(ref("Warning"))},
    ),
    "Journal": _object({"generation": _COUNT, "state": _nullable(_ANY_OBJECT)}),
    "JournalUpdate": _object(
        {
            "expected": {**_COUNT, "description": "Generation that was read."},
            "state": _ANY_OBJECT,
        },
        {
            "token": {
                **_COUNT,
                "description": "Of the lease; only the newest is taken. Left out it is 0, which "
                "holds as long as no lease was ever taken.",
            }
        },
    ),
    "RolloutOrder": _object(
        {
            "schema_version": {"const": "1"},
            "order_id": {**_COUNT, "description": "Ledger row; grows with every order."},
            "at": {**_TEXT, "format": "date-time"},
            "order": _ORDER,
            "version": _VERSION,
            "to_version": _nullable(_VERSION),
            "actor": _TEXT,
            "reason": _TEXT,
        }
    ),
    "RolloutOrders": _object({"orders": _list(ref("RolloutOrder"))}),
    "RolloutOrderRequest": {
        **_object(
            {"order": _ORDER, "reason": {**_TEXT, "minLength": 1, "maxLength": 1000}},
            {"version": _nullable(_VERSION), "to_version": _nullable(_VERSION)},
        ),
        "additionalProperties": False,
    },
    "Generation": _object({"generation": _COUNT}),
    "LeaseHolder": _object({"holder": _HOLDER}),
    "LeaseRequest": _object(
        {"holder": _HOLDER, "ttl_s": {"type": "number", "minimum": 0.1, "maximum": 600}}
    ),
    "RolloutLease": _object(
        {
            "leader": {"type": "boolean", "description": "Whether who asks holds it now."},
            "holder": {**_TEXT, "description": "Who holds it now; empty when nobody does."},
            "token": {**_COUNT, "description": "Grows with every new holder."},
            "expires_in_s": {"type": "number", "minimum": 0},
        }
    ),
    "LedgerRow": _object(
        {
            "seq": {"type": "integer", "minimum": 1},
            "at": {**_TEXT, "format": "date-time"},
            "kind": _TEXT,
            "model": _TEXT,
            "version": _COUNT,
            "body": {**_TEXT, "description": "What was signed, a DSSE envelope as JSON text."},
            "prev_hash": _TEXT,
            "hash": _TEXT,
        }
    ),
    "Ledger": _object({"rows": _list(ref("LedgerRow")), "next_after": _nullable(_COUNT)}),
    "LedgerHead": _object(
        {"seq": _COUNT, "hash": _TEXT, "signature": _object({"keyid": _TEXT, "sig": _TEXT})}
    ),
    "LedgerKey": _object({"key_id": _TEXT, "public_key": _TEXT}),
    "Rechecked": _object(
        {
            "model_name": _TEXT,
            "version": _VERSION,
            "family": _TEXT,
            "level": _LEVEL,
            "status": {"type": "string", "enum": ["holds", "break-glass", "stale", "recall"]},
            "seq": _COUNT,
            "decided_under": _TEXT,
            "policy_digest": _TEXT,
            "remarks": _list(_ANY_OBJECT),
            "ended": _list(_ANY_OBJECT),
        },
        {"standing": ref("Standing")},
    ),
    "Standing": {"type": "string", "enum": ["ok", "regressed", "stale", "vetoed"]},
    "VersionStanding": _object(
        {"version": _VERSION, "standing": ref("Standing"), "findings": _list(_ANY_OBJECT)},
        {
            "statement": {
                **_DIGEST,
                "description": "The validation that found a regression; there only with one.",
            }
        },
    ),
    "ModelStanding": _object(
        {
            "schema_version": {"const": "1"},
            "model_name": _TEXT,
            "production": _nullable(ref("VersionStanding")),
            "canary": _nullable(ref("VersionStanding")),
            "others": _list(ref("VersionStanding")),
            "fallback": {
                **_nullable(_VERSION),
                "description": "The former Production version that may be restored; null where "
                "all that was asked about may be served, or there is none.",
            },
        }
    ),
    "Authorities": _object(
        {
            "schema_version": {"const": "1"},
            "model_name": _TEXT,
            "version": _VERSION,
            "release_id": _TEXT,
            "release_version": _TEXT,
            "policy_digest": _DIGEST,
            "regions_digest": _DIGEST,
            "regions": _list(
                _object(
                    {
                        "region": {**_TEXT, "description": "As findings call it."},
                        "authority": _nullable(_TEXT),
                        "region_digest": _DIGEST,
                        "key_ids": _list(_TEXT),
                        "asked": _list(_TEXT),
                        "missing": _list(_TEXT),
                        "approval": _nullable(_ANY_OBJECT),
                        "veto": _nullable(_ANY_OBJECT),
                    }
                )
            ),
            "unknown_vetoes": _list(_ANY_OBJECT),
            "ignored": _list(_ANY_OBJECT),
        }
    ),
    "Recheck": _object(
        {
            "schema_version": {"const": "1"},
            "versions": _list(ref("Rechecked")),
            "recall_count": _COUNT,
        }
    ),
    "ResolvedPolicy": _object({"digest": _DIGEST, "policy": ref("Policy")}),
    "Exemptions": _object(
        {
            "policy_digest": _DIGEST,
            "exemptions": _list(
                _object(
                    {
                        "gate": _TEXT,
                        "models": _TEXT,
                        "owner": _TEXT,
                        "reason": _TEXT,
                        "expires_at": _TEXT,
                        "state": {"type": "string", "enum": ["pending", "active", "expired"]},
                    }
                )
            ),
        }
    ),
}
