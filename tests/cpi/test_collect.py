"""Collections from a scripted world: groups, seeds, fallbacks, calls, and the ledger by hand."""

from __future__ import annotations

import itertools
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpi import uniform_policy
from cpi.collect import Collection, Ledger, collect
from cpi.episodes import Episode, Prefix
from cpi.plans import ALGORITHMS, GroupPlan
from cpi.resets import RandomReset, SelfReset
from cpi.simulator import TabularSimulator
from envs import first_error_chain, lock_chain
from tests.cpi.scripted import (
    Scripted,
    ScriptedLocalizer,
    Watched,
    assert_drawn_from,
    assert_mean,
    assert_same,
    at_step,
)
from tests.cpi.worlds import interior_policy, repeatable, world

#: From "p" the first line fails, from "q" none does; words cost their letters.
STORY = {
    ("p",): [("a bb ccc", 0.0), ("dddd", 1.0), ("e f", 1.0), ("g", 1.0)],
    ("p", "a"): [("x yy", 1.0), ("z", 0.0)],
    ("q",): [("h", 1.0)],
}
#: Every line from "coin" may fail, after one word or three; so may every continuation.
COIN = {
    ("coin",): [("a", 1.0), ("b c d", 0.0)],
    ("coin", "b"): [("c d", 0.0), ("e", 1.0)],
    ("coin", "b", "c"): [("d", 0.0), ("f g h", 1.0)],
}
PLANS = [(8, 0, 0), (4, 1, 4), (3, 2, 2), (0, 2, 4), (0, 1, 8)]
plans = pytest.mark.parametrize("plan", [GroupPlan(*numbers) for numbers in PLANS], ids=str)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def second_step(cost_each: int = 0) -> tuple[SelfReset, ScriptedLocalizer]:
    """A rule that names the second step, and its localizer."""
    localizer = ScriptedLocalizer(at_step(1), cost_each)
    return SelfReset(localizer), localizer


def assert_alike(groups: Collection, others: Collection) -> None:
    assert len(groups) == len(others)
    for group, other in zip(groups, others, strict=True):
        assert group.start == other.start
        assert group.prefix.length == other.prefix.length
        for pair in zip(group.episodes, other.episodes, strict=True):
            assert_same(*pair)
    assert groups.ledger == others.ledger


# By hand


def test_grpo_is_one_call_for_all_fresh_episodes() -> None:
    world, (rule, localizer) = Scripted(STORY), second_step(50)
    groups = collect(world, ["p", "q", "p"], GroupPlan(8), rule, rng())
    (call,) = world.calls
    assert call.prefixes == [Prefix("p"), Prefix("q"), Prefix("p")] and call.n == 8
    assert localizer.calls == []
    assert [group.start for group in groups] == [0, 1, 2]
    for group, episodes in zip(groups, call.episodes, strict=True):
        assert group.seed is None and group.prefix.length == 0
        assert group.episodes == episodes
    np.testing.assert_array_equal(groups[0].returns, [0, 1, 1, 1] * 2)
    assert groups.ledger == Ledger(
        episodes=24, steps=26 + 8 + 26, trained_episodes=24, trained_steps=60
    )


def test_a_fresh_group_and_a_reset_of_its_failure() -> None:
    world, (rule, localizer) = Scripted(STORY), second_step(50)
    groups = collect(world, ["q", "p"], GroupPlan(4, 1, 4), rule, rng())
    fresh, resets = world.calls
    assert fresh.prefixes == [Prefix("q"), Prefix("p")] and fresh.n == 4
    failure = fresh.episodes[1][0]
    assert localizer.calls == [[failure]]  # "q" has no failure to ask about
    assert resets.prefixes == [Prefix("q"), Prefix("p", ("a",))] and resets.n == 4

    assert [group.start for group in groups] == [0, 0, 1, 1]
    assert [group.prefix for group in groups] == [
        Prefix("q"),
        Prefix("q"),
        Prefix("p"),
        Prefix("p", ("a",)),
    ]
    assert [group.seed for group in groups] == [None, None, None, failure]
    assert groups[2].episodes == fresh.episodes[1] and failure in groups[2].episodes
    assert groups[3].episodes == resets.episodes[1]
    assert [e.steps for e in groups[3].episodes] == [("a", "x", "yy"), ("a", "z")] * 2
    np.testing.assert_array_equal(groups[3].returns, [1, 0, 1, 0])
    # Fresh "q": 4 × 1 letter; fresh "p": 6 + 4 + 2 + 1; fallback 4; resets 3 + 1 + 3 + 1.
    assert groups.ledger == Ledger(
        episodes=16,
        steps=4 + 13 + 4 + 8,
        trained_episodes=16,
        trained_steps=29,
        localizer_cost=50,
        resets_drawn=1,
        resets_accepted=1,
        fallbacks=1,
    )


