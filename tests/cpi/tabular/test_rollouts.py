"""Rollouts of the tabular simulator: prefixes, ends, independence of rows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import envs
from cpi import PolicyError, evaluate, uniform_policy
from cpi.core.collect import collect
from cpi.core.episodes import Prefix
from cpi.core.plans import GroupPlan
from cpi.core.resets import OracleReset, RandomReset, ResetRule
from cpi.tabular.simulator import TabularOracle, TabularSimulator
from envs import TabularMDP
from tests.cpi.scripted import assert_drawn_from, assert_mean, assert_same
from tests.cpi.tabular.test_simulator import (
    MDP,
    POLICY,
    SMALL,
    always,
    flat,
    only,
    rng,
)
from tests.cpi.worlds import (
    interior_policy,
    world,
)


def test_the_horizon_ends_the_episode() -> None:
    mdp = envs.lock_chain(4, 3).with_time(horizon=2)
    episode = only(TabularSimulator(mdp, always(mdp, 0, 0)), Prefix(0))
    np.testing.assert_array_equal(episode.steps, [(0, 0), (1, 0)])
    assert (episode.cost, episode.ret, episode.failed) == (2, 0.0, True)


def test_a_terminal_start_is_an_episode_without_steps() -> None:
    mdp = envs.lock_chain(4, 3)
    simulator = TabularSimulator(mdp, uniform_policy(mdp))
    for prefix in (Prefix(4), Prefix(0, np.array([(0, 0), (1, 2)]), 4, np.zeros(2))):
        episode = only(simulator, prefix)
        assert (episode.length, episode.cost, episode.ret) == (prefix.length, 0, 0.0)
    groups = collect(simulator, [4], GroupPlan(2, 1, 2), RandomReset(), rng(0))
    assert groups.ledger.fallbacks == 1 and groups.ledger.steps == 0


def test_rollout__no_prefixes_or_no_episodes() -> None:
    simulator = TabularSimulator(MDP, POLICY)
    assert simulator.rollout([], 4, rng(0)) == []
    assert simulator.rollout([Prefix(0), Prefix(1)], 0, rng(0)) == [[], []]
    assert simulator.draw_starts(0, rng(0)) == []


def test_rollout__reset_uses_the_policy_of_its_step() -> None:
    mdp = envs.tree(depth=4, branching=3, seed=0)
    episode = only(TabularSimulator(mdp, always(mdp, 0, 1, 2, 0)), Prefix(0))
    other = TabularSimulator(mdp, always(mdp, 2, 2, 1, 1))
    first = TabularSimulator(mdp, always(mdp, 2, 2, 1, 1), first=always(mdp, 1, 0, 0, 2))
    for k in range(4):
        actions = [*(0, 1, 2, 0)[:k], *(2, 2, 1, 1)[k:]]
        np.testing.assert_array_equal(np.array(only(other, episode.prefix(k)).steps)[:, 1], actions)
        actions[k] = (1, 0, 0, 2)[k]
        np.testing.assert_array_equal(np.array(only(first, episode.prefix(k)).steps)[:, 1], actions)


def test_resets_start_in_the_state_that_was_cut() -> None:
    simulator, generator = TabularSimulator(MDP, POLICY), rng(50)
    prefixes = [Prefix(s) for s in simulator.draw_starts(50, generator)]
    episodes = [group[0] for group in simulator.rollout(prefixes, 1, generator)]
    for k in range(4):
        kept = [episode.prefix(k) for episode in episodes]
        for prefix, seed, group in zip(
            kept, episodes, simulator.rollout(kept, 3, generator), strict=True
        ):
            for again in group:
                assert again.origin is prefix
                np.testing.assert_array_equal(again.steps[:k], seed.steps[:k])
                assert seed.states is not None and again.states is not None
                assert again.states[k] == seed.states[k]
                assert (again.length, again.cost) == (4, 4 - k)


def test_rollout__prefix_with_steps_needs_a_state() -> None:
    with pytest.raises(ValueError, match="state"):
        TabularSimulator(MDP, POLICY).rollout([Prefix(0, np.array([(0, 1)]))], 1, rng(0))


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        (Prefix(1.5), r"prefix 1: state 1\.5 is not in 0 … S−1"),
        (Prefix("1"), r"prefix 1: state '1' is not in 0 … S−1"),
        (Prefix(0, (), MDP.num_states), r"prefix 1: state \d is not in 0 … S−1"),
        (Prefix(0, [(0, 0)] * 5, 0), r"prefix 1: keeps 5 steps of 4"),
        (Prefix(0, (0, 1), 0), r"prefix 1: its steps are not \(state, action\) pairs"),
        (Prefix(0, [(0.0, 1.0)], 0), "its steps are not"),
        (Prefix(0, [(0, MDP.num_actions)], 0), "its steps are not"),
        (Prefix(0, [(-1, 0)], 0), "its steps are not"),
        (Prefix(0, [(0, 0)], 0, [1.0, 5.0]), "prefix 1: 2 rewards for 1 steps"),
        (Prefix(0, [(0, 0)], 0, [np.nan]), "prefix 1: .* a finite number for each step"),
    ],
)
def test_rollout__impossible_prefixes_are_refused(prefix: Prefix, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TabularSimulator(MDP, POLICY).rollout([Prefix(np.int32(0)), prefix], 1, rng(0))


def test_rollout__episodes_are_consistent_with_the_mdp() -> None:
    mdp = envs.lock_chain(5, 2)
    simulator = TabularSimulator(mdp, np.tile([0.8, 0.2], (6, 1)))
    for episode in simulator.rollout([Prefix(1)], 50, rng(51))[0]:
        steps = np.asarray(episode.steps)
        np.testing.assert_array_equal(episode.states, steps[:, 0])
        np.testing.assert_array_equal(episode.rewards, mdp.rewards[steps[:, 0], steps[:, 1]])
        assert episode.ret == np.sum(episode.rewards)
        assert episode.cost == len(steps)
        for (s, a), following in zip(steps[:-1], steps[1:, 0], strict=True):
            assert following in mdp.successors(s, a)[0]


@pytest.mark.parametrize(
    ("success", "failed"), [(0.3, False), (0.3 + 1e-6, True), (0.2, False), (1.0, True)]
)
def test_success_is_a_return_up_to_rounding(success: float, failed: bool) -> None:
    # 0.1 + 0.1 + 0.1 is not 0.3 in binary, on either side.
    for reward in (0.1, 0.3 / 3, 0.09999999999999998):
        rewards = np.full((1, 1), reward)
        mdp = TabularMDP(np.ones((1, 1, 1)), rewards, np.ones(1), horizon=3)
        simulator = TabularSimulator(mdp, np.ones((1, 1)), success=success)
        assert only(simulator, Prefix(0)).failed == failed


@pytest.mark.parametrize("unit", [1e-90, 1e-12, 1.0, 1e12, 1e90])
def test_simulator__success_in_any_unit_of_reward(unit: float) -> None:
    mdp = envs.lock_chain(2, 2)
    mdp = replace(mdp, rewards=unit * mdp.rewards)
    for action, returned in ((0, unit), (1, 0.0)):
        for success in (unit, unit * (1 + 1e-12), unit / 2, math.inf, -math.inf):
            simulator = TabularSimulator(mdp, always(mdp, 0, action), success=success)
            failed = returned < success / (1 + 1e-9)
            assert only(simulator, Prefix(0)).failed == failed
    with pytest.raises(ValueError, match=r"success: nan is not a number"):
        TabularSimulator(mdp, always(mdp, 0, 0), success=math.nan)


def test_simulator__default_success_is_a_return_of_1() -> None:
    mdp = envs.lock_chain(2, 2)
    won, lost = (only(TabularSimulator(mdp, always(mdp, 0, a)), Prefix(0)) for a in (0, 1))
    assert not won.failed and lost.failed


# Rows of a batch


def test_rollout__first_rows_do_not_depend_on_the_batch_size() -> None:
    simulator = TabularSimulator(MDP, POLICY)
    prefixes = [Prefix(s) for s in (0, 3, 1, 4, 2)]
    everything = flat(simulator.rollout(prefixes, 4, rng(60)))
    for episodes in (
        flat(simulator.rollout(prefixes[:2], 4, rng(60))),
        flat(simulator.rollout(prefixes[:1], 3, rng(60))),
        flat(simulator.rollout([Prefix(0)] * 4, 1, rng(60))),
    ):
        for one, other in zip(episodes, everything, strict=False):
            assert_same(one, other)


def test_rollout__row_does_not_depend_on_other_rows() -> None:
    mdp = envs.lock_chain(6, 2)
    simulator = TabularSimulator(mdp, np.tile([0.8, 0.2], (7, 1)))
    late = Prefix(0, np.zeros((4, 2), dtype=int), 4, np.zeros(4))
    batches = [[Prefix(0)] * 9, [Prefix(0), Prefix(6), late] * 3, [Prefix(0), late, Prefix(5)] * 3]
    one, *others = (flat(simulator.rollout(batch, 1, rng(61))) for batch in batches)
    assert len({episode.length for episode in one[::3]}) > 1
    for other in others:
        for mine, theirs in zip(one[::3], other[::3], strict=True):
            assert_same(mine, theirs)


def test_rows_are_independent_of_one_another() -> None:
    policy = interior_policy(SMALL, 3)
    groups = TabularSimulator(SMALL, policy).rollout([Prefix(0)] * 2, 10_000, rng(62))
    steps = np.array([[e.steps for e in group] for group in groups])  # (2, 10000, 3, 2)
    pair = steps[:, :, 1, 0] * 2 + steps[:, :, 1, 1]  # state and action of the second step
    d = evaluate(SMALL, policy).occupancy_from([1.0, 0.0, 0.0])[1]
    p = (3 * d[:, None] * policy[1]).ravel()
    neighbours = pair[:, ::2] * 6 + pair[:, 1::2]
    for codes in (neighbours.ravel(), pair[0] * 6 + pair[1]):
        assert_drawn_from(np.bincount(codes, minlength=36), np.outer(p, p))


def test_the_same_generator_gives_the_same_episodes() -> None:
    simulator = TabularSimulator(MDP, POLICY)
    one, same, other = (flat(simulator.rollout([Prefix(0)], 20, rng(n))) for n in (63, 63, 64))
    for pair in zip(one, same, strict=True):
        assert_same(*pair)
    assert any((a.steps != b.steps).any() for a, b in zip(one, other, strict=True))  # type: ignore[union-attr]


def test_rollout__inputs_are_not_modified() -> None:
    simulator = TabularSimulator(MDP, POLICY)
    states, steps = np.array([0, 1, 2]), np.array([0, 2, 1])
    simulator.walk(states, steps, rng(0))
    np.testing.assert_array_equal(states, [0, 1, 2])
    np.testing.assert_array_equal(steps, [0, 2, 1])


# What is refused


def test_simulator__discounted_mdp_is_refused() -> None:
    mdp = world(0, discount=0.9)
    with pytest.raises(ValueError, match=r"TabularMDP.*: simulation needs a horizon; use mdp\.wi"):
        TabularSimulator(mdp, uniform_policy(mdp))
    with pytest.raises(ValueError, match=r"TabularMDP.*: episodes need a horizon; use mdp\.with_"):
        TabularOracle(evaluate(mdp, uniform_policy(mdp)))


def test_simulator__policy_of_another_shape_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"shape \(4, 3\), expected \(5, 3\) or \(4, 5, 3\)"):
        TabularSimulator(MDP, np.full((4, 3), 1 / 3))
    with pytest.raises(PolicyError, match="state 0 has probabilities"):
        TabularSimulator(MDP, POLICY, first=np.ones((5, 3)))


# Success after resets, against closed forms


@pytest.mark.parametrize(("length", "q"), [(6, 0.75), (3, 0.5), (10, 0.9)])
@pytest.mark.parametrize("fresh", [0, 2])
def test_success_rates_of_resets(length: int, q: float, fresh: int) -> None:
    mdp = envs.first_error_chain(length)
    policy = np.tile([q, 1 - q], (mdp.num_states, 1))
    simulator = TabularSimulator(mdp, policy)
    oracle = OracleReset(TabularOracle(evaluate(mdp, policy)), "first_error")
    exact = envs.reset_success_rates(length, q)
    rules: list[tuple[ResetRule, float]] = [
        (RandomReset(), exact.random_reset),
        (oracle, exact.first_error_reset),
    ]
    for rule, expected in rules:
        groups = collect(simulator, [0] * 5000, GroupPlan(fresh, 1, 1), rule, rng(70 + length))
        resets = [group.episodes[0] for group in groups if group.seed is not None]
        assert len(resets) == groups.ledger.resets_accepted > 1500
        assert_mean([episode.ret for episode in resets], expected)
        if fresh:
            assert_mean([g.episodes[0].ret for g in groups if len(g.episodes) == 2], exact.root)
