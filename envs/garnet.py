"""Garnet problems: random MDPs with a chosen number of successors.

For every (s, a), independently: `branching` distinct next states, uniform among all such sets;
their probabilities are the lengths of the pieces into which branching − 1 uniform points cut
[0, 1]; the expected reward is Uniform[0, 1]. The start is uniform over the states.

Sets of distinct states are drawn by Floyd's method, for all (s, a) at once: with b of S wanted,
for j = S − b, …, S − 1 draw t uniform on 0 … j and take t, or j if t is taken already. That
takes b² operations and b numbers for each (s, a), whatever S is.

Sources: Archibald, McKinnon & Thomas 1995, "On the generation of Markov decision processes",
Journal of the Operational Research Society 46(3), 354–361; Bhatnagar, Sutton, Ghavamzadeh & Lee
2009, "Natural actor–critic algorithms", Automatica 45(11), 2471–2482 (with Gaussian rewards);
cut points and uniform rewards as in Geist & Scherrer 2014, "Off-policy learning with eligibility
traces: a survey", JMLR 15, 289–333 (there one reward a state). Bentley & Floyd 1987, "A sample
of brilliance", Communications of the ACM 30(9), 754–757.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from envs.checks import check_whole
from envs.tabular import MDPError, TabularMDP


def garnet(
    num_states: int = 20,
    num_actions: int = 3,
    branching: int = 3,
    seed: int = 0,
    discount: float | None = None,
    horizon: int | None = None,
    sparse: bool = False,
) -> TabularMDP:
    """A random MDP; dense and sparse ones have the same numbers.

    Parameters
    ----------
    num_states, num_actions : int
        At least 1.
    branching : int
        Successors of each state and action, 1 ≤ branching ≤ num_states.
    seed : int
        Seed of all random numbers.
    discount, horizon : float, int, optional
        At most one; with neither the discount is 0.9.
    sparse : bool
        Build CSR transitions without making a dense array.

    Returns
    -------
    TabularMDP
        Rewards in [0, 1], uniform start.

    Raises
    ------
    MDPError
        If a size is out of range, or both `discount` and `horizon` are given.
    """
    num_states = check_whole("num_states", num_states, 1, MDPError)
    num_actions = check_whole("num_actions", num_actions, 1, MDPError)
    branching = check_whole("branching", branching, 1, MDPError)
    seed = check_whole("seed", seed, 0, MDPError)
    if branching > num_states:
        raise MDPError(f"branching: {branching} is not in 1 … num_states = {num_states}")
    if discount is None and horizon is None:
        discount = 0.9
    rng = np.random.default_rng(seed)
    num_rows = num_states * num_actions
    successors = _distinct(rng, num_rows, branching, num_states)
    cuts = np.sort(rng.random((num_rows, branching - 1)), axis=1)
    probabilities = np.diff(cuts, prepend=0.0, append=1.0, axis=1)
    transitions: Any
    if sparse:
        starts = branching * np.arange(num_rows + 1)
        parts = (probabilities.ravel(), successors.ravel(), starts)
        transitions = csr_array(parts, shape=(num_rows, num_states))
    else:
        transitions = np.zeros((num_rows, num_states))
        np.put_along_axis(transitions, successors, probabilities, axis=1)
        transitions = transitions.reshape(num_states, num_actions, num_states)
    return TabularMDP(
        transitions=transitions,
        rewards=rng.random((num_states, num_actions)),
        start=np.full(num_states, 1.0 / num_states),
        horizon=horizon,
        discount=discount,
        name=f"garnet({num_states}, {num_actions}, {branching}, seed={seed})",
    )


def _distinct(rng: np.random.Generator, num_rows: int, count: int, limit: int) -> NDArray[np.int64]:
    """Rows of `count` distinct numbers below `limit`; each row is a uniformly drawn set.

    The order within a row is not uniform. It need not be, because the pieces between uniform cuts
    are exchangeable.
    """
    chosen = np.empty((num_rows, count), dtype=np.int64)
    for i, j in enumerate(range(limit - count, limit)):
        drawn = rng.integers(0, j, size=num_rows, endpoint=True)
        taken = (chosen[:, :i] == drawn[:, None]).any(axis=1)
        chosen[:, i] = np.where(taken, j, drawn)
    return chosen
