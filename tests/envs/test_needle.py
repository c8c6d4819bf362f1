"""The needle's closed forms under the uniform policy, against backward induction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from envs import MDPError, needle
from envs.needle import LOUD, NEEDLE, QUIET
from tests.envs.exact import finite_occupancy, finite_values

EPS = float(np.finfo(float).eps)
parameters = pytest.mark.parametrize(
    ("p", "horizon", "num_actions"),
    [(0.125, 4, 4), (0.01, 1, 2), (1 / 3, 7, 3), (0.5, 20, 10), (1.0, 3, 6)],
)


def uniform(num_actions: int) -> Any:
    return np.full((3, num_actions), 1 / num_actions)


@parameters
def test_every_step_is_spent_in_the_needle_with_probability_p(
    p: float, horizon: int, num_actions: int
) -> None:
    mdp = needle(p, horizon, num_actions)
    assert (mdp.horizon, mdp.num_states, mdp.num_actions) == (horizon, 3, num_actions)
    first_only = np.eye(num_actions)[np.zeros(3, dtype=int)]
    for policy in (uniform(num_actions), first_only):  # actions do not change it
        d = finite_occupancy(mdp, policy)
        assert d.shape == (horizon, 3)
        np.testing.assert_allclose(d[:, NEEDLE], p, rtol=8 * horizon * EPS)
        np.testing.assert_allclose(d[:, QUIET], (1 - p) / 2, rtol=8 * horizon * EPS)
        np.testing.assert_allclose(d[:, LOUD], (1 - p) / 2, rtol=8 * horizon * EPS)


@parameters
def test_only_the_needle_can_be_improved(p: float, horizon: int, num_actions: int) -> None:
    v, q = finite_values(needle(p, horizon, num_actions), uniform(num_actions))
    advantages = q - v[:-1, :, None]
    expected = np.zeros((horizon, 3, num_actions))
    expected[:, NEEDLE] = -1 / num_actions
    expected[:, NEEDLE, 0] = 1 - 1 / num_actions
    np.testing.assert_allclose(advantages, expected, rtol=0, atol=16 * horizon * EPS)


@parameters
def test_coverage_is_p_for_every_threshold_below_the_advantage(
    p: float, horizon: int, num_actions: int
) -> None:
    mdp = needle(p, horizon, num_actions)
    v, q = finite_values(mdp, uniform(num_actions))
    best = (q - v[:-1, :, None]).max(axis=2)
    occupancy = finite_occupancy(mdp, uniform(num_actions)) / horizon
    largest = 1 - 1 / num_actions
    for share, covered in ((0.01, p), (0.5, p), (0.99, p), (1.01, 0.0)):
        coverage = occupancy[best > share * largest].sum()
        assert coverage == pytest.approx(covered, rel=1e-12)


@parameters
def test_value_of_the_uniform_and_of_the_best_policy(
    p: float, horizon: int, num_actions: int
) -> None:
    mdp = needle(p, horizon, num_actions)
    right = uniform(num_actions)
    right[NEEDLE] = np.eye(num_actions)[0]
    for policy, pays in ((uniform(num_actions), 1 / num_actions), (right, 1.0)):
        v, _ = finite_values(mdp, policy)
        J = horizon * (p * pays + (1 - p) / 2)
        assert mdp.start @ v[0] == pytest.approx(J, rel=1e-13)


def test_needle__quiet_pays_0_and_loud_1() -> None:
    mdp = needle(num_actions=3)
    expected = {NEEDLE: [1, 0, 0], QUIET: [0, 0, 0], LOUD: [1, 1, 1]}
    for state, rewards in expected.items():
        np.testing.assert_array_equal(mdp.rewards[state], rewards)
    assert mdp.reward_width == 1


def test_needle__no_terminal_state() -> None:
    assert not needle().terminal.any()
    assert not needle(p=1.0).terminal.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 0.0}, r"p: 0\.0 is not in \(0, 1\]"),
        ({"p": -0.1}, r"p: -0\.1 is not in"),
        ({"p": 1.1}, r"p: 1\.1 is not in"),
        ({"p": float("nan")}, r"p: nan is not in"),
        ({"num_actions": 1}, r"num_actions: 1 is not a whole number ≥ 2"),
        ({"horizon": 0}, r"horizon: 0 is not a whole number ≥ 1"),
        ({"horizon": 2.5}, r"horizon: 2\.5 is not a whole number ≥ 1"),
    ],
)
def test_parameters_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MDPError, match=message):
        needle(**arguments)
