"""Sampled resets, against exact occupancies and values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2_contingency

import envs
from cpi.conservative import resets as module
from cpi.conservative.resets import Resets, draw_resets
from cpi.core.resets import accept
from cpi.exact.policies import uniform_policy
from cpi.exact.values import Evaluation, evaluate
from cpi.tabular.simulator import TabularSimulator
from envs import TabularMDP
from tests.cpi.conservative.problems import (
    ENDING,
    EVALUATIONS,
    WEIGHTS,
    accepted_mass,
    each,
    likely,
)
from tests.cpi.worlds import interior_policy, world

N = 20_000


@each
def test_draw_resets__follow_the_weighted_occupancy(evaluation: Evaluation) -> None:
    resets = draw_resets(evaluation, WEIGHTS, np.random.default_rng(0), accepted=N)
    assert len(resets) == len(resets.step) == len(resets.state) == len(resets.action) == N
    mass = accepted_mass(evaluation, WEIGHTS)
    counts = np.zeros((4, 5))
    np.add.at(counts, (resets.step, resets.state), 1)
    assert likely(counts, N * mass / mass.sum())
    # Power of the test: without the weights it would fail.
    plain = accepted_mass(evaluation, 1.0)
    assert not likely(counts, N * plain / plain.sum())


@each
def test_draw_resets__actions_are_uniform(evaluation: Evaluation) -> None:
    resets = draw_resets(evaluation, WEIGHTS, np.random.default_rng(1), accepted=N)
    for h in range(4):
        counts = np.bincount(resets.action[resets.step == h], minlength=3)
        assert likely(counts, np.full(3, counts.sum() / 3))


@each
def test_draw_resets__mean_return_is_the_action_value(evaluation: Evaluation) -> None:
    resets = draw_resets(evaluation, WEIGHTS, np.random.default_rng(2), accepted=N)
    checked = 0
    for h, s, a in np.ndindex(4, 4, 3):
        cell = (resets.step == h) & (resets.state == s) & (resets.action == a)
        returns = resets.ret[cell]
        if len(returns) < 30:
            continue
        error = returns.std(ddof=1) / math.sqrt(len(returns))
        assert abs(returns.mean() - evaluation.Q[h, s, a]) <= 4 * error + 1e-12, (h, s, a)
        checked += 1
    assert checked > 24


@each
def test_draw_resets__draws_per_reset_are_one_over_p(evaluation: Evaluation) -> None:
    """Draws until the n-th success: mean n/p, standard deviation sqrt(n (1−p)) / p."""
    p = float(accepted_mass(evaluation, WEIGHTS).sum())
    assert 0.2 < p < 0.6
    for n in (1, 50, 20_000):
        runs = 1 if n > 1000 else 200
        rng = np.random.default_rng(n)
        drawn = [draw_resets(evaluation, WEIGHTS, rng, accepted=n).drawn for _ in range(runs)]
        error = math.sqrt(n * (1 - p) / runs) / p
        assert abs(np.mean(drawn) - n / p) <= 4 * error
        assert min(drawn) >= n


def test_draw_resets__weights_of_1_accept_every_draw() -> None:
    mdp = envs.needle(0.2, horizon=3, num_actions=2)
    evaluation = evaluate(mdp, uniform_policy(mdp))
    ones = np.ones((3, 3))
    resets = draw_resets(evaluation, ones, np.random.default_rng(0), accepted=700)
    assert (len(resets), resets.drawn) == (700, 700)
    some = draw_resets(evaluation, ones, np.random.default_rng(0), accepted=3)
    assert (len(some), some.drawn) == (3, 3)


def test_draw_resets__steps_counted_on_a_deterministic_mdp() -> None:
    """Action 0 walks 0 → 1 → 2 → end, action 1 ends at once; π takes action 0."""
    transitions = np.zeros((4, 2, 4))
    for s in range(3):
        transitions[s, 0, s + 1] = transitions[s, 1, 3] = 1.0
    transitions[3, :, 3] = 1.0
    rewards = np.array([[0.0, 0.5], [0.0, 0.5], [1.0, 0.5], [0.0, 0.0]])
    mdp = TabularMDP(transitions, rewards, np.eye(4)[0], horizon=5)
    evaluation = evaluate(mdp, np.tile([1.0, 0.0], (4, 1)))
    weights = np.array([0.3, 0.9, 0.6, 1.0])  # the last, of the terminal state, is never used
    resets = draw_resets(evaluation, weights, np.random.default_rng(3), accepted=200)
    np.testing.assert_array_equal(resets.step, resets.state)
    assert set(resets.state) == {0, 1, 2}
    walked_on = resets.action == 0
    np.testing.assert_array_equal(resets.ret, np.where(walked_on, 1.0, 0.5))
    tails = np.where(walked_on, 3 - resets.step, 1)
    # A reset step is drawn among five; the last two lie after the end.
    assert resets.steps == 3 * resets.drawn + tails.sum()
    assert resets.drawn / 200 == pytest.approx(5 / 1.8, rel=0.2)


def test_draw_resets__repeat_with_the_generator() -> None:
    evaluation = EVALUATIONS["stationary"]
    one, two, other = (
        draw_resets(evaluation, WEIGHTS, np.random.default_rng(s), accepted=50) for s in (1, 1, 2)
    )
    for field in ("step", "state", "action", "ret"):
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field))
    assert (one.drawn, one.steps) == (two.drawn, two.steps)
    assert (one.ret != other.ret).any()


def test_draw_resets__rare_states_take_no_time() -> None:
    evaluation = EVALUATIONS["stationary"]
    rare = np.full((4, 5), 1e-12)
    p_w = float(accepted_mass(evaluation, rare).sum())
    resets = draw_resets(evaluation, rare, np.random.default_rng(0), accepted=10_000)
    assert resets.drawn == pytest.approx(10_000 / p_w, rel=0.05)
    length = 4 * float(accepted_mass(evaluation, 1.0).sum())
    assert resets.steps == pytest.approx(resets.drawn * length, rel=1e-9)
    rarest = draw_resets(evaluation, rare * 1e-200, np.random.default_rng(0), accepted=10_000)
    assert rarest.drawn == pytest.approx(1e200 * 10_000 / p_w, rel=0.05)
    assert rarest.steps == pytest.approx(rarest.drawn * length, rel=1e-9)
    nowhere = np.where(np.arange(5) == 4, 1.0, 0.0)  # the terminal state only
    with pytest.raises(ValueError, match="resets: p_w = 0, so that no state is ever accepted"):
        draw_resets(evaluation, nowhere, np.random.default_rng(0), accepted=10)


@each
def test_draw_resets__are_those_of_a_simulation(evaluation: Evaluation) -> None:
    """`accept` draws them from simulated episodes, which takes longer."""
    rng, episodes = np.random.default_rng(5), 40_000
    simulator = TabularSimulator(evaluation.mdp, evaluation.policy)
    starts = rng.choice(5, size=episodes, p=evaluation.mdp.start)
    walk = simulator.walk(starts, np.zeros(episodes, dtype=np.intp), rng)
    weights = np.where(walk.states >= 0, WEIGHTS[np.arange(4), walk.states], 0.0)
    rows, cuts = accept(weights, rng)
    simulated = np.zeros((4, 5))
    np.add.at(simulated, (cuts, walk.states[rows, cuts]), 1)
    resets = draw_resets(evaluation, WEIGHTS, rng, accepted=len(rows))
    drawn = np.zeros((4, 5))
    np.add.at(drawn, (resets.step, resets.state), 1)
    seen = simulated + drawn > 0
    assert chi2_contingency([simulated[seen], drawn[seen]]).pvalue > 1e-3
    error = math.sqrt(len(rows) * (1 - len(rows) / episodes)) * episodes / len(rows)
    assert abs(resets.drawn - episodes) <= 4 * math.sqrt(2) * error
    length = 4 * float(accepted_mass(evaluation, 1.0).sum())
    assert abs(walk.ends.mean() - length) <= 4 * walk.ends.std() / math.sqrt(episodes)


def test_draw_resets__long_episodes_come_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand episodes of ten thousand steps at once would need gigabytes."""
    base = evaluate(mdp := envs.lock_chain(50, 2), uniform_policy(mdp))
    monkeypatch.setattr(module, "BATCH_STEPS", 1000)
    sizes: list[int] = []
    walk = TabularSimulator.walk

    def counted(self: TabularSimulator, states: Any, steps: Any, rng: Any) -> Any:
        sizes.append(len(states))
        return walk(self, states, steps, rng)

    monkeypatch.setattr(TabularSimulator, "walk", counted)
    weights = np.zeros((50, 51))
    weights[:5] = 1.0
    assert len(draw_resets(base, weights, np.random.default_rng(0), accepted=30)) == 30
    assert max(sizes) == 20