def test_two_reset_groups_of_one_failure_are_a_reset_and_a_fallback() -> None:
    world, (rule, _) = Scripted(STORY), second_step()
    groups = collect(world, ["p"], GroupPlan(3, 2, 2), rule, rng())
    assert [group.prefix for group in groups] == [Prefix("p"), Prefix("p", ("a",)), Prefix("p")]
    assert [len(group.episodes) for group in groups] == [3, 2, 2]
    assert groups[2].seed is None
    # 6 + 4 + 2 fresh; 3 + 1 after the reset; 6 + 4 once more from the start.
    assert groups.ledger == Ledger(7, 26, 7, 26, 0, 1, 1, 1)


def test_seeds_without_a_fresh_group_are_counted_but_not_trained_on() -> None:
    world, (rule, localizer) = Scripted(STORY), second_step(50)
    groups = collect(world, ["p", "q"], GroupPlan(0, 2, 4), rule, rng())
    seeds, resets = world.calls
    assert seeds.prefixes == [Prefix("p"), Prefix("q")] and seeds.n == 2
    assert localizer.calls == [[seeds.episodes[0][0]]]
    assert resets.n == 4
    assert resets.prefixes == [Prefix("p", ("a",)), Prefix("p"), Prefix("q"), Prefix("q")]
    assert [(group.start, group.prefix) for group in groups] == [
        (0, Prefix("p", ("a",))),
        (0, Prefix("p")),
        (1, Prefix("q")),
        (1, Prefix("q")),
    ]
    # Seeds 6 + 4 + 1 + 1; then 8 after the reset, 13 from "p" and twice 4 from "q".
    assert groups.ledger == Ledger(
        episodes=20,
        steps=12 + 29,
        trained_episodes=16,
        trained_steps=29,
        localizer_cost=50,
        resets_drawn=1,
        resets_accepted=1,
        fallbacks=3,
    )


def test_one_seed_and_all_eight_from_its_prefix() -> None:
    world, (rule, _) = Scripted(STORY), second_step()
    (group,) = collect(world, ["p"], GroupPlan(0, 1, 8), rule, rng())
    assert group.prefix == Prefix("p", ("a",)) and len(group.episodes) == 8
    assert group.seed is world.calls[0].episodes[0][0]


def test_any_episode_may_be_a_seed_if_the_plan_says_so() -> None:
    story = STORY | {("q",): [("h i", 1.0)], ("q", "h"): [("j", 1.0)]}
    rule, localizer = second_step()
    failed = collect(Scripted(story), ["q"], GroupPlan(0, 1, 8), rule, rng())
    assert failed.ledger.fallbacks == 1 and localizer.calls == []
    successes = collect(Scripted(story), ["q"], GroupPlan(0, 1, 8, seeds="any"), rule, rng())
    assert successes.ledger.resets_accepted == 1
    assert successes[0].prefix == Prefix("q", ("h",))


def test_a_rule_that_names_no_step_is_a_fallback() -> None:
    world = Scripted(STORY)
    localizer = ScriptedLocalizer(lambda episode: np.zeros(episode.length), cost_each=7)
    groups = collect(world, ["p"], GroupPlan(4, 1, 4), SelfReset(localizer), rng())
    assert [group.prefix for group in groups] == [Prefix("p")] * 2
    assert groups[1].seed is None
    assert groups.ledger == Ledger(8, 26, 8, 26, 7, 1, 0, 1)


def test_an_episode_without_steps_is_no_seed() -> None:
    world = Scripted({("p",): [("", 0.0)]})
    rule, localizer = second_step()
    groups = collect(world, ["p"], GroupPlan(2, 1, 2), rule, rng())
    assert groups.ledger == Ledger(episodes=4, trained_episodes=4, fallbacks=1)
    assert localizer.calls == []


