"""Sampled resets and choosers, against exact occupancies, values and advantages."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

import envs
from cpi.conservative import choosers
from cpi.conservative.choosers import (
    Choice,
    Resets,
    advantage_samples,
    draw_resets,
    exact_greedy,
    mean_returns,
    per_state_candidate,
    sampled,
    shared_candidate,
)
from cpi.core.resets import accept
from cpi.exact.improvement import policy_advantage
from cpi.exact.policies import (
    check_policy,
    deterministic_policy,
    greedy_policy,
    uniform_policy,
)
from cpi.exact.values import Evaluation, evaluate
from cpi.tabular.simulator import TabularSimulator
from envs import TabularMDP
from tests.cpi.worlds import interior_policy, world


def ending(seed: int) -> TabularMDP:
    """Four steps through five states; the last state is terminal."""
    mdp = world(seed, horizon=4)
    transitions, rewards = np.array(mdp.transitions), np.array(mdp.rewards)
    transitions[4], rewards[4] = np.eye(5)[4], 0.0
    start = np.array([0.4, 0.3, 0.1, 0.1, 0.1])
    ended = replace(mdp, transitions=transitions, rewards=rewards, start=start)
    assert ended.terminal.tolist() == [False] * 4 + [True]
    return ended


ENDING = ending(1)
WEIGHTS = np.random.default_rng(2).uniform(0.1, 0.9, (4, 5))
EVALUATIONS = {
    "time-dependent": evaluate(ENDING, interior_policy(ENDING, 3)),
    "stationary": evaluate(ENDING, interior_policy(ENDING, 3)[0]),
}
each = pytest.mark.parametrize("evaluation", EVALUATIONS.values(), ids=EVALUATIONS)


def accepted_mass(evaluation: Evaluation, weights: Any) -> Any:
    """d^π·w of the states that are not terminal, shape (H, S)."""
    return evaluation.occupancy * weights * ~evaluation.mdp.terminal


def likely(counts: Any, expected: Any) -> bool:
    """Whether a chi-square test accepts these counts at level 1e-3."""
    kept = expected > 0
    assert not counts[~kept].any()
    return bool(chisquare(counts[kept], expected[kept]).pvalue > 1e-3)


# Resets.

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
    monkeypatch.setattr(choosers, "BATCH_STEPS", 1000)
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


def test_draw_resets__needs_a_horizon() -> None:
    mdp = world(1, discount=0.9)
    evaluation = evaluate(mdp, uniform_policy(mdp))
    with pytest.raises(ValueError, match="needs a horizon"):
        draw_resets(evaluation, np.ones(5), np.random.default_rng(0), accepted=1)


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


# Advantages measured from resets.


def made(step: list[int], state: list[int], action: list[int], ret: list[float]) -> Resets:
    return Resets(np.array(step), np.array(state), np.array(action), np.array(ret), 0, 0)


def test_advantage_samples__by_hand() -> None:
    """|A| (π'(a|s) − π(a|s)) (G − b), with three actions."""
    mdp = envs.needle(0.5, horizon=2, num_actions=3)
    policy = np.zeros((2, 3, 3))
    policy[0], policy[1] = [0.2, 0.3, 0.5], [0.6, 0.3, 0.1]
    candidate = np.tile([1.0, 0.0, 0.0], (3, 1))
    baseline = np.array([[0.0, 0.5, 1.0], [0.25, 0.0, 0.0]])
    resets = made([0, 0, 1], [1, 2, 0], [0, 1, 2], [2.0, 1.5, 1.0])
    samples = advantage_samples(evaluate(mdp, policy), candidate, resets, baseline)
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
        "returns": mean_returns(evaluation, other),
    }
    weights = WEIGHTS * ~ENDING.terminal
    greedy = greedy_policy(evaluation.Q)
    candidates = [greedy, greedy[1], 0.5 * greedy + 0.5 * interior_policy(ENDING, 7)]
    spreads = []
    for candidate in candidates:
        samples = advantage_samples(evaluation, candidate, resets, baselines[kind])
        expected = policy_advantage(evaluation, candidate, weights)
        error = samples.std(ddof=1) / math.sqrt(N)
        assert abs(samples.mean() - expected) <= 4 * error
        assert abs(expected) > 8 * error  # enough power to detect a factor of 2
        spreads.append(samples.std())
    if kind == "returns":
        plain = advantage_samples(evaluation, candidates[0], resets, baselines["none"]).std()
        assert spreads[0] < plain


def test_mean_returns__by_hand() -> None:
    mdp = envs.needle(0.5, horizon=2, num_actions=2)
    evaluation = evaluate(mdp, uniform_policy(mdp))
    resets = made([0, 0, 1], [1, 1, 2], [0, 1, 0], [2.0, 1.0, 0.0])
    np.testing.assert_allclose(mean_returns(evaluation, resets)[[0, 1], [1, 2]], [1.5, 0.0])


# Candidates.