def test_draw_resets__discounted() -> None:
    """States follow d·w/p_w, mean returns are Q up to the cut, and draws stop geometrically."""
    mdp = ENDING.with_time(discount=0.7)
    evaluation = evaluate(mdp, interior_policy(ENDING, 3)[0])
    weights = WEIGHTS[0]
    resets = draw_resets(evaluation, weights, np.random.default_rng(0), accepted=N)
    mass = accepted_mass(evaluation, weights)
    p_w = mass.sum()
    assert not resets.step.any()
    assert likely(np.bincount(resets.state, minlength=5), N * mass / p_w)
    assert likely(np.bincount(resets.action), np.full(3, N / 3))
    assert 0 < resets.tail <= 0.1 / N < resets.tail / 0.7
    for s, a in np.ndindex(4, 3):
        returns = resets.ret[(resets.state == s) & (resets.action == a)]
        error = returns.std(ddof=1) / math.sqrt(len(returns))
        assert abs(returns.mean() - evaluation.Q[s, a]) <= 4 * error, (s, a)
    assert abs(resets.drawn - N / p_w) <= 4 * math.sqrt(N * (1 - p_w)) / p_w
    on_the_way = resets.drawn * evaluation.occupancy[:4].sum() / 0.3
    assert 0 < resets.steps - on_the_way < N * math.log(resets.tail) / math.log(0.7)


