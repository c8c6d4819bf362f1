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
below it for α > 0, with ratio → 1 as α → 0. If "on" pays 1 − gap for action 0, a_0(on) = H gap, and
the certified step α = gap/H loses a share (H−1)/(2H) of its first-order gain as gap → 0.

**Masked mixtures with returns in [0, R]** (`tight_returns`), the reward of a verifier:

    J(π_new) − J(π) ≥ α H p_w 𝔸_w − α² H (H−1) p_w R     if all V, Q lie in a range of width R.

R = 1. Action 1 leads on → off → over, action 0 stays, and only the last step pays: 1 to those who
come to "off" or stay there. π takes 0, π' takes 1: a = 1 in on and −1 in off. At w ≡ 1 the gain is
the probability of one switch, α H (1−α)^{H−1}: the loss is α² H (H−1) at H = 2, and for larger H as
α → 0. The weights accept on at step 0 only, and every off. With them, and with 1 − gap paid to
those who stay in on, the step 𝔸_w/(2HR) loses a share (H−1)/(2H) of its gain as gap → 0.

**One masked switch, discounted** (`tight_once`). As `tight_masked`, but "first", the start, is
never visited again: action 0 leads to "rest", where each step pays 1 − gap. w = 1 in first and off.
So a(first) = gap/(1−γ), a(off) = −1/(1−γ), and only what follows the first switch is lost.

**A candidate that is nowhere worse** (`tight_good`). In "on" action 0 stays, unpaid, and action 1
pays 1 and ends: the mixture gains 1 with its first switch and nothing later, 1 − (1−α)^H, or
discounted α/(1−γ+γα).

**Two arbitrary policies, discounted** (`tight_divergence`), the bound of TRPO:

    J(π_new) − J(π) ≥ E_{d^π} a_new/(1−γ) − 4γ max|A| max_s TV²/(1−γ)².

States on, off; actions pay 1 (A = ½), 0 (A = −½), and a third that leads on → off paying 1 and
stays in off paying 0. π mixes the first two evenly; π' moves the mass of the worse one (on) or
of the better one (off) to the third, so |a_new| = 2 max|A| TV, and all moved mass changes the
state: the ratio of loss to penalty → 1 as α → 0. No smaller constant than 4 would do.

**The same in KL** (`tight_kl`), penalty 2γ max|A| max_s KL / (1−γ)^{3/2}. Action 0 pays ½, action 1
pays −½; from the start they lead to "up" and "down", which never end. π mixes evenly. π' takes 0 in
start and down, 1 in up, so a_new = ±α/2 = ±2 max|A| TV, and KL ≈ 2 TV². The loss α² γ/(2(1−γ))
is a share √(1−γ) of the penalty as α → 0.

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
    #: w, shape (H, S) or (S,); None where every state is mixed.
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


def tight_masked(horizon: int, gap: float = 1.0) -> TightInstance:
    """Three states on which the masked finite-horizon bound is exact at H = 2.

    Parameters
    ----------
    horizon : int
        H ≥ 1.
    gap : float
        Advantage a_0(on) / H, in (0, 1].

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
    rewards[on, 0] = 1.0 - gap
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


def tight_returns(horizon: int = 2, gap: float = 1.0) -> TightInstance:
    """2H + 1 states on which the bound for returns in [0, 1] is exact at H = 2.

    Parameters
    ----------
    horizon : int
        H ≥ 1.
    gap : float
        Advantage in on, in (0, 1].

    Returns
    -------
    TightInstance
        States on and off of step 0, of step 1, …, over; weights of shape (H, 2H + 1).

    Raises
    ------
    ValueError
        If `horizon` is not a whole number ≥ 1.
    """
    over = 2 * check_whole("horizon", horizon, 1)
    state = np.arange(over)
    stay, switch = state + 2, np.where(state % 2, over, state + 3)
    next_states = np.minimum(np.stack([stay, switch], axis=1), over)
    next_states = np.vstack([next_states, [[over, over]]])
    rewards = np.zeros((over + 1, 2))
    rewards[over - 2 : over] = [[1.0 - gap, 1.0], [1.0, 0.0]]
    mdp = TabularMDP(
        transitions=np.eye(over + 1)[next_states],
        rewards=rewards,
        start=np.eye(over + 1)[0],
        horizon=horizon,
        name="tight_returns",
    )
    weights = np.tile(np.append(state % 2.0, 0.0), (horizon, 1))
    weights[0, 0] = 1.0
    return TightInstance(mdp, _always(0, mdp), _always(1, mdp), weights)


def tight_once(discount: float, gap: float) -> TightInstance:
    """Four states, one of which is visited once: only what follows its switch is lost.

    Parameters
    ----------
    discount : float
        γ in [0, 1).
    gap : float
        Advantage in the start, divided by its largest value 1/(1−γ), in (0, 1].

    Returns
    -------
    TightInstance
        States first, rest, off, dead; start first; weights of shape (4,).

    Raises
    ------
    MDPError
        If `discount` is outside [0, 1).
    """
    first, rest, off, dead = range(4)
    next_states = np.array([[rest, off], [rest, rest], [off, dead], [dead, dead]])
    mdp = TabularMDP(
        transitions=np.eye(4)[next_states],
        rewards=np.array([[1 - gap, 1.0], [1 - gap, 1 - gap], [1.0, 0.0], [0.0, 0.0]]),
        start=np.eye(4)[first],
        discount=discount,
        name="tight_once",
    )
    return TightInstance(mdp, _always(0, mdp), _always(1, mdp), np.array([1.0, 0.0, 1.0, 0.0]))


def tight_good(horizon: int) -> TightInstance:
    """Two states in which a candidate gains with its first switch, and nothing else.

    Parameters
    ----------
    horizon : int
        H ≥ 1.

    Returns
    -------
    TightInstance
        States on, over; start on; no weights.

    Raises
    ------
    MDPError
        If `horizon` is not a whole number ≥ 1.
    """
    mdp = TabularMDP(
        transitions=np.eye(2)[np.array([[0, 1], [1, 1]])],
        rewards=np.array([[0.0, 1.0], [0.0, 0.0]]),
        start=np.array([1.0, 0.0]),
        horizon=horizon,
        name="tight_good",
    )
    return TightInstance(mdp, _always(0, mdp), _always(1, mdp), None)


def tight_kl(discount: float) -> TightInstance:
    """Three states on which the KL form of TRPO's bound is exact as α → 0 and γ → 0.

    Parameters
    ----------
    discount : float
        γ in [0, 1).

    Returns
    -------
    TightInstance
        States start, up, down; no weights.

    Raises
    ------
    MDPError
        If `discount` is outside [0, 1).
    """
    first, up, down = range(3)
    mdp = TabularMDP(
        transitions=np.eye(3)[np.array([[up, down], [up, up], [down, down]])],
        rewards=np.tile([0.5, -0.5], (3, 1)),
        start=np.eye(3)[first],
        discount=discount,
        name="tight_kl",
    )
    return TightInstance(mdp, np.full((3, 2), 0.5), np.eye(2)[[0, 1, 0]], None)


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
