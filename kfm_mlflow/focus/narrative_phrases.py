"""What no story may say, whatever its input: words and phrases, and the check that refuses each.

A phrase is looked for in one clause. A forecast is let pass where the clause hedges it, a strong
word where the clause denies it just before. The lists are of English.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from kfm_mlflow.focus.narrative_words import lists_of
from kfm_mlflow.focus.story import MONTHS

Check = Literal[
    "deterministic-forecast",
    "exaggerated-severity",
    "over-precision",
    "identity-or-intent",
    "unsupported-claim",
    "unreadable-text",
]
Unless = Literal["", "hedged", "denied"]

_CLAUSE_END = re.compile(
    r"[;:]|,? but |, (?:and|while|although|though|yet|so|because|since|which) | although | because "
)
# `may` in lower case only: May is a month.
_HEDGE = re.compile(
    r"\b(?:may|(?i:might|could|can|chances?|possibl[ey]|possibility|perhaps|maybe|likely|unlikely"
    r"|probabl[ey]|probability|tends? to|often|sometimes|uncertain|(?:not|nothing is) known|unknown"
    r"|cannot say|not certain|depends?|whether))\b"
)
# Only what a denial reaches over: "nothing eases this disaster" denies no disaster.
_DENIAL = re.compile(
    r"(?:\b(?:no|not|nothing|neither|nor|none|without)|n't)"
    r"(?: (?:a|an|the|any|signs?|of|or|in|here|is|was|shows?|droughts?|floods?|storms?|heat|fires?"
    r"|wildfires?))* $"
)


@dataclass(frozen=True)
class Rule:
    """Phrases that one check refuses.

    Attributes:
        check: Which check.
        says: What such a phrase does, for people; it goes on after ``the text``.
        pattern: Looked for in a clause, in lower case unless it tells case itself.
        unless: ``hedged`` lets it pass in a hedged clause.
        is_cased: Whether the pattern reads the clause as written.
    """

    check: Check
    says: str
    pattern: re.Pattern[str]
    unless: Unless = ""
    is_cased: bool = False


_MONTH = f"(?:{'|'.join(MONTHS)})".lower()
_DIRECTION = r"(?:north|south|east|west)(?:-?(?:east|west))?"
_PERIOD = (
    r"(?:hour|day|week|weekend|fortnight|month|season|year|decade|spring|summer|fall|autumn"
    r"|winter)s?"
)
_WILL = re.compile(
    r"\b(?:will|shall)\b(?! (?:likely|probably|perhaps|possibly|maybe)\b)|\bwon't\b|'ll\b"
)
_CERTAIN = re.compile(
    r"\bno doubt\b|\bwithout (?:a |any )?(?:doubt|question|fail)\b|\bbeyond (?:any )?doubt\b"
    r"|\b(?:bound|set|poised|going|about|due|is|are) to [a-z]+|\bgonna\b"
    r"|\b(?:100 ?%|100 per ?cent\b|0 ?% chance|no chance\b)|\bcannot (?:fail|be avoided)\b"
    r"|\brul(?:es?|ed|ing) out\b|\b(?:is|are|stays?|remains?) (?:perfectly |entirely )?safe\b"
    r"|\bno (?:danger|risk|threat)\b|\bmust (?:flood|burn|follow|come|happen|rise|fall|dry)\b"
    r"|\bonly a matter of time\b|\b(?:no|not|without) (?:a |any )?(?:possib|chance|prob)\w*"
    r"|\bcannot (?!know|tell|say|show)[a-z]+|\b(?:nothing|none) (?:can|could|may|might)\b"
)
_FUTURE = re.compile(
    rf"\b(?:next|coming|following|upcoming|future) (?:few |two |three |several )?{_PERIOD}\b"
    r"|\b(?:soon|shortly|tomorrow|tonight|upcoming|ahead|before long|in due course|eventually)\b"
    rf"|\blater this {_PERIOD}\b|\bwithin (?:a |the )?(?:few )?{_PERIOD}\b"
    rf"|\bby (?:next|the end of|{_MONTH})\b|\bin the future\b|\bforecasts?\b|\bpredict\w*\b"
)
_SEVERE = re.compile(
    r"\b(?:very|far|well|way|much|so|too|incredibly|unusually|abnormally)"
    r" (?:low|high|below|above|dry|wet|hot|cold|stormy)\b"
    r"|\bno water\b|\bnever before\b|\b(?:run|ran|running) dry\b|\bof all time\b"
    r"|\bever (?:seen|measured|known)\b|\boff the (?:charts?|scale)\b"
    r"|\bin (?:living memory|recorded history|generations|a century)\b"
)
_SHOUT = re.compile(r"!|\b[A-Z]{4,}\b")
_PLACE = re.compile(
    rf"\bdeg(?:rees?)? ?(?:{_DIRECTION}|[nsew])\b|\bmile marker\b|\bquarter section\b"
    rf"|\b(?:km|kilomet(?:er|re)s?|miles?|m|met(?:er|re)s?|feet|ft|yards?) {_DIRECTION}\b"
    rf"|\b{_DIRECTION} of\b|\b(?:near|beside|behind|next to|close to|along|around) (?:the|a|an)\b"
    r"|\b(?:at|by|in|on) the (?:rivers?|streams?|waters?)\b"
)
_FLOW = re.compile(
    r"\bcfs\b|\bcubic (?:feet|foot|met(?:er|re)s?)\b|\bm3\b|\bacre-f(?:ee|oo)t\b|\bgallons?\b"
    r"|\blit(?:er|re)s? per\b"
)
_DAY = re.compile(
    r"\b\d ?[ap]\.?m\b|\b\d{1,2}:\d\d\b|\b\d{4}-\d\d-\d\d\b|\b\d{1,2}/\d{1,2}/\d{2,4}\b"
    rf"|\b{_MONTH} (?:the )?\d{{1,2}}(?:st|nd|rd|th)?(?!\d)"
    rf"|\b\d{{1,2}}(?:st|nd|rd|th)? (?:of )?{_MONTH}\b"
    rf"|\b(?:first|second|third|fourth|fifth|tenth|last) (?:day )?of {_MONTH}\b"
)
_NAME = re.compile(
    rf"(?:(?<=[A-Za-z0-9,;:)\"'-] )|(?<=^[\"'(]))(?!(?:{'|'.join(MONTHS)}|Kansas|I|H3)\b)"
    r"[A-Z][A-Za-z]+"
)
_PEOPLE = re.compile(
    r"\bnative (?:americans?|peoples?|nations?|lands?|communit\w+|villages?|title)\b"
    r"|\bfirst (?:nations?|peoples?)\b|\b(?:lived|dwelt|settled|belonged|belongs)\b"
    r"|\btheir (?!usual range)"
)
_CAUSE = re.compile(
    r"\b(?:due to|owing to|thanks to|driven by|result(?:s|ed|ing)? (?:of|in|from)|led to|leads to"
    r"|brought on|means? that|climate change|global warming)\b"
)

RULES: tuple[Rule, ...] = (
    Rule("deterministic-forecast", "says what will happen", _WILL),
    Rule("deterministic-forecast", "claims certainty", _CERTAIN),
    Rule("deterministic-forecast", "tells the future without a hedge", _FUTURE, "hedged"),
    Rule("exaggerated-severity", "is stronger than low, moderate or high", _SEVERE),
    Rule("exaggerated-severity", "shouts", _SHOUT, is_cased=True),
    Rule("over-precision", "points to a place finer than its cell", _PLACE),
    Rule("over-precision", "names a place or a person", _NAME, is_cased=True),
    Rule("over-precision", "gives a flow, where only a percentile may be told", _FLOW),
    Rule("over-precision", "gives a time finer than its month", _DAY),
    Rule("identity-or-intent", "speaks of a people or its past", _PEOPLE),
    Rule("unsupported-claim", "gives a cause, and a row holds none", _CAUSE),
)
LISTS: dict[str, tuple[Check, str, Unless]] = {
    "certainty": ("deterministic-forecast", "claims certainty", "denied"),
    "becoming": ("deterministic-forecast", "tells what becomes without a hedge", "hedged"),
    "severity": ("exaggerated-severity", "is stronger than low, moderate or high", "denied"),
    "places": ("over-precision", "points to a place finer than its cell", ""),
    "times": ("over-precision", "gives a time finer than its month", ""),
    "identity": ("identity-or-intent", "speaks of a people or its past", ""),
    "persons": ("identity-or-intent", "speaks of persons, and a row holds none", ""),
    "intent": ("identity-or-intent", "gives somebody an intent or a fault", ""),
    "trends": ("unsupported-claim", "tells a trend, and a row holds one month", "hedged"),
    "unseen": ("unsupported-claim", "tells what no column holds", ""),
    "causes": ("unsupported-claim", "gives a cause, and a row holds none", ""),
}
"""What the lists of :mod:`kfm_mlflow.focus.narrative_words` are refused by."""
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


def clauses(sentence: str) -> list[str]:
    """Return the clauses of a sentence."""
    return [part for part in _CLAUSE_END.split(sentence) if part.strip()]


def is_hedged(clause: str) -> bool:
    """Tell whether a clause says that something is only possible; ``May`` is the month."""
    return _HEDGE.search(clause) is not None


def is_denied(clause: str, start: int) -> bool:
    """Tell whether a clause, in lower case, denies what starts at a place in it."""
    return _DENIAL.search(clause[:start]) is not None


def refused_phrases(sentence: str) -> tuple[tuple[Check, str], ...]:
    """Return the checks that a sentence fails by its phrases alone, with what it does.

    Args:
        sentence: In ASCII, without the labels of quantities, which hold such words themselves.
    """
    found: dict[tuple[Check, str], None] = {}
    for clause in clauses(sentence):
        lowered, hedged = clause.lower(), is_hedged(clause)
        for rule in RULES:
            text = clause if rule.is_cased else lowered
            if not (hedged and rule.unless == "hedged") and rule.pattern.search(text):
                found[rule.check, rule.says] = None
        for match in _WORD.finditer(lowered):
            for name in lists_of(match.group()):
                check, says, unless = LISTS[name]
                if not (
                    (unless == "hedged" and hedged)
                    or (unless == "denied" and is_denied(lowered, match.start()))
                ):
                    found[check, says] = None
    return tuple(found)
