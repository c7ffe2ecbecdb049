"""An anytime-valid comparison: does the canary fail more often than stable?

Both arms answer a stream of good-or-bad outcomes that arrives in blocks. The null hypothesis is
that the canary's bad ratio is at most stable's. Evidence is an e-process: whatever the two ratios
are, as long as the null holds its expected value never exceeds 1 at any stopping time, so by
Ville's inequality it reaches ``1 / alpha`` with probability at most ``alpha``, however often one
looks.

Per block, with the ratios ``theta_s <= theta_c`` guessed from past blocks alone and their
weighted mean ``theta_0 = (n_s theta_s + n_c theta_c) / (n_s + n_c)``, the block's e-value is the
likelihood of its outcomes under the guesses over their likelihood under ``theta_0``.

Source: Turner, Ly & Grünwald, "Generic E-variables for exact sequential k-sample tests that allow
for optional stopping", J. Statist. Plann. Inference 230 (2024), theorem 1 and section 4. For the
one-sided null: the stable factor falls and the canary factor grows in its own true ratio, so the
expectation over ``ratio_canary <= ratio_stable`` is largest where they are equal.

Pure: no clock, no randomness.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Beta priors of the guesses, worth one observation each: stable is thought rarely bad, of the
# canary nothing is known. Any choice is valid; this one finds a broken canary in its first block.
_STABLE_PRIOR = (0.1, 0.9)
_CANARY_PRIOR = (0.5, 0.5)


@dataclass(frozen=True)
class Block:
    """Outcomes of both arms between two looks; counts, ``bad`` of them bad."""

    stable_count: int = 0
    stable_bad_count: int = 0
    canary_count: int = 0
    canary_bad_count: int = 0

    def plus(self, other: Block) -> Block:
        """Return both blocks as one."""
        return Block(
            self.stable_count + other.stable_count,
            self.stable_bad_count + other.stable_bad_count,
            self.canary_count + other.canary_count,
            self.canary_bad_count + other.canary_bad_count,
        )

    @property
    def is_complete(self) -> bool:
        """Both arms have answered, and no outcome is ahead of its request."""
        return (
            self.canary_count > 0
            and 0 <= self.canary_bad_count <= self.canary_count
            and self.stable_count > 0
            and 0 <= self.stable_bad_count <= self.stable_count
        )


@dataclass(frozen=True)
class Sequential:
    """The comparison so far.

    Attributes:
        past: Sum of all blocks that are in ``log_e``.
        pending: Outcomes that wait for the other arm before they form a block.
        log_e: Natural logarithm of the e-process.
    """

    past: Block = Block()
    pending: Block = Block()
    log_e: float = 0.0

    @property
    def e_value(self) -> float:
        """The e-process; 1 at the start, large when the canary is worse."""
        return math.exp(min(self.log_e, 700.0))


def guess_ratios(past: Block) -> tuple[float, float]:
    """Return the ratios (stable, canary) to bet on next, from past blocks alone.

    Returns:
        Two ratios strictly inside (0, 1), the canary's never below stable's.
    """
    good, bad = _STABLE_PRIOR[1], _STABLE_PRIOR[0]
    stable = (past.stable_bad_count + bad) / (past.stable_count + bad + good)
    good, bad = _CANARY_PRIOR[1], _CANARY_PRIOR[0]
    canary = (past.canary_bad_count + bad) / (past.canary_count + bad + good)
    return stable, max(stable, canary)


def block_log_e(block: Block, stable_ratio: float, canary_ratio: float) -> float:
    """Return the logarithm of one complete block's e-value for given guesses.

    Args:
        block: Complete.
        stable_ratio: Guess strictly inside (0, 1).
        canary_ratio: Guess strictly inside (0, 1), at least ``stable_ratio``.
    """
    count = block.stable_count + block.canary_count
    mean = (block.stable_count * stable_ratio + block.canary_count * canary_ratio) / count
    stable_good = block.stable_count - block.stable_bad_count
    canary_good = block.canary_count - block.canary_bad_count
    return (
        block.stable_bad_count * math.log(stable_ratio / mean)
        + stable_good * math.log((1 - stable_ratio) / (1 - mean))
        + block.canary_bad_count * math.log(canary_ratio / mean)
        + canary_good * math.log((1 - canary_ratio) / (1 - mean))
    )


def update(state: Sequential, block: Block) -> Sequential:
    """Take in what arrived since the last look.

    Outcomes wait until both arms have some: a block with one arm says nothing about the other.
    """
    pending = state.pending.plus(block)
    if not pending.is_complete:
        return Sequential(state.past, pending, state.log_e)
    stable_ratio, canary_ratio = guess_ratios(state.past)
    log_e = state.log_e + block_log_e(pending, stable_ratio, canary_ratio)
    return Sequential(state.past.plus(pending), Block(), log_e)
