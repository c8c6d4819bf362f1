"""Demand of a step against real steps without early stops, where resets go to the prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cpi.core.collect import collect
from cpi.core.resets import RandomReset
from llm.algorithms import algorithm_class
from llm.config.baselines import (
    CritiqueGRPOOptions,
    ScoreOptions,
    SPOTreeOptions,
    VinePPOOptions,
)
from llm.config.demand import Demand
from llm.config.train import EvaluationOptions, PlanOptions, TrainConfig
from llm.learner.rows import Row, make_rows
from llm.planning.demand import Lengths, demand, evaluation, rounds
from llm.planning.hardware import Hardware
from llm.planning.step_cost import step_cost
from llm.thoughts.options import SamplingOptions
from llm.thoughts.simulator import ThoughtSimulator
from tests.llm.algorithms.worlds import settings, setup, starts, world

#: Tokens of the small world's prompts, and of its requests for a second attempt.
PROMPT, REQUEST = 2, 1

LIMITS = SamplingOptions(max_completion_length=12, max_thoughts=50, max_thought_tokens=50)


def endless(*_: Any) -> list[int]:
    """A completion that never stops."""
    return [0] * 100


def make_config(algorithm: str, **options: Any) -> TrainConfig:
    return settings(algorithm, prompts_per_step=2, sampling=LIMITS, **options)


def assert_demand_is_reached(
    step: Demand, simulator: ThoughtSimulator, rows: Sequence[Row]
) -> None:
    calls = [
        (len(prompts), params[0].n, len(prompts[0]) - PROMPT, params[0].max_tokens)
        for prompts, params in simulator.engine.calls  # type: ignore[attr-defined]
    ]
    assert calls == [call[1:] for call in step.calls]
    actual = Counter((r.trained_from - PROMPT, r.trained_to - r.trained_from) for r in rows)
    expected = Counter[tuple[int, int]]()
    for kind in step.rows:
        expected[kind.context, kind.trained] += kind.number
    assert actual == expected


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("score", ScoreOptions(attempts=3)),
        ("critique_grpo", CritiqueGRPOOptions(answers=4, refinements=2)),
        ("critique_grpo", CritiqueGRPOOptions(answers=4, refinements=0)),
        ("spo_tree", SPOTreeOptions(branches=[3, 2, 2], segment_tokens=5)),
        ("spo_tree", SPOTreeOptions(branches=[4])),
    ],
)
def test_demand__baseline_step_reaches_it(algorithm: str, options: Any) -> None:
    simulator, config = world(endless), make_config(algorithm, **{algorithm: options})
    sampler = algorithm_class(config)(setup(simulator, config))
    batch = sampler.batch(1, range(2), np.random.default_rng(0))
    assert_demand_is_reached(demand(config, REQUEST), simulator, batch.rows)


def test_demand__vineppo_step_reaches_it() -> None:
    limits = SamplingOptions(max_completion_length=12, max_thoughts=1, max_thought_tokens=50)
    options = VinePPOOptions(completions=3, samples=2)
    config = settings("vineppo", prompts_per_step=2, sampling=limits, vineppo=options)
    simulator = world(endless)
    batch = algorithm_class(config)(setup(simulator, config)).batch(
        1, range(2), np.random.default_rng(0)
    )
    assert_demand_is_reached(demand(config), simulator, batch.rows)


def test_demand__vineppo_has_values_of_every_prefix() -> None:
    limits = SamplingOptions(max_completion_length=40, max_thoughts=4, max_thought_tokens=10)
    config = settings("vineppo", prompts_per_step=2, sampling=limits, vineppo=VinePPOOptions(3, 5))
    most, typical = demand(config), demand(config, share=0.5)
    assert [call[1:] for call in most.calls] == [(2, 3, 0, 40), (20, 5, 0, 40)]
    assert most.rows == [(24, 30, 10, 6)]
    assert [call[1:] for call in typical.calls] == [(2, 3, 0, 20), (8, 5, 10, 10)]
    assert typical.rows == [(12, 5, 10, 6)]


@pytest.mark.parametrize("fresh", [0, 3])
def test_demand__plan_and_rule_step_reaches_it(fresh: int) -> None:
    simulator = world(endless)
    config = make_config("rrpo", plan=PlanOptions(fresh=fresh, resets=2, per_reset=4))
    rng = np.random.default_rng(0)
    collection = collect(simulator, starts(simulator), config.group_plan(), RandomReset(), rng)
    rows = make_rows(collection, [group.returns for group in collection])
    assert_demand_is_reached(demand(config, REQUEST), simulator, rows)


def test_demand__adaptive_step_reaches_it() -> None:
    simulator = world(endless)  # a word that is wrong, in one thought: resets go to the prompt
    plan = PlanOptions(retries=3, equal_cost=False)
    config = make_config("adaptive", localizer="random", plan=plan)
    rng = np.random.default_rng(0)
    collection = collect(simulator, starts(simulator), config.group_plan(), RandomReset(), rng)
    rows = make_rows(collection, [group.returns for group in collection])
    assert_demand_is_reached(demand(config, REQUEST), simulator, rows)
    assert [kind.number for kind in demand(config).rows] == [16, 8, 8, 8]


def test_demand__adaptive_localizes_few_failures_of_the_prompts_left() -> None:
    plan = PlanOptions(candidates=6, retries=3, equal_cost=False)
    config = settings("adaptive", prompts_per_step=8, sampling=LIMITS, plan=plan)
    for share, asked, resets in ((1.0, [48, 32, 32], [8] * 3), (0.5, [24, 8, 4], [4, 2, 1])):
        calls = demand(config, share=share).calls
        assert [c.requests for c in calls if c.name == "localization"] == asked
        assert [c.requests for c in calls if c.name == "reset"] == resets


def test_demand__fewer_prompts_at_equal_cost() -> None:
    # Half of the groups fail each time, and a reset is half as long: 8 × 4 × ½ to 8 × 8 rollouts.
    plan = PlanOptions(retries=4, equal_cost=True)
    config = settings(
        "adaptive", prompts_per_step=8, sampling=LIMITS, localizer="random", plan=plan
    )
    assert demand(config, share=0.5).calls[0].requests == round(8 * 64 / (64 + 16))
    assert demand(config).calls[0].requests == 8


def test_step_cost__rounds_of_an_adaptive_plan_add_up() -> None:
    config = make_config("adaptive", localizer="random", evaluation=EvaluationOptions(steps=0))
    small: Any = SimpleNamespace(parameters=10, trained=10, layers=1, why_not_shared="no layers")
    hardware = Hardware(1, 2**30, "cpu", 1e9, here=False)
    cost = step_cost(config, small, hardware, Lengths(PROMPT))
    resets = [call.tokens for call in demand(config).calls if call.name == "reset"]
    assert len(resets) == 4 and cost.generated["reset"][1] == sum(resets)
    assert list(cost.generated) == ["fresh", "reset"]


def test_demand__localization_call_has_prompt_solution_and_request() -> None:
    calls = [call for call in demand(make_config("srpo"), 7).calls if call.name == "localization"]
    assert [call[1:] for call in calls] == [(2, 1, 12 + 7, 1024)]
    assert "localization" not in [
        c.name for c in demand(make_config("srpo", localizer="random")).calls
    ]


def test_demand__spo_tree_segments_ignore_thought_limits() -> None:
    limits = SamplingOptions(max_completion_length=100, max_thoughts=2, max_thought_tokens=10)
    tree = settings("spo_tree", sampling=limits, spo_tree=SPOTreeOptions([2, 2], 30))
    assert [call.new for call in demand(tree).calls] == [30, 70]
    assert [call.new for call in demand(settings("grpo", sampling=limits)).calls] == [20]


def test_demand__half_share_halves_lengths() -> None:
    limits = SamplingOptions(max_completion_length=100)
    tree = settings(
        "spo_tree", sampling=limits, prompts_per_step=1, spo_tree=SPOTreeOptions([3, 2, 2], 30)
    )
    assert [(c.requests, c.new) for c in demand(tree, share=0.5).calls] == [
        (1, 30),
        (3, 20),
        (0, 0),
    ]
    rrpo = demand(settings("rrpo", sampling=limits), share=0.5)
    assert [(c.context, c.new) for c in rrpo.calls] == [(0, 50), (25, 25)]
    assert evaluation(settings("grpo", sampling=limits), 0.5).new == 50


def test_rounds__dynamic_sampling_may_replace_all_prompts() -> None:
    assert rounds(make_config("grpo")) == 1
    assert rounds(make_config("grpo", dynamic_sampling=5)) == 6
    assert rounds(make_config("grpo", dynamic_sampling=2), 0.5) == 1.75
