"""Licences of what is made from artifacts: all of theirs hold, and none may forbid the making.

A licence is what a provider's manifest states, as an SPDX expression; ``LicenseRef-…`` names one
whose text only its owner has. What is no expression names no licence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfm_mlflow.care.licences import read_licence
from kfm_mlflow.errors import DataError, InputError
from kfm_mlflow.fleet.unit_files import read_object
from kfm_mlflow.metadata.packages import licensing, spdx_expression
from kfm_mlflow.release.manifest import build_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from kfm_mlflow.fleet.manifest import Manifests

NO_ASSERTION = "NOASSERTION"
"""SPDX's word for a licence that nobody stated."""
REPORT_FILE = "merge.json"
"""In a unit that was merged: what it was merged from, and under which licence it is therefore."""


@dataclass(frozen=True)
class MergeLicences:
    """Licences of a merge, as SPDX expressions.

    Attributes:
        adapters: Of each adapter, in the order given.
        base: Of their base; None where no manifest names it, and the adapters' licences, whose
            folders hold it, speak for it.
        whole: Of what is merged.
    """

    adapters: tuple[str, ...]
    base: str | None
    whole: str


def join_licences(stated: Iterable[str | None]) -> str:
    """Return the licence of a whole: the different ones of its parts, joined by AND.

    Args:
        stated: Of each part; None where nobody stated one.

    Returns:
        An SPDX expression, whatever the order of the parts; ``NOASSERTION`` as soon as one states
        none.
    """
    grammar = licensing()
    conditions: dict[str, Any] = {}
    for text in stated:
        expression = spdx_expression(text, custom=True)
        if expression is None:
            return NO_ASSERTION
        parsed = grammar.parse(expression)
        parts = parsed.flatten().args if isinstance(parsed, grammar.AND) else (parsed,)
        conditions |= {str(part): part for part in parts}
    if not conditions:
        return NO_ASSERTION
    ordered = [conditions[text] for text in sorted(conditions)]
    return str(ordered[0] if len(ordered) == 1 else grammar.AND(*ordered))


def unit_licence(stated: str | None, directory: Path) -> str:
    """Return the licence of an artifact: what is stated of it, and what it was merged from.

    Args:
        stated: By its manifest.
        directory: Its files.
    """
    report = directory / REPORT_FILE
    if not report.is_file():
        return join_licences([stated])
    try:
        inherited = read_object(report).get("license")
    except DataError:
        # A report that cannot be read names no licence, and keeps nobody else's artifact out.
        return NO_ASSERTION
    return join_licences([stated, inherited] if isinstance(inherited, str) else [stated])


def merge_licences(adapters: Sequence[Path], base: Path, manifests: Manifests) -> MergeLicences:
    """Return the licences of a merge, every parent found in the manifests by its files' digest.

    Args:
        adapters: Folders of the adapters.
        base: Folder of their base.
        manifests: Of those who made them.

    Raises:
        InputError: An adapter is in no manifest; a parent names no licence, or one that does not
            let others pass on what is made from it.
    """
    own = []
    for adapter in adapters:
        found = _stated(adapter, manifests)
        if not found:
            raise InputError(
                "is in no manifest, so nobody says under which licence it is",
                where=adapter.name,
                remedy="give --manifests the file that lists it by the digest of its folder",
            )
        own.append(_derivable(adapter, found))
    below = _stated(base, manifests)
    of_base = _derivable(base, below) if below else None
    return MergeLicences(tuple(own), of_base, join_licences([*own, *filter(None, [of_base])]))


def _stated(folder: Path, manifests: Manifests) -> list[str | None]:
    digest = build_manifest(folder).release_id
    return [one.license for one in manifests.artifacts if one.digest == digest]


def _derivable(folder: Path, stated: Sequence[str | None]) -> str:
    """Return a parent's licence; refuse one that is none or forbids what is made from it."""
    found = join_licences(unit_licence(one, folder) for one in stated)
    where = f"{folder.name}: license"
    if found == NO_ASSERTION:
        told = ", ".join(repr(one[:60]) if one else "none" for one in stated)
        raise InputError(
            f"its manifest names no SPDX expression ({told})",
            where=where,
            remedy="ask its provider under which licence it is",
        )
    if read_licence(found).derivatives is False:
        raise InputError(
            f"{found} does not let others pass on what is made from it",
            where=where,
            remedy="leave it out, or ask its provider for another licence",
        )
    return found
