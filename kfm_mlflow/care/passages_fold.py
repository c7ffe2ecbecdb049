"""Reading a text the way an eye does: letters folded, invisible characters gone, disguises undone.

Two readings are made character by character. :func:`fold` is for names: case, accents, strokes,
styled letters and other scripts' look-alikes (Unicode Technical Standard 39) become plain letters.
:func:`plain` is for numbers: digits of any script, signs, primes and spaces become ASCII, and
format characters (zero-width, soft hyphen, bidirectional controls) vanish.

:func:`readings` lists the texts that one text may be meant as: as it stands, with escapes decoded,
without markup, with digits read as letters, with reversed runs turned, and what base64 hides.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
import unicodedata
from functools import cache
from importlib import resources
from itertools import islice
from urllib.parse import unquote

_FILLERS = frozenset("\u115f\u1160\u3164\uffa0")  # letters by category, blank by look
_LATIN = re.compile(
    r"(?:LATIN|INDICATOR SYMBOL|TAG|CIRCLED|SQUARED|PARENTHESIZED)\b.*\bLETTER "
    r"(?:SMALL CAPITAL |DOTLESS |REVERSED |TURNED |OPEN |SIDEWAYS )?([A-Z])(?: WITH .*)?"
)
_TAG_BASE, _TAG_FIRST, _TAG_LAST = 0xE0000, 0xE0020, 0xE007E
_MOST_ROUNDS = 4
_LEET = str.maketrans("0134578@$!", "oleastbasi")
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|[nrtbf/\"\\])")
_SHORT_ESCAPES = {"n": "\n", "r": "\n", "t": "\t", "b": " ", "f": " "}
_TAG = re.compile(r"<[^<>]{0,2000}>|\]\([^()\s]{0,500}\)")
_REVERSED = re.compile(r"\u202e([^\u202c\n]*)\u202c?")
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{12,}={0,2}(?![A-Za-z0-9+/=_-])")
_MOST_BASE64 = 20_000
_PRINTABLE_RATIO = 0.95
_WORD = re.compile(r"[^\W_]+")


@cache
def _confusables() -> dict[str, str]:
    text = (resources.files("kfm_mlflow.care") / "defaults" / "confusables.txt").read_text("utf-8")
    lines = (line.split(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {char: letters for letters, chars in lines for char in chars}


def _letters_of(char: str) -> str:
    """Return what one character stands for in a name, in lower case."""
    code = ord(char)
    if _TAG_FIRST <= code <= _TAG_LAST:  # invisible copies of ASCII
        return chr(code - _TAG_BASE).lower()
    if char in _FILLERS or unicodedata.category(char) == "Cf":
        return ""
    text = char
    for _ in range(_MOST_ROUNDS):
        before, text = text, "".join(_once(one) for one in text)
        if text == before:
            break
    return text


def _once(char: str) -> str:
    if char.isascii():
        return char.lower()
    known = _confusables().get(char)
    if known is not None:
        return known
    found = _LATIN.search(unicodedata.name(char, ""))
    if found is not None:
        return found.group(1).lower()
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c))


class _Letters(dict[int, str]):
    """Translation table for names that keeps the case of capitals, filled as characters appear."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        letters = _letters_of(char)
        value = letters[:1].upper() + letters[1:] if char.isupper() else letters
        self[code] = value
        return value


class _Digits(dict[int, str]):
    """Translation table for numbers, filled as characters appear."""

    def __missing__(self, code: int) -> str:
        self[code] = value = self._plain(chr(code))
        return value

    @staticmethod
    def _plain(char: str) -> str:
        if char.isascii():
            return char
        if char.isdecimal():
            return str(unicodedata.decimal(char))
        known = _SIGNS.get(char)
        if known is not None:
            return known
        if unicodedata.category(char) == "Cf":
            return ""
        wide = unicodedata.normalize("NFKC", char)
        return wide if wide.isascii() else char


_SIGNS = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d", "-"),
    **dict.fromkeys("\u00ba\u02da\u00b0\u2218", "°"),
    **dict.fromkeys("\u2018\u2019\u2032\u02b9\u00b4", "'"),
    **dict.fromkeys("\u201c\u201d\u2033\u02ba", '"'),
    "\u066b": ".",
    "\u00b7": ".",
}
_LETTERS, _DIGITS = _Letters(), _Digits()


def fold_cased(text: str) -> str:
    """Return a text with every character folded, keeping which ASCII letters were capitals."""
    return text.translate(_LETTERS)


def fold(text: str) -> str:
    """Return a text in lower case without accents and punctuation, words parted by one space."""
    return " ".join(_WORD.findall(fold_cased(text).lower()))


def plain(text: str) -> str:
    """Return a text with ASCII digits, signs and primes and without invisible characters."""
    return text if text.isascii() else text.translate(_DIGITS)


def _unescape(match: re.Match[str]) -> str:
    body = match.group()[1:]
    if body[0] == "u" and len(body) > 1:
        return chr(int(body[1:], 16))
    return _SHORT_ESCAPES.get(body, body)


def _decoded(text: str) -> str:
    for _ in range(_MOST_ROUNDS):
        before = text
        if "\\" in text:
            text = _ESCAPE.sub(_unescape, text)
            # JSON writes characters beyond the first plane as two halves.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if "&" in text and ";" in text:
            text = html.unescape(text)
        if "%" in text:
            text = unquote(text, errors="replace")
        if text == before:
            break
    return text


def _hidden(text: str) -> str:
    """Return what the base64 in a text says, where it says text."""
    found = []
    for match in islice(_BASE64.finditer(text), _MOST_BASE64):
        token = match.group().rstrip("=").replace("-", "+").replace("_", "/")
        try:
            said = base64.b64decode(token + "=" * (-len(token) % 4)).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            continue
        if sum(c.isprintable() or c.isspace() for c in said) >= _PRINTABLE_RATIO * len(said):
            found.append(said)
    return "\n".join(found)


def _values(text: str) -> str:
    """Return the strings of a JSON text one after the other, without keys; empty for others."""
    if text.lstrip()[:1] not in {"{", "["}:
        return ""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    found: list[str] = []
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, dict):
            rest += reversed(list(item.values()))
        elif isinstance(item, list):
            rest += reversed(item)
    return " ".join(found)


def readings(text: str) -> tuple[str, ...]:
    """Return the texts that a text may be meant as, itself first, each once.

    Args:
        text: Prose, markup, JSON, CSV.
    """
    decoded = _decoded(text)
    found = [text, decoded]
    if "<" in decoded or "](" in decoded:
        found += [_TAG.sub("", decoded), _TAG.sub(" ", decoded)]
    if "\u202e" in decoded:
        found.append(_REVERSED.sub(lambda match: match.group(1)[::-1], decoded))
    found += [_values(text), _hidden(text)]
    return tuple(dict.fromkeys(reading for reading in found if reading))


def read_digits_as_letters(text: str) -> str:
    """Return a text with digits and signs that stand for letters (``B1ue H3r0n``) as letters."""
    return text.translate(_LEET)
