"""Collections as random variables: seeds, streams, i.i.d. fresh groups."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpi import uniform_policy
from cpi.core.collect import Collection, Ledger, collect
from cpi.core.episodes import Episode, Prefix
from cpi.core.plans import ALGORITHMS, GroupPlan
from cpi.core.resets import RandomReset, SelfReset
from cpi.tabular.simulator import TabularSimulator
from envs import first_error_chain, lock_chain
from tests.cpi.core.test_collect import (
    COIN,
    assert_alike,
    last_step,
    plans,
    rng,
)
from tests.cpi.scripted import (
    RecordingSimulator,
    Scripted,
    ScriptedLocalizer,
    assert_drawn_from,
    assert_mean,
    assert_same,
    at_step,
)
from tests.cpi.worlds import interior_policy, repeatable, world


def test_collect__random_resets_are_uniform_over_steps() -> None:
    script = {("p", *"abc"[:k]): [(" ".join("abc"[k:]), 0.0)] for k in range(3)}
    groups = collect(Scripted(script), ["p"] * 3000, GroupPlan(1, 1, 1), RandomReset(), rng(8))
    kept = [group.prefix.length for group in groups[1::2]]
    assert_drawn_from(np.bincount(kept, minlength=3), np.full(3, 1 / 3))


# The fresh group is i.i.d.


def coins(plan: GroupPlan, times: int, seed: int) -> Collection:
    world = Scripted(COIN, shuffled=True)
    return collect(world, ["coin"] * times, plan, RandomReset(), rng(seed))


def test_collect__fresh_group_is_iid() -> None:
    # Without its first failure the group would have a mean of .62; whole, it is binomial.
    groups = coins(GroupPlan(4, 1, 4), 4000, seed=11)
    fresh, resets = groups[::2], groups[1::2]
    assert all(len(group.episodes) == 4 and group.prefix.length == 0 for group in fresh)
    successes = np.array([group.returns.sum() for group in fresh])
    assert_mean(successes / 4, 0.5)
    assert_drawn_from(np.bincount(successes.astype(int)), np.array([1, 4, 6, 4, 1]) / 16)
    for group, reset in zip(fresh, resets, strict=True):
        if reset.seed is not None:
            assert any(episode is reset.seed for episode in group.episodes)


def test_collect__fresh_outcomes_are_jointly_uniform() -> None:
    fresh = coins(GroupPlan(3, 2, 2), 4000, seed=12)[::3]
    outcomes = np.array([group.returns for group in fresh]) @ [4, 2, 1]
    assert_drawn_from(np.bincount(outcomes.astype(int), minlength=8), np.full(8, 1 / 8))


def test_collect__reset_groups_independent_of_fresh_groups() -> None:
    # Four fair coins, and four more after a reset or a fallback: all 8 independent.
    groups = coins(GroupPlan(4, 1, 4), 6000, seed=13)
    first = np.array([group.returns[0] for group in groups[::2]])
    again = np.array([group.returns[0] for group in groups[1::2]])
    counts = np.bincount((2 * first + again).astype(int), minlength=4)
    assert_drawn_from(counts, np.full(4, 1 / 4))


@pytest.mark.parametrize("size", [1, 2])
def test_collect__continuations_independent_of_seed_outcomes(size: int) -> None:
    groups = coins(GroupPlan(0, 1, size, seeds="any"), 6000, seed=14)
    seeds = np.array([group.seed is not None and group.seed.ret for group in groups])
    for again in np.array([group.returns for group in groups]).T:
        counts = np.bincount((2 * seeds + again).astype(int), minlength=4)
        assert_drawn_from(counts, np.full(4, 1 / 4))


# Streams


@plans
def test_collect__repeats_with_the_generator(plan: GroupPlan) -> None:
    world = Scripted(COIN, shuffled=True)
    one, same, other = (
        collect(world, ["coin"] * 8, plan, RandomReset(), rng(seed)) for seed in (3, 3, 4)
    )
    assert_alike(one, same)
    returns = [np.concatenate([group.returns for group in groups]) for groups in (one, other)]
    assert (returns[0] != returns[1]).any()


def test_collect__advances_the_generator() -> None:
    generator, world = rng(3), Scripted(COIN, shuffled=True)
    one, two = (collect(world, ["coin"] * 8, GroupPlan(8), RandomReset(), generator) for _ in "12")
    returns = [np.concatenate([group.returns for group in groups]) for groups in (one, two)]
    assert (returns[0] != returns[1]).any()


@pytest.mark.parametrize("name", ["rrpo", "srpo"])
def test_collect__fresh_group_equal_under_every_plan(name: str) -> None:
    plan = ALGORITHMS[name].plan
    world = Scripted(COIN, shuffled=True)
    alone = collect(world, ["coin"] * 8, GroupPlan(plan.fresh), RandomReset(), rng(5))
    followed = collect(world, ["coin"] * 8, plan, RandomReset(), rng(5))
    for group, other in zip(alone, followed[::2], strict=True):
        assert group.episodes == other.episodes


@pytest.mark.parametrize("seeds", ["failed", "any"])
@pytest.mark.parametrize("choice", ["random", "deepest"])
def test_collect__reset_before_the_first_step_is_grpo(seeds: Any, choice: Any) -> None:
    plan = GroupPlan(0, 1, 8, seeds, choice)
    first_step = SelfReset(ScriptedLocalizer(at_step(0)))
    scripted = Scripted(COIN, shuffled=True), ["coin"] * 12
    mdp = world(2, horizon=4)
    tabular = TabularSimulator(mdp, interior_policy(mdp, 2), success=0.0), [0, 3, 1, 1, 4, 2]
    chain = first_error_chain(5)
    ending = TabularSimulator(chain, uniform_policy(chain)), [0, 1, 6, 9, 0]  # 9 is "over"
    for simulator, starts in (scripted, tabular, ending):
        grpo = collect(simulator, starts, GroupPlan(8), RandomReset(), rng(6))
        srpo = collect(simulator, starts, plan, first_step, rng(6))
        assert len(grpo) == len(srpo) == len(starts)
        for group, other in zip(grpo, srpo, strict=True):
            assert group.start == other.start
            assert other.prefix.length == 0
            for pair in zip(group.episodes, other.episodes, strict=True):
                assert_same(*pair)
        assert srpo.ledger.resets_accepted + srpo.ledger.fallbacks == len(starts)
        assert srpo.ledger.resets_accepted > 0
        assert grpo.ledger.trained_steps == srpo.ledger.trained_steps


# Every plan


whole_plans = st.builds(
    GroupPlan,
    fresh=st.integers(0, 5),
    resets=st.integers(1, 3),
    per_reset=st.integers(1, 3),
    seeds=st.sampled_from(["failed", "any"]),
    choice=st.sampled_from(["random", "deepest"]),
) | st.builds(GroupPlan, fresh=st.integers(1, 5))


def assert_invariants(
    groups: Collection,
    world: Scripted | RecordingSimulator,
    localizer: ScriptedLocalizer,
    plan: GroupPlan,
    num_starts: int,
) -> None:
    """Invariants of every collection, given the recorded calls of world and localizer."""
    assert len(world.calls) == 1 + (plan.resets > 0)
    assert len(localizer.calls) <= 1
    per_start = (plan.fresh > 0) + plan.resets
    assert [group.start for group in groups] == [
        n for n in range(num_starts) for _ in range(per_start)
    ]
    trained = [episode for group in groups for episode in group.episodes]
    assert len(trained) == num_starts * plan.rollouts
    everything = [e for call in world.calls for group in call.episodes for e in group]
    for group in groups:
        k = group.prefix.length
        for episode in group.episodes:
            assert episode.origin is group.prefix
            if k:
                np.testing.assert_array_equal(episode.steps[:k], group.prefix.steps)
        if group.seed is not None:
            assert group.seed.failed or plan.seeds == "any"
            assert 0 <= k < group.seed.length
            np.testing.assert_array_equal(group.prefix.steps, group.seed.steps[:k])
        else:
            assert k == 0
    drawn = 0
    for n in range(num_starts):
        own_groups = [group for group in groups if group.start == n]
        pool = world.calls[0].episodes[n]
        sizes = [plan.fresh] * (plan.fresh > 0) + [plan.per_reset] * plan.resets
        assert [len(group.episodes) for group in own_groups] == sizes
        if plan.fresh:
            assert own_groups[0].seed is None and own_groups[0].episodes is pool
        seeds = [group.seed for group in own_groups if group.seed is not None]
        assert len({id(seed) for seed in seeds}) == len(seeds)
        assert all(any(seed is episode for episode in pool) for seed in seeds)
        eligible = sum(e.failed or plan.seeds == "any" for e in pool)
        assert len(seeds) == min(plan.resets, eligible)
        if plan.resets:
            drawn += eligible if plan.choice == "deepest" else len(seeds)
        if seeds and plan.choice == "deepest":
            depths = [group.prefix.length for group in own_groups if group.seed is not None]
            assert depths == sorted(depths, reverse=True)

    ledger = groups.ledger
    assert ledger.episodes == len(everything)
    assert ledger.steps == sum(e.cost for e in everything)
    assert ledger.trained_episodes == len(trained)
    assert ledger.trained_steps == sum(e.cost for e in trained)
    assert ledger.resets_drawn == drawn == sum(map(len, localizer.calls))
    assert ledger.localizer_cost == 10 * drawn
    assert ledger.resets_accepted == sum(group.seed is not None for group in groups)
    assert ledger.resets_accepted + ledger.fallbacks == plan.resets * num_starts
    if not plan.fresh:
        assert ledger.episodes - ledger.trained_episodes == plan.resets * num_starts


@repeatable
@given(plan=whole_plans, num_starts=st.integers(0, 4), seed=st.integers(0, 99))
def test_collect__invariants_of_every_plan_scripted(
    plan: GroupPlan, num_starts: int, seed: int
) -> None:
    world = Scripted(COIN, shuffled=True)
    localizer = ScriptedLocalizer(lambda e: np.arange(e.length) != 2, cost_each=10)
    groups = collect(world, ["coin"] * num_starts, plan, SelfReset(localizer), rng(seed))
    assert_invariants(groups, world, localizer, plan, num_starts)


@repeatable
@given(plan=whole_plans, seed=st.integers(0, 99))
def test_collect__invariants_of_every_plan_tabular(plan: GroupPlan, seed: int) -> None:
    mdp = lock_chain(4, 2)
    simulator = RecordingSimulator(TabularSimulator(mdp, uniform_policy(mdp)))
    localizer = ScriptedLocalizer(lambda e: np.ones(e.length), cost_each=10)
    groups = collect(simulator, [0, 2, 3], plan, SelfReset(localizer), rng(seed))
    assert_invariants(groups, simulator, localizer, plan, 3)


def test_collect__scripted_and_tabular_worlds_agree() -> None:
    # A lock of three steps under the uniform policy, and the same lock written as a script.
    mdp = lock_chain(3, 2)
    simulator = TabularSimulator(mdp, uniform_policy(mdp))
    script = {}
    for length in range(3):
        start = (0, *"rrr"[:length])
        script[start] = [(" ".join("rrr"[length:]), 1.0)] + [
            (" ".join("r" * (2 - length - k) + "w"), 0.0)
            for k in range(3 - length)
            for _ in range(2**k)
        ]
        assert len(script[start]) == 2 ** (3 - length)
    localizer = ScriptedLocalizer(last_step)
    times, rates = 3000, []
    for either in (simulator, Scripted(script, shuffled=True)):
        groups = collect(either, [0] * times, GroupPlan(4, 1, 4), SelfReset(localizer), rng(9))
        depths = [group.prefix.length for group in groups[1::2] if group.seed is not None]
        # A failure ends with its first wrong step: 4, 2, 1 in 7 after 1, 2, 3 steps.
        assert_drawn_from(np.bincount(depths, minlength=3), np.array([4, 2, 1]) / 7)
        for k in range(3):
            wins = [
                float(group.returns[0])
                for group in groups[1::2]
                if group.seed is not None and group.prefix.length == k
            ]
            assert_mean(wins, 2.0 ** (k - 3))
        rates.append(groups.ledger.steps / times)
    # A fresh episode has 7/4 steps; after a reset at 0, 1, 2 there are 7/4, 3/2, 1 to come.
    expected = 4 * 7 / 4 + 4 * (4 * 7 / 4 + 2 * 3 / 2 + 1) / 7
    np.testing.assert_allclose(rates, expected, rtol=0.02)


# The ledger


def test_ledger__adds_entry_by_entry() -> None:
    names = [field.name for field in fields(Ledger)]
    assert len(names) == 8
    one, two = Ledger(*range(1, 9)), Ledger(*range(10, 90, 10))
    assert one + two == Ledger(11, 22, 33, 44, 55, 66, 77, 88)
    assert one == Ledger(*range(1, 9)), "adding changes neither"
    assert sum([one, two], Ledger()) == one + two
    assert one.to_json() == dict(zip(names, range(1, 9), strict=True))


def test_ledger_generated__counts_trained_episodes_separately() -> None:
    ledger = Ledger()
    episodes = [Episode(Prefix("p"), ("a",), 0.0, True, cost) for cost in (5, 7)]
    ledger.generated(episodes, trained=True)
    assert ledger == Ledger(2, 12, 2, 12)
    ledger.generated(episodes[:1], trained=False)
    assert ledger == Ledger(3, 17, 2, 12)


class Broken:
    """A rule whose weights cover only the first step."""

    cost = 0

    def weights(self, episodes: Any) -> Any:
        return [np.ones(1) for _ in episodes]


def test_collect__checks_weights_of_any_rule() -> None:
    simulator = TabularSimulator(first_error_chain(4), np.full((8, 2), 0.5))
    with pytest.raises(ValueError, match="Broken: episode 0 has 4 steps"):
        collect(simulator, [0] * 4, GroupPlan(4, 1, 2), Broken(), np.random.default_rng(0))


def test_collect__resets_need_a_rule() -> None:
    simulator = TabularSimulator(first_error_chain(4), np.full((8, 2), 0.5))
    assert len(collect(simulator, [0], GroupPlan(4), None, np.random.default_rng(0))) == 1
    with pytest.raises(ValueError, match=r"rule: .* has resets, so it needs a rule"):
        collect(simulator, [0], GroupPlan(4, 1, 2), None, np.random.default_rng(0))


def test_collect__start_that_is_not_a_state_is_refused() -> None:
    simulator = TabularSimulator(first_error_chain(4), np.full((8, 2), 0.5))
    for start in (-1, 99):
        with pytest.raises(ValueError, match=f"prefix 0: state {start} is not in"):
            collect(simulator, [start], GroupPlan(4), None, np.random.default_rng(0))


def test_collect__repeats_from_a_restored_generator_state() -> None:
    simulator = TabularSimulator(first_error_chain(4), np.full((8, 2), 0.5))
    first, other = np.random.default_rng(3), np.random.default_rng(4)
    other.bit_generator.state = first.bit_generator.state
    one, two = (
        collect(simulator, [0] * 3, GroupPlan(2, 1, 2), RandomReset(), rng)
        for rng in (first, other)
    )
    for group, twin in zip(one, two, strict=True):
        for episode, copy in zip(group.episodes, twin.episodes, strict=True):
            np.testing.assert_array_equal(episode.steps, copy.steps)