def test_shared_candidate__by_hand() -> None:
    """Action 1 returns 2 and 1, action 0 returns 1.4 on average, action 2 was never taken."""
    mdp = envs.needle(0.5, horizon=2, num_actions=3)
    evaluation = evaluate(mdp, uniform_policy(mdp))
    resets = made([0, 1, 0, 1], [1, 2, 0, 0], [1, 1, 0, 0], [2.0, 1.0, 2.8, 0.0])
    expected = deterministic_policy(np.full((2, 3), 1), 3)
    np.testing.assert_array_equal(shared_candidate(evaluation, resets), expected)
    # A return below all others is still better than none.
    lone = made([0], [1], [2], [-7.0])
    np.testing.assert_array_equal(
        shared_candidate(evaluation, lone), deterministic_policy(np.full((2, 3), 2), 3)
    )


def test_per_state_candidate__by_hand() -> None:
    mdp = envs.needle(0.5, horizon=2, num_actions=3)
    policy = interior_policy(mdp, 1)
    evaluation = evaluate(mdp, policy)
    resets = made([0, 0, 0, 1, 1], [1, 1, 1, 1, 2], [0, 1, 1, 0, 2], [1.4, 2.0, 1.0, -3.0, 0.5])
    candidate = per_state_candidate(evaluation, resets)
    expected = np.array(policy)
    expected[0, 1] = [0, 1, 0]  # 1.5 on average beats 1.4
    expected[1, 1] = [1, 0, 0]  # the only action tried there
    expected[1, 2] = [0, 0, 1]
    np.testing.assert_array_equal(candidate, expected)
    stationary = evaluate(mdp, policy[0])
    assert check_policy(mdp, per_state_candidate(stationary, resets)).shape == (2, 3, 3)


def test_per_state_candidate__greedy_given_many_resets() -> None:
    mdp = envs.needle(0.4, horizon=2, num_actions=3)
    evaluation = evaluate(mdp, uniform_policy(mdp))
    resets = draw_resets(evaluation, np.ones((2, 3)), np.random.default_rng(0), accepted=N)
    needle = per_state_candidate(evaluation, resets)[:, 0]
    np.testing.assert_array_equal(needle, np.tile([1.0, 0.0, 0.0], (2, 1)))
    np.testing.assert_array_equal(shared_candidate(evaluation, resets)[..., 0], np.ones((2, 3)))


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
    candidate = per_state_candidate(evaluation, half)
    np.testing.assert_array_equal(choice.candidate, candidate)
    baseline = mean_returns(evaluation, half)
    samples = advantage_samples(evaluation, candidate, rest, baseline)
    assert choice.advantage == pytest.approx(samples.mean())


def test_sampled__lower_bound_holds_with_offset_rewards() -> None:
    """Rewards are 100 and 101, so the width in the bound is 1 per step."""
    mdp = envs.needle(0.05, horizon=8, num_actions=2)
    far = replace(mdp, rewards=mdp.rewards + 100.0)
    evaluation = evaluate(far, uniform_policy(far))
    weights = np.ones((8, 3))
    chosen = choices(evaluation, 200, sampled(8, "shared", delta=0.1, bound="hoeffding"), weights)
    true = np.array([policy_advantage(evaluation, c.candidate, weights) for c in chosen])
    assert (np.array([c.lower for c in chosen]) > true).mean() <= 0.1


def test_advantage_samples__bounded_with_offset_rewards() -> None:
    mdp = envs.needle(0.3, horizon=6, num_actions=2)
    far = replace(mdp, rewards=mdp.rewards - 50.0)
    evaluation = evaluate(far, uniform_policy(far))
    rng = np.random.default_rng(0)
    few = draw_resets(evaluation, np.ones((6, 3)), rng, accepted=4)
    resets = draw_resets(evaluation, np.ones((6, 3)), rng, accepted=500)
    candidate = shared_candidate(evaluation, few)
    samples = advantage_samples(evaluation, candidate, resets, mean_returns(evaluation, few))
    assert np.abs(samples).max() <= mdp.num_actions * 6 * mdp.reward_width


@pytest.mark.parametrize("resets", [3, 0, -1])
def test_sampled__fewer_than_four_resets_are_refused(resets: int) -> None:
    with pytest.raises(ValueError, match=rf"resets: {resets} is below 4, two to choose"):
        sampled(resets, "shared")
    assert sampled(4, "shared") is not None


def test_sampled__unknown_options_are_refused() -> None:
    wrong: Any = "tabular"
    with pytest.raises(ValueError, match=r"policy_class: 'tabular' is neither 'shared' nor 'per_"):
        sampled(10, wrong)
    with pytest.raises(ValueError, match=r"bound: 'tabular' is not 'bernstein', 'hoeffding' or"):
        sampled(10, "shared", bound=wrong)
    with pytest.raises(ValueError, match=r"delta: 2 is not in \(0, 1\)"):
        sampled(10, "shared", delta=2)(EVALUATIONS["stationary"], WEIGHTS, np.random.default_rng(0))
