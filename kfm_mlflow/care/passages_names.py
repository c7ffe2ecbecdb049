"""Finding restricted names in texts, exactly or misspelt, in time that does not depend on luck.

A name matches a run of whole words whose letters, joined, are within a few edits of its own
(optimal string alignment: insertion, deletion, substitution, swap): none below 6 letters, one from
6, two from 12, three from 20. Spaces, digits and punctuation inside do not count, so a name that is
split over lines or markup is found. What keeps other text clean: runs begin and end at word
borders; words pair up one to one where their number agrees; a whole foreign word inside is no
misspelling; and terms that the caller calls public are no misspelling of anything.

Candidates come from an index of letter triples. A run within k edits of a name holds at least one
of any k + 1 disjoint triples of it untouched (Navarro 2001, partition into exact search), so the
rarest such triples of each name are looked up and nothing else is compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kfm_mlflow.care.passages_fold import fold_cased, read_digits_as_letters

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

_EDITS = ((20, 3), (12, 2), (6, 1), (0, 0))
_MIN_FUZZY_LENGTH = 6
_BASE = 40
_LETTER_COUNT = 26
_START = 1 << 21  # above every code point
_MOST_CANDIDATES = 1_000_000
_ASCII_END = 128
_WORD_SHARE = 4
_PIECE = re.compile(r"[^\W\d_]+|\d+")
_SPELLED = re.compile(r"(?<= )(\w) (?=\w )")


def _pieces(text: str) -> list[str]:
    return _PIECE.findall(fold_cased(text).lower())


def allowed_edits(length: int) -> int:
    """Return how many edits a name of that many letters may be away and still be it."""
    return next(edits for least, edits in _EDITS if length >= least)


@dataclass(frozen=True)
class _Letters:
    """The letters of all texts, one after the other.

    Attributes:
        codes: Code points, 0 between texts.
        starts: Whether a word begins here.
        ends: Whether a word ends here.
        firsts: Where each text begins.
    """

    codes: NDArray[np.uint32]
    starts: NDArray[np.bool_]
    ends: NDArray[np.bool_]
    firsts: NDArray[np.int64]

    @cached_property
    def triples(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions in the order of their triples, and where each triple begins among them."""
        small = np.where(
            self.codes < _ASCII_END,
            self.codes.astype(np.int64) - ord("a") + 1,
            self.codes % (_BASE - _LETTER_COUNT - 1) + _LETTER_COUNT + 1,
        )
        small[self.codes == 0] = 0
        codes = (small[:-2] * _BASE * _BASE + small[1:-1] * _BASE + small[2:]).astype(np.uint16)
        order = np.argsort(codes, kind="stable")
        counts = np.bincount(codes, minlength=_BASE**3)
        return order, np.concatenate([[0], np.cumsum(counts)])


def _letters(readings: Sequence[str]) -> _Letters:
    codes, starts, ends, firsts, at = [], [], [], [], 0
    for reading in readings:
        cased = np.frombuffer(fold_cased(reading).encode("utf-32-le", "replace"), dtype=np.uint32)
        capital = (cased >= ord("A")) & (cased <= ord("Z"))
        folded = np.where(capital, cased + 32, cased)
        lower = (folded >= ord("a")) & (folded <= ord("z")) & ~capital
        is_letter = lower | capital
        strange = folded >= _ASCII_END
        if strange.any():
            known = {c for c in np.unique(folded[strange]).tolist() if chr(c).isalpha()}
            is_letter |= np.isin(folded, np.fromiter(known, dtype=np.uint32, count=len(known)))
        where = np.flatnonzero(is_letter)
        gap = np.ones(len(where) + 1, dtype=bool)
        gap[1:-1] = (np.diff(where) > 1) | (capital[where[1:]] & lower[where[:-1]])
        codes += [folded[where].astype(np.uint32), np.zeros(1, np.uint32)]
        starts += [gap[:-1], np.ones(1, bool)]
        ends += [gap[1:], np.ones(1, bool)]
        firsts.append(at)
        at += len(where) + 1
    if not codes:
        none = np.zeros(0, bool)
        return _Letters(np.zeros(0, np.uint32), none, none, np.zeros(0, np.int64))
    parts = (np.concatenate(codes), np.concatenate(starts), np.concatenate(ends))
    return _Letters(*parts, np.array(firsts, dtype=np.int64))


def _rarest(name: str, letters: _Letters, edits: int) -> list[tuple[int, int]]:
    """Return (offset, triple) of ``edits + 1`` disjoint triples of a name with fewest positions.

    They stand one letter apart where there is room, so that a swap damages only one of them.
    """
    _, first = letters.triples
    codes = [
        ord(c) - ord("a") + 1
        if ord(c) < _ASCII_END
        else ord(c) % (_BASE - _LETTER_COUNT - 1) + _LETTER_COUNT + 1
        for c in name
    ]
    triples = [
        codes[i] * _BASE * _BASE + codes[i + 1] * _BASE + codes[i + 2] for i in range(len(name) - 2)
    ]
    cost = [int(first[t + 1] - first[t]) for t in triples]
    step = 4 if len(name) >= 4 * edits + 3 else 3
    best: list[list[tuple[float, tuple[int, ...]]]] = [[(0.0, ())] * (len(triples) + step)]
    for _ in range(edits + 1):
        row: list[tuple[float, tuple[int, ...]]] = [(float("inf"), ())] * (len(triples) + step)
        for i in range(len(triples) - 1, -1, -1):
            rest = best[-1][i + step]
            row[i] = min(row[i + 1], (cost[i] + rest[0], (i, *rest[1])), key=lambda it: it[0])
        best.append(row)
    return [(i, triples[i]) for i in best[-1][0][1]]


