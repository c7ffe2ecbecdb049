"""What a step of a rollout sees: facts from outside, read in the same pass. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kfm_mlflow.rollout.analysis import Analysis

OperatorOrder = Literal["pause", "resume", "abort", "promote", "rollback"]
"""What an operator may order.

``pause``: hold the present weight, still measured, until ``resume`` or the pause's deadline;
given before the canary has begun, it holds the first step. ``resume``: go on, the step's deadline
anew. ``abort``: take the candidate back at once, also while it is watched after promotion.
``promote``: end a timed pause, or give the promotion that is due; never in place of evidence.
``rollback``: put a former Production version back in the place of the present one, in any phase and
at rest.
"""


@dataclass(frozen=True)
class Levels:
    """What the registry holds for one model.

    Attributes:
        production: Version at production.
        canary: Version at canary.
        head: Sequence of the last ledger row; grows with every change.
    """

    production: int | None = None
    canary: int | None = None
    head: int = 0


@dataclass(frozen=True)
class Orders:
    """What people ask of a rollout.

    Attributes:
        veto: Why a valid veto stands against the version, fit to be shown; empty without one.
        operator: The last order of an operator.
        order_id: Grows with every order of the model; each is obeyed once. 0 without one.
        operator_name: Who ordered it.
        operator_reason: Why, fit to be shown.
        version: Version that the order is about; of a rollback, the one that goes. None is the
            candidate, whichever that is.
        to_version: Of a rollback, the former Production version that comes back.
    """

    veto: str = ""
    operator: OperatorOrder | None = None
    order_id: int = 0
    operator_name: str = ""
    operator_reason: str = ""
    version: int | None = None
    to_version: int | None = None


@dataclass(frozen=True)
class Regression:
    """What a validator found of a version after its admission, and the policy does not allow.

    Attributes:
        cause: ``xai`` when the explanation alone is bad.
        reason: What is, fit to be shown.
        statement: Digest of the signed validation.
    """

    cause: Literal["validation", "xai"]
    reason: str
    statement: str


@dataclass(frozen=True)
class Standing:
    """What holds a level or carries traffic and may not be served, or is no longer good enough.

    Attributes:
        recalls: Version -> why, fit to be shown; of the rollback target, too.
        vetoed: Those of them that the authority of a region vetoed.
        fallback: Former Production version that may be served in the place of Production, when that
            or the rollback target is among the recalls or regressions; None when there is none.
        regressions: Version at canary or Production -> what a newer validation found of it; none of
            the recalls.
    """

    recalls: Mapping[int, str] = field(default_factory=dict)
    vetoed: frozenset[int] = frozenset()
    fallback: int | None = None
    regressions: Mapping[int, Regression] = field(default_factory=dict)


@dataclass(frozen=True)
class StepInputs:
    """Everything that a step may look at besides plan and state.

    Attributes:
        deployed: Versions that are up and healthy.
        applied_generation: Generation of the split that all routers apply.
        analysis: What the traffic says; None while no candidate has traffic.
        admitted: Whether the registry would admit the candidate to production, or, while an
            operator's rollback waits for it, its target back there; None when it was not asked.
        admission_reason: The registry's sentence when it would not.
        standing: What may no longer be served.
    """

    levels: Levels = field(default_factory=Levels)
    deployed: frozenset[int] = frozenset()
    applied_generation: int = 0
    analysis: Analysis | None = None
    admitted: bool | None = None
    admission_reason: str = ""
    orders: Orders = field(default_factory=Orders)
    standing: Standing = field(default_factory=Standing)
