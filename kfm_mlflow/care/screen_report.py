"""A screening as a page for people: what was asked, what was found, who must decide.

Written for a council, not for programmers, in plain words, as text or as one HTML page without
scripts. It shows what findings show: never a restricted name or a place.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from kfm_mlflow.care.screening import Status

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from kfm_mlflow.care.score import FairCareScore
    from kfm_mlflow.care.screening import CareFinding, Check, Screening

Section = tuple[str, tuple[str, ...]]
"""Heading, and the sentences under it."""
QUESTIONS = {
    "care-block": "Does the release say how it masks places, for whom it is, and why?",
    "masking": "Is its way of masking known, and as strong as the regions ask for?",
    "declared-resolution": "Does it promise no finer detail than the regions allow?",
    "output-grid": "Are the cells that it publishes as large as the regions ask for?",
    "consent": "Has every authority that must consent done so, and does it still hold?",
    "standing": "Is no region closed now, by season or embargo?",
    "labels": "Does it carry the communities' labels on, word for word?",
    "licence-scope": "Do licence and audience keep what the labels reserve?",
    "lineage": "Is it as restricted as everything that it was made from?",
    "restricted-names": "Is it free of names that may not be published?",
    "coordinates": "Is it free of places written more exactly than allowed?",
    "hazard-statements": "Does no sentence speak too closely of a hazard or a cultural site?",
    "disclosure": "Does no table tell, alone or by subtraction, of too few?",
    "differencing": "Does subtracting the release that is public now tell of no group too small?",
    "gradients": "Does no published field draw the border of a region?",
    "training-consent": "Was it trained only on rows that it was allowed to use?",
    "attribution-leakage": "Do its public answers stay the same when restricted inputs change?",
}
_ANSWERS = {
    Status.NO_KNOWN_CONFLICT: "nothing was found against it",
    Status.STALE: "no longer holds",
    Status.NEEDS_AUTHORITY: "an authority must decide",
    Status.CONFLICT: "conflict",
}
_SETTLED = "an authority had to decide, and signed an approval: see below"
_SAID = "What authorities signed, and what is still needed"
_WHOLE = {
    Status.NO_KNOWN_CONFLICT: "These checks found no conflict. That is no approval: approval is a "
    "signature of the authority.",
    Status.STALE: "What this release rests on no longer holds. It may not go on until its "
    "authority has renewed it.",
    Status.NEEDS_AUTHORITY: "This cannot be settled by a computer. An authority must decide.",
    Status.CONFLICT: "There is a conflict. The release may not be published as it is.",
}


@dataclass(frozen=True)
class Beside:
    """What a report says besides the screening.

    Attributes:
        authorities: How findings call a region -> its authority; None where nobody is named.
        score: The FAIR+CARE score, if it was computed.
        said: What authorities signed, and what is still needed.
        settled: Checks of which an authority approved all that it had to decide.
        notes: Sentences about what was compared, or was not asked.
        stopped: Regions whose authority has not signed yet, or vetoed.
    """

    authorities: Mapping[str, str | None]
    score: FairCareScore | None = None
    said: tuple[Section, ...] = ()
    settled: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()

    @property
    def but(self) -> str:
        """What is to be added to the result; empty when nothing is."""
        regions = ", ".join(f"region {name}" for name in self.stopped)
        return f"But it may not go on: see {regions} below." if regions else ""


def deciders(screening: Screening, authorities: Mapping[str, str | None]) -> dict[str, list[str]]:
    """Return who must decide -> the checks that they must decide about.

    Args:
        screening: What was found.
        authorities: How findings call a region -> its authority; None where nobody is named.
    """
    found: dict[str, list[str]] = {}
    for check in screening.checks:
        for finding in check.findings:
            if finding.status is Status.CONFLICT and not finding.region:
                who = "whoever made the release, by mending it"
            elif not finding.region:
                who = "the council of the policy"
            else:
                named = authorities.get(finding.region)
                who = named or f"nobody is named for region {finding.region}"
            if check.id not in found.setdefault(who, []):
                found[who].append(check.id)
    return found


def _numbers(finding: CareFinding) -> str:
    unit = f" {finding.unit}" if finding.unit else ""
    parts = []
    if finding.observed:
        parts.append(f"found {finding.observed}{unit}")
    if finding.limit:
        parts.append(f"allowed {finding.limit}{unit}")
    return ", ".join(parts)


def report_lines(
    screening: Screening,
    title: str,
    at: datetime,
    beside: Beside,
) -> list[str]:
    """Return the report as lines of plain text.

    Args:
        screening: What was found.
        title: What was screened.
        at: When (aware).
        beside: What else there is to say.
    """
    lines = [f"CARE screening of {title}", f"{at:%Y-%m-%d %H:%M} UTC", ""]
    lines += [f"Result: {screening.status}", _WHOLE[screening.status]]
    lines += [beside.but, ""] if beside.but else [""]
    lines += ["What was asked, and what was found", ""]
    for check in screening.checks:
        lines += _check_lines(check, beside.settled)
    lines += [f"\n{note}" for note in beside.notes]
    if screening.unasked:
        lines += ["", "Not measured, and not asked for by the policy:"]
        lines += [f"  {QUESTIONS[name]}" for name in screening.unasked]
    who = deciders(screening, beside.authorities)
    if who:
        lines += ["", "Who must decide", ""]
        lines += [f"  {name}: {', '.join(checks)}" for name, checks in who.items()]
    lines += ["", _SAID] if beside.said else []
    for heading, sentences in beside.said:
        lines += ["", f"  {heading}", *(f"    {sentence}" for sentence in sentences)]
    if beside.score is not None:
        lines += ["", _score_line(beside.score)]
    lines += ["", f"Regions: {screening.regions_digest}"]
    return lines


def _answer(check: Check, settled: Collection[str]) -> str:
    is_settled = check.id in settled and check.status is Status.NO_KNOWN_CONFLICT
    return _SETTLED if is_settled else _ANSWERS[check.status]


def _check_lines(check: Check, settled: Collection[str] = ()) -> list[str]:
    lines = [f"  {QUESTIONS.get(check.id, check.id)}", f"    {_answer(check, settled)}"]
    for finding in check.findings:
        about = f"region {finding.region}: " if finding.region else ""
        where = f" [{finding.where}]" if finding.where else ""
        numbers = _numbers(finding)
        rule = f" rule {finding.rule}" if finding.rule else ""
        lines.append(
            f"    - {about}{finding.what}{f' ({numbers})' if numbers else ''}{where}{rule}"
        )
    if check.remedy:
        lines.append(f"    What to do: {check.remedy}")
    return lines


def _score_line(score: FairCareScore) -> str:
    return (
        f"FAIR+CARE score {score.score_pct:.1f} of 100, {score.band} "
        f"(FAIR {score.fair_pct:.1f}, CARE {score.care_pct:.1f}). A score is no approval."
    )


_STYLE = (
    "body{font:1.05rem/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{border-top:1px solid #888;padding:.5rem;"
    "text-align:left;vertical-align:top}.conflict{border-left:.4rem solid #a40000}"
    ".needs-authority,.stale{border-left:.4rem solid #b36b00}"
    ".no-known-conflict{border-left:.4rem solid #2f6f3e}"
)


def report_html(
    screening: Screening,
    title: str,
    at: datetime,
    beside: Beside,
) -> str:
    """Return the report as one HTML page; arguments as :func:`report_lines`."""
    rows = "".join(
        f'<tr class="{check.status}"><td>{escape(QUESTIONS.get(check.id, check.id))}</td>'
        f"<td>{escape(_answer(check, beside.settled))}{_html_findings(check)}</td></tr>"
        for check in screening.checks
    )
    who = "".join(
        f"<li><strong>{escape(name)}</strong>: {escape(', '.join(checks))}</li>"
        for name, checks in deciders(screening, beside.authorities).items()
    )
    words = "".join(
        f"<h3>{escape(heading)}</h3>" + "".join(f"<p>{escape(line)}</p>" for line in sentences)
        for heading, sentences in beside.said
    )
    unasked = "".join(f"<li>{escape(QUESTIONS[name])}</li>" for name in screening.unasked)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f"<title>CARE screening of {escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>CARE screening of {escape(title)}</h1><p>{at:%Y-%m-%d %H:%M} UTC</p>",
        f"<p><strong>{screening.status}</strong>. {escape(_WHOLE[screening.status])}</p>",
        f"<p><strong>{escape(beside.but)}</strong></p>" if beside.but else "",
        "<h2>What was asked, and what was found</h2>",
        f"<table><tr><th>Question</th><th>Answer</th></tr>{rows}</table>",
        *(f"<p>{escape(note)}</p>" for note in beside.notes),
        f"<h2>Not measured, and not asked for</h2><ul>{unasked}</ul>" if unasked else "",
        f"<h2>Who must decide</h2><ul>{who}</ul>" if who else "",
        f"<h2>{_SAID}</h2>{words}" if words else "",
        f"<p>{escape(_score_line(beside.score))}</p>" if beside.score is not None else "",
        f"<p><small>Regions {escape(screening.regions_digest)}</small></p></body></html>\n",
    ]
    return "".join(parts)


def _html_findings(check: Check) -> str:
    if not check.findings:
        return ""
    items = "".join(
        f"<li>{escape(line.strip().removeprefix('- '))}</li>" for line in _check_lines(check)[2:]
    )
    return f"<ul>{items}</ul>"
