"""Garnet problems: their shape exactly, their distribution by counts from a fixed seed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from envs import MDPError, garnet


@pytest.mark.parametrize("branching", [1, 2, 7, 8])
def test_distinct_successors(branching: int) -> None:
    mdp = garnet(8, 3, branching, seed=branching)
    assert (mdp.num_states, mdp.num_actions) == (8, 3)
    assert ((mdp.transitions > 0).sum(axis=2) == branching).all()
    assert ((mdp.rewards >= 0) & (mdp.rewards <= 1)).all()
    np.testing.assert_array_equal(mdp.start, np.full(8, 1 / 8))


def test_one_state() -> None:
    mdp = garnet(1, 1, 1)
    assert mdp.transitions.tolist() == [[[1.0]]]


def test_sparse_is_the_same_problem() -> None:
    dense, rows = garnet(15, 2, 4, seed=3), garnet(15, 2, 4, seed=3, sparse=True)
    assert rows.is_sparse and not dense.is_sparse
    np.testing.assert_array_equal(rows.transitions.toarray(), dense.flat)
    np.testing.assert_array_equal(rows.rewards, dense.rewards)


def test_garnet__differs_by_seed() -> None:
    assert (garnet(seed=0).transitions == garnet(seed=0).transitions).all()
    assert (garnet(seed=0).transitions != garnet(seed=1).transitions).any()
    assert (garnet(seed=0).rewards != garnet(seed=1).rewards).any()


def test_successor_sets_are_uniform() -> None:
    mdp = garnet(5, 2000, 2, seed=0)
    sets = [np.flatnonzero(row).tolist() for row in mdp.flat]
    counts = [sets.count(list(pair)) for pair in itertools.combinations(range(5), 2)]
    assert sum(counts) == 10_000
    assert stats.chisquare(counts).pvalue > 0.01


def test_probabilities_are_pieces_between_uniform_cuts() -> None:
    # A piece of b − 1 uniform cuts is Beta(1, b − 1), whichever successor it belongs to.
    mdp = garnet(4, 2000, 3, seed=1)
    for state in range(4):
        column = mdp.flat[:, state]
        assert stats.kstest(column[column > 0], stats.beta(1, 2).cdf).pvalue > 0.01


def test_rewards_are_uniform() -> None:
    assert stats.kstest(garnet(50, 100, 1, seed=2).rewards.ravel(), "uniform").pvalue > 0.01


def test_large_and_sparse() -> None:
    mdp = garnet(10_000, 4, 5, sparse=True)
    assert mdp.flat.nnz == 200_000


def test_garnet__horizon_or_discount() -> None:
    assert garnet().discount == 0.9 and garnet().horizon is None
    assert garnet(discount=0.5).discount == 0.5
    assert garnet(horizon=7).horizon == 7 and garnet(horizon=7).discount is None
    with pytest.raises(MDPError, match="exactly one of horizon and discount"):
        garnet(discount=0.5, horizon=7)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 3, 1), "num_states: 0 .* ≥ 1"),
        ((5, 0, 1), "num_actions: 0 .* ≥ 1"),
        ((5, 3, 0), "branching: 0 is not a whole number ≥ 1"),
        ((5, 3, 6), "branching: 6 is not in 1 … num_states = 5"),
    ],
)
def test_bad_sizes(sizes: tuple[int, int, int], message: str) -> None:
    with pytest.raises(MDPError, match=message):
        garnet(*sizes)
