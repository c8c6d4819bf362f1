"""The lock chain against backward induction, and the worked example of the theory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from envs import MDPError, lock_chain, lock_policy, lock_value
from tests.envs.exact import finite_occupancy, finite_values, sequence_return


def test_only_the_right_sequence_pays() -> None:
    mdp = lock_chain(4, 3)
    for actions in itertools.product(range(3), repeat=4):
        assert sequence_return(mdp, actions) == (actions == (0, 0, 0, 0))


def test_states_are_the_steps_unlocked() -> None:
    mdp = lock_chain(3, 2)
    assert mdp.horizon == 3 and mdp.num_states == 4
    for state in range(3):
        assert mdp.successors(state, 0)[0] == state + 1
        assert mdp.successors(state, 1)[0] == 3
    np.testing.assert_array_equal(mdp.terminal, [False, False, False, True])
    np.testing.assert_array_equal(mdp.start, [1, 0, 0, 0])


def test_policy_rows() -> None:
    policy = lock_policy([0.4, 1.0], num_actions=3)
    expected = [[0.4, 0.3, 0.3], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]
    np.testing.assert_allclose(policy, expected, rtol=1e-15)


@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("num_actions", [2, 5])
def test_value_is_the_product(length: int, num_actions: int) -> None:
    success = np.random.default_rng(length).random(length)
    v, _ = finite_values(lock_chain(length, num_actions), lock_policy(success, num_actions))
    assert v[0, 0] == pytest.approx(lock_value(success), rel=1e-14)


def test_worked_example() -> None:
    success = np.full(20, 0.98)
    success[5] = 0.25
    mdp, policy = lock_chain(), lock_policy(success)
    v, q = finite_values(mdp, policy)
    best_advantage = (q - v[:-1, :, None]).max(axis=2)
    assert best_advantage.max() == pytest.approx(0.5652, abs=5e-5)
    assert best_advantage[5, 5] == best_advantage.max()

    tau = best_advantage.max() / 2
    assert tau == pytest.approx(0.2826, abs=5e-5)
    improvable = best_advantage > tau
    occupancy = finite_occupancy(mdp, policy) / 20
    coverage = occupancy[improvable].sum()
    assert coverage == pytest.approx(0.0452, abs=5e-5)
    assert 1 / coverage == pytest.approx(22.1, abs=0.05)

    greedy = np.eye(4)[q.argmax(axis=2)]
    masked = np.where(improvable[:, :, None], greedy, policy)
    gain = finite_values(mdp, masked)[0][0, 0] - v[0, 0]
    assert gain == pytest.approx(0.511, abs=5e-4)
    assert gain == pytest.approx(0.98**19 - lock_value(success), rel=1e-12)


@pytest.mark.parametrize(
    ("length", "num_actions", "message"),
    [(0, 4, "length: 0 .* ≥ 1"), (-2, 4, "length: -2"), (3, 1, "num_actions: 1 .* ≥ 2")],
)
def test_sizes_out_of_range(length: int, num_actions: int, message: str) -> None:
    with pytest.raises(MDPError, match=message):
        lock_chain(length, num_actions)


@pytest.mark.parametrize(
    ("success", "message"),
    [
        ([0.5, 1.5], r"success: position 1 is 1\.5, not in \[0, 1\]"),
        ([-0.25, 0.5], r"success: position 0 is -0\.25"),
        ([0.5, 0.5, np.nan], "success: position 2 is nan"),
        ([], r"success: shape \(0,\)"),
        ([[0.5]], r"success: shape \(1, 1\), expected \(H,\)"),
    ],
)
def test_success_out_of_range(success: list[float], message: str) -> None:
    with pytest.raises(MDPError, match=message):
        lock_policy(success)
    with pytest.raises(MDPError, match=message):
        lock_value(success)


def test_policy_needs_a_wrong_action() -> None:
    with pytest.raises(MDPError, match="num_actions: 1"):
        lock_policy([0.5], num_actions=1)
