"""Reference values and state distributions in a few lines of numpy, for tests of the families.

Independent of `cpi`, so that a mistake there cannot hide one here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from envs import TabularMDP


def finite_values(mdp: TabularMDP, policy: Any) -> tuple[Any, Any]:
    """V (H + 1, S) and Q (H, S, A) of a policy (S, A) or (H, S, A), by backward induction."""
    assert mdp.horizon is not None
    policy = np.broadcast_to(policy, (mdp.horizon, *mdp.rewards.shape))
    v = np.zeros((mdp.horizon + 1, mdp.num_states))
    q = np.zeros(policy.shape)
    for h in reversed(range(mdp.horizon)):
        q[h] = mdp.rewards + (mdp.flat @ v[h + 1]).reshape(mdp.rewards.shape)
        v[h] = (policy[h] * q[h]).sum(axis=1)
    return v, q


def finite_occupancy(mdp: TabularMDP, policy: Any) -> Any:
    """Pr(s_h = s) under a policy (S, A) or (H, S, A); shape (H, S), every row sums to 1."""
    assert mdp.horizon is not None
    policy = np.broadcast_to(policy, (mdp.horizon, *mdp.rewards.shape))
    d = np.zeros((mdp.horizon, mdp.num_states))
    d[0] = mdp.start
    for h in range(mdp.horizon - 1):
        d[h + 1] = (d[h][:, None] * policy[h]).ravel() @ mdp.flat
    return d


def sequence_return(mdp: TabularMDP, actions: Sequence[int]) -> float:
    """Expected return of a fixed sequence of actions."""
    d, total = mdp.start, 0.0
    for action in actions:
        total += float(d @ mdp.rewards[:, action])
        d = d @ mdp.flat[action :: mdp.num_actions]
    return total
