"""SCoRe on a scripted policy: prompts, advantages, stages, costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cpi
from cpi.core.collect import collect
from llm.algorithms.batch import Batch
from llm.algorithms.score import Score
from llm.config.baselines import ScoreOptions
from llm.learner.rows import make_rows
from llm.thoughts.simulator import ThoughtSimulator
from tests.llm.algorithms.worlds import (
    equal,
    seen,
    settings,
    setup,
    starts,
    world,
)

N = 3  # first attempts of each of two prompts


def made(
    step: int = 5, seed: int = 0, config: Any = None, **options: Any
) -> tuple[Batch, ThoughtSimulator]:
    simulator = world()
    values = {"attempts": N, "stage1_steps": 2, "alpha": 2.0, **options}
    config = settings("score", score=ScoreOptions(**values), **(config or {}))
    score = Score(setup(simulator, config))
    return score.batch(step, range(2), np.random.default_rng(seed)), simulator


def returns(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Rewards of first and second attempts, (prompts, N) each."""
    told = [c["reward"] for record in batch.records() for c in record["continuations"]]
    return np.reshape(told[: 2 * N], (2, N)), np.reshape(told[2 * N :], (2, N))


def test_each_attempt_is_trained_after_the_prompt_that_it_was_sampled_from() -> None:
    batch, simulator = made()
    assert len(simulator.engine.calls) == 2 and len(batch.rows) == 4 * N  # type: ignore[attr-defined]
    prompts = [*seen(simulator, 0), *seen(simulator, 1)]
    for row, prompt in zip(batch.rows, prompts, strict=True):
        assert row.ids[: row.trained_from].tolist() == prompt
        assert row.trained_to == len(row.ids) and row.trained == len(row.logprobs) > 0
        assert row.mask is None and row.gamma == 0
    # The engine was asked for a second attempt after the very tokens of the first.
    question = simulator.tokenizer("?").input_ids
    for first, prompt in zip(batch.rows, prompts[2 * N :], strict=False):
        assert prompt == [*first.ids.tolist(), *question]


def test_first_attempts_are_those_of_grpo() -> None:
    batch, _ = made()
    simulator = world()
    plan = cpi.GroupPlan(fresh=N)
    groups = collect(simulator, starts(simulator), plan, None, np.random.default_rng(0))
    advantages = cpi.group_advantages([group.returns for group in groups])
    equal(batch.rows[: 2 * N], make_rows(groups, advantages))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_without_a_bonus_there_are_two_independent_groups(scale: Any) -> None:
    batch, _ = made(alpha=0.0, config={"scale_rewards": scale})
    first, second = returns(batch)
    assert first.std() and second.std()
    expected = [
        *cpi.group_advantages(list(first), scale),
        *cpi.group_advantages(list(second), scale),
    ]
    assert [row.advantage for row in batch.rows] == np.concatenate(expected).tolist()


def test_the_bonus_is_for_the_second_attempt() -> None:
    batch, _ = made(config={"scale_rewards": "none"}, seed=1)
    first, second = returns(batch)
    assert (second - first).std()
    shaped = second + 2.0 * (second - first)
    expected = [first - first.mean(1, keepdims=True), shaped - shaped.mean(1, keepdims=True)]
    found = np.reshape([row.advantage for row in batch.rows], (2, 2, N))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert all(row.beta is None for row in batch.rows)


def test_stage_one_holds_first_attempts_and_rewards_second_ones() -> None:
    batch, _ = made(step=2, kl=0.3, config={"scale_rewards": "none"})
    after, _ = made(step=3, kl=0.3, config={"scale_rewards": "none"})
    _, second = returns(batch)
    assert all(row.advantage == 0 and row.beta == 0.3 for row in batch.rows[: 2 * N])
    assert all(row.beta is None for row in batch.rows[2 * N :])
    found = np.reshape([row.advantage for row in batch.rows[2 * N :]], (2, N))
    np.testing.assert_allclose(found, second - second.mean(1, keepdims=True), atol=1e-12)
    assert any(row.advantage for row in after.rows[: 2 * N])
    for row, other in zip(batch.rows, after.rows, strict=True):  # the stages sample alike
        np.testing.assert_array_equal(row.ids, other.ids)


def test_what_it_costs() -> None:
    batch, simulator = made()
    ledger = batch.ledger
    tokens = sum(row.trained for row in batch.rows)
    assert ledger.episodes == ledger.trained_episodes == 4 * N
    assert ledger.steps == ledger.trained_steps == tokens
    assert ledger.localizer_cost == ledger.resets_drawn == ledger.fallbacks == 0
    assert len(seen(simulator, 0)) == len(seen(simulator, 1)) == 2 * N


def test_metrics_by_hand() -> None:
    batch, _ = made()
    first, second = returns(batch)
    assert batch.metrics["fresh/reward"] == pytest.approx(first.mean())
    assert batch.metrics["score/second_reward"] == pytest.approx(second.mean())
    assert batch.metrics["reward"] == pytest.approx((first.mean() + second.mean()) / 2)
    assert batch.metrics["score/fixed"] == pytest.approx(second[first == 0].mean())
    assert batch.metrics["score/broken"] == pytest.approx(1 - second[first == 1].mean())
    assert all(np.isfinite(value) for value in batch.metrics.values())


def test_records_show_the_conversation_and_what_was_trained() -> None:
    batch, simulator = made()
    records = batch.records()
    assert [len(record["continuations"]) for record in records] == [N, N] + [1] * (2 * N)
    flat = [(record, told) for record in records for told in record["continuations"]]
    for row, (record, told) in zip(batch.rows, flat, strict=True):
        assert told["ids"] == row.ids[row.trained_from :].tolist()
        assert told["mask"] == [1] * row.trained and told["tokens"] == row.trained
        assert told["advantage"] == row.advantage
        prompt = row.ids[: row.trained_from]
        assert record["prompt"] == simulator.tokenizer.decode(prompt)
        assert record["prompt_tokens"] == len(prompt)


def test_the_same_numbers_twice() -> None:
    equal(made(seed=3)[0].rows, made(seed=3)[0].rows)
