"""The tight instances attain their bounds; every number here is computed from the MDP."""

from __future__ import annotations

import numpy as np
import pytest

from envs import (
    MDPError,
    TightInstance,
    tight_cpi,
    tight_good,
    tight_masked,
    tight_once,
    tight_returns,
)
from tests.envs.exact import finite_occupancy, finite_values

ALPHAS = [1e-3, 0.05, 0.3, 0.5, 0.8, 1.0]


def discounted(instance: TightInstance, policy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (S,) and the resolvent (I − γ P_π)⁻¹, shape (S, S)."""
    mdp = instance.mdp
    moves = np.einsum("sa,sat->st", policy, mdp.transitions)
    assert mdp.discount is not None
    resolvent = np.linalg.inv(np.eye(mdp.num_states) - mdp.discount * moves)
    return resolvent @ (policy * mdp.rewards).sum(axis=1), resolvent


@pytest.mark.parametrize("discount", [0.0, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("alpha", [0.0, *ALPHAS])
def test_cpi_bound_is_attained(alpha: float, discount: float) -> None:
    instance = tight_cpi(discount)
    mdp, policy, candidate, weights = instance
    assert weights is None
    v, resolvent = discounted(instance, policy)
    q = mdp.rewards + discount * mdp.transitions @ v
    a = (candidate * q).sum(axis=1) - v
    occupancy = (1 - discount) * mdp.start @ resolvent
    advantage, epsilon = occupancy @ a, np.abs(a).max()
    assert advantage == pytest.approx(0.5, rel=1e-12)

    mixture = (1 - alpha) * policy + alpha * candidate
    gain = mdp.start @ (discounted(instance, mixture)[0] - v)
    penalty = 2 * alpha * discount * epsilon / (1 - discount * (1 - alpha))
    bound = alpha / (1 - discount) * (advantage - penalty)
    scale = 64 * np.finfo(float).eps / (1 - discount) ** 2
    assert gain == pytest.approx(bound, abs=scale)


def masked_step(horizon: int, alpha: float) -> tuple[float, float, float]:
    """Gain of the masked mixture, its first-order term α H p_w 𝔸_w, and the penalty."""
    mdp, policy, candidate, weights = tight_masked(horizon)
    assert weights is not None
    v, q = finite_values(mdp, policy)
    a = (candidate * q).sum(axis=2) - v[:-1]
    occupancy = finite_occupancy(mdp, policy) / horizon
    coverage = (occupancy * weights).sum()
    masked_advantage = (occupancy * weights * a).sum() / coverage
    mixing = alpha * weights[:, :, None]
    gain = (finite_values(mdp, (1 - mixing) * policy + mixing * candidate)[0] - v)[0] @ mdp.start
    first_order = alpha * horizon * coverage * masked_advantage
    penalty = 0.5 * alpha**2 * horizon**2 * (horizon - 1) * mdp.reward_width * coverage
    return gain, first_order, penalty


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("horizon", [1, 2])
def test_masked_bound_is_attained_at_two_steps(horizon: int, alpha: float) -> None:
    gain, first_order, penalty = masked_step(horizon, alpha)
    assert gain == pytest.approx(first_order - penalty, abs=1e-14)
    assert penalty == pytest.approx(alpha**2 * (horizon - 1), rel=1e-14)


@pytest.mark.parametrize("horizon", [3, 5, 8])
def test_masked_bound_is_attained_in_the_limit(horizon: int) -> None:
    ratios = []
    for alpha in (1.0, 0.3, 1e-1, 1e-2, 1e-3, 1e-4):
        gain, first_order, penalty = masked_step(horizon, alpha)
        assert first_order == pytest.approx(alpha * horizon, rel=1e-14)
        ratios.append((first_order - gain) / penalty)
    assert (np.diff(ratios) > 0).all() and ratios[-1] < 1
    assert ratios[-1] == pytest.approx(1.0, abs=1e-4 * horizon)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_returns_gain_is_the_probability_of_one_switch(horizon: int, alpha: float) -> None:
    mdp, policy, candidate, weights = tight_returns(horizon)
    assert weights is not None and weights.shape == (horizon, 2 * horizon + 1)
    values, q = finite_values(mdp, policy)
    assert (q.min(), q.max()) == (0.0, 1.0)
    mixture = (1 - alpha) * policy + alpha * candidate
    gain = (finite_values(mdp, mixture)[0] - values)[0] @ mdp.start
    assert gain == pytest.approx(horizon * alpha * (1 - alpha) ** (horizon - 1), abs=1e-14)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_good_gain_is_the_probability_of_a_switch(horizon: int, alpha: float) -> None:
    mdp, policy, candidate, _ = tight_good(horizon)
    mixture = (1 - alpha) * policy + alpha * candidate
    gain = finite_values(mdp, mixture)[0][0] @ mdp.start
    assert gain == pytest.approx(1 - (1 - alpha) ** horizon, abs=1e-14)


@pytest.mark.parametrize("gap", [0.01, 1.0])
def test_once_advantages_are_the_largest(gap: float) -> None:
    instance = tight_once(0.8, gap)
    v, _ = discounted(instance, instance.policy)
    q = instance.mdp.rewards + 0.8 * instance.mdp.transitions @ v
    a = (instance.candidate * q).sum(axis=1) - v
    np.testing.assert_allclose(a, [5 * gap, 0.0, -5.0, 0.0], atol=1e-14)


def test_weights_and_moves() -> None:
    mdp, policy, candidate, weights = tight_masked(3)
    np.testing.assert_array_equal(weights, [[1, 1, 0], [0, 1, 0], [0, 1, 0]])
    next_states = mdp.transitions.argmax(axis=2)
    np.testing.assert_array_equal(next_states, [[0, 1], [1, 2], [2, 2]])
    np.testing.assert_array_equal(mdp.rewards, [[0, 1], [1, 0], [0, 0]])
    np.testing.assert_array_equal(policy, [[1, 0]] * 3)
    np.testing.assert_array_equal(candidate, [[0, 1]] * 3)


@pytest.mark.parametrize("discount", [1.0, -0.5])
def test_bad_discount(discount: float) -> None:
    with pytest.raises(MDPError, match=f"discount: {discount} is not in"):
        tight_cpi(discount)


@pytest.mark.parametrize("horizon", [0, -1])
def test_bad_horizon(horizon: int) -> None:
    with pytest.raises(MDPError, match=f"horizon: {horizon} is not a whole number ≥ 1"):
        tight_masked(horizon)
    with pytest.raises(ValueError, match=f"horizon: {horizon} is not a whole number ≥ 1"):
        tight_returns(horizon)
