"""Evaluations of the families against their closed forms, and at the edges."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import envs
from cpi import (
    PolicyError,
    evaluate,
    policy_transitions,
    tolerance,
    uniform_policy,
)
from cpi.exact.linear import Resolvent
from tests.cpi.worlds import (
    world,
)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ([1.0], r"start: shape \(1,\), expected \(5,\)"),
        ([0.5, 0.5, 0.5, 0, 0], r"start: sums to 1\.5, not 1"),
        ([2.0, -1.0, 0, 0, 0], r"start: entry 1 is negative \(-1\)"),
        ([np.nan, 1.0, 0, 0, 0], "start: entry 0 is not finite"),
    ],
)
@pytest.mark.parametrize("time", [{"horizon": 3}, {"discount": 0.9}], ids=str)
def test_occupancy_needs_a_start_distribution(
    time: dict[str, Any], start: list[float], message: str
) -> None:
    mdp = world(8, **time)
    with pytest.raises(ValueError, match=message):
        evaluate(mdp, uniform_policy(mdp)).occupancy_from(start)


@pytest.mark.parametrize("time", [{"horizon": 3}, {"discount": 0.9}], ids=str)
def test_evaluation__Q_before_V(time: dict[str, Any]) -> None:
    mdp = world(9, **time)
    first, second = (evaluate(mdp, uniform_policy(mdp)) for _ in range(2))
    Q, V = first.Q, second.V
    np.testing.assert_allclose(Q, second.Q, rtol=0, atol=tolerance(mdp))
    np.testing.assert_allclose(V, first.V, rtol=0, atol=tolerance(mdp))


def test_evaluate__invalid_policy_is_refused() -> None:
    with pytest.raises(PolicyError, match="state 0 has probabilities"):
        evaluate(world(1, discount=0.5), np.zeros((5, 3)))


def test_occupancy__never_negative() -> None:
    mdp = world(10, 2, discount=0.5)
    evaluation = evaluate(mdp, uniform_policy(mdp))
    rounded = Resolvent("by hand", lambda b, transposed: np.array([2.0, -1e-20]))
    evaluation.__dict__["resolvent"] = rounded
    assert evaluation.occupancy.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("time", "steps"), [({"horizon": 7}, 7), ({"discount": 0.0}, 1), ({"discount": 0.75}, 4)]
)
def test_tolerance_grows_with_rewards_and_the_square_of_the_horizon(
    time: dict[str, Any], steps: int
) -> None:
    mdp = envs.garnet(4, 2, 2, **time)
    mdp = replace(mdp, rewards=np.array([[0.0, -5.0], [1.0, 2.0], [0.0, 0.0], [3.0, 1.0]]))
    assert tolerance(mdp) == pytest.approx(64 * 2.0**-52 * 5 * steps**2, rel=1e-15)


@pytest.mark.parametrize("length", [1, 2, 7, 20])
def test_lock__value_is_the_product_of_right_steps(length: int) -> None:
    success = np.random.default_rng(length).random(length)
    evaluation = evaluate(envs.lock_chain(length, 3), envs.lock_policy(success, 3))
    assert evaluation.J == pytest.approx(envs.lock_value(success), rel=1e-13)
    for h in range(length):
        later = float(np.prod(success[h + 1 :]))
        assert evaluation.A[h, h, 0] == pytest.approx((1 - success[h]) * later, abs=1e-14)
        reach = float(np.prod(success[:h]))
        assert length * evaluation.occupancy[h, h] == pytest.approx(reach, rel=1e-13)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("num_states", [2, 3, 7, 12, 20])
def test_kl_chain__time_of_the_uniform_policy(num_states: int, sparse: bool) -> None:
    mdp = envs.kl_chain(num_states, sparse=sparse)
    moves = policy_transitions(mdp, uniform_policy(mdp))
    moves = (moves.toarray() if sparse else moves)[:-1, :-1]  # among the states before the end
    times = np.linalg.solve(np.eye(num_states - 1) - moves, np.ones(num_states - 1))
    assert times[0] == pytest.approx(envs.kl_chain_time(num_states), rel=1e-9)


@pytest.mark.parametrize("size", [1, 4, 10])
def test_deep_sea__value_of_the_uniform_policy(size: int) -> None:
    mdp = envs.deep_sea(size, mapping_seed=3)
    J = evaluate(mdp, uniform_policy(mdp)).J
    assert J == pytest.approx(envs.deep_sea_uniform_value(size), abs=tolerance(mdp))


@pytest.mark.parametrize(("depth", "branching"), [(1, 1), (4, 2), (3, 3)])
def test_tree__value_of_the_uniform_policy(depth: int, branching: int) -> None:
    mdp = envs.tree(depth, branching, seed=2)
    mean = envs.tree_leaf_rewards(depth, branching, 2).mean()
    assert evaluate(mdp, uniform_policy(mdp)).J == pytest.approx(mean, abs=tolerance(mdp))


@pytest.mark.parametrize("recovery", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("q", [0.0, 0.15, 0.9, 1.0])
@pytest.mark.parametrize("length", [1, 3, 25])
def test_first_error_chain__success_probability(length: int, q: float, recovery: float) -> None:
    mdp = envs.first_error_chain(length, recovery)
    J = evaluate(mdp, np.tile([q, 1 - q], (mdp.num_states, 1))).J
    assert J == pytest.approx(envs.success_probability(length, q, recovery), abs=tolerance(mdp))
