"""Adding records to a PROV-JSON document without touching any that is there.

Values are written as the ``prov`` library writes them, so that it reads both halves alike.
"""

from __future__ import annotations

import copy
import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import NAMESPACE
from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.metadata.prov_constraints import KFM, read_document, read_records, types_of, unify
from kfm_mlflow.trust.instants import format_instant

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

_WHERE = "provenance"
_OURS = (
    *("actor", "canary", "controller", "council", "deployed"),
    *("key", "ledger", "sha256", "traffic"),
)
"""Spaces of names that only the extension gives."""
_PREFIXES = {"kfm": KFM, **{name: f"{NAMESPACE}{name}/" for name in _OURS}}
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


def party(space: str, name: str) -> str:
    """Return the name of somebody in a space; different people never share one."""
    if _PLAIN.fullmatch(name):
        return f"{space}:{name}"
    local = _UNSAFE.sub("-", name).strip("-") or "unnamed"
    return f"{space}:{local}-{sha256(name.encode('utf-8', 'replace')).hexdigest()[:12]}"


def qname(name: str) -> dict[str, str]:
    """Write a qualified name as the value of an attribute."""
    return {"$": name, "type": "xsd:QName"}


def number(value: int) -> dict[str, str]:
    """Write an integer as the value of an attribute."""
    return {"$": str(value), "type": "xsd:int"}


class Records:
    """A released lineage, and what is added to it.

    Attributes:
        values: PROV-JSON values of both.
        release: Name of the release in it.
    """

    def __init__(self, released: Any) -> None:
        """Take a copy of a released document.

        Raises:
            EvidenceError: It is none, names no release or more than one, or already gives a name
                that only the extension may give.
        """
        known = read_records(unify(read_document(released)))
        if not isinstance(released, dict):
            raise EvidenceError("is no object", where=_WHERE)
        for name in (*known.entities, *known.activities, *known.agents):
            if name.uri.startswith(tuple(_PREFIXES[space] for space in _OURS)):
                raise EvidenceError(f"already speaks of {name}", where=_WHERE)
        releases = [str(n) for n, e in known.entities.items() if f"{KFM}Release" in types_of(e)]
        self.values: dict[str, Any] = copy.deepcopy(released)
        if len(releases) != 1 or releases[0] not in self._table("entity"):
            problem = f"{len(releases)} entities are a kfm:Release, not one"
            raise EvidenceError(problem, where=_WHERE)
        self.release = releases[0]
        self._added: dict[str, Any] = {}
        prefixes = self._table("prefix")
        for name, uri in _PREFIXES.items():
            if prefixes.setdefault(name, uri) != uri:
                raise EvidenceError(f"means something else by prefix {name}", where=_WHERE)

    def _table(self, kind: str) -> dict[str, Any]:
        table = self.values.setdefault(kind, {})
        if not isinstance(table, dict):
            raise EvidenceError(f"{kind} is no object", where=_WHERE)
        return table

    def _add(self, kind: str, name: str, attributes: Mapping[str, Any]) -> str:
        # What is said twice is said once; the first word stays.
        if name not in self._added:
            self._added[name] = None
            self._table(kind)[name] = dict(attributes)
        return name

    def entity(self, name: str, kinds: str | list[str], **attributes: Any) -> str:
        """Add an entity and return its name.

        Args:
            name: Qualified name.
            kinds: Its types, qualified names.
            attributes: Attributes of ours, without prefix; ``label`` is PROV's.
        """
        return self._add("entity", name, _described(kinds, attributes))

    def agent(self, name: str, kinds: str | list[str], **attributes: Any) -> str:
        """Add an agent and return its name."""
        return self._add("agent", name, _described(kinds, attributes))

    def activity(
        self, name: str, kind: str, started_at: datetime, ended_at: datetime, **attributes: Any
    ) -> str:
        """Add an activity and return its name."""
        span = {
            "prov:startTime": format_instant(started_at),
            "prov:endTime": format_instant(ended_at),
        }
        return self._add("activity", name, {**span, **_described(kind, attributes)})

    def relate(
        self, relation: str, *, at: datetime | None = None, kind: str = "", **ends: str
    ) -> None:
        """Add a relation.

        Args:
            relation: Its name in PROV-JSON.
            at: When.
            kind: Its type, a qualified name.
            ends: What it relates, by PROV's names without prefix; ``role`` is text.
        """
        fields: dict[str, Any] = {f"prov:{name}": value for name, value in ends.items()}
        if at is not None:
            fields["prov:time"] = format_instant(at)
        if kind:
            fields["prov:type"] = qname(kind)
        table, key = self._table(relation), f"_:deployed{len(self._added):05d}"
        if key in table:
            raise EvidenceError(f"already has a relation {key}", where=_WHERE)
        self._added[key] = None
        table[key] = fields


def _described(kinds: str | list[str], attributes: Mapping[str, Any]) -> dict[str, Any]:
    typed = qname(kinds) if isinstance(kinds, str) else [qname(kind) for kind in kinds]
    found: dict[str, Any] = {"prov:type": typed}
    for name, value in attributes.items():
        written = number(value) if isinstance(value, int) else value
        found["prov:label" if name == "label" else f"kfm:{name}"] = written
    return found
