"""Exact moments of group gradients: brute force over every joint outcome, and simulation."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import envs
from cpi import PolicyError
from cpi.core.collect import Group, collect
from cpi.core.episodes import Episode, Prefix
from cpi.core.plans import ALGORITHMS, GroupPlan, World
from cpi.core.resets import NoisyLocalizer, RandomReset, ResetRule
from cpi.tabular.gradient import (
    Moments,
    compositions,
    enumerate_paths,
    exact_moments,
    group_gradient,
    multinomial,
    policy_gradient,
    softmax_policy,
)
from cpi.tabular.simulator import TabularSimulator
from envs import TabularMDP
from tests.cpi.tabular.test_gradient import (
    HAND_POLICY,
    RULES,
    TINY,
    TINY_POLICY,
    chain,
    made_up,
    noisy,
    oracle,
    theta,
)
from tests.cpi.worlds import world


def test_equal_returns_give_no_gradient() -> None:
    group = Group(0, Prefix(0), [made_up(1.0, (0, 0)), made_up(1.0, (0, 1))])
    assert not group_gradient(HAND_POLICY, [group]).any()


# Exact moments against every joint outcome, one by one.

#: A trajectory: probability, rewards, (state, action) steps.
Path = tuple[float, tuple[float, ...], tuple[tuple[int, int], ...]]
#: Outcomes: probabilities (n,), sums Σ Â φ (n, S·A), steps generated (n,).
Outcomes = tuple[Any, Any, Any]


def all_paths(mdp: TabularMDP, policy: Any, state: int, step: int) -> list[Path]:
    if step == mdp.horizon or mdp.terminal[state]:
        return [(1.0, (), ())]
    paths: list[Path] = []
    for action in range(mdp.num_actions):
        for following in range(mdp.num_states):
            odds = policy[state, action] * mdp.transitions[state, action, following]
            if odds > 0:
                for p, rewards, steps in all_paths(mdp, policy, following, step + 1):
                    reward = float(mdp.rewards[state, action])
                    paths.append((odds * p, (reward, *rewards), ((state, action), *steps)))
    return paths


def group_sum(policy: Any, group: Sequence[Path], before: float, scale: str) -> Any:
    """Σ Â φ of paths whose shared prefix paid `before`."""
    returns = [before + sum(rewards) for _, rewards, _ in group]
    mean = statistics.fmean(returns)
    spread = 1.0
    if scale == "group":
        spread = 1e-4 + (statistics.stdev(returns) if len(returns) > 1 else 0.0)
    total = np.zeros_like(policy)
    for ret, (_, _, steps) in zip(returns, group, strict=True):
        for state, action in steps:
            onehot = np.arange(policy.shape[1]) == action
            total[state] += (ret - mean) / spread * (onehot - policy[state])
    return total.ravel()


def brute_force(
    mdp: TabularMDP,
    policy: Any,
    plan: GroupPlan,
    rule: ResetRule,
    scale: str = "group",
    success: float = 1.0,
) -> Moments:
    """Mean, variance and cost, by all groups, seed choices, step choices and reset groups."""

    @cache
    def reset_group(state: int, step: int, before: float) -> Outcomes:
        groups = list(itertools.product(all_paths(mdp, policy, state, step), repeat=plan.per_reset))
        probability = [math.prod(path[0] for path in group) for group in groups]
        sums = [group_sum(policy, group, before, scale) for group in groups]
        steps = [sum(len(path[2]) for path in group) for group in groups]
        return np.array(probability), np.array(sums), np.array(steps)

    @cache
    def cuts(start: int, path: Path) -> list[tuple[float, int | None, tuple[int, int, float]]]:
        """Probability, steps kept, and (state, step, prefix reward) of the reset group."""
        _, rewards, steps = path
        ret = sum(rewards)
        episode = Episode(Prefix(start), np.array(steps), ret, ret < success, len(steps))
        (w,) = rule.weights([episode])
        if w.sum() == 0:
            return [(1.0, None, (start, 0, 0.0))]
        return [
            (w[k] / w.sum(), k, (steps[k][0], k, sum(rewards[:k])))
            for k in range(len(steps))
            if w[k] > 0
        ]

    chances: list[float] = []
    mean, square, cost = np.zeros(policy.size), 0.0, 0.0
    for start in np.flatnonzero(mdp.start).tolist():
        paths = all_paths(mdp, policy, start, 0)
        for pool in itertools.product(paths, repeat=plan.fresh or plan.resets):
            chance = mdp.start[start] * math.prod(path[0] for path in pool)
            fresh = group_sum(policy, pool, 0.0, scale) if plan.fresh else np.zeros(policy.size)
            spent = sum(len(path[2]) for path in pool)
            seeds = [
                path
                for path in pool
                if path[2] and (plan.seeds == "any" or sum(path[1]) < success - 1e-9)
            ]
            drawn = len(seeds) if plan.choice == "deepest" else min(plan.resets, len(seeds))
            orders = list(itertools.permutations(seeds, drawn)) if plan.resets else [()]
            for order in orders:
                for cut in itertools.product(*(cuts(start, path) for path in order)):
                    possible = [(k, origin) for _, k, origin in cut if k is not None]
                    if plan.choice == "deepest":
                        possible.sort(key=lambda pair: -pair[0])
                    origins = [origin for _, origin in possible[: plan.resets]]
                    origins += [(start, 0, 0.0)] * (plan.resets - len(origins))
                    p = np.array([chance / len(orders) * math.prod(c[0] for c in cut)])
                    sums, steps = fresh[None], np.array([spent])
                    for origin in origins:
                        more, added, longer = reset_group(*origin)
                        p = np.multiply.outer(p, more).ravel()
                        sums = (sums[:, None] + added).reshape(-1, policy.size)
                        steps = np.add.outer(steps, longer).ravel()
                    g = sums / plan.rollouts
                    chances.append(p.sum())
                    mean += p @ g
                    square += p @ (g**2).sum(axis=1)
                    cost += p @ steps
    assert sum(chances) == pytest.approx(1.0, abs=1e-12)
    variance = float(square - mean @ mean)
    return Moments(mean.reshape(policy.shape), variance, float(cost), plan.rollouts)


def assert_same(ours: Moments, expected: Moments) -> None:
    np.testing.assert_allclose(ours.mean, expected.mean, rtol=0, atol=1e-10)
    assert ours.variance == pytest.approx(expected.variance, abs=1e-10)
    assert ours.steps == pytest.approx(expected.steps, abs=1e-10)
    assert expected.variance > 1e-3


PLANS = [
    GroupPlan(3),
    GroupPlan(2, 1, 2),
    GroupPlan(3, 1, 2, seeds="any"),
    GroupPlan(0, 1, 2),
    GroupPlan(0, 2, 2),
    GroupPlan(0, 2, 2, seeds="any"),
    GroupPlan(2, 2, 2),
    GroupPlan(2, 2, 2, seeds="any"),
    GroupPlan(3, 2, 2),
    GroupPlan(1, 3, 2),
]


def name(plan: GroupPlan) -> str:
    return f"{plan.fresh}+{plan.resets}x{plan.per_reset} {plan.seeds}"


@pytest.mark.parametrize("scale", ["group", "none"])
@pytest.mark.parametrize("plan", PLANS, ids=name)
def test_exact_moments__equal_brute_force(plan: GroupPlan, scale: Any) -> None:
    rule = noisy(TINY, TINY_POLICY)
    expected = brute_force(TINY, TINY_POLICY, plan, rule, scale)
    assert_same(exact_moments(TINY, TINY_POLICY, plan, rule, scale=scale), expected)


@pytest.mark.parametrize("seeds", ["failed", "any"])
@pytest.mark.parametrize("fresh", [2, 0])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_exact_moments__equal_brute_force_for_every_rule(
    rule: Callable[[TabularMDP, Any], ResetRule], fresh: int, seeds: Any
) -> None:
    plan = GroupPlan(fresh, 1, 2, seeds=seeds)
    made = rule(TINY, TINY_POLICY)
    expected = brute_force(TINY, TINY_POLICY, plan, made)
    assert_same(exact_moments(TINY, TINY_POLICY, plan, made), expected)


def test_the_rules_differ_on_the_tiny_world() -> None:
    """Four of the five rules differ; "improvable" equals "largest" on this MDP."""
    plan = GroupPlan(2, 1, 2)
    moments_of_rules = [
        exact_moments(TINY, TINY_POLICY, plan, r(TINY, TINY_POLICY)) for r in RULES.values()
    ]
    assert len({round(moments.variance, 9) for moments in moments_of_rules}) == 4


@pytest.mark.parametrize("success", [0.5, 2.0])
def test_exact_moments__success_sets_the_failures(success: float) -> None:
    plan = GroupPlan(2, 1, 2)
    rule = RandomReset()
    expected = brute_force(TINY, TINY_POLICY, plan, rule, success=success)
    moments = exact_moments(TINY, TINY_POLICY, plan, rule, success=success)
    assert_same(moments, expected)
    assert moments.steps != pytest.approx(exact_moments(TINY, TINY_POLICY, plan, rule).steps)


@pytest.mark.parametrize("plan", [GroupPlan(2, 1, 2), GroupPlan(0, 1, 2)], ids=name)
def test_exact_moments__branching_mdp(plan: GroupPlan) -> None:
    mdp = world(8, 3, 2, horizon=2)
    mdp = replace(mdp, rewards=np.round(mdp.rewards * 2) / 2)
    policy = softmax_policy(theta(mdp, 8))
    expected = brute_force(mdp, policy, plan, RandomReset(), success=0.5)
    assert_same(exact_moments(mdp, policy, plan, RandomReset(), success=0.5), expected)


def test_an_offset_of_the_rewards_changes_no_gradient() -> None:
    """With episodes of equal length all returns, and the success threshold, shift together."""
    mdp, policy = envs.first_error_chain(3), np.tile([0.6, 0.4], (6, 1))
    everywhere = replace(mdp, rewards=mdp.rewards + 2.0 * ~mdp.terminal[:, None])
    plan, rule = GroupPlan(2, 1, 2), RandomReset()
    ours = exact_moments(everywhere, policy, plan, rule, success=7.0)
    assert_same(ours, exact_moments(mdp, policy, plan, rule))


@pytest.mark.parametrize("unit", [1e-60, 1e-12, 1e12, 1e60])
def test_exact_moments__scale_with_the_unit_of_reward(unit: float) -> None:
    mdp, policy = envs.first_error_chain(4), np.tile([0.6, 0.4], (8, 1))
    plan, rule = GroupPlan(4, 1, 4), RandomReset()
    expected = exact_moments(mdp, policy, plan, rule, scale="none")
    scaled = replace(mdp, rewards=unit * mdp.rewards)
    ours = exact_moments(scaled, policy, plan, rule, scale="none", success=unit)
    np.testing.assert_allclose(ours.mean, unit * expected.mean, rtol=1e-12)
    assert ours.variance == pytest.approx(unit**2 * expected.variance, rel=1e-12)
    assert ours.steps == pytest.approx(expected.steps, rel=1e-12)


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("mdp", [TINY, chain()[0]], ids=["tiny", "chain"])
def test_the_group_mean_takes_a_share_of_the_gradient(mdp: TabularMDP, size: int) -> None:
    """Each return has weight 1/G in its own baseline."""
    policy = softmax_policy(theta(mdp, 5))
    moments = exact_moments(mdp, policy, GroupPlan(size), RandomReset(), scale="none")
    expected = (1 - 1 / size) * policy_gradient(mdp, policy)
    np.testing.assert_allclose(moments.mean, expected, rtol=0, atol=1e-13)


def test_two_rollouts_of_one_step_by_hand() -> None:
    """Only groups whose returns differ contribute: with probability 2q(1−q), Â = ±c."""
    q, c = 0.3, 0.5 / (math.sqrt(0.5) + 1e-4)
    mdp = envs.first_error_chain(1)
    policy = np.array([[q, 1 - q], [0.5, 0.5]])[: mdp.num_states]
    moments = exact_moments(mdp, policy, GroupPlan(2), RandomReset())
    # There Σ Â φ = c (φ(0) − φ(1)) = c (1, −1), over 2 episodes.
    chance = 2 * q * (1 - q)
    np.testing.assert_allclose(moments.mean[0], chance * c / 2 * np.array([1, -1]), atol=1e-14)
    assert moments.variance == pytest.approx(chance * (1 - chance) * c**2 / 2)
    assert moments.steps == 2


@pytest.mark.parametrize(
    ("plan", "scale"),
    [(GroupPlan(2, 1, 2, choice="deepest"), "group"), (GroupPlan(2), "batch")],
    ids=["deepest", "batch"],
)
def test_exact_moments__deepest_and_batch_scale_are_refused(plan: GroupPlan, scale: Any) -> None:
    with pytest.raises(ValueError, match=r"scale 'group' or 'none', and choice='random'"):
        exact_moments(TINY, TINY_POLICY, plan, RandomReset(), scale=scale)


def test_signal_and_noise_by_hand() -> None:
    moments = Moments(np.array([[3.0, 4.0]]), 25.0, 1.0, 1.0)
    gradient = np.array([[0.0, 2.0]])
    assert moments.signal(gradient) == pytest.approx(4.0)
    assert moments.snr(gradient) == pytest.approx(0.8)


def test_compositions_and_their_probabilities() -> None:
    assert sorted(compositions(2, 2)) == [(0, 2), (1, 1), (2, 0)]
    p = np.array([0.2, 0.5, 0.3])
    parts = list(compositions(5, 3))
    assert len(set(parts)) == len(parts) == math.comb(7, 2)
    assert sum(multinomial(counts, p) for counts in parts) == pytest.approx(1.0)
    assert multinomial((2, 1, 1), p) == pytest.approx(12 * 0.04 * 0.5 * 0.3)


# Exact moments against simulation.

BATCHES, STARTS = 15, 200


def simulate(
    mdp: TabularMDP, policy: Any, plan: GroupPlan, rule: ResetRule, seed: int = 0
) -> tuple[Any, Any]:
    """Estimates (n, S, A), one per start, and steps per start of each batch."""
    simulator = TabularSimulator(mdp, policy)
    rng = np.random.default_rng(seed)
    estimates, steps = [], []
    for _ in range(BATCHES):
        starts = simulator.draw_starts(STARTS, rng)
        collection = collect(simulator, starts, plan, rule, rng)
        by_start: list[list[Group]] = [[] for _ in starts]
        for group in collection:
            by_start[group.start].append(group)
        estimates += [group_gradient(policy, groups) for groups in by_start]
        steps.append(collection.ledger.steps / STARTS)
    return np.array(estimates), np.array(steps)


def assert_within(samples: Any, expected: Any, name: str) -> None:
    """Assert means within 4 standard errors, or within rounding if nothing varies."""
    error = samples.std(axis=0, ddof=1) / math.sqrt(len(samples))
    off = np.abs(samples.mean(axis=0) - expected)
    assert (off <= 4 * error + 1e-12).all(), f"{name}: off by {off}, standard error {error}"


def assert_simulated(moments: Moments, estimates: Any, steps: Any) -> None:
    assert_within(estimates, moments.mean, "mean")
    deviations = ((estimates - moments.mean) ** 2).sum(axis=(1, 2))
    assert_within(deviations, moments.variance, "variance")
    assert deviations.mean() == pytest.approx(moments.variance, rel=0.08)
    assert_within(steps, moments.steps, "steps")
    assert steps.mean() == pytest.approx(moments.steps, rel=0.02)


@pytest.mark.parametrize("algorithm", ["grpo", "rrpo", "srpo", "oracle"])
def test_the_four_algorithms_have_their_exact_moments(algorithm: str) -> None:
    mdp, policy = chain()
    localizer = NoisyLocalizer(oracle(mdp, policy, "first_error"), 0.7, 0.2)
    tabular = World(oracle(mdp, policy, "improvable", 0.1), localizer)
    plan, rule = ALGORITHMS[algorithm].plan, ALGORITHMS[algorithm].rule(tabular)
    moments = exact_moments(mdp, policy, plan, rule)
    assert_simulated(moments, *simulate(mdp, policy, plan, rule))


@pytest.mark.parametrize("rule", ["random", "self"])
@pytest.mark.parametrize("plan", [(4, 1, 4), (0, 2, 4), (0, 1, 8), (4, 2, 2)], ids=str)
def test_every_split_has_its_exact_moments(plan: tuple[int, int, int], rule: str) -> None:
    mdp, policy = chain()
    made, split = RULES[rule](mdp, policy), GroupPlan(*plan)
    moments = exact_moments(mdp, policy, split, made)
    assert_simulated(moments, *simulate(mdp, policy, split, made, seed=1))


def test_brute_force__deepest_resets_equal_simulation() -> None:
    plan = GroupPlan(3, 1, 2, choice="deepest")
    rule = RandomReset()
    expected = brute_force(TINY, TINY_POLICY, plan, rule)
    estimates, steps = simulate(TINY, TINY_POLICY, plan, rule, seed=2)
    assert_simulated(expected, estimates, steps)
    shallow = exact_moments(TINY, TINY_POLICY, replace(plan, choice="random"), rule)
    error = steps.std(ddof=1) / math.sqrt(len(steps))
    assert shallow.steps > steps.mean() + 4 * error  # later resets are shorter


def test_exact_moments__too_many_group_outcomes_are_refused() -> None:
    mdp = envs.garnet(num_states=3, num_actions=2, branching=2, seed=1, horizon=3)
    with pytest.raises(ValueError, match=r"a group of 8 with .* distinct returns has"):
        exact_moments(mdp, np.full((3, 2), 0.5), GroupPlan(8), RandomReset())
    with pytest.raises(ValueError, match=r"a group of 8 with .* distinct returns has"):
        exact_moments(mdp, np.full((3, 2), 0.5), GroupPlan(0, 8, 1), RandomReset())


def test_paths__close_returns_are_counted_once() -> None:
    rewards = np.array([[1.0, 1.0 + 1e-14], [0.0, 0.0]])
    mdp = TabularMDP(np.eye(2)[[[1, 1], [1, 1]]], rewards, np.eye(2)[0], horizon=1)
    paths = enumerate_paths(mdp, np.full((2, 2), 0.5), 0)
    assert paths.value_probability.tolist() == [1.0]


def test_paths__small_differences_are_returns_of_their_own() -> None:
    rewards = np.array([[5e-10, 1e-10], [0.0, 0.0]])
    mdp = TabularMDP(np.eye(2)[[[1, 1], [1, 1]]], rewards, np.eye(2)[0], horizon=1)
    paths = enumerate_paths(mdp, np.full((2, 2), 0.5), 0)
    assert paths.values.tolist() == [1e-10, 5e-10]
    assert paths.value_probability.tolist() == [0.5, 0.5]


@dataclass
class Weighted:
    """A rule of somebody's own, with the weights of a function of the length."""

    function: Callable[[int], Any]
    cost: int = 0

    def weights(self, episodes: Sequence[Episode]) -> Any:
        return [self.function(episode.length) for episode in episodes]


