"""Who may do what: the policy's ``access`` section.

What is not written is not allowed: without this section nobody may move anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from kfm_mlflow.policy.written import NonEmpty, Written

if TYPE_CHECKING:
    from kfm_mlflow.policy.levels import Level

Role = Literal["trainer", "validator", "council", "authority", "operator"]
Roles = tuple[Role, ...]
MAX_BREAK_GLASS_HOURS = 168.0


class MovesPolicy(Written):
    """Roles of which one is needed to move a version up into a level, or down from any."""

    down: Roles = ()
    staging: Roles = ()
    canary: Roles = ()
    production: Roles = ()


class AttestationsPolicy(Written):
    """Roles of which one is needed to send a kind of signed statement to the registry."""

    validation: Roles = ()
    vote: Roles = ()
    canary_verdict: Roles = ()
    rollback: Roles = ()
    care_authority: Roles = ()


class BreakGlassPolicy(Written):
    """Who may pass over findings in an emergency; nobody by default.

    Attributes:
        roles: Roles of which one is needed.
        max_hours: Longest time that may be asked for, in hours.
        keep: Gates that are not passed over, besides those that never are.
    """

    roles: Roles = ()
    max_hours: Annotated[float, Field(gt=0, le=MAX_BREAK_GLASS_HOURS)] = 24
    keep: tuple[NonEmpty, ...] = ()


class AccessPolicy(Written):
    """Who may move versions and send statements.

    Attributes:
        unauthenticated: What a server without authentication allows: ``loopback`` (everything,
            to requests from this machine) or ``never``.
        roles: Role -> names of the users who hold it.
        may_move: Which roles may move to which level.
        may_attest: Which roles may send which statement.
        may_download_weights: Roles of which one is needed to download files that hold weights
            through the server; none means that whoever may read the model may.
        weights_contact: Whom a refusal says to ask for them.
        break_glass: Which roles may pass over findings.
    """

    unauthenticated: Literal["loopback", "never"] = "never"
    roles: dict[Role, tuple[NonEmpty, ...]] = Field(default={})
    may_move: MovesPolicy = MovesPolicy()
    may_attest: AttestationsPolicy = AttestationsPolicy()
    may_download_weights: Roles = ()
    weights_contact: str = ""
    break_glass: BreakGlassPolicy = BreakGlassPolicy()

    @model_validator(mode="after")
    def _names_each_user_once(self) -> Self:
        for role, names in self.roles.items():
            if len(set(names)) != len(names):
                raise ValueError(f"roles.{role}: a name appears twice")
        return self

    def roles_of(self, user: str) -> tuple[str, ...]:
        """Return the roles that a user holds, sorted."""
        return tuple(sorted(role for role, names in self.roles.items() if user in names))

    def movers(self, from_level: Level, to_level: Level) -> tuple[str, ...]:
        """Return the roles of which one is needed for a move."""
        key = "down" if to_level.rank < from_level.rank else to_level.value
        found: tuple[str, ...] = getattr(self.may_move, key, ())
        return found

    def senders(self, kind: str) -> tuple[str, ...]:
        """Return the roles of which one is needed to send a statement of a kind."""
        found: tuple[str, ...] = getattr(self.may_attest, kind.replace("-", "_"), ())
        return found
