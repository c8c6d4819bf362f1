"""Exact moments of adaptive plans: brute force over all groups, closed forms, simulation."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import envs
from cpi.core.collect import collect
from cpi.core.episodes import Episode, Prefix
from cpi.core.plans import GroupPlan
from cpi.core.resets import NoisyLocalizer, RandomReset, ResetRule, SelfReset
from cpi.tabular.gradient import Moments, exact_moments, group_gradient
from cpi.tabular.simulator import TabularSimulator
from envs import TabularMDP
from tests.cpi.tabular.test_exact_moments import (
    BATCHES,
    STARTS,
    all_paths,
    assert_same,
    assert_within,
    group_sum,
)
from tests.cpi.tabular.test_gradient import oracle

#: Sum of advantages times scores, steps and episodes of a start's groups, with their probability.
Outcome = tuple[float, Any, int, int]


def brute_force(mdp: TabularMDP, policy: Any, plan: GroupPlan, rule: ResetRule) -> Moments:
    """Every joint outcome of all groups, one by one."""

    @cache
    def weights(start: int, steps: Any) -> Any:
        (w,) = rule.weights([Episode(Prefix(start), np.array(steps), 0.0, True, len(steps))])
        return w / max(w.sum(), 1e-300)

    def groups(start: int, kept: Any, state: int, size: int, left: int) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for group in itertools.product(all_paths(mdp, policy, state, len(kept)), repeat=size):
            p = math.prod(path[0] for path in group)
            length = sum(len(path[2]) for path in group)
            total = group_sum(policy, group, 0.0, "group")
            if not left or any(sum(path[1]) == 1.0 for path in group):
                outcomes.append((p, total, length, size))
                continue
            whole = [(*kept, *path[2]) for path in group]
            drawn = min(size, plan.localized or size)
            orders = list(itertools.permutations(range(size), drawn))
            for order in orders:
                options = []
                for i in order:
                    w = weights(start, whole[i])
                    options.append([(w[k], i, k) for k in np.flatnonzero(w)] or [(1.0, i, None)])
                for picks in itertools.product(*options):
                    chance = p / len(orders) * math.prod(pick[0] for pick in picks)
                    possible = [(k, i) for _, i, k in picks if k is not None]
                    if not possible:
                        outcomes.append((chance, total, length, size))
                        continue
                    k, i = max(possible, key=lambda pair: pair[0])
                    for q, more, longer, n in groups(
                        start, whole[i][:k], whole[i][k][0], plan.per_reset, left - 1
                    ):
                        outcomes.append((chance * q, total + more, length + longer, size + n))
        return outcomes

    everything = []
    for start in np.flatnonzero(mdp.start).tolist():
        for p, total, length, size in groups(start, (), start, plan.fresh, plan.retries):
            everything.append((mdp.start[start] * p, total, length, size))
    p, sums, steps, episodes = (np.array(column) for column in zip(*everything, strict=True))
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    number = p @ episodes
    mean = p @ sums / number
    square = p @ (sums**2).sum(axis=1) / number**2
    return Moments(mean.reshape(policy.shape), square - mean @ mean, p @ steps, number)


def rules(mdp: TabularMDP, policy: Any) -> dict[str, ResetRule]:
    first = oracle(mdp, policy, "first_error")
    return {
        "random": RandomReset(),
        "oracle": first,
        "noisy": SelfReset(NoisyLocalizer(first, 0.7, 0.2)),
    }


CHAIN = envs.first_error_chain(2)
POLICY = np.array([[0.6, 0.4], [0.3, 0.7], [0.5, 0.5], [0.5, 0.5]])
PLANS = {
    "one": GroupPlan(2, 1, 2, retries=1),
    "two": GroupPlan(2, 1, 2, retries=2),
    "deepest": GroupPlan(2, 1, 2, choice="deepest", retries=2),
    "deepest of two": GroupPlan(3, 1, 1, choice="deepest", candidates=2, retries=2),
}


@pytest.mark.parametrize("rule", ["random", "oracle", "noisy"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_exact_moments__adaptive_equal_brute_force(plan: GroupPlan, rule: str) -> None:
    made = rules(CHAIN, POLICY)[rule]
    ours, expected = (
        exact_moments(CHAIN, POLICY, plan, made),
        brute_force(CHAIN, POLICY, plan, made),
    )
    assert_same(ours, expected)
    assert ours.episodes == pytest.approx(expected.episodes)


def test_exact_moments__adaptive_with_recovery_and_several_starts() -> None:
    # With recovery an error need not fail, and the prefix does not determine the state.
    mdp = replace(envs.first_error_chain(2, 0.5), start=np.array([0.5, 0.25, 0.25, 0.0]))
    made = rules(mdp, POLICY)["noisy"]
    # Failures have one return only if rewards are paid or not.
    mdp = replace(mdp, rewards=(mdp.rewards == 1.0).astype(float))
    for name in ("two", "deepest"):
        ours = exact_moments(mdp, POLICY, PLANS[name], made)
        assert_same(ours, brute_force(mdp, POLICY, PLANS[name], made))


def test_exact_moments__adaptive_without_accepted_steps_is_grpo() -> None:
    class Nothing:
        cost = 0

        def weights(self, episodes: Any) -> Any:
            return [np.zeros(episode.length) for episode in episodes]

    plan = GroupPlan(4, 1, 4, choice="deepest", retries=3)
    ours = exact_moments(CHAIN, POLICY, plan, Nothing())
    grpo = exact_moments(CHAIN, POLICY, GroupPlan(4), RandomReset())
    assert_same(ours, grpo)
    assert ours.episodes == 4


def test_exact_moments__expected_rounds_of_resets_to_the_start() -> None:
    # From the first step each group of m fails with f^m, so that rounds are a geometric sum.
    class First:
        cost = 0

        def weights(self, episodes: Any) -> Any:
            return [np.eye(1, episode.length)[0] for episode in episodes]

    ours = exact_moments(CHAIN, POLICY, GroupPlan(3, 1, 2, retries=3), First())
    failure = 1 - 0.6 * 0.3
    expected = 3 + 2 * failure**3 * (1 + failure**2 + failure**4)
    assert ours.episodes == pytest.approx(expected)
    assert ours.steps == pytest.approx(2 * expected)


@pytest.mark.parametrize("name", ["noisy", "oracle"])
def test_exact_moments__adaptive_equal_simulation(name: str) -> None:
    mdp = envs.first_error_chain(4)
    policy = np.tile([0.5, 0.5], (mdp.num_states, 1))
    plan = GroupPlan(4, 1, 3, choice="deepest", candidates=2, retries=3)
    rule = rules(mdp, policy)[name]
    moments = exact_moments(mdp, policy, plan, rule)
    simulator, rng = TabularSimulator(mdp, policy), np.random.default_rng(0)
    sums, steps, episodes = [], [], []
    for _ in range(BATCHES):
        collection = collect(simulator, [0] * STARTS, plan, rule, rng)
        for number in range(STARTS):
            groups = [group for group in collection if group.start == number]
            total = sum(len(group.episodes) for group in groups)
            sums.append(total * group_gradient(policy, groups) / moments.episodes)
            episodes.append(total)
        steps.append(collection.ledger.steps / STARTS)
    estimates = np.array(sums)
    assert_within(estimates, moments.mean, "mean")
    assert_within(((estimates - moments.mean) ** 2).sum(axis=(1, 2)), moments.variance, "variance")
    assert_within(np.array(steps), moments.steps, "steps")
    assert_within(np.array(episodes), moments.episodes, "episodes")


def test_exact_moments__adaptive_needs_failures_of_one_return() -> None:
    mdp = replace(CHAIN, rewards=CHAIN.rewards + 0.25 * (np.arange(4) == 2)[:, None])
    with pytest.raises(ValueError, match="adaptive plans need failures of equal return"):
        exact_moments(mdp, POLICY, PLANS["one"], RandomReset())
