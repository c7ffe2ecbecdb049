"""Reading the text of a story for checks, and saying when it cannot be read.

A story is plain English prose in known words. What is not is not decoded or guessed at: characters
of other scripts, invisible characters, markup, escapes, words in disguise and words that no list
knows make a text unreadable, and an unreadable text is unsafe. Only what Unicode itself calls the
same characters (NFKC) and accents are folded.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from kfm_mlflow.focus.narrative_words import is_known

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
        **dict.fromkeys("\u2018\u2019\u2032", "'"),
        **dict.fromkeys("\u201c\u201d\u2033", '"'),
        "\u00b0": "deg",
        "\u00ba": "deg",
        "\u00b5": "u",
        "\u2044": "/",
        "\u00d7": "x",
        "\u00b1": "+/-",
    }
)
CELL = re.compile(r"(?<![0-9A-Za-z])(?:H3-)?8[0-9a-f]{14}(?![0-9A-Za-z])", re.IGNORECASE)
_OTHER_SIGNS = re.compile(r"[^A-Za-z0-9 \n.,;:()'\"/%+!?-]")
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")


@dataclass(frozen=True)
class StoryText:
    """What a text says.

    Attributes:
        text: In ASCII, as far as it can be read.
        obstacle: Why it cannot be read for certain; empty when it can.
    """

    text: str
    obstacle: str = ""


def read_story_text(text: str) -> StoryText:
    """Read a text of a story.

    Args:
        text: A title, a sentence or several.
    """
    if not text.isascii():
        folded = unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS)
        folded = unicodedata.normalize("NFKD", folded)
        text = "".join(char for char in folded if not unicodedata.combining(char))
    return StoryText(text, _obstacle(CELL.sub("here", text)))


def _obstacle(text: str) -> str:
    """Return what keeps a text from being read; H3 cells are taken out before."""
    if _OTHER_SIGNS.search(text):
        return "a sign that plain prose does without"
    if not all(is_known(word.lower()) for word in _WORD.findall(text)):
        return "a word that the checks do not know"
    return ""
