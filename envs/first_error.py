"""A chain of reasoning that is right until its first error.

Of n steps, step k + 1 is taken from clean(k) or wrong(k), k < n. Action 0 is the right step and
action 1 a wrong one:

    clean(k)   0 → clean(k+1)                                 1 → wrong(k+1)
    wrong(k)   0 → clean(k+1) with probability ϱ (recovery)   1 → wrong(k+1)
                 → wrong(k+1) otherwise

The n-th step leads to "over" and pays 1 for ending clean, as the expected reward r(s, a).
State clean(k) has number k, wrong(k) (k ≥ 1) number n − 1 + k, "over" 2n − 1.

Let the policy take action 0 with probability q everywhere. The probability c_k of being clean
obeys c_{k+1} = q c_k + q ϱ (1 − c_k), c_0 = 1; with b = q (1 − ϱ) this is

    J = c_n = b^n + q ϱ (1 − b^n)/(1 − b)                     (qⁿ without recovery).

Without recovery, the k-th step on a clean prefix (k from 1) has Q(right) = q^{n−k} and
V = q^{n−k+1}, so its advantage is (1 − q) q^{n−k}: tiny for the early steps of a long chain.

Success after a reset, without recovery. A failed rollout has its first error at step F with
Pr(F = j | failed) = q^{j−1} (1 − q)/(1 − qⁿ). Undoing step k, keeping the k − 1 before it,
leaves a clean prefix iff k ≤ F, and success then has probability q^{n−k+1}. Hence

    uniform k    Σ_k (1/n) (q^{k−1} − qⁿ)/(1 − qⁿ) q^{n−k+1}
                   = qⁿ [1 − q (1 − qⁿ)/(n (1 − q))]/(1 − qⁿ)     (between ½ and 1 times qⁿ)
    k = F        Σ_j Pr(F = j | failed) q^{n−j+1} = n (1 − q) qⁿ/(1 − qⁿ).

With G_m = Σ_{i<m} q^i = (1 − q^m)/(1 − q) they are qⁿ mean(G_1 … G_n)/G_n and n qⁿ/G_n, which
lose no digits near q = 1 and at q = 1 are the limits (n + 1)/(2n) and 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from envs.checks import check_probability, check_whole
from envs.tabular import MDPError, TabularMDP


class ResetSuccessRates(NamedTuple):
    """Probability that a rollout succeeds, by where it starts."""

    root: float
    #: From before a uniformly drawn step of a failed rollout.
    random_reset: float
    #: From before the first error of a failed rollout.
    first_error_reset: float


def first_error_chain(length: int = 10, recovery: float = 0.0) -> TabularMDP:
    """A reasoning chain of `length` steps.

    Parameters
    ----------
    length : int
        Steps n ≥ 1; also the horizon.
    recovery : float
        Probability in [0, 1] that a right step after an error makes the chain clean again.

    Returns
    -------
    TabularMDP
        2n states (clean, wrong, "over"), two actions: 0 right, 1 wrong.

    Raises
    ------
    MDPError
        If `length` is below 1 or `recovery` outside [0, 1].
    """
    length = check_whole("length", length, 1, MDPError)
    recovery = check_probability("recovery", recovery, MDPError)
    num_states, over = 2 * length, 2 * length - 1
    transitions = np.zeros((num_states, 2, num_states))
    rewards = np.zeros((num_states, 2))
    for k in range(length - 1):
        clean, next_clean, next_wrong = k, k + 1, length + k
        transitions[clean, 0, next_clean] = 1.0
        transitions[clean, 1, next_wrong] = 1.0
        if k > 0:
            wrong = length - 1 + k
            transitions[wrong, 0, next_clean] = recovery
            transitions[wrong, 0, next_wrong] = 1.0 - recovery
            transitions[wrong, 1, next_wrong] = 1.0
    last_clean, last_wrong = length - 1, over - 1  # one state when length is 1
    transitions[[last_clean, last_wrong, over], :, over] = 1.0
    rewards[last_wrong, 0] = recovery
    rewards[last_clean, 0] = 1.0
    return TabularMDP(
        transitions=transitions,
        rewards=rewards,
        start=np.eye(num_states)[0],
        horizon=length,
        name=f"first_error_chain({length}, {recovery:g})",
    )


def success_probability(length: int, q: float, recovery: float = 0.0) -> float:
    """J of the policy that takes action 0 with probability `q` in every state.

    Raises
    ------
    MDPError
        If `length` is below 1, or `q` or `recovery` outside [0, 1].
    """
    length = check_whole("length", length, 1, MDPError)
    q = check_probability("q", q, MDPError)
    recovery = check_probability("recovery", recovery, MDPError)
    stay = q * (1.0 - recovery)
    if stay == 1.0:
        return 1.0
    return float(stay**length + q * recovery * (1.0 - stay**length) / (1.0 - stay))


def right_step_advantage(length: int, q: float, depth: int) -> float:
    """Advantage of the right action at step `depth` of a clean prefix, without recovery.

    Parameters
    ----------
    length : int
        Steps n ≥ 1.
    q : float
        Probability in [0, 1] of the right action at every step.
    depth : int
        1 ≤ depth ≤ n; the first step has depth 1.

    Returns
    -------
    float
        (1 − q) q^{n − depth}.

    Raises
    ------
    MDPError
        If an argument is out of its range.
    """
    length = check_whole("length", length, 1, MDPError)
    q = check_probability("q", q, MDPError)
    if check_whole("depth", depth, 1, MDPError) > length:
        raise MDPError(f"depth: {depth} is not in 1 … length = {length}")
    return float((1.0 - q) * q ** (length - depth))


def reset_success_rates(length: int, q: float) -> ResetSuccessRates:
    """Success of a fresh rollout, and of resets into a failed one, without recovery.

    Parameters
    ----------
    length : int
        Steps n ≥ 1.
    q : float
        Probability in [0, 1] of the right action at every step. At q = 1, where no rollout
        fails, the reset rates are their limits.

    Returns
    -------
    ResetSuccessRates
        Probabilities from the root, from before a uniform step, from before the first error.

    Raises
    ------
    MDPError
        If `length` is below 1 or `q` outside [0, 1].
    """
    length = check_whole("length", length, 1, MDPError)
    q = check_probability("q", q, MDPError)
    geometric = np.cumsum(q ** np.arange(length))
    root = q**length
    return ResetSuccessRates(
        root=root,
        random_reset=float(root * geometric.mean() / geometric[-1]),
        first_error_reset=float(root * length / geometric[-1]),
    )
