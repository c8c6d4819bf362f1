"""Deep Sea against a diver simulated move by move on bsuite's whole grid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from envs import MDPError, deep_sea, deep_sea_uniform_value
from tests.envs.exact import finite_values, sequence_return


def dive(size: int, actions: Sequence[int], right: Any) -> float:
    """Return of the actions, where `right[row, column]` is the action that goes right."""
    column, total = 0, 0.0
    for row, action in enumerate(actions):
        if action == right[row, column]:
            total += (column == size - 1) - 0.01 / size
            column = min(column + 1, size - 1)
        else:
            column = max(column - 1, 0)
    return total


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("mapping_seed", [None, 0, 7])
def test_every_action_sequence(size: int, mapping_seed: int | None) -> None:
    right = np.ones((size, size), dtype=int)
    if mapping_seed is not None:
        right = np.random.RandomState(mapping_seed).binomial(1, 0.5, [size, size])
    mdp = deep_sea(size, mapping_seed)
    returns = [
        (sequence_return(mdp, actions), dive(size, actions, right))
        for actions in itertools.product(range(2), repeat=size)
    ]
    ours, simulated = np.transpose(returns)
    np.testing.assert_allclose(ours, simulated, atol=1e-15)
    assert ours.max() == pytest.approx(0.99, rel=1e-14)
    assert ours.mean() == pytest.approx(deep_sea_uniform_value(size), rel=1e-13)


@pytest.mark.parametrize("size", [1, 3, 10, 20])
def test_uniform_value(size: int) -> None:
    for mapping_seed in (None, 3):
        v, _ = finite_values(deep_sea(size, mapping_seed), np.full(2, 0.5))
        assert v[0, 0] == pytest.approx(deep_sea_uniform_value(size), rel=1e-12)


def test_optimum() -> None:
    mdp = deep_sea(10, mapping_seed=1)
    value = np.zeros(mdp.num_states)
    for _ in range(10):
        value = (mdp.rewards + mdp.transitions @ value).max(axis=1)
    assert value[0] == pytest.approx(0.99, rel=1e-14)


def test_mapping_differs_between_cells_and_repeats() -> None:
    mdp, again, other = deep_sea(6, 0), deep_sea(6, 0), deep_sea(6, 1)
    right = mdp.rewards[:-1].any(axis=0)
    assert right.all()  # each action goes right somewhere
    np.testing.assert_array_equal(mdp.transitions, again.transitions)
    assert (mdp.transitions != other.transitions).any()


def test_every_state_is_reachable() -> None:
    size = 6
    mdp = deep_sea(size)
    assert mdp.num_states == size * (size + 1) // 2 + 1
    reached = mdp.start > 0
    for _ in range(size):
        reached |= (reached @ mdp.transitions.sum(axis=1)) > 0
    assert reached.all()
    assert np.flatnonzero(mdp.terminal).tolist() == [mdp.num_states - 1]


def test_rewards_go_negative() -> None:
    assert deep_sea(10).reward_range == pytest.approx((-0.001, 0.999), rel=1e-14)


@pytest.mark.parametrize("size", [0, -1])
def test_bad_size(size: int) -> None:
    with pytest.raises(MDPError, match=f"size: {size} .* ≥ 1"):
        deep_sea(size)
    with pytest.raises(MDPError, match=f"size: {size} .* ≥ 1"):
        deep_sea_uniform_value(size)
