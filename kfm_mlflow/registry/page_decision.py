"""A row of the ledger as people read it, whatever kind it is of and whoever wrote it.

Reports are read as the dictionaries that their digests cover, so that what a newer or older version
of this package wrote into them is shown, too.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kfm_mlflow.registry.records import LedgerRow


@dataclass(frozen=True)
class Decided:
    """A row of the ledger as people read it.

    Attributes:
        row: The row.
        claims: What its statement says; empty when it is of no shape that we know.
        report: The report in it; empty when there is none.
        loud: Every exemption and break-glass in it.
    """

    row: LedgerRow
    claims: Mapping[str, Any]
    report: Mapping[str, Any]
    loud: tuple[tuple[str, str], ...]


def decided(row: LedgerRow) -> Decided:
    """Read a row of the ledger, whatever kind it is of."""
    claims = _claims(row.body)
    report = claims.get("report")
    report = report if isinstance(report, dict) else {}
    broken = claims.get("break_glass") or report.get("break_glass")
    return Decided(row, claims, report, loud_in({**report, "break_glass": broken}))


def _claims(body: str) -> dict[str, Any]:
    try:
        value = json.loads(body)
        if isinstance(value, dict) and "payload" in value:
            value = json.loads(base64.b64decode(value["payload"]))
    except (ValueError, TypeError, binascii.Error):
        return {}
    for key in ("predicate", "claims"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    return value if isinstance(value, dict) else {}


def loud_in(report: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return (what, words) of every exemption and break-glass that a report tells of."""
    found = []
    broken = report.get("break_glass")
    if broken:
        found.append(("Break-glass", _words(broken)))
    for gate in report.get("gates", ()):
        for finding in gate.get("findings", ()):
            waiver = finding.get("waiver")
            if waiver:
                what = "Break-glass" if waiver.get("by") == "break-glass" else "Exemption"
                about = f"gate {gate.get('gate')}, {finding.get('code')}: {finding.get('detail')}"
                told = {key: value for key, value in waiver.items() if key != "by"}
                found.append((what, f"{about}; {_words(told)}"))
    return tuple(dict.fromkeys(found))


def _words(value: Any) -> str:
    if isinstance(value, dict):
        told = {key: item for key, item in value.items() if item not in (None, "", [])}
        return "; ".join(f"{key.replace('_', ' ')}: {_words(item)}" for key, item in told.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    return str(value)
