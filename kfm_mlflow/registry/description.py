"""The block that MLflow's own UI shows above a version's description.

It is made when a description is read and never stored, so that there is nothing to tamper with;
whatever looks like it is taken out of what was stored and of what a UI sends back.

Law: what stays of a text without the block is the text; taking out twice is taking out once.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from kfm_mlflow.gates.findings import page_path
from kfm_mlflow.trust.model_key import split_key

if TYPE_CHECKING:
    from kfm_mlflow.policy.levels import Level

# Markdown shows a link definition nowhere; every editor keeps it.
_BEGIN = "[//]: # (kfm: made when this is read; changes to it are not kept)"
_END = "[//]: # (kfm: end)"
_LINES = (
    r"\[//\]: # \(kfm: made[^\n]*",
    r"\[!\[kfm: [^\n]*\]\(/kfm/badge/[^\n]*",
    r"Governed release at level \*\*[^\n]*\]\(/kfm/[^\n]*",
    r"\[//\]: # \(kfm: end\)[^\n]*",
)
_BLOCK = re.compile(r"\n\r?\n".join(_LINES) + r"(?:\r?\n){0,2}")
# What is left of a block that somebody edited.
_REMAINS = re.compile("(?m)^[ \t]*(?:" + "|".join(_LINES) + r")(?:\n|\Z)")


def badge_path(name: str, version: int) -> str:
    """Return the path of a version's badge.

    Args:
        name: The model's key.
        version: Model version.
    """
    workspace, own = split_key(name)
    query = f"?workspace={quote(workspace, safe='')}" if workspace else ""
    return f"/kfm/badge/{quote(own, safe='')}/{version}.svg{query}"


def build_block(name: str, version: int, level: Level) -> str:
    """Return the block of a version, as Markdown.

    Args:
        name: The model's key.
        version: Model version.
        level: Its level.
    """
    page = quote(page_path(name, version), safe="/%?=")
    return (
        f"{_BEGIN}\n\n"
        f"[![kfm: {level}]({badge_path(name, version)})]({page})\n\n"
        f"Governed release at level **{level}**: "
        f"[gates, evidence, votes and history]({page}).\n\n"
        f"{_END}\n\n"
    )


def without_block(text: str | None) -> str | None:
    """Take every such block, and every line that is left of one, out of a description."""
    if not text or "kfm" not in text:
        return text
    while (less := _REMAINS.sub("", _BLOCK.sub("", text))) != text:
        text = less
    return text


def with_block(text: str | None, name: str, version: int, level: Level) -> str:
    """Return a stored description with the block before it."""
    return build_block(name, version, level) + (without_block(text) or "")
