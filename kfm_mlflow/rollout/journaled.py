"""A state as the journal has it, and back. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from kfm_mlflow.errors import EvidenceError
from kfm_mlflow.rollout.narrative import NARRATIVE_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA_VERSION = "1"
_State = TypeVar("_State")


def write_state(adapter: TypeAdapter[_State], state: _State) -> dict[str, Any]:
    """Return the journal's JSON value of a state."""
    return {"schema_version": SCHEMA_VERSION, **adapter.dump_python(state, mode="json")}


def read_state(adapter: TypeAdapter[_State], value: Mapping[str, Any], *, where: str) -> _State:
    """Read a journal entry; what it tells people beside the state is left alone.

    Args:
        adapter: Of the state's type.
        value: The entry.
        where: What the journal is called.

    Raises:
        EvidenceError: It is not one, or of another schema version.
    """
    fields = dict(value)
    fields.pop(NARRATIVE_KEY, None)
    version = fields.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise EvidenceError(f"schema_version {version!r} is not {SCHEMA_VERSION!r}", where=where)
    try:
        return adapter.validate_python(fields)
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise EvidenceError(first["msg"], where=f"{where}: {place}") from exc
