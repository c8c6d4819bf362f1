"""A complete tree: every action sequence is its own leaf.

With branching b and depth D, nodes are numbered row by row, so that action a leads from node s
to node b s + 1 + a; the b^D leaves are the last nodes and absorb. Reaching leaf i pays
ℓ_i ~ Uniform[0, 1]. All leaves are equally far from the root, hence

    J(uniform) = mean ℓ,    J* = max ℓ.
"""

from __future__ import annotations

import numpy as np

from envs.checks import check_whole
from envs.tabular import FloatArray, MDPError, TabularMDP


def tree(depth: int = 4, branching: int = 2, seed: int = 0) -> TabularMDP:
    """A deterministic tree with random leaf rewards.

    Parameters
    ----------
    depth : int
        Steps from the root to a leaf, at least 1; also the horizon.
    branching : int
        Actions, at least 1.
    seed : int
        Seed of the leaf rewards.

    Returns
    -------
    TabularMDP
        Σ_{k ≤ depth} branching^k states; rewards in [0, 1] on the actions that reach a leaf.

    Raises
    ------
    MDPError
        If `depth` or `branching` is below 1.
    """
    depth = check_whole("depth", depth, 1, MDPError)
    branching = check_whole("branching", branching, 1, MDPError)
    leaf_rewards = tree_leaf_rewards(depth, branching, seed)
    num_leaves = len(leaf_rewards)
    num_inner = sum(branching**level for level in range(depth))
    num_states = num_inner + num_leaves
    next_states = np.tile(np.arange(num_states)[:, None], branching)
    next_states[:num_inner] = np.arange(1, num_states).reshape(num_inner, branching)
    rewards = np.zeros((num_states, branching))
    rewards[:num_inner].flat[-num_leaves:] = leaf_rewards
    return TabularMDP(
        transitions=np.eye(num_states)[next_states],
        rewards=rewards,
        start=np.eye(num_states)[0],
        horizon=depth,
        name=f"tree({depth}, {branching}, seed={seed})",
    )


def tree_leaf_rewards(depth: int, branching: int, seed: int) -> FloatArray:
    """Leaf rewards of `tree(depth, branching, seed)`.

    Returns
    -------
    array (branching ** depth,)
        In lexicographic order of the action sequences: the i-th leaf is reached by the digits
        of i in base `branching`, most significant first.

    Raises
    ------
    MDPError
        If `depth` or `branching` is below 1.
    """
    depth = check_whole("depth", depth, 1, MDPError)
    branching = check_whole("branching", branching, 1, MDPError)
    seed = check_whole("seed", seed, 0, MDPError)
    return np.random.default_rng(seed).random(branching**depth)
