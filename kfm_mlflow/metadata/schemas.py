"""The JSON Schemas of the documents that we write, and judging a document by one of them.

Unknown fields are allowed, because tools write these documents and newer tools write more. Every
named field is required unless its schema says otherwise, and every number is finite.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import InputError
from kfm_mlflow.metadata.sentences import capped, finite_sentences, schema_sentences

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from jsonschema.protocols import Validator

_SUFFIX = ".schema.json"


def _folder() -> Traversable:
    return files("kfm_mlflow.metadata").joinpath("schemas")


@cache
def schema_names() -> tuple[str, ...]:
    """Return the names of all schemas, sorted."""
    found = (entry.name for entry in _folder().iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX)))


@cache
def _text(name: str) -> str:
    if name not in schema_names():
        raise InputError(
            f"no schema is called {name!r}",
            where="schema",
            remedy=f"use one of {', '.join(schema_names())}",
        )
    return _folder().joinpath(f"{name}{_SUFFIX}").read_text(encoding="utf-8")


def load_schema(name: str) -> dict[str, Any]:
    """Return a schema as JSON values.

    Raises:
        InputError: No schema has that name.
    """
    schema: dict[str, Any] = json.loads(_text(name))
    return schema


@cache
def _validator(name: str) -> Validator:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(load_schema(name))


def schema_problems(name: str, document: Any) -> list[str]:
    """Return everything that is wrong with a document, as sentences that name the field.

    Args:
        name: One of :func:`schema_names`.
        document: Parsed JSON.

    Returns:
        Sentences in a fixed order; empty when there is nothing.

    Raises:
        InputError: No schema has that name.
    """
    return capped([*schema_sentences(_validator(name), document), *finite_sentences(document)])
