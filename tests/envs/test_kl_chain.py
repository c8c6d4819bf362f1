"""Kakade and Langford's chain: its moves, its exponential time, and a million states."""

from __future__ import annotations

import numpy as np
import pytest

from envs import MDPError, kl_chain, kl_chain_time


def test_moves_and_rewards() -> None:
    mdp = kl_chain(4)
    next_states = mdp.transitions.argmax(axis=2)
    expected = [[0, 0, 1], [0, 0, 2], [1, 1, 3], [3, 3, 3]]
    np.testing.assert_array_equal(next_states, expected)
    assert np.argwhere(mdp.rewards).tolist() == [[2, 2]]
    assert mdp.rewards[2, 2] == 1.0
    np.testing.assert_array_equal(mdp.terminal, [False, False, False, True])
    np.testing.assert_array_equal(mdp.start, [1, 0, 0, 0])
    assert mdp.discount == 0.99 and mdp.horizon is None


@pytest.mark.parametrize("num_states", [2, 3, 4, 7, 12, 20])
def test_expected_time_of_the_uniform_policy(num_states: int) -> None:
    mdp = kl_chain(num_states)
    moves = mdp.transitions.mean(axis=1)[:-1, :-1]  # among the states before the end
    times = np.linalg.solve(np.eye(num_states - 1) - moves, np.ones(num_states - 1))
    assert times[0] == pytest.approx(kl_chain_time(num_states), rel=1e-9)


def test_expected_time_is_exact() -> None:
    assert kl_chain_time(60) == 3 * (2**60 - 61)
    assert kl_chain_time(2000) % 3 == 0  # beyond the floats


@pytest.mark.parametrize("num_states", [2, 3, 6])
def test_sparse_is_the_same_chain(num_states: int) -> None:
    dense, rows = kl_chain(num_states, 0.5), kl_chain(num_states, 0.5, sparse=True)
    assert rows.is_sparse and not dense.is_sparse
    np.testing.assert_array_equal(rows.transitions.toarray(), dense.flat)
    np.testing.assert_array_equal(rows.rewards, dense.rewards)
    np.testing.assert_array_equal(rows.start, dense.start)
    np.testing.assert_array_equal(rows.terminal, dense.terminal)


def test_a_million_states() -> None:
    mdp = kl_chain(10**6, sparse=True)
    assert mdp.flat.nnz == 3 * 10**6
    assert mdp.successors(123_456, 0)[0] == 123_455
    assert mdp.successors(123_456, 2)[0] == 123_457


@pytest.mark.parametrize("num_states", [1, 0, -3])
def test_too_few_states(num_states: int) -> None:
    with pytest.raises(MDPError, match=f"num_states: {num_states} is not a whole number ≥ 2"):
        kl_chain(num_states)
    with pytest.raises(MDPError, match=f"num_states: {num_states} is not a whole number ≥ 2"):
        kl_chain_time(num_states)


@pytest.mark.parametrize("discount", [1.0, -0.1])
def test_bad_discount(discount: float) -> None:
    with pytest.raises(MDPError, match=f"discount: {discount}"):
        kl_chain(3, discount)
