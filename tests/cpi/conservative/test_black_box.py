"""Resets of a black box: by hand, and against those of the MDP behind it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from cpi.conservative.black_box import BlackBox
from cpi.conservative.resets import draw_resets
from cpi.exact.values import Evaluation, evaluate
from envs.gym import TabularEnv
from tests.cpi.conservative.problems import ENDING, EVALUATIONS, WEIGHTS, each, likely, rows_of


class Corridor:
    """States 0, 1, 2, … in a row; action 0 pays the state's number, action 1 pays 0 and ends."""

    def __init__(self, first: Any = 0) -> None:
        self.first = first
        self.seeds: list[int | None] = []

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        self.seeds.append(seed)
        self.at = self.first
        return self.at, {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(self.at) if action == 0 else 0.0
        self.at += 1
        return self.at, reward, action == 1, False, {}


class Ending(Corridor):
    """Pays −1 and ends at once."""

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.at, -1.0, True, False, {}


ALWAYS_0 = np.tile([1.0, 0.0], (3, 4, 1))


def draw(box: BlackBox, weights: Any, accepted: int, policy: Any = ALWAYS_0) -> Any:
    return box.draw_resets(policy, weights, np.random.default_rng(0), accepted=accepted)


def test_draw_resets__by_hand() -> None:
    """π takes action 0, so that step and state are the same; the tail pays h + … + 2."""
    box = BlackBox(Corridor(), 3, (0.0, 2.0))
    weights = np.zeros((3, 4))
    weights[1:] = 1.0
    resets = draw(box, weights, 300)
    np.testing.assert_array_equal(resets.state, resets.step)
    assert set(resets.step) == {1, 2} and set(resets.action) == {0, 1}
    paid = np.where(resets.step == 1, 3.0, 2.0)
    np.testing.assert_array_equal(resets.ret, np.where(resets.action == 0, paid, 0.0))
    # An accepted draw walks to the reset, then to the end; a refused one is at step 0 already.
    walked = resets.step + np.where(resets.action == 0, 3 - resets.step, 1)
    assert resets.steps == walked.sum()
    assert resets.drawn == pytest.approx(450, rel=0.1) and not resets.exhausted


def test_draw_resets__weights_are_probabilities() -> None:
    resets = draw(BlackBox(Corridor(), 3, (0.0, 2.0)), np.full((3, 4), 0.25), 400)
    assert abs(resets.drawn - 1600) <= 4 * math.sqrt(400 * 0.75) / 0.25


def test_draw_resets__an_episode_that_ended_before_its_step_is_refused() -> None:
    half = np.full((3, 4, 2), 0.5)
    resets = draw(BlackBox(Corridor(), 3, (0.0, 2.0)), np.ones((3, 4)), 2000, half)
    shares = np.bincount(resets.step) / resets.drawn
    np.testing.assert_allclose(shares, np.array([1, 1 / 2, 1 / 4]) / 3, atol=0.02)


def test_draw_resets__stop_at_the_limit() -> None:
    box = BlackBox(Corridor(), 3, (0.0, 2.0), most_draws=50)
    resets = draw(box, np.full((3, 4), 0.1), 40)
    assert resets.drawn == 50 and len(resets) < 40 and resets.exhausted
    assert not draw(box, np.ones((3, 4)), 50).exhausted


def test_draw_resets__repeat_with_the_generator() -> None:
    corridor = Corridor()
    one, two = (draw(BlackBox(corridor, 3, (0.0, 2.0)), np.ones((3, 4)), 40) for _ in range(2))
    np.testing.assert_array_equal(one.ret, two.ret)
    seeds = [seed for seed in corridor.seeds if seed is not None]
    assert len(seeds) == 2 and seeds[0] == seeds[1]


@each
def test_draw_resets__are_those_of_the_mdp(evaluation: Evaluation) -> None:
    """Same distribution of step, state and action, of returns, and of draws."""
    weights = WEIGHTS * ~ENDING.terminal  # some episodes start in the terminal state
    box = BlackBox(TabularEnv(ENDING), 4, ENDING.reward_range)
    rng, n = np.random.default_rng(3), 800
    theirs = box.draw_resets(rows_of(evaluation), weights, rng, accepted=n)
    ours = draw_resets(evaluation, weights, rng, accepted=n)
    tables = []
    for resets in (theirs, ours):
        table = np.zeros((4, 5, 3))
        np.add.at(table, (resets.step, resets.state, resets.action), 1)
        tables.append(table.ravel())
    seen = np.sum(tables, axis=0) > 0
    assert chi2_contingency([table[seen] for table in tables]).pvalue > 1e-3
    error = math.sqrt((theirs.ret.var() + ours.ret.var()) / n)
    assert abs(theirs.ret.mean() - ours.ret.mean()) <= 4 * error
    p = n / ours.drawn
    assert abs(theirs.drawn - ours.drawn) <= 4 * math.sqrt(2 * n * (1 - p)) / p
    assert theirs.steps < theirs.drawn * 4  # episodes stop where they are refused


@pytest.mark.parametrize("discount", [0.0, 0.7])
def test_draw_resets__discounted_ones_are_those_of_the_mdp(discount: float) -> None:
    """Same distribution of states, actions, returns and draws; the step is not told."""
    mdp, n, rng = ENDING.with_time(discount=discount), 800, np.random.default_rng(5)
    policy, weights = rows_of(EVALUATIONS["stationary"])[:1], WEIGHTS[:1] * ~ENDING.terminal
    box = BlackBox(TabularEnv(mdp), None, mdp.reward_range, discount=discount)
    theirs = box.draw_resets(policy, weights, rng, accepted=n)
    ours = draw_resets(evaluate(mdp, policy[0]), weights[0], rng, accepted=n)
    assert theirs.tail == ours.tail and not theirs.step.any()
    tables = []
    for resets in (theirs, ours):
        table = np.zeros((4, 3))
        np.add.at(table, (resets.state, resets.action), 1)
        tables.append(table.ravel())
    assert chi2_contingency([table[np.sum(tables, axis=0) > 0] for table in tables]).pvalue > 1e-3
    error = math.sqrt((theirs.ret.var() + ours.ret.var()) / n)
    assert abs(theirs.ret.mean() - ours.ret.mean()) <= 4 * error
    p = n / ours.drawn
    assert abs(theirs.drawn - ours.drawn) <= 4 * math.sqrt(2 * n * (1 - p)) / p


class Clock(Corridor):
    """Corridor whose states end at 3, and whose episodes are cut after 20 steps."""

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time = 0 if self.at == 0 else self.time + 1
        at, _, _, _, info = super().step(0)
        self.at = min(at, 3)
        return self.at, 1.0, False, self.time == 19, info


def test_draw_resets__discounted_by_hand() -> None:
    """Step t is drawn with probability (1−γ) γ^t, and a return of ones is cut after K steps."""
    box = BlackBox(Clock(), None, (0.0, 1.0), discount=0.5)
    resets = draw(box, np.ones((1, 4)), 800, ALWAYS_0[:1])
    assert likely(np.bincount(resets.state), 800 * np.array([1 / 2, 1 / 4, 1 / 8, 1 / 8]))
    np.testing.assert_allclose(resets.ret, 2 * (1 - 0.5**13), rtol=1e-3)  # 2^13 > 8,000
    assert resets.tail == 0.5**13 and resets.ret.max() == 2 * (1 - 0.5**13)


def test_black_box__invalid_values_are_refused() -> None:
    ones = np.ones((3, 4))
    with pytest.raises(ValueError, match=r"rewards: 1 is outside the range 0 to 0\.5"):
        draw(BlackBox(Corridor(), 3, (0.0, 0.5)), ones, 100)
    with pytest.raises(ValueError, match="an episode ended before the horizon 3, so the range"):
        draw(BlackBox(Ending(), 3, (-5.0, -1.0)), ones, 100)
    with pytest.raises(ValueError, match=r"an episode ended, so the range -5 to -1 must include 0"):
        draw(BlackBox(Ending(), None, (-5.0, -1.0), discount=0.1), ones[:1], 9, ALWAYS_0[:1])
    with pytest.raises(ValueError, match=r"environment: state 4 is not in 0 … 3, the policy's"):
        draw(BlackBox(Corridor(3), 3, (0.0, 9.0)), ones, 100)
    with pytest.raises(ValueError, match=r"environment: state 0.5 is not in 0 … 3"):
        draw(BlackBox(Corridor(0.5), 3, (0.0, 9.0)), ones, 100)
    for changes, message in (
        ({"environment": "FrozenLake-v1"}, "environment: 'FrozenLake-v1' has no method 'reset'"),
        ({"horizon": 0}, "horizon: 0 is not a whole number ≥ 1"),
        ({"most_draws": 0}, "most_draws: 0 is not a whole number ≥ 1"),
        ({"rewards": (1.0, 0.0)}, r"rewards: \(1\.0, 0\.0\) is not \(low, high\)"),
        ({"rewards": (0.0, math.inf)}, r"rewards: \(0\.0, inf\) is not \(low, high\), two finite"),
        ({"rewards": (0.0,)}, r"rewards: \(0\.0,\) is not \(low, high\)"),
        ({"rewards": 1.0}, "rewards: 1.0 is not"),
        ({"horizon": None}, "give exactly one of horizon and discount"),
        ({"discount": 0.5}, "give exactly one of horizon and discount"),
        ({"horizon": None, "discount": 1}, r"discount: 1 is not in \[0, 1\); give horizon=H"),
        ({"horizon": None, "discount": -0.1}, r"discount: -0\.1 is not in \[0, 1\]"),
    ):
        options = {"environment": Corridor(), "horizon": 3, "rewards": (0.0, 1.0)} | changes
        with pytest.raises(ValueError, match=message):
            BlackBox(**options)