def test_nothing_to_start_from_is_nothing_to_do() -> None:
    for numbers in PLANS:
        groups = collect(Scripted(STORY), [], GroupPlan(*numbers), RandomReset(), rng())
        assert list(groups) == [] and groups.ledger == Ledger()


def test_starts_that_repeat_keep_their_groups_apart() -> None:
    world = Scripted(COIN, shuffled=True)
    groups = collect(world, ["coin"] * 6, GroupPlan(4, 1, 2), RandomReset(), rng(1))
    assert [group.start for group in groups] == [n for n in range(6) for _ in range(2)]
    for n in range(6):
        fresh, reset = groups[2 * n : 2 * n + 2]
        assert fresh.episodes == world.calls[0].episodes[n]
        assert reset.episodes == world.calls[1].episodes[n]


def test_a_localizers_cost_is_counted_from_where_it_stood() -> None:
    rule, localizer = second_step(50)
    localizer.cost = 1000
    for _ in range(2):
        groups = collect(Scripted(STORY), ["p", "p"], GroupPlan(4, 1, 4), rule, rng())
        assert groups.ledger.localizer_cost == 100


# Which failure is reset


def seeds_chosen(plan: GroupPlan, rule: SelfReset, lines: Any, times: int = 3000) -> list[Any]:
    """Which of the first lines were reset, in each of many collections; None is a fallback."""
    script = {("p",): lines}
    for words, _ in lines:
        for k in range(1, len(words.split())):
            script[("p", *words.split()[:k])] = [("end", 1.0)]
    world = Scripted(script)
    groups = collect(world, ["p"] * times, plan, rule, rng(7))
    names = [group.seed and group.seed.steps[0] for group in groups if group.prefix.length]
    return names if plan.resets == 1 else list(zip(names[::2], names[1::2], strict=True))


FAILURES = [("a 2 3 4", 0.0), ("b 2", 0.0), ("c 2", 1.0), ("d 2 3 4", 0.0)]


def test_random_seeds_are_uniform_among_the_failures() -> None:
    names = seeds_chosen(GroupPlan(4, 1, 1), second_step()[0], FAILURES)
    assert_drawn_from([names.count(name) for name in "abcd"], [1 / 3, 1 / 3, 0, 1 / 3])


def test_random_pairs_of_seeds_are_drawn_without_replacement() -> None:
    names = seeds_chosen(GroupPlan(4, 2, 1), second_step()[0], FAILURES)
    pairs = list(itertools.product("abcd", repeat=2))
    odds = [1 / 6 if a != b and "c" not in (a, b) else 0 for a, b in pairs]
    assert_drawn_from([names.count(pair) for pair in pairs], odds)


def last_step(episode: Episode) -> Any:
    return at_step(episode.length - 1)(episode)


def test_deepest_takes_the_latest_step_and_breaks_ties_at_random() -> None:
    localizer = ScriptedLocalizer(last_step, cost_each=1)
    plan = GroupPlan(4, 1, 1, choice="deepest")
    names = seeds_chosen(plan, SelfReset(localizer), FAILURES)
    assert_drawn_from([names.count(name) for name in "abcd"], [1 / 2, 0, 0, 1 / 2])
    assert localizer.cost == 3 * 3000  # every failure is asked about


def test_deepest_is_the_latest_step_not_the_longest_episode() -> None:
    def early_in_long_ones(episode: Episode) -> Any:
        return at_step(1 if episode.length == 4 else episode.length - 1)(episode)

    lines = [("a 2 3 4", 0.0), ("b 2 3", 0.0), ("c 2", 0.0)]
    rule = SelfReset(ScriptedLocalizer(early_in_long_ones))
    plan = GroupPlan(3, 2, 1, choice="deepest")
    names = seeds_chosen(plan, rule, lines)
    assert {first for first, _ in names} == {"b"} and {second for _, second in names} == {"a", "c"}


def test_deepest_asks_about_all_failures_and_passes_over_those_without_a_step() -> None:
    script = {
        ("p",): [("a 2", 0.0), ("b 2", 0.0), ("c 2", 0.0)],
        ("p", "c"): [("d", 1.0)],
    }

    def only_c(episode: Episode) -> Any:
        return at_step(1)(episode) * (episode.steps[0] == "c")

    for seed in range(10):
        localizer = ScriptedLocalizer(only_c)
        plan = GroupPlan(3, 1, 2, choice="deepest")
        groups = collect(Scripted(script), ["p"], plan, SelfReset(localizer), rng(seed))
        assert groups[1].prefix == Prefix("p", ("c",))
        ledger = groups.ledger
        assert (ledger.resets_drawn, ledger.resets_accepted, ledger.fallbacks) == (3, 1, 0)


