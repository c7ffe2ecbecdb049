"""Whether an explanation keeps the policy's limits: the release's own, or one measured again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfm_mlflow.gates.findings import Finding, Move
from kfm_mlflow.gates.measured import binding_of, newest, number_of
from kfm_mlflow.gates.verdict import Verdict

if TYPE_CHECKING:
    from kfm_mlflow.gates.evidence import Evidence
    from kfm_mlflow.policy.models import Policy, XaiPolicy

_REMEDY = "see what made the explanation differ from the release's own, and release anew"


def judge_explanation(
    settings: XaiPolicy, delta: float, stability: float, *, again: bool = False
) -> list[Finding]:
    """Hold an explanation against the limits; NaN keeps none.

    Args:
        settings: The limits.
        delta: Completeness error of integrated gradients, a ratio; its sign counts for nothing.
        stability: Lowest correlation over seeds.
        again: A validator measured it, not the release's trainer.
    """
    delta, most, least = abs(delta), settings.max_convergence_delta_ratio, settings.min_stability
    converged, stable = delta <= most, stability >= least
    when = " when the validator measures it" if again else ""
    named = "XAI_NOW" if again else "XAI"
    convergence = ("CONVERGED", "UNCONVERGED") if again else ("DELTA_WITHIN", "DELTA_EXCEEDED")
    return [
        Finding(
            f"{named}_{convergence[not converged]}",
            Verdict.PASS if converged else Verdict.FAIL,
            f"XAI delta{' measured again' * again} {delta:.3g} of {most:g}",
            f"the convergence delta is {delta:.6g}{when}, at most {most:g} is asked",
            observed=f"{delta:.6g}",
            limit=f"<= {most:g}",
            unit="1",
            remedy=_REMEDY if again and not converged else "",
        ),
        Finding(
            f"{named}_{'STABLE' if stable else 'UNSTABLE'}",
            Verdict.PASS if stable else Verdict.FAIL,
            f"XAI stability{' measured again' * again} {stability:.3g}",
            f"explanations agree to {stability:.6g}{when}, at least {least:g} is asked",
            observed=f"{stability:.6g}",
            limit=f">= {least:g}",
            remedy=_REMEDY if again and not stable else "",
        ),
    ]


def explained_again(evidence: Evidence, policy: Policy, move: Move) -> list[Finding]:
    """Ask whether the explanation that the newest validation measured anew keeps the limits.

    Nothing is found where the validator says that it measured none.
    """
    settings = policy.gates.xai
    report, _ = newest(evidence, "validation", binding_of(evidence, move))
    said = (report.claims or {}).get("xai") if report else None
    if settings is None or not isinstance(said, dict) or said.get("measured") is not True:
        return []
    delta, stability = (number_of(said.get(n)) for n in ("convergence_delta", "min_correlation"))
    return judge_explanation(settings, delta, stability, again=True)
