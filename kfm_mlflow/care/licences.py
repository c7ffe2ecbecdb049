"""What a licence lets others do, as far as a community's label may forbid it.

SPDX expressions are read with the ``license-expression`` grammar's three words: of ``A OR B`` the
user may choose, so the more open counts; of ``A AND B`` both hold. What is not known is unknown,
and never taken for permission.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NON_COMMERCIAL = re.compile(r"(?:^|-)NC(?:-|$)|NonCommercial|Noncommercial")
_NO_DERIVATIVES = re.compile(r"^CC-.*-ND(?:-|$)")
_CLOSED = frozenset({"NOASSERTION", "NONE", "OTHER", "PROPRIETARY", "UNKNOWN", ""})
_TOKEN = re.compile(r"\(|\)|[^\s()]+")


@dataclass(frozen=True)
class Terms:
    """What a licence allows; None where nobody knows.

    Attributes:
        commercial: Whether it may be used commercially.
        derivatives: Whether what is derived may be passed on.
    """

    commercial: bool | None
    derivatives: bool | None


def read_licence(expression: object) -> Terms:
    """Return what an SPDX expression allows.

    Args:
        expression: As a document gives it; anything that is not text is unknown.
    """
    if not isinstance(expression, str):
        return Terms(None, None)
    tokens = _TOKEN.findall(expression)
    terms, rest = _any_of(tokens)
    return terms if not rest else Terms(None, None)


def _one(name: str) -> Terms:
    if name.upper() in _CLOSED or name.startswith("LicenseRef"):
        return Terms(None, None)
    return Terms(not _NON_COMMERCIAL.search(name), not _NO_DERIVATIVES.search(name))


def _any_of(tokens: list[str]) -> tuple[Terms, list[str]]:
    terms, rest = _all_of(tokens)
    while rest and rest[0].upper() == "OR":
        other, rest = _all_of(rest[1:])
        terms = Terms(
            _or(terms.commercial, other.commercial), _or(terms.derivatives, other.derivatives)
        )
    return terms, rest


def _all_of(tokens: list[str]) -> tuple[Terms, list[str]]:
    terms, rest = _atom(tokens)
    while rest and rest[0].upper() == "AND":
        other, rest = _atom(rest[1:])
        terms = Terms(
            _and(terms.commercial, other.commercial), _and(terms.derivatives, other.derivatives)
        )
    return terms, rest


def _atom(tokens: list[str]) -> tuple[Terms, list[str]]:
    if not tokens:
        return Terms(None, None), []
    if tokens[0] == "(":
        terms, rest = _any_of(tokens[1:])
        return (terms, rest[1:]) if rest[:1] == [")"] else (Terms(None, None), ["("])
    terms, rest = _one(tokens[0]), tokens[1:]
    if rest[:1] and rest[0].upper() == "WITH":
        rest = rest[2:]
    return terms, rest


def _or(a: bool | None, b: bool | None) -> bool | None:  # noqa: FBT001 - logic of three values
    return True if a or b else None if a is None or b is None else False


def _and(a: bool | None, b: bool | None) -> bool | None:  # noqa: FBT001 - logic of three values
    return False if a is False or b is False else None if a is None or b is None else True
