"""How rows of the ledger read to somebody who was not there. Pure: values in, lines out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kfm_mlflow.registry.history import Entry, Tenure

_WIDTH = 12
_CERTIFIED_WIDTH = 20


def plain(text: Any) -> str:
    """Return text on one line without control characters: what others wrote moves no cursor."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def _field(name: str, text: Any) -> list[str]:
    return [] if text in {"", None} else [f"{name:<{_WIDTH}}{plain(text)}"]


def _asker(entry: Entry) -> str:
    about = [f"role {role}" for role in entry.roles]
    if entry.authenticated is not None:
        about.insert(0, "logged in" if entry.authenticated else "not logged in")
    return " ".join([entry.actor or "nobody named", *([f"({', '.join(about)})"] if about else [])])


def headline(entry: Entry) -> str:
    """Return what a row is about, in one line."""
    if entry.change is not None:
        before, after = entry.change.get("before"), entry.change.get("after")
        return plain(f"{entry.model} {before or 'no policy'} → {after}")
    if entry.contradiction is not None:
        voter, choices = entry.contradiction["voter"], entry.contradiction["choices"]
        said = f"{voter} contradicts themselves: {', '.join(map(str, choices))}"
        return plain(f"{entry.model} v{entry.version}  {said}")
    if entry.certified is not None:
        said = f"{entry.certified['checkpoint_id']} of {entry.release_version} certified"
        return plain(f"{entry.model}  {said}")
    if entry.ordered is not None:
        back = entry.ordered["to_version"]
        said = f"{entry.ordered['order']}{f' to v{back}' if back else ''} ordered"
        return plain(f"{entry.model} v{entry.version}  {said}")
    levels = plain(f"{entry.from_level} → {entry.to_level}")
    return f"{plain(entry.model)} v{entry.version}  {levels}  {plain(entry.verdict)}"


def list_line(entry: Entry) -> str:
    """Return a row as one line of a list."""
    who = plain(entry.actor) or "nobody named"
    return f"{plain(entry.kind):<8} {headline(entry)}  by {who}"


def _finding_lines(findings: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = []
    for found in findings:
        quiet = "" if found["mode"] == "enforce" else f" ({found['mode']} only)"
        lines.append(f"  {found['gate']} {found['verdict']}{quiet}: {plain(found['detail'])}")
        if found.get("observed") or found.get("limit"):
            unit = "" if found.get("unit") in {"", None, "1"} else f" {found['unit']}"
            observed = f"observed {found.get('observed') or 'nothing'}, limit {found.get('limit')}"
            lines.append(f"    {plain(observed + unit)}")
        if found.get("waiver"):
            waiver = found["waiver"]
            text = f"waived by {waiver['by']} of {waiver['owner']} until {waiver['until']}: "
            lines.append(f"    {plain(text + str(waiver['reason']))}")
        if found.get("remedy"):
            lines.append(f"    → {plain(found['remedy'])}")
    return lines


def _vote_lines(votes: Mapping[str, Any]) -> list[str]:
    if not votes:
        return []
    count = f"{len(votes.get('approving', ()))} of {votes.get('needed', '?')}"
    lines = _field("votes", f"{count}, {votes.get('outcome', '')} ({votes.get('scheme', '')})")
    for name in (
        "approving",
        "denying",
        "abstaining",
        "escalating",
        "vetoing",
        "missing_roles",
        "equivocators",
    ):
        if votes.get(name):
            lines.append(plain(f"{name.replace('_', ' ')}: {', '.join(map(str, votes[name]))}"))
            lines[-1] = f"  {lines[-1]}"
    return lines


def entry_lines(entry: Entry) -> list[str]:
    """Return everything that a row says: who, what, when, why, on what evidence."""
    lines = [
        f"row {entry.seq} of the ledger, {entry.kind}",
        headline(entry),
        *_field("when", entry.at),
        *_field("who", _asker(entry)),
        *_field("why", "" if entry.certified else entry.reason or "no reason given"),
        *_field("outcome", entry.outcome),
        *_field("restores", "a former Production release, on a rollback" if entry.restores else ""),
        *_vote_lines(entry.votes),
    ]
    if entry.break_glass:
        glass = entry.break_glass
        lines += _field(
            "break-glass",
            f"ticket {glass.get('ticket')} until {glass.get('expires_at')}: {glass.get('reason')}",
        )
    if entry.not_passed:
        lines += ["findings", *_finding_lines(entry.not_passed)]
    elif entry.verdict:
        lines += _field("findings", "every gate passed")
    if entry.certified is not None:
        for name, text in entry.certified.items():
            lines += [f"{name:<{_CERTIFIED_WIDTH}}{plain(text)}"]
    lines += _field("release", f"{entry.release_version} {entry.release_id}".strip())
    lines += _field("frozen at", entry.frozen_uri)
    if entry.verdict:
        lines += _field("rollback to", entry.rollback_target or "nothing")
    elif entry.change is not None:
        waivers = entry.change.get("exemptions") or ()
        lines += _field("exemptions", len(waivers))
    lines += _field("policy", entry.policy_digest)
    for index, digest in enumerate(entry.evidence):
        lines += _field("evidence" if index == 0 else " ", digest)
    lines += _field("decision", entry.decision_digest)
    lines += _field("row hash", entry.hash)
    lines += _field("signed by", ", ".join(entry.signed_by))
    return lines


def tenure_lines(tenure: Tenure) -> list[str]:
    """Return what a version was, since when, by which decision, who decided and why."""
    entry = tenure.by
    since = tenure.since.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    lines = [f"{tenure.level:<{_WIDTH}}v{tenure.version} since {since}, by row {entry.seq}"]
    if tenure.displaced:
        lines.append(f"  v{entry.version} took its place")
    elif entry.release_version:
        lines.append(f"  release {plain(entry.release_version)} {plain(entry.release_id)}")
    lines.append(f"  {plain(f'{entry.from_level} → {entry.to_level}')} {plain(entry.outcome)}")
    lines.append(f"  by {plain(_asker(entry))}: {plain(entry.reason) or 'no reason given'}")
    if entry.approving:
        lines.append(f"  approved by {plain(', '.join(entry.approving))}")
    if tenure.until is not None and tenure.ended_by is not None:
        until = tenure.until.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        lines.append(f"  until {until}, by row {tenure.ended_by.seq}")
    return lines
