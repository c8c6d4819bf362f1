"""A needle in noise: coverage p, horizon, actions and advantage chosen independently.

Actions do not influence the next state: it is "needle" with probability p, else "quiet" or "loud"
with equal probability. The first state is drawn likewise. Loud pays 1 and quiet 0 under every
action. In the needle the right action (0) pays 1, any other 0. Under the uniform policy, at every
step h < H:

    d_h(needle) = p,    A_h(needle, right) = 1 − 1/|A|,    A = 0 in the other states,

so for any τ < 1 − 1/|A| the improvable set is the needle, and its coverage is exactly p. Most of
the noise in a return comes from the other states.
"""

from __future__ import annotations

import numpy as np

from envs.checks import check_probability, check_whole
from envs.tabular import MDPError, TabularMDP

#: State numbers.
NEEDLE, QUIET, LOUD = range(3)


def needle(p: float = 0.125, horizon: int = 4, num_actions: int = 4) -> TabularMDP:
    """The needle with coverage `p`.

    Parameters
    ----------
    p : float
        Coverage of the needle, in (0, 1].
    horizon : int
        H ≥ 1.
    num_actions : int
        |A| ≥ 2; action 0 is right.

    Raises
    ------
    MDPError
        If a parameter is outside its range.
    """
    p = check_probability("p", p, MDPError)
    if p == 0:
        raise MDPError(f"p: {p} is not in (0, 1]")
    num_actions = check_whole("num_actions", num_actions, 2, MDPError)
    following = np.array([p, (1 - p) / 2, (1 - p) / 2])
    rewards = np.zeros((3, num_actions))
    rewards[LOUD] = 1.0
    rewards[NEEDLE, 0] = 1.0
    transitions = np.broadcast_to(following, (3, num_actions, 3))
    return TabularMDP(transitions, rewards, following, horizon=horizon, name="needle")
