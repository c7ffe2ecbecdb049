"""Schema violations as short sentences that name the field, and numbers that must be finite.

The schema library quotes whole documents in its messages. A finding is read by people and may be
public, so a sentence here names the field and the rule, never the value.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

_MAX_LISTED = 8
MAX_SENTENCE_COUNT = 50
"""A document that is wrong throughout need not be told in full."""


def field_name(path: Iterable[str | int]) -> str:
    """Write a place in a document, for example ``assets.weights.roles[0]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text or "the document"


def _is_kind(error: ValidationError) -> bool:
    """Say whether an error only means that this branch is for another kind of document."""
    return error.validator == "const" and list(error.absolute_path) == ["type"]


def _deepest(error: ValidationError) -> ValidationError:
    """Follow the branch of a choice that came closest to holding."""
    while error.context:
        branches = [found for found in error.context if not _is_kind(found)] or error.context
        deepest = max(len(found.absolute_path) for found in branches)
        error = next(found for found in branches if len(found.absolute_path) == deepest)
    return error


def _listed(values: Iterable[Any]) -> str:
    shown = [str(value) for value in values]
    more = f" and {len(shown) - _MAX_LISTED} more" if len(shown) > _MAX_LISTED else ""
    return ", ".join(shown[:_MAX_LISTED]) + more


def _unknown_keys(error: ValidationError) -> list[str]:
    import re

    schema, instance = error.schema, error.instance
    if not isinstance(schema, dict) or not isinstance(instance, dict):
        return []
    patterns = schema.get("patternProperties", {})
    return [
        key
        for key in instance
        if key not in schema.get("properties", {}) and not any(re.search(p, key) for p in patterns)
    ]


_RULES = {
    "type": "must be {}",
    "enum": "must be one of {}",
    "const": "must be {}",
    "pattern": "must match {}",
    "minItems": "must have at least {} element(s)",
    "minProperties": "must have at least {} field(s)",
    "minLength": "must have at least {} character(s)",
    "maxItems": "must have at most {} element(s)",
    "minimum": "must be at least {}",
    "exclusiveMinimum": "must be above {}",
    "maximum": "must be at most {}",
    "not": "has fields or values that exclude one another",
    "uniqueItems": "has an element twice",
}


def _rule(error: ValidationError) -> str:
    kind, wanted = str(error.validator), error.validator_value
    instance: Any = error.instance
    if kind == "required" and isinstance(wanted, list):
        return f"{_listed(key for key in wanted if key not in instance)} is missing"
    if kind == "additionalProperties" and wanted is False:
        return f"unknown field {_listed(_unknown_keys(error))}"
    if kind == "contains" and isinstance(wanted, dict):
        return f"must contain {wanted.get('const', 'a certain element')}"
    shown = _listed(wanted) if isinstance(wanted, list) else str(wanted)
    return _RULES.get(kind, f"breaks the rule {kind}").format(shown)


def schema_sentences(validator: Validator, document: Any) -> list[str]:
    """Return what a schema finds wrong with a document, one sentence a violation, sorted.

    Args:
        validator: Made for the schema, with every schema that it refers to at hand.
        document: Parsed JSON.
    """
    found: set[str] = set()
    for error in validator.iter_errors(document):
        leaf = _deepest(error)
        found.add(f"{field_name(leaf.absolute_path)}: {_rule(leaf)}")
    return sorted(found)


def finite_sentences(document: Any) -> list[str]:
    """Return a sentence for every number that is not finite."""
    found: list[str] = []
    stack: list[tuple[tuple[str | int, ...], Any]] = [((), document)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict):
            stack.extend(((*path, str(key)), child) for key, child in value.items())
        elif isinstance(value, list | tuple):
            stack.extend(((*path, index), child) for index, child in enumerate(value))
        elif isinstance(value, float) and not math.isfinite(value):
            found.append(f"{field_name(path)}: must be a finite number")
    return sorted(found)


def capped(sentences: Sequence[str]) -> list[str]:
    """Return at most :data:`MAX_SENTENCE_COUNT` sentences, saying how many were left out."""
    if len(sentences) <= MAX_SENTENCE_COUNT:
        return list(sentences)
    left_out = len(sentences) - MAX_SENTENCE_COUNT
    return [*sentences[:MAX_SENTENCE_COUNT], f"and {left_out} more problems"]
