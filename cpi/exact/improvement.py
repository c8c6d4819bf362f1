"""Improvable states of a policy, and how much of them a reset rule accepts.

    a_h(s)  = E_{a∼π'} A_h(s,a)           advantage of a candidate π' over π in a state
    I_τ     = {(h,s) : max_a A_h(s,a) > τ}                       improvable set
    p_w     = E_{d^π} w,   𝔸_w = E_{ν_w} a,   ν_w ∝ d^π·w        of reset weights w in [0, 1]

p_π(τ) is p_w at w = 1[I_τ]; the policy advantage 𝔸 of Kakade & Langford is 𝔸_w at w ≡ 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpi.exact.linear import resolvent
from cpi.exact.policies import average_transitions, check_policy
from cpi.exact.values import Evaluation, forward, rounding_of
from envs.checks import check_fractions, check_number
from envs.tabular import FloatArray

#: Occupancy below this is rounding: such a state is never visited.
UNVISITED = 1e-14


def candidate_advantage(evaluation: Evaluation, candidate: ArrayLike) -> FloatArray:
    """a = E_{a∼π'} A^π, shape (S,) or (H, S)."""
    policy = check_policy(evaluation.mdp, candidate, what="candidate")
    return np.asarray((policy * evaluation.A).sum(axis=-1))


def check_tau(tau: float) -> None:
    """Raise ValueError unless τ is a number ≥ 0."""
    check_number("tau", tau)


def check_weights(evaluation: Evaluation, weights: ArrayLike, name: str = "weights") -> FloatArray:
    """Weights as a float array: a number, or one for each state, shape (S,), or (h, s), (H, S).

    Raises
    ------
    ValueError
        If the shape is another, or a weight is outside [0, 1]; `name` is theirs in the message.
    """
    array = check_fractions(name, weights)
    shape = evaluation.A.shape[:-1]
    if array.shape not in [(), shape[-1:], shape]:
        or_states = "" if len(shape) == 1 else f", or {shape[-1:]} for the same at every step"
        raise ValueError(f"{name}: shape {array.shape}, expected {shape}{or_states}")
    return array


def expectation(evaluation: Evaluation, values: ArrayLike) -> float:
    """E_{d^π} f of values f, a number or an array (S,) or (H, S)."""
    return float((evaluation.occupancy * np.asarray(values, dtype=np.float64)).sum())


def largest_advantage(evaluation: Evaluation) -> float:
    """The largest advantage in the states that the policy visits."""
    return float(evaluation.A.max(axis=-1)[evaluation.occupancy > UNVISITED].max())


def improvable_mask(evaluation: Evaluation, tau: float) -> NDArray[np.bool_]:
    """I_τ as a mask of shape (S,) or (H, S), possibly empty; rounding is no advantage."""
    return np.asarray(evaluation.A.max(axis=-1) > max(tau, rounding_of(evaluation)))


def improvable(evaluation: Evaluation, tau: float) -> NDArray[np.bool_]:
    """I_τ as a mask of shape (S,) or (H, S), not empty.

    Raises
    ------
    ValueError
        If τ is negative, or no state has an advantage above it.
    """
    check_tau(tau)
    mask = improvable_mask(evaluation, tau)
    if not mask.any():
        raise ValueError(
            f"tau: no state has an advantage above {tau:g} "
            f"(the largest is {evaluation.A.max():.4g}); "
            "choose a smaller one"
        )
    return mask


def visited_improvable(evaluation: Evaluation, tau: float) -> NDArray[np.bool_]:
    """I_τ as a mask of shape (S,) or (H, S), with a state that the policy visits: p_π(τ) > 0.

    Raises
    ------
    ValueError
        If τ is negative, or no such state has an advantage above it.
    """
    mask = improvable(evaluation, tau)
    if not mask[evaluation.occupancy > UNVISITED].any():
        raise ValueError(
            f"tau: no state with an advantage above {tau:g} has an occupancy above {UNVISITED:g} "
            f"(the largest where the policy goes is {largest_advantage(evaluation):.4g}); "
            "choose a smaller one"
        )
    return mask


def coverage(evaluation: Evaluation, weights: ArrayLike) -> float:
    """p_w = E_{d^π} w, the fraction of visited states a reset rule accepts; p_π(τ) for I_τ.

    Raises
    ------
    ValueError
        If a weight is outside [0, 1].
    """
    return _probability(expectation(evaluation, check_weights(evaluation, weights)))


def policy_advantage(
    evaluation: Evaluation, candidate: ArrayLike, weights: ArrayLike = 1.0
) -> float:
    """𝔸_w, the candidate's mean advantage over accepted reset states.

    Raises
    ------
    ValueError
        If a weight is outside [0, 1], or the weights accept no visited state, p_w = 0.
    """
    p = coverage(evaluation, weights)
    if p <= 0:
        raise ValueError("weights: accept no state that the policy visits (p_w = 0)")
    a = candidate_advantage(evaluation, candidate)
    return expectation(evaluation, a * np.asarray(weights)) / p


def switch_free_mass(evaluation: Evaluation, switch: ArrayLike) -> FloatArray:
    """Mass of on-policy trajectories that have not switched before reaching (h, s).

    Parameters
    ----------
    switch : array (S,) or (H, S)
        Probability of switching on a visit, in [0, 1]: α w for the masked mixture.

    Returns
    -------
    array (S,) or (H, S)
        E_π[1(s_h = s) Π_{t<h} (1 − switch)]; discounted: its sum over h weighted by γ^h.
    """
    mdp = evaluation.mdp
    keep = 1.0 - check_weights(evaluation, switch, "switch")
    if mdp.horizon is not None:
        shape = (mdp.horizon, mdp.num_states)
        return forward(mdp, evaluation.policy, mdp.start, np.broadcast_to(keep, shape))
    assert mdp.discount is not None
    transitions = average_transitions(mdp, evaluation.policy)
    keep = np.broadcast_to(keep, (mdp.num_states,))[:, None]
    thinned = transitions.multiply(keep) if mdp.is_sparse else transitions * keep
    return resolvent(thinned, mdp.discount).solve_transposed(mdp.start)


def visit_probability(evaluation: Evaluation, mask: ArrayLike) -> float:
    """Pr_π(the trajectory visits the set `mask`), shape (S,) or (H, S).

    A discounted trajectory continues with probability γ after each step.
    """
    member = check_weights(evaluation, mask, "mask")
    return _probability(float((switch_free_mass(evaluation, member) * member).sum()))


def _probability(total: float) -> float:
    """A sum of probabilities, which rounding may leave an ulp outside [0, 1]."""
    return min(max(total, 0.0), 1.0)


def default_tau(evaluation: Evaluation) -> float | None:
    """Half the largest advantage where the policy goes; None where nothing can be improved."""
    largest = largest_advantage(evaluation)
    return largest / 2 if largest > rounding_of(evaluation) else None
