"""The tree against all of its action sequences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from envs import MDPError, tree, tree_leaf_rewards
from tests.envs.exact import finite_values, sequence_return

SHAPES = [(1, 1), (3, 1), (1, 4), (4, 2), (3, 3)]


@pytest.mark.parametrize(("depth", "branching"), SHAPES)
def test_every_sequence_has_its_leaf(depth: int, branching: int) -> None:
    mdp = tree(depth, branching, seed=5)
    sequences = itertools.product(range(branching), repeat=depth)
    returns = [sequence_return(mdp, actions) for actions in sequences]
    np.testing.assert_array_equal(returns, tree_leaf_rewards(depth, branching, 5))


@pytest.mark.parametrize(("depth", "branching"), SHAPES)
def test_uniform_policy_and_optimum(depth: int, branching: int) -> None:
    mdp, leaf_rewards = tree(depth, branching), tree_leaf_rewards(depth, branching, 0)
    v, _ = finite_values(mdp, np.full(branching, 1 / branching))
    assert v[0, 0] == pytest.approx(leaf_rewards.mean(), rel=1e-13)
    value = np.zeros(mdp.num_states)
    for _ in range(depth):
        value = (mdp.rewards + mdp.transitions @ value).max(axis=1)
    assert value[0] == leaf_rewards.max()


def test_shape_of_the_tree() -> None:
    mdp = tree(2, 3)
    assert (mdp.num_states, mdp.num_actions, mdp.horizon) == (13, 3, 2)
    assert [int(mdp.successors(1, a)[0][0]) for a in range(3)] == [4, 5, 6]
    assert np.flatnonzero(mdp.terminal).tolist() == list(range(4, 13))


def test_tree__differs_by_seed() -> None:
    np.testing.assert_array_equal(tree(3, 2, 1).rewards, tree(3, 2, 1).rewards)
    assert (tree(3, 2, 1).rewards != tree(3, 2, 2).rewards).any()
    leaf_rewards = tree_leaf_rewards(5, 3, 0)
    assert 0.0 <= leaf_rewards.min() and leaf_rewards.max() <= 1.0


@pytest.mark.parametrize(("depth", "branching"), [(0, 2), (2, 0), (-1, 2)])
def test_bad_sizes(depth: int, branching: int) -> None:
    name, value = ("depth", depth) if depth < 1 else ("branching", branching)
    with pytest.raises(MDPError, match=f"{name}: {value} .* ≥ 1"):
        tree(depth, branching)
    with pytest.raises(MDPError, match=f"{name}: {value} .* ≥ 1"):
        tree_leaf_rewards(depth, branching, 0)
