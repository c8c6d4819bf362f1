"""Policy gradients from groups: by hand, by finite differences, by brute force, by simulation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import envs
from cpi.core.collect import Group, collect
from cpi.core.episodes import Episode, Prefix
from cpi.core.plans import GroupPlan
from cpi.core.resets import (
    NoisyLocalizer,
    OracleReset,
    RandomReset,
    ResetRule,
    SelfReset,
)
from cpi.exact.values import evaluate
from cpi.tabular import gradient as module
from cpi.tabular.gradient import (
    enumerate_paths,
    exact_moments,
    group_gradient,
    policy_gradient,
    score,
    softmax_policy,
)
from cpi.tabular.simulator import TabularOracle, TabularSimulator
from envs import TabularMDP
from tests.cpi.worlds import world


def theta(mdp: TabularMDP, seed: int) -> Any:
    return np.random.default_rng(seed).normal(scale=0.7, size=mdp.rewards.shape)


def central_difference(function: Callable[[Any], float], at: Any, step: float = 1e-5) -> Any:
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        shift = np.zeros_like(at)
        shift[index] = step
        gradient[index] = (function(at + shift) - function(at - shift)) / (2 * step)
    return gradient


def tiny() -> TabularMDP:
    """Two steps, a branching transition, returns 0, ½ and 1, an early end, and a start there.

    In state 0 action 0 pays ½ and continues with probability 0.7, else ends; action 1 continues. In
    state 1 action 0 pays ½; both actions end the episode.
    """
    transitions = np.zeros((3, 2, 3))
    transitions[0, 0] = [0.0, 0.7, 0.3]
    transitions[0, 1, 1] = transitions[1:, :, 2] = 1.0
    rewards = np.array([[0.5, 0.0], [0.5, 0.0], [0.0, 0.0]])
    return TabularMDP(transitions, rewards, np.array([0.6, 0.3, 0.1]), horizon=2, name="tiny")


TINY = tiny()
TINY_POLICY = np.array([[0.35, 0.65], [0.6, 0.4], [0.5, 0.5]])


def chain() -> tuple[TabularMDP, Any]:
    """Three steps with recovery from errors, from two starts, and a policy without symmetries."""
    mdp = envs.first_error_chain(3, recovery=0.3)
    start = np.zeros(mdp.num_states)
    start[[0, 1]] = 0.7, 0.3
    policy = np.linspace(0.5, 0.7, mdp.num_states)
    return replace(mdp, start=start), np.stack([policy, 1 - policy], axis=1)


def oracle(mdp: TabularMDP, policy: Any, mask: Any, tau: float = 0.0) -> OracleReset:
    return OracleReset(TabularOracle(evaluate(mdp, policy)), mask, tau)


def noisy(mdp: TabularMDP, policy: Any) -> SelfReset:
    return SelfReset(NoisyLocalizer(oracle(mdp, policy, "first_error"), 0.8, 0.3))


RULES: dict[str, Callable[[TabularMDP, Any], ResetRule]] = {
    "random": lambda mdp, policy: RandomReset(),
    "self": noisy,
    "first error": lambda mdp, policy: oracle(mdp, policy, "first_error"),
    "largest": lambda mdp, policy: oracle(mdp, policy, "largest"),
    "improvable": lambda mdp, policy: oracle(mdp, policy, "improvable", 0.22),
}


# The score and its sums.


def test_softmax_by_hand() -> None:
    policy = softmax_policy(np.log([[1.0, 3.0], [2.0, 2.0]]))
    np.testing.assert_allclose(policy, [[0.25, 0.75], [0.5, 0.5]], rtol=1e-14)
    far = softmax_policy(np.array([[1000.0, 1000.0 + math.log(3)]]))
    np.testing.assert_allclose(far, [[0.25, 0.75]], rtol=1e-12)


def test_the_score_is_the_gradient_of_the_log_probability() -> None:
    at = np.random.default_rng(0).normal(size=(4, 3))
    steps = np.array([[0, 2], [1, 0], [0, 2], [0, 1], [3, 1]])  # a state three times, one never

    def log_probability(parameters: Any) -> float:
        return float(np.log(softmax_policy(parameters)[tuple(steps.T)]).sum())

    expected = central_difference(log_probability, at)
    np.testing.assert_allclose(score(softmax_policy(at), steps), expected, atol=1e-9)


def test_score__zero_without_steps() -> None:
    policy = np.full((2, 3), 1 / 3)
    np.testing.assert_array_equal(score(policy, np.empty((0, 2), dtype=int)), np.zeros((2, 3)))


WORLDS = {
    "tiny": TINY,
    "chain": chain()[0],
    "stochastic": world(3, 3, 2, horizon=3),
    "one step": world(4, 4, 3, horizon=1),
    "tree": envs.tree(3, 2),
}
each_world = pytest.mark.parametrize("mdp", WORLDS.values(), ids=WORLDS)


@each_world
def test_the_policy_gradient_is_the_slope_of_exact_returns(mdp: TabularMDP) -> None:
    at = theta(mdp, 1)
    expected = central_difference(lambda t: evaluate(mdp, softmax_policy(t)).J, at)
    gradient = policy_gradient(mdp, softmax_policy(at))
    np.testing.assert_allclose(gradient, expected, atol=1e-9)
    assert np.abs(gradient).max() > 0.01


@each_world
def test_the_policy_gradient_theorem(mdp: TabularMDP) -> None:
    """∂J/∂θ(s, a) = Σ_h Pr(s_h = s) π(a|s) A_h(s, a)."""
    policy = softmax_policy(theta(mdp, 2))
    values = evaluate(mdp, policy)
    assert mdp.horizon is not None
    visits = mdp.horizon * values.occupancy
    expected = policy * np.einsum("hs,hsa->sa", visits, values.A)
    np.testing.assert_allclose(policy_gradient(mdp, policy), expected, atol=1e-13)


# Paths.


@each_world
def test_enumerate_paths__complete(mdp: TabularMDP) -> None:
    policy = softmax_policy(theta(mdp, 3))
    values = evaluate(mdp, policy)
    assert mdp.horizon is not None
    for step, state in np.ndindex(values.V.shape):
        paths = enumerate_paths(mdp, policy, state, step)
        assert paths.probability.sum() == pytest.approx(1.0, abs=1e-12)
        assert paths.probability @ paths.returns == pytest.approx(values.V[step, state], abs=1e-12)
        for ret, feature, steps in zip(paths.returns, paths.features, paths.steps, strict=True):
            assert ret == pytest.approx(mdp.rewards[tuple(steps.T)].sum(), abs=1e-12)
            np.testing.assert_allclose(feature, score(policy, steps).ravel(), atol=1e-14)
            assert not mdp.terminal[steps[:, 0]].any()
            assert (steps[:1, 0] == state).all() and len(steps) <= mdp.horizon - step
        # The score of all steps has expectation 0.
        np.testing.assert_allclose(paths.probability @ paths.features, 0.0, atol=1e-12)
        assert paths.value_probability.sum() == pytest.approx(1.0, abs=1e-12)


def test_enumerate_paths__by_hand() -> None:
    paths = enumerate_paths(TINY, TINY_POLICY, 0)
    by_steps = {
        tuple(map(tuple, steps.tolist())): (round(float(p), 12), ret)
        for p, ret, steps in zip(paths.probability, paths.returns, paths.steps, strict=True)
    }
    assert by_steps == {
        ((0, 0), (1, 0)): (0.147, 1.0),
        ((0, 0), (1, 1)): (0.098, 0.5),
        ((0, 0),): (0.105, 0.5),
        ((0, 1), (1, 0)): (0.39, 0.5),
        ((0, 1), (1, 1)): (0.26, 0.0),
    }
    assert paths.mean_length == pytest.approx(2 - 0.105)
    np.testing.assert_array_equal(paths.values, [0.0, 0.5, 1.0])
    np.testing.assert_allclose(paths.value_probability, [0.26, 0.593, 0.147])
    lengths = np.array([len(steps) for steps in paths.steps], dtype=float)
    np.testing.assert_allclose(paths.given_value(lengths), [2.0, 2 - 0.105 / 0.593, 2.0])


def test_enumerate_paths__empty_path_from_a_terminal_state() -> None:
    for state, step in ((2, 0), (0, 2)):
        paths = enumerate_paths(TINY, TINY_POLICY, state, step)
        assert paths.probability.tolist() == [1.0] and paths.returns.tolist() == [0.0]
        assert paths.mean_length == 0 and not paths.features.any()


def test_enumerate_paths__skips_actions_of_probability_0() -> None:
    policy = np.array([[0.0, 1.0], [0.6, 0.4], [0.5, 0.5]])
    assert len(enumerate_paths(TINY, policy, 0).steps) == 2


def test_enumerate_paths__too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    mdp = envs.first_error_chain(3)
    policy = np.full((6, 2), 0.5)
    monkeypatch.setattr(module, "MAX_PATHS", 8)
    assert len(enumerate_paths(mdp, policy, 0).steps) == 8
    monkeypatch.setattr(module, "MAX_PATHS", 7)
    with pytest.raises(ValueError, match="over 7 trajectories; shorten the horizon"):
        exact_moments(mdp, policy, GroupPlan(2), RandomReset())


def test_enumerate_paths__discounted_mdp_is_refused() -> None:
    mdp = world(1, discount=0.9)
    policy = np.full((5, 3), 1 / 3)
    for refused in (
        lambda: enumerate_paths(mdp, policy, 0),
        lambda: policy_gradient(mdp, policy),
        lambda: exact_moments(mdp, policy, GroupPlan(2), RandomReset()),
    ):
        with pytest.raises(ValueError, match=r"need a horizon; use mdp.with_time\(horizon=H\)"):
            refused()


# The estimate from one collection.


def made_up(ret: float, *steps: tuple[int, int], origin: Prefix | None = None) -> Episode:
    origin = Prefix(0) if origin is None else origin
    return Episode(origin, np.array(steps), ret, ret < 1, len(steps) - origin.length)


HAND_POLICY = np.array([[0.6, 0.4], [0.5, 0.5], [0.2, 0.8]])


def two_groups(first_step: tuple[int, int] = (2, 1)) -> list[Group]:
    """A fresh group, and a reset group that shares `first_step`."""
    prefix = Prefix(2, np.array([first_step]))
    fresh = [made_up(1.0, (0, 0), (1, 1)), made_up(0.0, (0, 1))]
    reset = [
        made_up(1.0, first_step, (0, 0), origin=prefix),
        made_up(0.0, first_step, (1, 0), origin=prefix),
        made_up(0.0, first_step, (0, 1), origin=prefix),
    ]
    return [Group(0, Prefix(0), fresh), Group(0, prefix, reset, fresh[1])]


def test_group_gradient__by_hand() -> None:
    """Scale none: Â = (½, −½) and (⅔, −⅓, −⅓), all over 5 episodes."""
    a, b = np.array([0.4, -0.4]), np.array([-0.6, 0.6])  # scores of actions 0 and 1 in state 0
    c, d = np.array([0.5, -0.5]), np.array([-0.5, 0.5])  # in state 1
    state_0 = a / 2 - b / 2 + a * 2 / 3 - b / 3
    state_1 = d / 2 - c / 3
    estimate = group_gradient(HAND_POLICY, two_groups(), "none")
    np.testing.assert_allclose(estimate, np.array([state_0, state_1, [0, 0]]) / 5, atol=1e-15)


def test_group_gradient__group_scale_by_hand() -> None:
    groups = two_groups()
    deviations = math.sqrt(0.5) + 1e-4, math.sqrt(1 / 3) + 1e-4
    parts = [group_gradient(HAND_POLICY, [group], "none") for group in groups]
    expected = (2 * parts[0] / deviations[0] + 3 * parts[1] / deviations[1]) / 5
    np.testing.assert_allclose(group_gradient(HAND_POLICY, groups), expected, atol=1e-14)
    batch = statistics.stdev([1, 0, 1, 0, 0]) + 1e-4
    expected = (2 * parts[0] + 3 * parts[1]) / 5 / batch
    np.testing.assert_allclose(group_gradient(HAND_POLICY, groups, "batch"), expected, atol=1e-14)


def test_group_gradient__exactly_zero_on_prefix_steps() -> None:
    estimate = group_gradient(HAND_POLICY, two_groups((2, 1)))
    assert (estimate[2] == 0).all()  # state 2 occurs in the prefix only
    for other in ((2, 0), (0, 0), (1, 1)):
        np.testing.assert_array_equal(group_gradient(HAND_POLICY, two_groups(other)), estimate)


def test_group_gradient__zero_on_prefixes_of_a_collection() -> None:
    mdp, policy = chain()
    simulator = TabularSimulator(mdp, policy)
    plan = GroupPlan(0, 1, 4, seeds="any")
    deep = oracle(mdp, policy, "improvable", 0.3)  # only the last step
    groups = collect(simulator, [0] * 40, plan, deep, np.random.default_rng(0))
    cut = [group for group in groups if group.prefix.length == 2]
    assert cut
    estimate = group_gradient(policy, cut)
    last = [int(group.prefix.state) for group in cut]
    others = np.setdiff1d(np.arange(mdp.num_states), last)
    assert (estimate[others] == 0).all() and np.abs(estimate[last]).max() > 0


def test_group_gradient__independent_of_order() -> None:
    groups = two_groups()
    estimate = group_gradient(HAND_POLICY, groups)
    shuffled = [replace(group, episodes=group.episodes[::-1]) for group in reversed(groups)]
    np.testing.assert_allclose(group_gradient(HAND_POLICY, shuffled), estimate, atol=1e-15)