def test_random_choice_asks_about_no_more_than_it_needs() -> None:
    localizer = ScriptedLocalizer(last_step)
    seeds_chosen(GroupPlan(4, 2, 1), SelfReset(localizer), FAILURES, times=10)
    (asked,) = localizer.calls
    assert len(asked) == 20


def test_random_resets_are_uniform_over_the_steps_of_the_seed() -> None:
    script = {("p", *"abc"[:k]): [(" ".join("abc"[k:]), 0.0)] for k in range(3)}
    groups = collect(Scripted(script), ["p"] * 3000, GroupPlan(1, 1, 1), RandomReset(), rng(8))
    kept = [group.prefix.length for group in groups[1::2]]
    assert_drawn_from(np.bincount(kept, minlength=3), np.full(3, 1 / 3))


# The fresh group stays whole


def coins(plan: GroupPlan, times: int, seed: int) -> Collection:
    world = Scripted(COIN, shuffled=True)
    return collect(world, ["coin"] * times, plan, RandomReset(), rng(seed))


def test_the_fresh_group_stays_independent_and_identically_distributed() -> None:
    # Taking the first failure out would leave a mean of .62; here successes are binomial.
    groups = coins(GroupPlan(4, 1, 4), 4000, seed=11)
    fresh, resets = groups[::2], groups[1::2]
    assert all(len(group.episodes) == 4 and group.prefix.length == 0 for group in fresh)
    successes = np.array([group.returns.sum() for group in fresh])
    assert_mean(successes / 4, 0.5)
    assert_drawn_from(np.bincount(successes.astype(int)), np.array([1, 4, 6, 4, 1]) / 16)
    for group, reset in zip(fresh, resets, strict=True):
        if reset.seed is not None:
            assert any(episode is reset.seed for episode in group.episodes)


def test_every_place_of_the_fresh_group_is_a_fair_coin() -> None:
    fresh = coins(GroupPlan(3, 2, 2), 4000, seed=12)[::3]
    outcomes = np.array([group.returns for group in fresh]) @ [4, 2, 1]
    assert_drawn_from(np.bincount(outcomes.astype(int), minlength=8), np.full(8, 1 / 8))


def test_reset_groups_do_not_repeat_the_fresh_ones() -> None:
    # Four fair coins, and four more after a reset or a fallback: all 8 independent.
    groups = coins(GroupPlan(4, 1, 4), 6000, seed=13)
    first = np.array([group.returns[0] for group in groups[::2]])
    again = np.array([group.returns[0] for group in groups[1::2]])
    counts = np.bincount((2 * first + again).astype(int), minlength=4)
    assert_drawn_from(counts, np.full(4, 1 / 4))


@pytest.mark.parametrize("size", [1, 2])
def test_seeds_do_not_foretell_what_grows_from_them(size: int) -> None:
    groups = coins(GroupPlan(0, 1, size, seeds="any"), 6000, seed=14)
    seeds = np.array([group.seed is not None and group.seed.ret for group in groups])
    for again in np.array([group.returns for group in groups]).T:
        counts = np.bincount((2 * seeds + again).astype(int), minlength=4)
        assert_drawn_from(counts, np.full(4, 1 / 4))


# Streams


@plans
def test_the_same_generator_gives_the_same_collection(plan: GroupPlan) -> None:
    world = Scripted(COIN, shuffled=True)
    one, same, other = (
        collect(world, ["coin"] * 8, plan, RandomReset(), rng(seed)) for seed in (3, 3, 4)
    )
    assert_alike(one, same)
    returns = [np.concatenate([group.returns for group in groups]) for groups in (one, other)]
    assert (returns[0] != returns[1]).any()


def test_a_generator_goes_on_from_one_collection_to_the_next() -> None:
    generator, world = rng(3), Scripted(COIN, shuffled=True)
    one, two = (collect(world, ["coin"] * 8, GroupPlan(8), RandomReset(), generator) for _ in "12")
    returns = [np.concatenate([group.returns for group in groups]) for groups in (one, two)]
    assert (returns[0] != returns[1]).any()