@pytest.mark.parametrize("weight", [1.0, 1e308, 5e-324])
def test_exact_moments__weights_of_any_size(weight: float) -> None:
    mdp, policy = envs.first_error_chain(3), np.tile([0.6, 0.4], (6, 1))
    plan = GroupPlan(2, 1, 2)
    ours = exact_moments(mdp, policy, plan, Weighted(lambda n: [weight] * n))
    assert_same(ours, exact_moments(mdp, policy, plan, RandomReset()))


@pytest.mark.parametrize(
    "function",
    [lambda n: np.arange(n) - 1.0, lambda n: np.full(n, np.nan), lambda n: np.ones(n - 1)],
    ids=["negative", "nan", "short"],
)
def test_exact_moments__weights_are_checked(function: Any) -> None:
    mdp, policy = envs.first_error_chain(3), np.tile([0.6, 0.4], (6, 1))
    with pytest.raises(ValueError, match=r"Weighted: episode 0 has 3 steps, its weights are"):
        exact_moments(mdp, policy, GroupPlan(2, 1, 2), Weighted(function))


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_snr__nan_for_a_policy_that_never_explores(right: float) -> None:
    mdp, policy = envs.first_error_chain(3), np.tile([right, 1 - right], (6, 1))
    moments = exact_moments(mdp, policy, GroupPlan(4), RandomReset())
    gradient = policy_gradient(mdp, policy)
    assert np.isnan(moments.signal(gradient)) and np.isnan(moments.snr(gradient))
    assert np.isnan(Moments(np.ones(2), -1e-20, 1.0, 1.0).snr(np.ones(2)))