@pytest.mark.parametrize("discount", [0.0, 0.6, 0.95])
def test_draw_resets__discounted_returns_are_cut(discount: float) -> None:
    """A state that pays 1 for ever: (1 − γ^K)/(1 − γ)."""
    mdp = TabularMDP(np.ones((1, 1, 1)), np.ones((1, 1)), np.ones(1), discount=discount)
    base = evaluate(mdp, np.ones((1, 1)))
    resets = draw_resets(base, np.ones(1), np.random.default_rng(0), accepted=50)
    np.testing.assert_allclose(resets.ret, (1 - resets.tail) / (1 - discount), rtol=1e-12)
    length = module.cut_after(discount, 50)
    assert resets.tail == discount**length <= 1 / 500 < (discount ** (length - 1) or 1)
    assert resets.drawn == 50 and resets.steps == round(50 / (1 - discount)) + 50 * length


def test_draw_resets__too_long_discounted_returns_are_refused() -> None:
    mdp = world(1, discount=1 - 1e-6)
    base = evaluate(mdp, uniform_policy(mdp))
    with pytest.raises(ValueError, match=r"discount: returns at 0\.999999 take 4,605,16\d steps"):
        draw_resets(base, np.ones(5), np.random.default_rng(0), accepted=10)


def test_draw_resets__weights_above_1_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weights: must lie in \[0, 1\], found 1.5"):
        evaluation = EVALUATIONS["stationary"]
        draw_resets(evaluation, np.full(5, 1.5), np.random.default_rng(0), accepted=1)


def test_resets_part__has_its_rows_and_no_costs() -> None:
    resets = Resets(
        np.arange(4), np.arange(4) + 10, np.arange(4) + 20, np.array([0.0, 1, 2, 3]), 9, 99
    )
    part = resets.part(slice(1, 3))
    assert part.step.tolist() == [1, 2] and part.state.tolist() == [11, 12]
    assert part.action.tolist() == [21, 22] and part.ret.tolist() == [1.0, 2.0]
    assert (len(part), part.drawn, part.steps) == (2, 0, 0)
