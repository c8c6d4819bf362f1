"""Reset rules of conservative policy iteration: weights w in [0, 1] of the states of a policy.

A state that the policy visits is accepted as a reset state with probability w. Random resets accept
all, oracle resets the improvable set I_τ, and self resets I_τ as a localizer sees it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cpi.exact.improvement import check_tau, check_weights, coverage, improvable_mask
from cpi.exact.values import Evaluation
from envs.tabular import FloatArray

#: From the current policy, evaluated, to reset weights (H, S) or (S,).
ResetWeights = Callable[[Evaluation], FloatArray]


def random_resets(evaluation: Evaluation) -> FloatArray:
    """w ≡ 1: CPI-RR."""
    return np.ones(evaluation.A.shape[:-1])


def oracle_resets(tau: float) -> ResetWeights:
    """w = 1[I_τ]: CPI-CARO. All zeros once nothing is improvable by more than τ.

    Raises
    ------
    ValueError
        If τ is not a number ≥ 0.
    """
    check_tau(tau)

    def weights(evaluation: Evaluation) -> FloatArray:
        return improvable_mask(evaluation, tau).astype(np.float64)

    weights.tau = tau  # type: ignore[attr-defined]
    return weights


def weights_of(rule: ResetWeights, evaluation: Evaluation, name: str) -> FloatArray:
    """Weights of a reset rule, 0 in terminal states; `name` is that of the argument.

    The shape is (S,) or (H, S). Random resets of a discounted MDP keep w ≡ 1, as in K&L's bounds.

    Raises
    ------
    ValueError
        If the rule is none, or its weights are outside [0, 1] or of another shape.
    """
    if not callable(rule) or rule in (oracle_resets, self_resets):
        given = f"{rule.__name__}, without its τ," if callable(rule) else repr(rule)
        raise ValueError(
            f"{name}: {given} is no reset rule; give cpi.random_resets, cpi.oracle_resets(tau), "
            "cpi.self_resets(tau, precision, recall), or a function of an Evaluation"
        )
    weights = check_weights(evaluation, rule(evaluation), name)
    if evaluation.mdp.horizon is not None or (weights != 1).any():  # K&L's random resets: w ≡ 1
        weights = weights * ~evaluation.mdp.terminal
    return weights


def self_resets(tau: float, precision: float, recall: float) -> ResetWeights:
    """Weights of a localizer with precision q and recall t: t on I_τ, f elsewhere.

    The false-positive rate is f = t p (1−q) / (q p'). Here p = p_π(τ) is the current coverage, and
    p' the coverage of the other non-terminal states. If π visits none of these, the precision is 1.

    Raises
    ------
    ValueError
        If τ is not a number ≥ 0, or precision or recall is outside (0, 1]. The weights raise it
        where no f ≤ 1 gives the precision, which cannot be below p t / (p t + p').
    """
    check_tau(tau)
    for name, value in (("precision", precision), ("recall", recall)):
        if not 0 < value <= 1:
            raise ValueError(f"{name}: {value} is not in (0, 1]")

    def weights(evaluation: Evaluation) -> FloatArray:
        improvable = improvable_mask(evaluation, tau)
        p = coverage(evaluation, improvable)
        rest = coverage(evaluation, ~evaluation.mdp.terminal & ~improvable)
        false_mass = recall * p * (1 - precision) / precision
        if rest > 0 and false_mass > rest * (1 + 1e-12):
            lowest = p * recall / (p * recall + rest)
            raise ValueError(
                f"precision: {precision} is below {lowest:.4g}, the precision of accepting every "
                f"other state at p = {p:.4g}, recall {recall}"
            )
        return np.where(improvable, recall, min(false_mass / rest, 1.0) if rest > 0 else 0.0)

    weights.tau = tau  # type: ignore[attr-defined]
    return weights
