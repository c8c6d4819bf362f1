"""Instances on which an improvement bound holds with equality, or nearly.

A bound that holds on random problems may still have the wrong constant, because random problems
do not come near it. These instances do. π is the policy, π' the candidate,
a(s) = E_{π'} A^π(s, ·).

**Conservative policy iteration, discounted** (`tight_cpi`), π_α = (1 − α) π + α π':

    J(π_α) − J(π) ≥ α/(1−γ) (𝔸 − 2αγε/(1 − γ(1−α))),   𝔸 = E_{d^π} a,   ε = max |a|,

d^π = (1−γ) Σ_t γ^t Pr(s_t); J and a are not multiplied by 1 − γ. States i, j; action 0 pays ½
and stays; action 1 moves i to j paying 1, and stays in j paying 0. π takes 0 and π' takes 1, so
a(i) = ½, a(j) = −½, and once the mixture has left i every switch loses what the first one won:
equality for all α and γ.

**Masked mixtures, finite horizon** (`tight_masked`), π_new = (1 − α w_h) π + α w_h π':

    J(π_new) − J(π) ≥ α H p_w 𝔸_w − ½ α² H² (H−1) r_max p_w,
    p_w = E_{d^π} w,   𝔸_w = E_{d^π}[w a]/p_w,   d^π = (1/H) Σ_h d_h^π over pairs (h, s).

States on, off, dead; action 0 stays; action 1 leads on → off → dead. r(off, 0) = r(on, 1) = 1,
all else pays 0. π takes 0, π' takes 1; w = 1 at (0, on) and at every (h, off), else 0. Only
(0, on) is visited by π, so p_w = 1/H, and a_0(on) = H = 𝔸_w. The mixture leaves "on" with
probability α and then survives each step with probability 1 − α:

    J(π_new) = α Σ_{h<H} (1−α)^h,   loss  α H − J(π_new) = α Σ_{h<H} [1 − (1−α)^h]

against the penalty ½ α² H (H−1): equal at H = 2 (and trivially at 1) for every α; for larger H
below it for α > 0, with ratio → 1 as α → 0.

**Masked mixtures with returns in [0, R]** (`tight_returns`), the reward of a verifier, w ≡ 1:

    J(π_new) − J(π) ≥ α H p_w 𝔸_w − α² H (H−1) p_w R     if all V, Q lie in a range of width R.

H = 2. From "start" action 0 leads to on, 1 to off, unpaid; then 1 pays in on and 0 pays in off.
π takes 0, π' takes 1: a = 1, then a(on) = 1 and a(off) = −1, and switching twice undoes the first
switch: the loss is 2 α² for every α.

**Two arbitrary policies, discounted** (`tight_divergence`), the bound of TRPO:

    J(π_new) − J(π) ≥ E_{d^π} a_new/(1−γ) − 4γ max|A| max_s TV²/(1−γ)².

States on, off; actions pay 1 (A = ½), 0 (A = −½), and a third that leads on → off paying 1 and
stays in off paying 0. π mixes the first two evenly; π' moves the mass of the worse one (on) or
of the better one (off) to the third, so |a_new| = 2 max|A| TV, and all moved mass changes the
state: the ratio of loss to penalty → 1 as α → 0. No smaller constant than 4 would do.

Sources: Kakade & Langford 2002, theorem 4.1; Kakade 2003, "On the sample complexity of
reinforcement learning" (two-state instance); Schulman et al. 2015 (arXiv 1502.05477), theorem 1.
The masked bounds and the other instances are this project's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from envs.checks import check_whole
from envs.tabular import FloatArray, MDPError, TabularMDP


class TightInstance(NamedTuple):
    """An MDP, the two policies of an improvement step, and reset weights or None."""

    mdp: TabularMDP
    #: π, shape (S, A).
    policy: FloatArray
    #: π', shape (S, A).
    candidate: FloatArray
    #: w, shape (H, S); None where every state is mixed.
    weights: FloatArray | None


def tight_cpi(discount: float) -> TightInstance:
    """Two states on which the discounted bound of conservative policy iteration is exact.

    Parameters
    ----------
    discount : float
        γ in [0, 1).

    Returns
    -------
    TightInstance
        States i, j; start i; no weights.

    Raises
    ------
    MDPError
        If `discount` is outside [0, 1).
    """
    i, j = range(2)
    next_states = np.array([[i, j], [j, j]])
    mdp = TabularMDP(
        transitions=np.eye(2)[next_states],
        rewards=np.array([[0.5, 1.0], [0.5, 0.0]]),
        start=np.array([1.0, 0.0]),
        discount=discount,
        name="tight_cpi",
    )
    return TightInstance(mdp, _always(0, mdp), _always(1, mdp), None)


def tight_masked(horizon: int) -> TightInstance:
    """Three states on which the masked finite-horizon bound is exact at H = 2.

    Parameters
    ----------
    horizon : int
        H ≥ 1.

    Returns
    -------
    TightInstance
        States on, off, dead; start on; weights of shape (H, 3).

    Raises
    ------
    MDPError
        If `horizon` is not a whole number ≥ 1.
    """
    horizon = check_whole("horizon", horizon, 1, MDPError)
    on, off, dead = range(3)
    next_states = np.array([[on, off], [off, dead], [dead, dead]])
    rewards = np.zeros((3, 2))
    rewards[off, 0] = rewards[on, 1] = 1.0
    mdp = TabularMDP(
        transitions=np.eye(3)[next_states],
        rewards=rewards,
        start=np.eye(3)[on],
        horizon=horizon,
        name="tight_masked",
    )
    weights = np.zeros((horizon, 3))
    weights[:, off] = 1.0
    weights[0, on] = 1.0
    return TightInstance(mdp, _always(0, mdp), _always(1, mdp), weights)


def tight_returns() -> TightInstance:
    """Four states on which the bound for returns in [0, R] is exact, with R = 1 and H = 2.

    Returns
    -------
    TightInstance
        States start, on, off, over; no weights.
    """
    first, on, off, over = range(4)
    next_states = np.array([[on, off], [over, over], [over, over], [over, over]])
    rewards = np.zeros((4, 2))
    rewards[on, 1] = rewards[off, 0] = 1.0
    mdp = TabularMDP(
        transitions=np.eye(4)[next_states],
        rewards=rewards,
        start=np.eye(4)[first],
        horizon=2,
        name="tight_returns",
    )
    return TightInstance(mdp, _always(0, mdp), _always(1, mdp), None)


def tight_divergence(discount: float) -> TightInstance:
    """Two states on which TRPO's bound is exact as α → 0.

    Parameters
    ----------
    discount : float
        γ in [0, 1).

    Returns
    -------
    TightInstance
        States on, off; start on; no weights.

    Raises
    ------
    MDPError
        If `discount` is outside [0, 1).
    """
    on, off = range(2)
    next_states = np.array([[on, on, off], [off, off, off]])
    mdp = TabularMDP(
        transitions=np.eye(2)[next_states],
        rewards=np.array([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]]),
        start=np.eye(2)[on],
        discount=discount,
        name="tight_divergence",
    )
    policy = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]])
    candidate = np.array([[0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])
    return TightInstance(mdp, policy, candidate, None)


def _always(action: int, mdp: TabularMDP) -> FloatArray:
    return np.tile(np.eye(mdp.num_actions)[action], (mdp.num_states, 1))
