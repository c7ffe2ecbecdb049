"""Which packages a model runs on, with versions and licences, as the environment has them.

Reads the metadata of installed distributions; asks no index.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from kfm_mlflow.errors import InputError
from kfm_mlflow.metadata.facts import PackageFact

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import Distribution

_MAX_EXPRESSION_LENGTH = 120
_CUSTOM = re.compile(r"(?:DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+")
"""SPDX 2.3, annex D."""
_CLASSIFIERS = {
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: ISC License (ISCL)": "ISC",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "License :: OSI Approved :: Python Software Foundation License": "PSF-2.0",
}
"""Classifiers that name one SPDX licence; "BSD License" names none."""


_INSTALLATIONS = frozenset({"site-packages", "dist-packages"})
_building = Lock()


def licensing() -> Any:
    """Return the SPDX licences, ready to parse expressions in any thread.

    Their tokenizer is built at first use; two threads at once would break it for good, and every
    bill of materials would be invalid until the process ends.
    """
    from spdx_tools.common.spdx_licensing import spdx_licensing

    with _building:
        spdx_licensing.get_advanced_tokenizer()
    return spdx_licensing


def spdx_expression(text: str | None, *, custom: bool = False) -> str | None:
    """Return a text as an SPDX licence expression; None when it is none.

    Args:
        text: What a package or a person wrote.
        custom: Take ``LicenseRef-…``, too: a licence whose text only its owner has.
    """
    from license_expression import ExpressionError  # type: ignore[import-untyped] # ships no types

    if not text or len(text) > _MAX_EXPRESSION_LENGTH:
        return None
    try:
        parsed = licensing().parse(text, validate=not custom, strict=True)
    except ExpressionError:
        return None
    unknown = licensing().unknown_license_keys(parsed) if custom else ()
    return str(parsed) if all(_CUSTOM.fullmatch(key) for key in unknown) else None


def _license(distribution: Distribution) -> str | None:
    metadata = distribution.metadata
    for field in ("License-Expression", "License"):
        found = spdx_expression(next(iter(metadata.get_all(field) or ()), None))
        if found:
            return found
    named = [_CLASSIFIERS.get(line, "") for line in metadata.get_all("Classifier") or ()]
    known = sorted(set(filter(None, named)))
    return known[0] if len(known) == 1 else None


def _requires(distribution: Distribution) -> list[str]:
    found: list[str] = []
    for line in distribution.requires or ():
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found.append(canonicalize_name(requirement.name))
    return found


def _installed_at() -> list[str]:
    """Return the module path without what packages put on it when they are imported.

    Ray does so with copies of its own; what is installed does not depend on who was imported.
    """
    return [
        entry
        for entry in sys.path
        if not any(parent.name in _INSTALLATIONS for parent in Path(entry).parents)
    ]


def resolved_packages(names: Iterable[str] | None = None) -> tuple[PackageFact, ...]:
    """Return installed packages with versions and licences, sorted by name.

    Args:
        names: Packages to start from; what they require without extras is followed as far as it
            is installed. None takes every installed package.

    Raises:
        InputError: One of the names is not installed.
    """
    installed: dict[str, Distribution] = {}
    for distribution in importlib.metadata.distributions(path=_installed_at()):
        name = distribution.metadata["Name"]
        # The first on the path is the one that Python imports.
        if name:
            installed.setdefault(canonicalize_name(name), distribution)
    if names is None:
        wanted = set(installed)
    else:
        waiting = [str(canonicalize_name(name)) for name in names]
        for name in waiting:
            if name not in installed:
                raise InputError("is not installed", where=name)
        wanted = set()
        while waiting:
            name = waiting.pop()
            if name in installed and name not in wanted:
                wanted.add(name)
                waiting += _requires(installed[name])
    return tuple(
        PackageFact(name, installed[name].version, _license(installed[name]))
        for name in sorted(wanted)
    )
