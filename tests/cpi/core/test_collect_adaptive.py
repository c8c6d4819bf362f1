"""Adaptive plans: where resets are made, from which episodes, in how many calls, at what cost."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpi import uniform_policy
from cpi.core.collect import Collection, Ledger, collect
from cpi.core.episodes import Prefix
from cpi.core.plans import GroupPlan
from cpi.core.resets import RandomReset, SelfReset
from cpi.tabular.simulator import TabularSimulator
from envs import first_error_chain
from tests.cpi.core.test_collect import COIN, assert_alike, rng
from tests.cpi.scripted import (
    RecordingSimulator,
    Scripted,
    ScriptedLocalizer,
    assert_drawn_from,
)
from tests.cpi.worlds import repeatable

#: From "p" all fail; two resets reach "p a b", from which one succeeds. "q" succeeds at once, and
#: all from "r" fail at the first step.
LADDER = {
    ("p",): [("a x y", 0.0), ("x y zz", 0.0)],
    ("p", "a"): [("x", 0.0), ("b xxx", 0.0)],
    ("p", "a", "b"): [("c", 1.0), ("xxxx", 0.0)],
    ("q",): [("a x", 0.0), ("a b", 1.0)],
    ("r",): [("x", 0.0)],
}


def first_x(cost_each: int = 10) -> ScriptedLocalizer:
    """Weight 1 on the first wrong word, one that begins with x."""

    def weights(episode: object) -> object:
        wrong = np.array([word.startswith("x") for word in episode.steps])  # type: ignore[attr-defined]
        return (wrong & (np.cumsum(wrong) == 1)).astype(float)

    return ScriptedLocalizer(weights, cost_each=cost_each)


def climb(starts: list[str], retries: int) -> tuple[Collection, Scripted, ScriptedLocalizer]:
    world, localizer = Scripted(LADDER), first_x()
    plan = GroupPlan(2, 1, 2, choice="deepest", retries=retries)
    return collect(world, starts, plan, SelfReset(localizer), rng()), world, localizer


def test_collect__adaptive_plan_by_hand() -> None:
    groups, world, localizer = climb(["q", "p"], 4)
    assert [(g.start, g.prefix.steps) for g in groups] == [
        (0, ()),
        (1, ()),
        (1, ("a",)),
        (1, ("a", "b")),
    ]
    # The deepest seed is reset, and its reset group is the pool of the next one.
    fresh, first, second = list(groups)[1:]
    assert first.seed is fresh.episodes[0] and second.seed is first.episodes[1]
    assert [call.prefixes for call in world.calls] == [
        [Prefix("q"), Prefix("p")],
        [Prefix("p", ("a",))],
        [Prefix("p", ("a", "b"))],
    ]
    # Only failures of starts that are reset are localized: nothing of "q".
    asked = [sorted(e.steps for e in call) for call in localizer.calls]
    assert asked == [sorted(e.steps for e in group.episodes) for group in (fresh, first)]
    assert groups.ledger == Ledger(
        episodes=8,
        steps=(2 + 2) + (3 + 4) + (1 + 4) + (1 + 4),
        trained_episodes=8,
        trained_steps=21,
        localizer_cost=40,
        resets_drawn=4,
        resets_accepted=2,
    )


def test_collect__deepest_of_few_candidates() -> None:
    # Of three failures, the two that may be chosen are localized; the deeper one is reset.
    script = {("p",): [("a b x", 0.0), ("a x", 0.0), ("x", 0.0)]}
    script |= {("p", *kept): [("c", 1.0)] for kept in [("a", "b"), ("a",)]}
    plan, localizer = GroupPlan(3, 1, 1, choice="deepest", candidates=2), first_x()
    groups = collect(Scripted(script), ["p"] * 3000, plan, SelfReset(localizer), rng(4))
    depths = [group.prefix.length for group in groups[1::2]]
    assert_drawn_from(np.bincount(depths, minlength=3), np.array([0, 1, 2]) / 3)
    assert groups.ledger.resets_drawn == 6000


def test_collect__one_retry_is_one_reset_of_failed_groups() -> None:
    groups, world, _ = climb(["q", "p"], 1)
    assert [g.prefix.steps for g in groups] == [(), (), ("a",)] and len(world.calls) == 2


def test_collect__all_resets_of_a_round_in_one_call() -> None:
    groups, world, localizer = climb(["p", "q", "p"], 4)
    assert [len(call.prefixes) for call in world.calls] == [3, 2, 2]
    assert [len(call) for call in localizer.calls] == [4, 4]
    assert [g.start for g in groups] == [0, 0, 0, 1, 2, 2, 2]


def test_collect__adaptive_plan_stops_after_retries() -> None:
    groups, world, _ = climb(["r"], 3)
    assert len(world.calls) == 4  # the fresh group, and three resets before the first step
    assert [group.prefix.length for group in groups] == [0, 0, 0, 0]
    assert [group.seed is None for group in groups] == [True, False, False, False]
    assert groups.ledger.fallbacks == 0


def test_collect__no_step_to_reset_ends_the_start_without_a_fallback() -> None:
    world, rule = Scripted(LADDER), SelfReset(ScriptedLocalizer(lambda e: np.zeros(e.length)))
    plan = GroupPlan(2, 1, 2, retries=4)
    groups = collect(world, ["p", "r"], plan, rule, rng())
    assert len(groups) == 2 and len(world.calls) == 1
    assert (groups.ledger.resets_drawn, groups.ledger.fallbacks) == (2, 0)


def test_collect__adaptive_plan_begins_as_grpo() -> None:
    chain = first_error_chain(3)
    simulator = TabularSimulator(chain, uniform_policy(chain))
    plan = GroupPlan(8, 1, 4, choice="deepest", retries=4)
    grpo = collect(simulator, [0] * 5, GroupPlan(8), None, rng(2))
    groups = collect(simulator, [0] * 5, plan, RandomReset(), rng(2))
    fresh = [group for group in groups if group.seed is None]
    assert_alike(Collection(fresh, grpo.ledger), grpo)
    assert len(groups) > 5


@pytest.mark.parametrize(
    ("cost_each", "others"),
    # The fresh groups of "p" and "q" cost 7 + 4, the resets of "p" 10, and four localizations: with
    # all of them, eight starts' fresh groups pay for 8 × 11 / (21 + 4 × cost_each) starts.
    [(0, 2), (2, 1), (10, 0)],
)
def test_collect__starts_of_an_equal_cost_by_hand(cost_each: int, others: int) -> None:
    plan = GroupPlan(2, 1, 2, choice="deepest", retries=4, equal_cost=True)
    world, starts = Scripted(LADDER), ["p", "q"] + 6 * ["q"]
    groups = collect(world, starts, plan, SelfReset(first_x(cost_each)), rng())
    assert [group.start for group in groups] == [0, 0, 0, 1, *range(2, 2 + others)]
    assert groups.ledger.steps == 21 + 4 * others
    assert groups.ledger.localizer_cost == 4 * cost_each
    assert groups.ledger.episodes == groups.ledger.trained_episodes == 8 + 2 * others


def test_collect__equal_cost_takes_all_starts_where_none_is_reset() -> None:
    plan = GroupPlan(2, 1, 2, choice="deepest", retries=4, equal_cost=True)
    for number in range(6):
        groups = collect(Scripted(LADDER), ["q"] * number, plan, SelfReset(first_x()), rng())
        assert [group.start for group in groups] == list(range(number))


def test_collect__equal_cost_on_average() -> None:
    # Resets triple the cost; the number of starts, which follows from a quarter of them, then
    # brings it back to that of 32 fresh groups.
    chain = first_error_chain(6)
    simulator = TabularSimulator(chain, uniform_policy(chain))
    plan = GroupPlan(4, 1, 4, retries=4)
    costs = {
        equal: [
            collect(
                simulator, [0] * 32, replace(plan, equal_cost=equal), RandomReset(), r
            ).ledger.steps
            for r in [rng(equal)]
            for _ in range(40)
        ]
        for equal in (False, True)
    }
    fresh = collect(simulator, [0] * 32, GroupPlan(4), None, rng()).ledger.steps
    assert np.mean(costs[False]) > 2.5 * fresh
    assert abs(np.mean(costs[True]) / fresh - 1) < 0.1


@repeatable
@given(
    fresh=st.integers(1, 4),
    size=st.integers(1, 3),
    retries=st.integers(1, 4),
    choice=st.sampled_from(["random", "deepest"]),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("scripted", [True, False])
def test_collect__invariants_of_adaptive_plans(
    scripted: bool, fresh: int, size: int, retries: int, choice: str, seed: int
) -> None:
    chain = first_error_chain(4)
    tabular = RecordingSimulator(TabularSimulator(chain, uniform_policy(chain)))
    world = Scripted(COIN, shuffled=True) if scripted else tabular
    plan = GroupPlan(fresh, 1, size, choice=choice, retries=retries)  # type: ignore[arg-type]
    localizer = ScriptedLocalizer(lambda e: np.arange(e.length) != 2, cost_each=10)
    starts = ["coin" if scripted else 0] * 3
    groups = collect(world, starts, plan, SelfReset(localizer), rng(seed))
    for number in range(3):
        of_start = [group for group in groups if group.start == number]
        assert plan.rollouts <= sum(len(g.episodes) for g in of_start) <= plan.most_rollouts
        for before, after in itertools.pairwise(of_start):
            assert all(episode.failed for episode in before.episodes)
            assert any(after.seed is episode for episode in before.episodes)
        if len(of_start) <= retries:
            assert not all(episode.failed for episode in of_start[-1].episodes)
    everything = [e for call in world.calls for group in call.episodes for e in group]
    assert groups.ledger.episodes == groups.ledger.trained_episodes == len(everything)
    assert groups.ledger.steps == groups.ledger.trained_steps == sum(e.cost for e in everything)
    assert groups.ledger.resets_drawn == sum(map(len, localizer.calls))
    assert groups.ledger.resets_accepted == len(groups) - 3 and groups.ledger.fallbacks == 0


#: Digests of collections from before there were adaptive plans.
RECORDED = [
    (GroupPlan(8), "aae5f4e5e97d7770"),
    (GroupPlan(4, 1, 4), "d25ba7da90d30d88"),
    (GroupPlan(4, 2, 4, choice="deepest"), "a3afaa17df06f378"),
    (GroupPlan(0, 1, 8), "dd0f96bc8504e9d8"),
    (GroupPlan(0, 2, 4, "any"), "7b9bfa95c0f1a83e"),
]


@pytest.mark.parametrize(("plan", "digest"), RECORDED, ids=str)
def test_collect__fixed_plans_keep_their_random_streams(plan: GroupPlan, digest: str) -> None:
    chain = first_error_chain(5)
    simulator, generator = TabularSimulator(chain, uniform_policy(chain)), rng(7)
    groups = collect(simulator, [0] * 6, plan, RandomReset(), generator)
    text = " ".join(
        f"{g.start}:{g.prefix.length}:"
        + ",".join("".join(map(str, np.asarray(e.steps)[:, 1])) for e in g.episodes)
        for g in groups
    )
    text += f" {generator.integers(1000)}"
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest
