"""What steps ask for, against steps in which nobody stops and every reset is to the prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from cpi.core.collect import collect
from cpi.core.resets import RandomReset
from llm.algorithms import algorithm_class
from llm.config.baselines import CritiqueGRPOOptions, ScoreOptions, SPOTreeOptions
from llm.config.demand import Demand
from llm.config.options import PlanOptions
from llm.config.train import TrainConfig
from llm.learner.rows import Row, make_rows
from llm.planning.demand import demand, evaluation, rounds
from llm.thoughts.options import SamplingOptions
from llm.thoughts.simulator import ThoughtSimulator
from tests.llm.algorithms.worlds import settings, setup, starts, world

#: Tokens of a prompt of the small world, and of what asks for a second attempt.
PROMPT, REQUEST = 2, 1

LIMITS = SamplingOptions(max_completion_length=12, max_thoughts=50, max_thought_tokens=50)


def endless(*_: Any) -> list[int]:
    """One word, for ever."""
    return [0] * 100


def made(algorithm: str, **options: Any) -> TrainConfig:
    return settings(algorithm, prompts_per_step=2, sampling=LIMITS, **options)


def assert_reached(asked: Demand, simulator: ThoughtSimulator, rows: Sequence[Row]) -> None:
    calls = [
        (len(prompts), params[0].n, len(prompts[0]) - PROMPT, params[0].max_tokens)
        for prompts, params in simulator.engine.calls  # type: ignore[attr-defined]
    ]
    assert calls == [call[1:] for call in asked.calls]
    found = Counter((r.trained_from - PROMPT, r.trained_to - r.trained_from) for r in rows)
    expected = Counter[tuple[int, int]]()
    for kind in asked.rows:
        expected[kind.context, kind.trained] += kind.number
    assert found == expected


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
def test_baselines_reach_what_they_ask_for(algorithm: str, options: Any) -> None:
    simulator, config = world(endless), made(algorithm, **{algorithm: options})
    sampler = algorithm_class(config)(setup(simulator, config))
    batch = sampler.batch(1, range(2), np.random.default_rng(0))
    assert_reached(demand(config, REQUEST), simulator, batch.rows)


@pytest.mark.parametrize("fresh", [0, 3])
def test_plans_reach_what_they_ask_for(fresh: int) -> None:
    simulator = world(endless)
    config = made("rrpo", plan=PlanOptions(fresh=fresh, resets=2, per_reset=4))
    rng = np.random.default_rng(0)
    found = collect(simulator, starts(simulator), config.group_plan(), RandomReset(), rng)
    rows = make_rows(found, [group.returns for group in found])
    assert_reached(demand(config, REQUEST), simulator, rows)


def test_a_request_to_localize_follows_problem_and_solution() -> None:
    ask = [call for call in demand(made("srpo"), 7).calls if call.name == "localization"]
    assert [call[1:] for call in ask] == [(2, 1, 12 + 7, 1024)]
    assert "localization" not in [c.name for c in demand(made("srpo", localizer="random")).calls]


def test_segments_have_the_whole_completion_whatever_thoughts_may_have() -> None:
    limits = SamplingOptions(max_completion_length=100, max_thoughts=2, max_thought_tokens=10)
    tree = settings("spo_tree", sampling=limits, spo_tree=SPOTreeOptions([2, 2], 30))
    assert [call.new for call in demand(tree).calls] == [30, 70]
    assert [call.new for call in demand(settings("grpo", sampling=limits)).calls] == [20]


def test_what_is_expected_stops_half_way() -> None:
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


def test_every_round_may_replace_every_prompt() -> None:
    assert rounds(made("grpo")) == 1
    assert rounds(made("grpo", dynamic_sampling=5)) == 6
    assert rounds(made("grpo", dynamic_sampling=2), 0.5) == 1.75
