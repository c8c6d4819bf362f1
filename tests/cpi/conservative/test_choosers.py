"""Choosers, against exact advantages."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import envs
from cpi.conservative.choosers import Choice, exact_greedy, reset_share, sampled
from cpi.conservative.measure import (
    advantage_samples,
    mean_returns,
    per_state_candidate,
    return_ranges,
)
from cpi.conservative.resets import draw_resets
from cpi.exact.improvement import policy_advantage
from cpi.exact.policies import greedy_policy, uniform_policy
from cpi.exact.values import Evaluation, evaluate
from tests.cpi.conservative.problems import ENDING, EVALUATIONS, WEIGHTS, rows_of
from tests.cpi.worlds import interior_policy


def test_exact_greedy__has_the_largest_exact_advantage() -> None:
    evaluation = EVALUATIONS["time-dependent"]
    weights = WEIGHTS * ~ENDING.terminal
    choice = exact_greedy(evaluation, weights, np.random.default_rng(0))
    expected = policy_advantage(evaluation, choice.candidate, weights)
    assert choice.advantage == choice.lower == pytest.approx(expected, abs=1e-12)
    np.testing.assert_array_equal(choice.candidate, greedy_policy(evaluation.Q))
    assert (choice.accepted, choice.drawn, choice.steps) == (0, 0, 0)
    rng = np.random.default_rng(1)
    for _ in range(20):
        other = rng.dirichlet(np.ones(3), size=(4, 5))
        assert policy_advantage(evaluation, other, weights) <= choice.advantage


# The sampled chooser.

CLASSES = ["shared", "per_state"]


def choices(evaluation: Evaluation, runs: int, chooser: Any, weights: Any) -> list[Choice]:
    rng = np.random.default_rng(11)
    return [chooser(evaluation, weights, rng) for _ in range(runs)]


@pytest.mark.parametrize("policy_class", CLASSES)
def test_sampled__advantage_of_the_choice_is_unbiased(policy_class: Any) -> None:
    """The measured minus the true advantage of the choice is 0 on average."""
    mdp = envs.needle(0.5, horizon=2, num_actions=2)
    evaluation = evaluate(mdp, uniform_policy(mdp))
    weights = np.ones((2, 3))
    chosen = choices(evaluation, 1000, sampled(12, policy_class, bound="none"), weights)
    true = np.array([policy_advantage(evaluation, c.candidate, weights) for c in chosen])
    off = np.array([c.advantage for c in chosen]) - true
    error = off.std(ddof=1) / math.sqrt(len(off))
    assert abs(off.mean()) <= 4 * error
    # Power of the test: half of the advantage, or the best of two noisy means, would fail.
    assert error < 0.05 and true.mean() > 8 * error
    assert all(c.lower == c.advantage for c in chosen)


@pytest.mark.parametrize("bound", ["bernstein", "hoeffding"])
@pytest.mark.parametrize("policy_class", CLASSES)
def test_sampled__discounted_advantage_counts_terminal_states(
    policy_class: Any, bound: Any
) -> None:
    """Random resets accept them with advantage 0, but no reset is drawn there."""
    mdp = ENDING.with_time(discount=0.6)
    evaluation = evaluate(mdp, interior_policy(ENDING, 3)[0])
    weights, delta = np.ones(5), 0.3
    chooser = sampled(400, policy_class, delta=delta, bound=bound)
    chosen = choices(evaluation, 300, chooser, weights)
    true = np.array([policy_advantage(evaluation, c.candidate, weights) for c in chosen])
    off = np.array([c.advantage for c in chosen]) - true
    error = off.std(ddof=1) / math.sqrt(len(off))
    assert abs(off.mean()) <= 4 * error
    # Power of the test: the mean over resets alone would fail.
    share = reset_share(evaluation, weights)
    assert share == pytest.approx(1 - evaluation.occupancy[4])
    assert (1 / share - 1) * abs(true.mean()) > 8 * error
    assert (np.array([c.lower for c in chosen]) > true).mean() <= delta
    masked = np.array([0.5, 1, 0, 1, 0])
    assert reset_share(evaluation, masked) == 1.0


@pytest.mark.parametrize("bound", ["bernstein", "hoeffding"])
@pytest.mark.parametrize("policy_class", CLASSES)
def test_sampled__lower_bound_holds_with_its_confidence(policy_class: Any, bound: Any) -> None:
    mdp = envs.needle(0.5, horizon=2, num_actions=2)
    evaluation = evaluate(mdp, uniform_policy(mdp))
    weights = np.ones((2, 3))
    delta = 0.3
    chosen = choices(evaluation, 300, sampled(400, policy_class, delta=delta, bound=bound), weights)
    true = np.array([policy_advantage(evaluation, c.candidate, weights) for c in chosen])
    lower = np.array([c.lower for c in chosen])
    assert (lower > true).mean() <= delta
    assert (
        np.array([c.advantage for c in chosen]) > true
    ).mean() > delta  # the estimate itself fails
    radius = np.array([c.advantage for c in chosen]) - lower
    # |A| (π' − π) (G − b) is in ±|A| H r; half of the resets are measured.
    if bound == "hoeffding":
        np.testing.assert_allclose(radius, 8 * math.sqrt(math.log(1 / delta) / 400))
    else:
        log = math.log(2 / delta)
        assert (radius > 7 * 8 * log / (3 * 199)).all() and (radius < 1.2).all()


def test_sampled__radius_shrinks_with_more_resets_and_less_confidence() -> None:
    evaluation = EVALUATIONS["stationary"]

    def radius(n: int, delta: float) -> float:
        chooser = sampled(n, "shared", delta=delta)
        choice = chooser(evaluation, WEIGHTS, np.random.default_rng(0))
        return choice.advantage - choice.lower

    assert radius(4000, 0.05) < radius(400, 0.05)
    assert radius(400, 0.3) < radius(400, 0.05)


def test_sampled__reports_costs() -> None:
    evaluation = EVALUATIONS["stationary"]
    choice = sampled(31, "per_state")(evaluation, WEIGHTS, np.random.default_rng(4))
    resets = draw_resets(evaluation, WEIGHTS, np.random.default_rng(4), accepted=31)
    assert (choice.accepted, choice.drawn, choice.steps) == (31, resets.drawn, resets.steps)
    half, rest = resets.part(slice(0, 15)), resets.part(slice(15, None))
    candidate = per_state_candidate(rows_of(evaluation), half)
    np.testing.assert_array_equal(choice.candidate, candidate)
    baseline = mean_returns(half, 5, return_ranges(4, ENDING.reward_range))
    samples = advantage_samples(evaluation.policy, candidate, rest, baseline)
    share = reset_share(evaluation, WEIGHTS)
    assert share < 1 and choice.advantage == pytest.approx(share * samples.mean())


def test_sampled__lower_bound_holds_with_offset_rewards() -> None:
    """Rewards are 100 and 101, so the width in the bound is 1 per step."""
    mdp = envs.needle(0.05, horizon=8, num_actions=2)
    far = replace(mdp, rewards=mdp.rewards + 100.0)
    evaluation = evaluate(far, uniform_policy(far))
    weights = np.ones((8, 3))
    chosen = choices(evaluation, 200, sampled(8, "shared", delta=0.1, bound="hoeffding"), weights)
    true = np.array([policy_advantage(evaluation, c.candidate, weights) for c in chosen])
    assert (np.array([c.lower for c in chosen]) > true).mean() <= 0.1


@pytest.mark.parametrize("resets", [3, 0, -1])
def test_sampled__fewer_than_four_resets_are_refused(resets: int) -> None:
    with pytest.raises(ValueError, match=f"resets: {resets} is not a whole number ≥ 4"):
        sampled(resets, "shared")
    assert sampled(4, "shared") is not None


def test_sampled__delta_is_checked_before_any_reset_is_drawn() -> None:
    with pytest.raises(ValueError, match=r"delta: 2 is not in \(0, 1\)"):
        sampled(8, "shared", delta=2, bound="none")


def test_sampled__unknown_options_are_refused() -> None:
    wrong: Any = "tabular"
    with pytest.raises(ValueError, match=r"policy_class: 'tabular' is neither 'shared' nor 'per_"):
        sampled(10, wrong)
    with pytest.raises(ValueError, match=r"bound: 'tabular' is not 'bernstein', 'hoeffding' or"):
        sampled(10, "shared", bound=wrong)
    with pytest.raises(ValueError, match=r"delta: 2 is not in \(0, 1\)"):
        sampled(10, "shared", delta=2)(EVALUATIONS["stationary"], WEIGHTS, np.random.default_rng(0))