def test_exact_moments__time_dependent_policy_is_refused() -> None:
    mdp = envs.first_error_chain(2)
    with pytest.raises(ValueError, match=r"a softmax policy has shape \(S, A\)"):
        exact_moments(mdp, np.full((2, mdp.num_states, 2), 0.5), GroupPlan(2), RandomReset())


def test_exact_moments__rows_that_do_not_sum_to_1_are_refused() -> None:
    mdp = envs.first_error_chain(3)
    policy = np.full((mdp.num_states, 2), 0.7)
    message = r"policy: state 0 has probabilities .* \(they sum to 1\.4\)"
    with pytest.raises(PolicyError, match=message):
        exact_moments(mdp, policy, GroupPlan(4), RandomReset())
    with pytest.raises(PolicyError, match=message):
        policy_gradient(mdp, policy)
    with pytest.raises(PolicyError, match=message):
        enumerate_paths(mdp, policy, 0)
    with pytest.raises(PolicyError, match=message):
        group_gradient(policy, [])


# Alignment: first-order gain of an update whose length is normalised.


def test_alignment__by_hand() -> None:
    moments, gradient = Moments(np.array([3.0, 4.0]), 27.0, 1.0, 1.0), np.array([2.0, 0.0])
    assert moments.alignment(gradient, 1) == pytest.approx(3 / 6)
    assert moments.alignment(gradient, 9) == pytest.approx(3 / math.sqrt(9 + 3))
    assert moments.alignment(-gradient, 1) == pytest.approx(-3 / 6)
    assert moments.alignment(gradient, 10**12) == pytest.approx(1)
    many = replace(moments, variance=1e12)
    assert many.alignment(gradient, 9) == pytest.approx(3 * many.snr(gradient))


def test_alignment__of_an_average_over_starts() -> None:
    """Every pair of groups: mean gain along the gradient, and the mean square around the mean."""
    gradient = policy_gradient(TINY, TINY_POLICY).ravel()
    probability, estimates = [], []
    for start in np.flatnonzero(TINY.start):
        for group in itertools.product(all_paths(TINY, TINY_POLICY, int(start), 0), repeat=2):
            odds = float(TINY.start[start]) * math.prod(path[0] for path in group)
            probability.append(odds)
            estimates.append(group_sum(TINY_POLICY, group, 0.0, "group") / 2)
    p, g = np.array(probability), np.array(estimates)
    pairs, both = np.outer(p, p), (g[:, None] + g[None]) / 2
    mean = np.einsum("ij,ijk", pairs, both)
    noise = np.einsum("ij,ijk,ijk", pairs, both - mean, both - mean)
    signal = mean @ gradient / np.linalg.norm(gradient)
    moments = exact_moments(TINY, TINY_POLICY, GroupPlan(2), RandomReset())
    aligned = moments.alignment(gradient.reshape(moments.mean.shape), 2)
    assert aligned == pytest.approx(signal / math.sqrt(signal**2 + noise))
