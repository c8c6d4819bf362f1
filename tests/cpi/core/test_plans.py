"""Valid and invalid group plans, and the table of algorithms."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from cpi.core.episodes import Episode, Prefix
from cpi.core.plans import ALGORITHMS, GroupPlan, World
from cpi.core.resets import OracleReset, RandomReset, SelfReset
from tests.cpi.scripted import ScriptedLocalizer, at_step

EPISODE = Episode(Prefix("start"), ("a", "b", "c"), 0.0, True, 3)


class Second:
    """An oracle for which the second step is wrong and improvable."""

    def improvement(self, episode: Episode) -> Any:
        return at_step(1)(episode)

    def errors(self, episode: Episode) -> Any:
        return at_step(1)(episode) > 0


@pytest.mark.parametrize(
    ("numbers", "rollouts"),
    [((8, 0, 0), 8), ((4, 1, 4), 8), ((3, 2, 2), 7), ((0, 2, 4), 8), ((0, 1, 8), 8)],
)
def test_group_plan__rollouts_are_the_trained_episodes(
    numbers: tuple[int, int, int], rollouts: int
) -> None:
    assert GroupPlan(*numbers).rollouts == rollouts


def test_group_plan__size_alone_without_resets() -> None:
    assert GroupPlan(3) == GroupPlan(3, 0, 0) and GroupPlan(3).rollouts == 3


def test_group_plan__rollouts_of_an_adaptive_plan() -> None:
    adaptive, fixed = GroupPlan(8, 1, 4, retries=3), GroupPlan(4, 2, 3)
    assert (adaptive.rounds, adaptive.rollouts, adaptive.most_rollouts) == (3, 8, 20)
    assert (fixed.rounds, fixed.rollouts, fixed.most_rollouts) == (1, 10, 10)
    assert (GroupPlan(8).rounds, GroupPlan(8).most_rollouts) == (0, 8)


def test_group_plan__numpy_integers_are_whole_numbers() -> None:
    plan = GroupPlan(np.int64(4), np.uint8(1), np.int32(4))  # type: ignore[arg-type]
    assert plan == GroupPlan(4, 1, 4) and type(plan.fresh) is int


def test_group_plan__default_is_random_failures() -> None:
    plan = GroupPlan(4, 1, 4)
    assert (plan.seeds, plan.choice) == ("failed", "random")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fresh": -1}, r"fresh: -1 is not a whole number ≥ 0"),
        ({"fresh": 4.0}, r"fresh: 4\.0 is not a whole number"),
        ({"fresh": "8"}, r"fresh: '8' is not a whole number"),
        ({"fresh": 4, "resets": -1, "per_reset": 4}, r"resets: -1 is not"),
        ({"fresh": 4, "resets": 1, "per_reset": -4}, r"per_reset: -4 is not"),
        ({"fresh": 4, "resets": 1}, r"resets=1 and per_reset=0: give both, or neither"),
        ({"fresh": 4, "per_reset": 4}, r"resets=0 and per_reset=4: give both, or neither"),
        ({"fresh": 8, "resets": 1, "per_reset": 4, "retries": -1}, r"retries: -1 is not"),
        ({"fresh": 8, "resets": 1, "per_reset": 4, "equal_cost": True}, r"equal_cost: .* retries"),
        ({"fresh": 0, "resets": 1, "per_reset": 4, "retries": 1}, r"retries: 1 .* are fresh=0"),
        ({"fresh": 8, "resets": 2, "per_reset": 4, "retries": 1}, r"retries: 1 .* resets=2"),
        ({"fresh": 8, "resets": 1, "per_reset": 4, "candidates": 2}, r"candidates: 2 needs"),
        (
            {"fresh": 8, "resets": 2, "per_reset": 4, "candidates": 1, "choice": "deepest"},
            r"candidates: 1 needs .* resets=2",
        ),
        (
            {"fresh": 8, "resets": 1, "per_reset": 4, "retries": 2, "seeds": "any"},
            r"retries: 2 .* seeds='any'",
        ),
        ({"fresh": 0}, r"fresh=0 and resets=0: nothing would be rolled out"),
        ({"fresh": 4, "seeds": "all"}, r"seeds: 'all' is neither 'failed' nor 'any'"),
        ({"fresh": 4, "choice": "first"}, r"choice: 'first' is neither 'random' nor 'deepest'"),
    ],
)
def test_group_plan__invalid_values_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GroupPlan(**arguments)


def test_group_plan__immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        GroupPlan(8).fresh = 4  # type: ignore[misc]


def test_the_four_algorithms_of_the_paper_have_equal_budgets() -> None:
    assert ALGORITHMS["grpo"].plan == GroupPlan(8)
    for name in ("rrpo", "srpo", "oracle"):
        assert ALGORITHMS[name].plan == GroupPlan(4, 1, 4)
        assert ALGORITHMS[name].plan.rollouts == 8


def test_adaptive__begins_with_grpo_s_group() -> None:
    plan = ALGORITHMS["adaptive"].plan
    assert (plan.fresh, plan.rollouts, plan.retries) == (8, 8, 4)
    assert plan.choice == "deepest" and plan.localized == 2


def test_algorithm__needs_match_the_rule() -> None:
    whole = World(OracleReset(Second()), ScriptedLocalizer(at_step(0)))
    for name, algorithm in ALGORITHMS.items():
        needed = World(**{field: getattr(whole, field) for field in algorithm.needs})
        algorithm.rule(needed)
        for field in algorithm.needs:
            with pytest.raises(ValueError, match=f"^{field}: the algorithm needs one"):
                algorithm.rule(needed._replace(**{field: None}))
        assert algorithm.about, name


def test_algorithm_rule__made_from_the_world() -> None:
    localizer = ScriptedLocalizer(at_step(2))
    world = World(OracleReset(Second(), "first_error"), localizer)
    rules = {name: algorithm.rule(world) for name, algorithm in ALGORITHMS.items()}
    assert isinstance(rules["rrpo"], RandomReset)
    assert isinstance(rules["srpo"], SelfReset) and rules["srpo"].localizer is localizer
    assert rules["oracle"] is world.oracle
    expected = {"rrpo": [1, 1, 1], "srpo": [0, 0, 1], "oracle": [0, 1, 0]}
    for name, weights in expected.items():
        np.testing.assert_array_equal(rules[name].weights([EPISODE]), [weights])


def test_algorithm_rule__missing_part_is_named() -> None:
    localizer = ScriptedLocalizer(at_step(0))
    with pytest.raises(ValueError, match="localizer: the algorithm needs one"):
        ALGORITHMS["srpo"].rule(World(oracle=OracleReset(Second())))
    with pytest.raises(ValueError, match="oracle: the algorithm needs one"):
        ALGORITHMS["oracle"].rule(World(localizer=localizer))
    for name in ("grpo", "rrpo"):
        assert isinstance(ALGORITHMS[name].rule(World()), RandomReset)
