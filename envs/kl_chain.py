"""The chain on which an uninformed policy needs exponential time to see any reward.

States 0 … n−1 in a row. Actions 0 and 1 move one state to the left (state 0 keeps the walker),
action 2 one to the right; entering state n−1 pays 1 and ends the episode. Under the uniform
policy the expected time t_s to the end solves

    t_s = 1 + (2/3) t_{max(s−1, 0)} + (1/3) t_{s+1},    t_{n−1} = 0.

With D_s = t_s − t_{s+1} this is D_0 = 3 and D_s = 3 + 2 D_{s−1}, so D_s = 3 (2^{s+1} − 1) and

    t_0 = Σ_{s<n−1} D_s = 3 (2^n − n − 1).

Source: Kakade & Langford 2002, "Approximately optimal approximate reinforcement learning",
figure 3.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from envs.checks import check_whole
from envs.tabular import MDPError, TabularMDP


def kl_chain(num_states: int, discount: float = 0.99, sparse: bool = False) -> TabularMDP:
    """Kakade and Langford's chain, started at its left end.

    Parameters
    ----------
    num_states : int
        n, at least 2.
    discount : float
        γ in [0, 1).
    sparse : bool
        Build CSR transitions; no dense array is made, so n may be in the millions.

    Returns
    -------
    TabularMDP
        n states, three actions: 0 and 1 left, 2 right.

    Raises
    ------
    MDPError
        If `num_states` is below 2 or `discount` outside [0, 1).
    """
    num_states = check_whole("num_states", num_states, 2, MDPError)  # two ends
    goal = num_states - 1
    states = np.arange(num_states)
    left, right = np.maximum(states - 1, 0), np.minimum(states + 1, goal)
    next_states = np.stack([left, left, right], axis=1)
    next_states[goal] = goal
    transitions: Any
    if sparse:
        rows = next_states.size
        parts = (np.ones(rows), next_states.ravel(), np.arange(rows + 1))
        transitions = csr_array(parts, shape=(rows, num_states))
    else:
        transitions = np.eye(num_states)[next_states]
    rewards = np.zeros((num_states, 3))
    rewards[goal - 1, 2] = 1.0
    start = np.zeros(num_states)
    start[0] = 1.0
    return TabularMDP(
        transitions, rewards, start, discount=discount, name=f"kl_chain({num_states})"
    )


def kl_chain_time(num_states: int) -> int:
    """Expected steps of the uniform policy from the left end to the right: 3 (2^n − n − 1).

    An exact integer, since it leaves the range of floats at n = 1023.

    Raises
    ------
    MDPError
        If `num_states` is below 2.
    """
    num_states = check_whole("num_states", num_states, 2, MDPError)  # two ends
    return 3 * (2**num_states - num_states - 1)
