"""Collections from a scripted world: groups, seeds, fallbacks, calls and ledgers by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from cpi.core.collect import Collection, Ledger, collect
from cpi.core.episodes import Episode, Prefix
from cpi.core.plans import GroupPlan
from cpi.core.resets import RandomReset, SelfReset
from tests.cpi.scripted import (
    Scripted,
    ScriptedLocalizer,
    assert_drawn_from,
    assert_same,
    at_step,
)

#: From "p" the first line fails, from "q" none does; the cost of a word is its letters.
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
    """A rule that resets to before the second step, and its localizer."""
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


def test_collect__grpo_is_one_call_for_all_fresh_episodes() -> None:
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


def test_collect__fresh_group_and_reset_of_its_failure() -> None:
    world, (rule, localizer) = Scripted(STORY), second_step(50)
    groups = collect(world, ["q", "p"], GroupPlan(4, 1, 4), rule, rng())
    fresh, resets = world.calls
    assert fresh.prefixes == [Prefix("q"), Prefix("p")] and fresh.n == 4
    failure = fresh.episodes[1][0]
    assert localizer.calls == [[failure]]  # "q" has no failure to localize
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


def test_collect__one_failure_for_two_resets_causes_a_fallback() -> None:
    world, (rule, _) = Scripted(STORY), second_step()
    groups = collect(world, ["p"], GroupPlan(3, 2, 2), rule, rng())
    assert [group.prefix for group in groups] == [Prefix("p"), Prefix("p", ("a",)), Prefix("p")]
    assert [len(group.episodes) for group in groups] == [3, 2, 2]
    assert groups[2].seed is None
    # 6 + 4 + 2 fresh; 3 + 1 after the reset; 6 + 4 once more from the start.
    assert groups.ledger == Ledger(7, 26, 7, 26, 0, 1, 1, 1)


def test_collect__seeds_without_a_fresh_group_are_not_trained_on() -> None:
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


def test_collect__one_seed_and_one_reset_group() -> None:
    world, (rule, _) = Scripted(STORY), second_step()
    (group,) = collect(world, ["p"], GroupPlan(0, 1, 8), rule, rng())
    assert group.prefix == Prefix("p", ("a",)) and len(group.episodes) == 8
    assert group.seed is world.calls[0].episodes[0][0]


def test_collect__plan_may_reset_successes() -> None:
    story = STORY | {("q",): [("h i", 1.0)], ("q", "h"): [("j", 1.0)]}
    rule, localizer = second_step()
    failed = collect(Scripted(story), ["q"], GroupPlan(0, 1, 8), rule, rng())
    assert failed.ledger.fallbacks == 1 and localizer.calls == []
    successes = collect(Scripted(story), ["q"], GroupPlan(0, 1, 8, seeds="any"), rule, rng())
    assert successes.ledger.resets_accepted == 1
    assert successes[0].prefix == Prefix("q", ("h",))


def test_collect__zero_weights_cause_a_fallback() -> None:
    world = Scripted(STORY)
    localizer = ScriptedLocalizer(lambda episode: np.zeros(episode.length), cost_each=7)
    groups = collect(world, ["p"], GroupPlan(4, 1, 4), SelfReset(localizer), rng())
    assert [group.prefix for group in groups] == [Prefix("p")] * 2
    assert groups[1].seed is None
    assert groups.ledger == Ledger(8, 26, 8, 26, 7, 1, 0, 1)


def test_collect__episode_without_steps_is_not_reset() -> None:
    world = Scripted({("p",): [("", 0.0)]})
    rule, localizer = second_step()
    groups = collect(world, ["p"], GroupPlan(2, 1, 2), rule, rng())
    assert groups.ledger == Ledger(episodes=4, trained_episodes=4, fallbacks=1)
    assert localizer.calls == []


def test_collect__empty_without_starts() -> None:
    for numbers in PLANS:
        groups = collect(Scripted(STORY), [], GroupPlan(*numbers), RandomReset(), rng())
        assert list(groups) == [] and groups.ledger == Ledger()


def test_collect__repeated_starts_have_separate_groups() -> None:
    world = Scripted(COIN, shuffled=True)
    groups = collect(world, ["coin"] * 6, GroupPlan(4, 1, 2), RandomReset(), rng(1))
    assert [group.start for group in groups] == [n for n in range(6) for _ in range(2)]
    for n in range(6):
        fresh, reset = groups[2 * n : 2 * n + 2]
        assert fresh.episodes == world.calls[0].episodes[n]
        assert reset.episodes == world.calls[1].episodes[n]


def test_collect__ledger_counts_only_new_localizer_cost() -> None:
    rule, localizer = second_step(50)
    localizer.cost = 1000
    for _ in range(2):
        groups = collect(Scripted(STORY), ["p", "p"], GroupPlan(4, 1, 4), rule, rng())
        assert groups.ledger.localizer_cost == 100


# Which failure is reset


def seeds_chosen(plan: GroupPlan, rule: SelfReset, lines: Any, times: int = 3000) -> list[Any]:
    """The first lines that were reset in each of many collections; None is a fallback."""
    script = {("p",): lines}
    for words, _ in lines:
        for k in range(1, len(words.split())):
            script[("p", *words.split()[:k])] = [("end", 1.0)]
    world = Scripted(script)
    groups = collect(world, ["p"] * times, plan, rule, rng(7))
    names = [group.seed and group.seed.steps[0] for group in groups if group.prefix.length]
    return names if plan.resets == 1 else list(zip(names[::2], names[1::2], strict=True))


FAILURES = [("a 2 3 4", 0.0), ("b 2", 0.0), ("c 2", 1.0), ("d 2 3 4", 0.0)]


def test_collect__random_seeds_are_uniform_among_the_failures() -> None:
    names = seeds_chosen(GroupPlan(4, 1, 1), second_step()[0], FAILURES)
    assert_drawn_from([names.count(name) for name in "abcd"], [1 / 3, 1 / 3, 0, 1 / 3])


def test_collect__random_seeds_are_drawn_without_replacement() -> None:
    names = seeds_chosen(GroupPlan(4, 2, 1), second_step()[0], FAILURES)
    pairs = list(itertools.product("abcd", repeat=2))
    odds = [1 / 6 if a != b and "c" not in (a, b) else 0 for a, b in pairs]
    assert_drawn_from([names.count(pair) for pair in pairs], odds)


def last_step(episode: Episode) -> Any:
    return at_step(episode.length - 1)(episode)


def test_collect__deepest_breaks_ties_at_random() -> None:
    localizer = ScriptedLocalizer(last_step, cost_each=1)
    plan = GroupPlan(4, 1, 1, choice="deepest")
    names = seeds_chosen(plan, SelfReset(localizer), FAILURES)
    assert_drawn_from([names.count(name) for name in "abcd"], [1 / 2, 0, 0, 1 / 2])
    assert localizer.cost == 3 * 3000  # every failure is localized


def test_collect__deepest_is_the_latest_step_not_the_longest_episode() -> None:
    def early_in_long_ones(episode: Episode) -> Any:
        return at_step(1 if episode.length == 4 else episode.length - 1)(episode)

    lines = [("a 2 3 4", 0.0), ("b 2 3", 0.0), ("c 2", 0.0)]
    rule = SelfReset(ScriptedLocalizer(early_in_long_ones))
    plan = GroupPlan(3, 2, 1, choice="deepest")
    names = seeds_chosen(plan, rule, lines)
    assert {first for first, _ in names} == {"b"} and {second for _, second in names} == {"a", "c"}


def test_collect__deepest_localizes_all_failures() -> None:
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


def test_collect__random_choice_localizes_only_chosen_seeds() -> None:
    localizer = ScriptedLocalizer(last_step)
    seeds_chosen(GroupPlan(4, 2, 1), SelfReset(localizer), FAILURES, times=10)
    (localized,) = localizer.calls
    assert len(localized) == 20