@pytest.mark.parametrize("name", ["rrpo", "srpo"])
def test_a_fresh_group_is_the_same_whatever_follows(name: str) -> None:
    plan = ALGORITHMS[name].plan
    world = Scripted(COIN, shuffled=True)
    alone = collect(world, ["coin"] * 8, GroupPlan(plan.fresh), RandomReset(), rng(5))
    followed = collect(world, ["coin"] * 8, plan, RandomReset(), rng(5))
    for group, other in zip(alone, followed[::2], strict=True):
        assert group.episodes == other.episodes


@pytest.mark.parametrize("seeds", ["failed", "any"])
@pytest.mark.parametrize("choice", ["random", "deepest"])
def test_resetting_at_step_one_with_one_group_is_grpo(seeds: Any, choice: Any) -> None:
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


def assert_whole(
    groups: Collection,
    world: Scripted | Watched,
    localizer: ScriptedLocalizer,
    plan: GroupPlan,
    num_starts: int,
) -> None:
    """What every collection must satisfy, from what world and localizer were asked and gave."""
    assert len(world.calls) == 1 + (plan.resets > 0)
    assert len(localizer.calls) <= 1
    per_start = (plan.fresh > 0) + plan.resets
    assert [group.start for group in groups] == [
        n for n in range(num_starts) for _ in range(per_start)
    ]
    trained = [episode for group in groups for episode in group.episodes]
    assert len(trained) == num_starts * plan.rollouts
    everything = [e for call in world.calls for here in call.episodes for e in here]
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
        here = [group for group in groups if group.start == n]
        pool = world.calls[0].episodes[n]
        sizes = [plan.fresh] * (plan.fresh > 0) + [plan.per_reset] * plan.resets
        assert [len(group.episodes) for group in here] == sizes
        if plan.fresh:
            assert here[0].seed is None and here[0].episodes is pool
        seeds = [group.seed for group in here if group.seed is not None]
        assert len({id(seed) for seed in seeds}) == len(seeds)
        assert all(any(seed is episode for episode in pool) for seed in seeds)
        eligible = sum(e.failed or plan.seeds == "any" for e in pool)
        assert len(seeds) == min(plan.resets, eligible)
        if plan.resets:
            drawn += eligible if plan.choice == "deepest" else len(seeds)
        if seeds and plan.choice == "deepest":
            depths = [group.prefix.length for group in here if group.seed is not None]
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
def test_every_plan_in_a_scripted_world(plan: GroupPlan, num_starts: int, seed: int) -> None:
    world = Scripted(COIN, shuffled=True)
    localizer = ScriptedLocalizer(lambda e: np.arange(e.length) != 2, cost_each=10)
    groups = collect(world, ["coin"] * num_starts, plan, SelfReset(localizer), rng(seed))
    assert_whole(groups, world, localizer, plan, num_starts)


@repeatable
@given(plan=whole_plans, seed=st.integers(0, 99))
def test_every_plan_in_a_tabular_world(plan: GroupPlan, seed: int) -> None:
    mdp = lock_chain(4, 2)
    simulator = Watched(TabularSimulator(mdp, uniform_policy(mdp)))
    localizer = ScriptedLocalizer(lambda e: np.ones(e.length), cost_each=10)
    groups = collect(simulator, [0, 2, 3], plan, SelfReset(localizer), rng(seed))
    assert_whole(groups, simulator, localizer, plan, 3)


def test_both_worlds_agree_where_they_tell_the_same_story() -> None:
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


def test_ledgers_add_entry_by_entry() -> None:
    names = [field.name for field in fields(Ledger)]
    assert len(names) == 8
    one, two = Ledger(*range(1, 9)), Ledger(*range(10, 90, 10))
    assert one + two == Ledger(11, 22, 33, 44, 55, 66, 77, 88)
    assert one == Ledger(*range(1, 9)), "adding changes neither"
    assert sum([one, two], Ledger()) == one + two
    assert one.to_json() == dict(zip(names, range(1, 9), strict=True))


def test_generated_episodes_are_trained_on_or_not() -> None:
    ledger = Ledger()
    episodes = [Episode(Prefix("p"), ("a",), 0.0, True, cost) for cost in (5, 7)]
    ledger.generated(episodes, trained=True)
    assert ledger == Ledger(2, 12, 2, 12)
    ledger.generated(episodes[:1], trained=False)
    assert ledger == Ledger(3, 17, 2, 12)
