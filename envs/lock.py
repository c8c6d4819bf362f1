"""The lock chain: every step has one right action, and a single wrong one ends the episode.

State h < H means that h steps are unlocked; action 0 is right and leads to h + 1, any other
action leads to the absorbing state H ("over"). The right action at state H − 1 pays 1. If a
policy gives the right action at position h probability p_h, then with Π over an empty set = 1

    V_h = Π_{i≥h} p_i,    A_h(right) = (1 − p_h) Π_{i>h} p_i,    Pr(reach h) = Π_{i<h} p_i.

State and step coincide until the episode is over, so the horizon equals the length. The chain
pulls apart the two factors of conservative policy iteration with resets: at one weak position
(p_h small, the others near 1) the advantage is large, yet at most a share 1/H of the states
visited has it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from envs.checks import check_whole
from envs.tabular import FloatArray, MDPError, TabularMDP, real_array


def lock_chain(length: int = 20, num_actions: int = 4) -> TabularMDP:
    """A lock of `length` steps.

    Parameters
    ----------
    length : int
        Steps to unlock, at least 1; also the horizon.
    num_actions : int
        Actions in every state, at least 2; action 0 is right.

    Returns
    -------
    TabularMDP
        `length` + 1 states: steps unlocked so far, then "over".

    Raises
    ------
    MDPError
        If `length` or `num_actions` is too small.
    """
    length = check_whole("length", length, 1, MDPError)
    num_actions = _at_least_two(num_actions)
    over = length
    next_states = np.full((length + 1, num_actions), over)
    next_states[:length, 0] = np.arange(1, length + 1)
    rewards = np.zeros((length + 1, num_actions))
    rewards[length - 1, 0] = 1.0
    return TabularMDP(
        transitions=np.eye(length + 1)[next_states],
        rewards=rewards,
        start=np.eye(length + 1)[0],
        horizon=length,
        name=f"lock_chain({length}, {num_actions})",
    )


def lock_policy(success: ArrayLike, num_actions: int = 4) -> FloatArray:
    """The policy that takes the right action at position h with probability `success[h]`.

    Parameters
    ----------
    success : array (H,)
        Probability of the right action; the rest is split evenly over the wrong ones.
    num_actions : int
        Actions in every state, at least 2.

    Returns
    -------
    array (H + 1, num_actions)
        Action probabilities of each state; uniform in the last, "over".

    Raises
    ------
    MDPError
        If a probability is outside [0, 1]; the message names its position.
    """
    right = _success(success)
    num_actions = _at_least_two(num_actions)
    policy = np.full((len(right) + 1, num_actions), 1.0 / num_actions)
    policy[:-1, 0] = right
    policy[:-1, 1:] = (1.0 - right[:, None]) / (num_actions - 1)
    return policy


def lock_value(success: ArrayLike) -> float:
    """J(π) = Π_h p_h of `lock_policy(success)`; `success` has shape (H,).

    Raises
    ------
    MDPError
        If a probability is outside [0, 1]; the message names its position.
    """
    return float(np.prod(_success(success)))


def _success(success: ArrayLike) -> FloatArray:
    right, _ = real_array(success, "success")
    if right.ndim != 1 or right.size == 0:
        raise MDPError(f"success: shape {right.shape}, expected (H,) with H ≥ 1")
    outside = ~((right >= 0.0) & (right <= 1.0))  # written so that NaN is outside too
    if outside.any():
        position = int(np.argmax(outside))
        raise MDPError(f"success: position {position} is {right[position]}, not in [0, 1]")
    return right


def _at_least_two(num_actions: int) -> int:
    """A lock has a right action and a wrong one."""
    return check_whole("num_actions", num_actions, 2, MDPError)