def _candidates(name: str, letters: _Letters, edits: int) -> NDArray[np.int64]:
    """Return [n, 2] beginnings and ends of runs of whole words that may be the name."""
    order, first = letters.triples
    shifts = np.arange(-edits, edits + 1)
    count = len(letters.codes)
    begins: list[NDArray[np.int64]] = []
    for offset, triple in _rarest(name, letters, edits):
        at = (order[first[triple] : first[triple + 1]] - offset)[:, None] + shifts
        at = at[(at >= 0) & (at < count)]
        begins.append(at[letters.starts[at]])
    begin = np.unique(np.concatenate(begins))
    end = begin[:, None] + len(name) + shifts
    inside = (end > begin[:, None]) & (end <= count)
    inside &= letters.ends[np.minimum(np.maximum(end, 1), count) - 1]
    rows, columns = np.nonzero(inside)
    return np.stack([begin[rows], end[rows, columns]], axis=1)


def _is_name(name: Sequence[str], run: Sequence[str], edits: int) -> bool:
    """Return whether a run of words is a way of writing a name."""
    from rapidfuzz.distance import OSA

    joined = "".join(name)
    distance = OSA.distance(joined, "".join(run), score_cutoff=edits)
    if distance > edits:
        return False
    if distance == 0:
        return True
    if len(name) == len(run):
        pairs = zip(name, run, strict=True)
        return all(OSA.distance(a, b) <= max(1, len(a) // _WORD_SHARE) for a, b in pairs)
    for index, word in enumerate(run):
        if len(word) > 1 and word not in name:
            without = "".join([*run[:index], *run[index + 1 :]])
            if OSA.distance(joined, without) <= distance - len(word):
                return False
    return True


def _find_fuzzy(
    name: Sequence[str], letters: _Letters, public: frozenset[str]
) -> NDArray[np.int64]:
    """Return the numbers of the texts that hold a name."""
    joined = "".join(name)
    edits = allowed_edits(len(joined))
    spans = _candidates(joined, letters, edits)
    if not len(spans):
        return np.zeros(0, np.int64)
    if len(spans) > _MOST_CANDIDATES:
        # So many near misses that they cannot be told apart in time: refused, not passed.
        return np.unique(np.searchsorted(letters.firsts, spans[:, 0], side="right") - 1)
    width = len(joined) + edits
    at = spans[:, :1] + np.arange(width)
    inside = at < spans[:, 1:]
    at = np.minimum(at, len(letters.codes) - 1)
    marked = letters.codes[at] | np.where(letters.starts[at], _START, 0).astype(np.uint32)
    marked[~inside] = 0
    unique, inverse = np.unique(marked, axis=0, return_inverse=True)
    good = np.zeros(len(unique), dtype=bool)
    for index, row in enumerate(unique.tolist()):
        if any(code & (_START - 1) == 0 for code in row[: len(joined) - edits]):
            continue
        text = "".join(
            (" " if code & _START else "") + chr(code & (_START - 1)) for code in row if code
        )
        run = text.split()
        said = "".join(run)
        good[index] = (said == joined or said not in public) and _is_name(name, run, edits)
    begin = spans[good[inverse.reshape(-1)], 0]
    return np.unique(np.searchsorted(letters.firsts, begin, side="right") - 1)


class NameIndex:
    """Texts made ready for looking up any number of names."""

    def __init__(self, readings: Iterable[Sequence[str]], public_terms: Iterable[str] = ()) -> None:
        """Index texts.

        Args:
            readings: Of each text, what it may be meant as.
            public_terms: Terms that are no misspelling of a restricted name.
        """
        self._owners: list[int] = []
        self._readings: list[str] = []
        for owner, ways in enumerate(readings):
            for way in ways:
                self._owners.append(owner)
                self._readings.append(way)
        self._public = frozenset("".join(_pieces(term)) for term in public_terms)

    @cached_property
    def _letters(self) -> _Letters:
        # Digits read as letters may disguise any of them, so each reading is indexed twice.
        both = [*self._readings, *map(read_digits_as_letters, self._readings)]
        return _letters(both)

    @cached_property
    def _words(self) -> list[str]:
        """Every reading as words, each between spaces; spelled-out words closed up as well."""
        found = []
        for reading in self._readings:
            words = f" {' '.join(_pieces(reading))} "
            found.append(f"{words}\n{_SPELLED.sub(chr(92) + '1', words)}")
        return found

    @cached_property
    def _vocabulary(self) -> frozenset[str]:
        return frozenset(word for text in self._words for word in text.split())

    def find(self, name: str) -> list[int]:
        """Return the numbers of the texts that hold a name, in order, each once."""
        words = _pieces(name)
        lexical = [word for word in words if not word.isdigit()]
        if not words:
            return []
        if len(lexical) < len(words) or len("".join(words)) < _MIN_FUZZY_LENGTH:
            if not self._vocabulary.issuperset(words):
                return []
            asked = f" {' '.join(words)} "
            return sorted({self._owners[i] for i, text in enumerate(self._words) if asked in text})
        found = _find_fuzzy(lexical, self._letters, self._public)
        return sorted({self._owners[int(i) % len(self._owners)] for i in found})
