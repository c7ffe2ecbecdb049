"""Local Contexts labels: what each type asks of who publishes. Imported, never invented.

Types are those of the Local Contexts Hub (API v2, ``label_type``), and the codes under which
people write them (``TK SS``). What each asks is this package's own careful reading, one table: a
label that keeps knowledge from the public withholds; one that limits use or audience lowers the
ceiling; the others travel along and change no place. A type that nobody here knows withholds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kfm_mlflow.errors import DataError

UNKNOWN_TYPE = "unknown"


@dataclass(frozen=True)
class LabelEffect:
    """What a label asks for where its region lies.

    Attributes:
        is_withheld: Nothing may be published.
        ceiling: Finest H3 resolution that may be; None leaves the region's own.
    """

    is_withheld: bool = False
    ceiling: int | None = None


_TRAVELS = LabelEffect()
_LIMITED = LabelEffect(ceiling=5)
_RESTRICTED = LabelEffect(is_withheld=True)

LABEL_TYPES: dict[str, LabelEffect] = {
    "attribution": _TRAVELS,
    "clan": _LIMITED,
    "collaboration": _TRAVELS,
    "commercial": _TRAVELS,
    "commercialization": _TRAVELS,
    "community_use_only": _RESTRICTED,
    "community_voice": _TRAVELS,
    "consent_non_verified": _LIMITED,
    "consent_verified": _TRAVELS,
    "creative": _TRAVELS,
    "culturally_sensitive": _LIMITED,
    "family": _LIMITED,
    "men_general": _LIMITED,
    "men_restricted": _RESTRICTED,
    "multiple_community": _TRAVELS,
    "non_commercial": _TRAVELS,
    "non_verified": _LIMITED,
    "open_to_collaboration": _TRAVELS,
    "outreach": _TRAVELS,
    "provenance": _TRAVELS,
    "research": _TRAVELS,
    # Its season is the region's `seasonality`; without one nobody knows when it is open.
    "seasonal": _TRAVELS,
    "secret_sacred": _RESTRICTED,
    "tk_multiple_community": _TRAVELS,
    "verified": _TRAVELS,
    "women_general": _LIMITED,
    "women_restricted": _RESTRICTED,
}
"""Label type -> what it asks for."""

_CODES = {
    "TK A": "attribution",
    "TK CL": "clan",
    "TK F": "family",
    "TK MC": "tk_multiple_community",
    "TK O": "outreach",
    "TK NV": "non_verified",
    "TK V": "verified",
    "TK NC": "non_commercial",
    "TK C": "commercial",
    "TK CS": "culturally_sensitive",
    "TK CV": "community_voice",
    "TK CO": "community_use_only",
    "TK S": "seasonal",
    "TK WG": "women_general",
    "TK MG": "men_general",
    "TK MR": "men_restricted",
    "TK WR": "women_restricted",
    "TK SS": "secret_sacred",
    "TK OC": "open_to_collaboration",
    "TK CR": "creative",
    "BC P": "provenance",
    "BC C": "commercialization",
    "BC NC": "non_commercial",
    "BC CB": "collaboration",
    "BC CV": "consent_verified",
    "BC CNV": "consent_non_verified",
    "BC MC": "multiple_community",
    "BC R": "research",
    "BC CL": "clan",
    "BC O": "outreach",
}


@dataclass(frozen=True)
class Label:
    """A label as its community wrote it.

    Attributes:
        name: What a release carries on, verbatim.
        label_type: A key of :data:`LABEL_TYPES`, or :data:`UNKNOWN_TYPE`.
        unique_id: Of the Local Contexts Hub.
        community: Who set it.
        text: What it says, verbatim.
    """

    name: str
    label_type: str
    unique_id: str | None = None
    community: str | None = None
    text: str | None = None


def effect_of(label_type: str) -> LabelEffect:
    """Return what a label type asks for; one that is unknown is restricted."""
    return LABEL_TYPES.get(label_type, _RESTRICTED)


def parse_label(value: Any, *, where: str) -> Label:
    """Read one label of a regions file or of a Hub project.

    Args:
        value: A code (``TK A``), a type (``attribution``), or an object with ``name`` and
            ``label_type``, and perhaps ``unique_id``, ``community`` and ``label_text``.
        where: What to name in an error.

    Raises:
        DataError: It is none of these.
    """
    if isinstance(value, str) and value.strip():
        return Label(value.strip(), _type_of(value))
    if not isinstance(value, Mapping):
        raise DataError("is neither text nor an object", where=where, remedy='write "TK A"')
    texts = {key: _optional(value.get(key), key, where) for key in _FIELDS}
    name = texts["name"] or texts["label_type"]
    if name is None:
        raise DataError("has neither name nor label_type", where=where)
    kind = _type_of(texts["label_type"] or name)
    return Label(name, kind, texts["unique_id"], texts["community"], texts["label_text"])


_FIELDS = ("name", "label_type", "unique_id", "community", "label_text")


def _optional(value: Any, key: str, where: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise DataError("is not text", where=f"{where}: {key}")
    return value.strip() or None


def _type_of(text: str) -> str:
    code = " ".join(text.upper().split())
    if code in _CODES:
        return _CODES[code]
    kind = "_".join(text.lower().replace("-", " ").replace("_", " ").split())
    return kind if kind in LABEL_TYPES else UNKNOWN_TYPE
