"""What a step of a rollout sees: facts from outside, read in the same pass. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from kfm_mlflow.rollout.analysis import Analysis

OperatorOrder = Literal["pause", "resume", "abort", "promote"]


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
    """

    veto: str = ""
    operator: OperatorOrder | None = None
    order_id: int = 0


@dataclass(frozen=True)
class StepInputs:
    """Everything that a step may look at besides plan and state.

    Attributes:
        deployed: Versions that are up and healthy.
        applied_generation: Generation of the split that all routers apply.
        analysis: What the traffic says; None while no candidate has traffic.
        admitted: Whether the registry would admit the candidate to production; None when it was
            not asked.
        admission_reason: The registry's sentence when it would not.
    """

    levels: Levels = field(default_factory=Levels)
    deployed: frozenset[int] = frozenset()
    applied_generation: int = 0
    analysis: Analysis | None = None
    admitted: bool | None = None
    admission_reason: str = ""
    orders: Orders = field(default_factory=Orders)
