"""Candidates and advantages from sampled resets, by hand and against exact advantages."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import envs
from cpi.conservative.measure import (
    advantage_samples,
    choose_and_measure,
    mean_returns,
    measure,
    per_state_candidate,
    return_ranges,
    shared_candidate,
)
from cpi.conservative.resets import draw_resets
from cpi.exact.improvement import policy_advantage
from cpi.exact.policies import check_policy, deterministic_policy, greedy_policy, uniform_policy
from cpi.exact.values import Evaluation, evaluate
from tests.cpi.conservative.problems import ENDING, WEIGHTS, each, made, rows_of
from tests.cpi.worlds import interior_policy

N = 20_000


def test_advantage_samples__by_hand() -> None:
    """|A| (π'(a|s) − π(a|s)) (G − b), with three actions."""
    policy = np.zeros((2, 3, 3))
    policy[0], policy[1] = [0.2, 0.3, 0.5], [0.6, 0.3, 0.1]
    candidate = np.tile([1.0, 0.0, 0.0], (3, 1))
    baseline = np.array([[0.0, 0.5, 1.0], [0.25, 0.0, 0.0]])
    resets = made([0, 0, 1], [1, 2, 0], [0, 1, 2], [2.0, 1.5, 1.0])
    samples = advantage_samples(policy, candidate, resets, baseline)
    expected = [3 * 0.8 * 1.5, 3 * -0.3 * 0.5, 3 * -0.1 * 0.75]
    np.testing.assert_allclose(samples, expected, rtol=1e-14)


@pytest.mark.parametrize("kind", ["none", "any", "returns"])
@each
def test_advantage_samples__unbiased(evaluation: Evaluation, kind: str) -> None:
    rng = np.random.default_rng(5)
    resets = draw_resets(evaluation, WEIGHTS, rng, accepted=N)
    other = draw_resets(evaluation, WEIGHTS, rng, accepted=2000)
    baselines = {
        "none": np.zeros((4, 5)),
        "any": np.random.default_rng(6).normal(size=(4, 5)),
        "returns": mean_returns(other, 5, return_ranges(4, ENDING.reward_range)),
    }
    weights = WEIGHTS * ~ENDING.terminal
    greedy = greedy_policy(evaluation.Q)
    candidates = [greedy, greedy[1], 0.5 * greedy + 0.5 * interior_policy(ENDING, 7)]
    spreads = []
    for candidate in candidates:
        samples = advantage_samples(evaluation.policy, candidate, resets, baselines[kind])
        expected = policy_advantage(evaluation, candidate, weights)
        error = samples.std(ddof=1) / math.sqrt(N)
        assert abs(samples.mean() - expected) <= 4 * error
        assert abs(expected) > 8 * error  # enough power to detect a factor of 2
        spreads.append(samples.std())
    if kind == "returns":
        plain = advantage_samples(evaluation.policy, candidates[0], resets, baselines["none"]).std()
        assert spreads[0] < plain


def test_mean_returns__by_hand() -> None:
    resets = made([0, 0, 1], [1, 1, 2], [0, 1, 0], [2.0, 1.0, 0.0])
    np.testing.assert_allclose(
        mean_returns(resets, 3, return_ranges(2, (0.0, 1.0)))[[0, 1], [1, 2]], [1.5, 0.0]
    )


# Candidates.


def test_shared_candidate__by_hand() -> None:
    """Action 1 returns 2 and 1, action 0 returns 1.4 on average, action 2 was never taken."""
    mdp = envs.needle(0.5, horizon=2, num_actions=3)
    evaluation = evaluate(mdp, uniform_policy(mdp))
    resets = made([0, 1, 0, 1], [1, 2, 0, 0], [1, 1, 0, 0], [2.0, 1.0, 2.8, 0.0])
    expected = deterministic_policy(np.full((2, 3), 1), 3)
    np.testing.assert_array_equal(shared_candidate(rows_of(evaluation), resets), expected)
    # A return below all others is still better than none.
    lone = made([0], [1], [2], [-7.0])
    np.testing.assert_array_equal(
        shared_candidate(rows_of(evaluation), lone), deterministic_policy(np.full((2, 3), 2), 3)
    )


def test_per_state_candidate__by_hand() -> None:
    mdp = envs.needle(0.5, horizon=2, num_actions=3)
    policy = interior_policy(mdp, 1)
    evaluation = evaluate(mdp, policy)
    resets = made([0, 0, 0, 1, 1], [1, 1, 1, 1, 2], [0, 1, 1, 0, 2], [1.4, 2.0, 1.0, -3.0, 0.5])
    candidate = per_state_candidate(rows_of(evaluation), resets)
    expected = np.array(policy)
    expected[0, 1] = [0, 1, 0]  # 1.5 on average beats 1.4
    expected[1, 1] = [1, 0, 0]  # the only action tried there
    expected[1, 2] = [0, 0, 1]
    np.testing.assert_array_equal(candidate, expected)
    stationary = evaluate(mdp, policy[0])
    assert check_policy(mdp, per_state_candidate(rows_of(stationary), resets)).shape == (2, 3, 3)


def test_per_state_candidate__greedy_given_many_resets() -> None:
    mdp = envs.needle(0.4, horizon=2, num_actions=3)
    evaluation = evaluate(mdp, uniform_policy(mdp))
    resets = draw_resets(evaluation, np.ones((2, 3)), np.random.default_rng(0), accepted=N)
    needle = per_state_candidate(rows_of(evaluation), resets)[:, 0]
    np.testing.assert_array_equal(needle, np.tile([1.0, 0.0, 0.0], (2, 1)))
    np.testing.assert_array_equal(
        shared_candidate(rows_of(evaluation), resets)[..., 0], np.ones((2, 3))
    )


def test_advantage_samples__bounded_with_offset_rewards() -> None:
    mdp = envs.needle(0.3, horizon=6, num_actions=2)
    far = replace(mdp, rewards=mdp.rewards - 50.0)
    evaluation = evaluate(far, uniform_policy(far))
    rng = np.random.default_rng(0)
    few = draw_resets(evaluation, np.ones((6, 3)), rng, accepted=4)
    resets = draw_resets(evaluation, np.ones((6, 3)), rng, accepted=500)
    candidate = shared_candidate(rows_of(evaluation), few)
    samples = advantage_samples(
        evaluation.policy,
        candidate,
        resets,
        mean_returns(few, 3, return_ranges(6, far.reward_range)),
    )
    assert np.abs(samples).max() <= mdp.num_actions * 6 * mdp.reward_width


# Evidence.


@pytest.mark.parametrize("policy_class", ["shared", "per_state"])
@each
def test_choose_and_measure__one_half_chooses_and_the_other_measures(
    evaluation: Evaluation, policy_class: str
) -> None:
    data = draw_resets(evaluation, WEIGHTS, np.random.default_rng(8), accepted=61)
    first, second = data.part(slice(0, 30)), data.part(slice(30, None))
    policy, rewards = rows_of(evaluation), ENDING.reward_range
    found = choose_and_measure(data, policy, policy_class, rewards)
    candidate_from = shared_candidate if policy_class == "shared" else per_state_candidate
    candidate = candidate_from(policy, first)
    baseline = mean_returns(first, 5, return_ranges(4, rewards))
    np.testing.assert_array_equal(found.candidate, candidate)
    expected = advantage_samples(policy, candidate, second, baseline)
    np.testing.assert_array_equal(found.samples, expected)
    np.testing.assert_array_equal(found.step, data.step)
    assert (found.accepted, found.drawn, found.steps) == (61, data.drawn, data.steps)
    assert (found.horizon, found.reward_width) == (4, ENDING.reward_width)
    assert np.ptp(found.samples) <= found.width


def test_return_ranges__by_hand() -> None:
    np.testing.assert_array_equal(return_ranges(3, (-1.0, 2.0)), [[-3, 6], [-2, 4], [-1, 2]])
    narrow = return_ranges(3, (-1.0, 2.0), (0.0, 3.0))
    np.testing.assert_array_equal(narrow, [[0, 3], [0, 3], [0, 2]])


def test_measure__returns_outside_their_range_are_refused() -> None:
    data = made([0, 1, 1, 0], [0, 1, 2, 0], [0, 1, 0, 1], [1.0, 0.5, 1.5, 2.0])
    policy = np.full((2, 3, 2), 0.5)
    with pytest.raises(ValueError, match=r"returns: 1\.5 from step 1 on is outside the range"):
        measure(data, policy, policy, (0.0, 1.0))
    assert len(measure(data, policy, policy, (0.0, 2.0)).samples) == 2
