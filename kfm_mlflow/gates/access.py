"""Who asks: may they make this move, send this statement, break the glass?

Rules:

1. Findings name roles, never people: whoever holds the same roles gets the same decision digest.
2. Nobody moves to Production what they registered themselves; who registered it must be known.
3. Break-glass passes over findings of gates, never over these questions: it needs a login, a role
   that may make the move, and a role that the policy names for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kfm_mlflow.gates.findings import Finding, Move
from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.policy.levels import Level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kfm_mlflow.policy.models import Policy

_LOG_IN = "log in; a server with logins is started with --app-name kfm-auth"
_ANOTHER = "let somebody else do it"


@dataclass(frozen=True)
class Asker:
    """Who asks, as far as it decides.

    Attributes:
        authenticated: Whether a password or token was checked.
        local: Whether the request began on the server's own machine.
        roles: Roles that the policy gives this user.
        registered_it: Whether this user registered the version; None when nobody knows who did.
    """

    authenticated: bool
    local: bool
    roles: tuple[str, ...] = ()
    registered_it: bool | None = None


def _words(roles: Sequence[str]) -> str:
    return ", ".join(roles) or "none"


def _anonymous(policy: Policy, asker: Asker) -> Finding:
    if policy.access.unauthenticated == "loopback" and asker.local:
        return Finding(
            "ACCESS_LOOPBACK",
            Verdict.PASS,
            "asked on this machine",
            "nobody is logged in, and the request came from the server's own machine",
        )
    return Finding(
        "UNAUTHENTICATED",
        Verdict.FAIL,
        "nobody is logged in",
        "nobody is logged in, and the policy does not allow that "
        + ("from another machine" if policy.access.unauthenticated == "loopback" else "at all"),
        observed="unauthenticated",
        limit=policy.access.unauthenticated,
        remedy=_LOG_IN,
    )


def _role(asker: Asker, needed: Sequence[str], doing: str) -> Finding:
    holds = bool(set(asker.roles) & set(needed))
    return Finding(
        "ACCESS_ROLE" if holds else "ROLE_MISSING",
        Verdict.PASS if holds else Verdict.FAIL,
        "role held" if holds else f"no role that may {doing}",
        f"roles that may {doing}: {_words(needed)}; roles held: {_words(asker.roles)}",
        observed=_words(asker.roles),
        limit=_words(needed),
        remedy="" if holds else "ask somebody who has one, or see access in the policy",
    )


def access(policy: Policy, move: Move, asker: Asker) -> list[Finding]:
    """Ask whether somebody may make a move, whatever the gates say of the release."""
    if not asker.authenticated:
        return [_anonymous(policy, asker)]
    # Bringing back what was Production before is the other half of taking its successor down.
    down = move.restores or move.to_level.rank < move.from_level.rank
    needed = (
        policy.access.may_move.down
        if down
        else policy.access.movers(move.from_level, move.to_level)
    )
    findings = [_role(asker, needed, "take down" if down else f"move to {move.to_level}")]
    if move.to_level is not Level.PRODUCTION or move.restores:
        return findings
    if asker.registered_it is None:
        findings.append(
            Finding(
                "REGISTRAR_UNKNOWN",
                Verdict.INCONCLUSIVE,
                "nobody knows who registered it",
                "it was registered by nobody who was logged in, so nobody can be told from them",
                remedy="register the release again, as a logged-in user",
            )
        )
    elif asker.registered_it:
        findings.append(
            Finding(
                "OWN_RELEASE",
                Verdict.FAIL,
                "own release",
                "who registered a version may not move it to production",
                remedy=_ANOTHER,
            )
        )
    return findings


def may_attest(policy: Policy, asker: Asker, kind: str, *, approves: bool) -> Finding:
    """Ask whether somebody may send a signed statement to the registry.

    Args:
        policy: The family's policy.
        asker: Who sends it; the signature inside is judged elsewhere.
        kind: Kind of the statement.
        approves: Whether it speaks for the release; a denial may come from anybody with the role.
    """
    if not asker.authenticated:
        return _anonymous(policy, asker)
    found = _role(asker, policy.access.senders(kind), f"send a {kind}")
    if found.verdict is Verdict.PASS and approves and asker.registered_it:
        return Finding(
            "OWN_RELEASE",
            Verdict.FAIL,
            "own release",
            f"who registered a version may not send a {kind} in its favour",
            remedy=_ANOTHER,
        )
    return found


def may_roll_out(policy: Policy, asker: Asker) -> Finding:
    """Ask whether somebody may write a rollout's journal: whoever may start one.

    Args:
        policy: The family's policy.
        asker: Who writes it.
    """
    if not asker.authenticated:
        return _anonymous(policy, asker)
    return _role(asker, policy.access.may_move.canary, "carry a rollout")


def breakers(policy: Policy, asker: Asker | None) -> tuple[str, ...]:
    """Return the roles by which somebody may break the glass; without a login, none."""
    if asker is None or not asker.authenticated:
        return ()
    return tuple(sorted(set(asker.roles) & set(policy.access.break_glass.roles)))


def break_glass(policy: Policy, move: Move) -> list[Finding]:
    """Ask whether the glass may be broken as it is asked for; only called when it is."""
    asked, settings = move.break_glass, policy.access.break_glass
    if asked is None:
        return []
    if move.asker is None or not move.asker.authenticated:
        return [
            Finding(
                "BREAK_GLASS_UNAUTHENTICATED",
                Verdict.FAIL,
                "break-glass needs a login",
                "nobody is logged in, and break-glass is never anonymous",
                remedy=_LOG_IN,
            )
        ]
    roles = breakers(policy, move.asker)
    if not roles:
        return [
            Finding(
                "BREAK_GLASS_ROLE",
                Verdict.FAIL,
                "no role for break-glass",
                f"roles that may break the glass: {_words(settings.roles)}; "
                f"roles held: {_words(move.asker.roles)}",
                observed=_words(move.asker.roles),
                limit=_words(settings.roles),
                remedy="ask somebody who has one, or see access.break_glass in the policy",
            )
        ]
    if asked.hours > settings.max_hours:
        return [
            Finding(
                "BREAK_GLASS_TOO_LONG",
                Verdict.FAIL,
                "break-glass for too long",
                f"{asked.hours:g} h are asked for, at most {settings.max_hours:g} h are allowed",
                observed=f"{asked.hours:g}",
                limit=f"<= {settings.max_hours:g}",
                unit="h",
                remedy="ask for less",
            )
        ]
    return [
        Finding(
            "BREAK_GLASS",
            Verdict.PASS,
            "break-glass",
            f"broken by role {_words(roles)} for {asked.hours:g} h, ticket {asked.ticket}",
            observed=_words(roles),
            limit=f"<= {settings.max_hours:g}",
            unit="h",
        )
    ]
