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
    assert_rows_equal,
    sampled_prompts,
    settings,
    setup,
    starts,
    world,
)

N = 3  # first attempts of each of two prompts


def make_batch(
    step: int = 5, seed: int = 0, config: Any = None, **options: Any
) -> tuple[Batch, ThoughtSimulator]:
    simulator = world()
    values = {"attempts": N, "stage1_steps": 2, "alpha": 2.0, **options}
    config = settings("score", score=ScoreOptions(**values), **(config or {}))
    score = Score(setup(simulator, config))
    return score.batch(step, range(2), np.random.default_rng(seed)), simulator


def returns(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Rewards of first and second attempts, (prompts, N) each."""
    rewards = [c["reward"] for record in batch.records() for c in record["continuations"]]
    return np.reshape(rewards[: 2 * N], (2, N)), np.reshape(rewards[2 * N :], (2, N))


def test_batch__attempts_trained_after_their_sampling_prompt() -> None:
    batch, simulator = make_batch()
    assert len(simulator.engine.calls) == 2 and len(batch.rows) == 4 * N  # type: ignore[attr-defined]
    prompts = [*sampled_prompts(simulator, 0), *sampled_prompts(simulator, 1)]
    for row, prompt in zip(batch.rows, prompts, strict=True):
        assert row.ids[: row.trained_from].tolist() == prompt
        assert row.trained_to == len(row.ids) and row.trained == len(row.logprobs) > 0
        assert row.mask is None and row.gamma == 0
    # A second attempt is sampled after exactly the tokens of the first.
    question = simulator.tokenizer("?").input_ids
    for first, prompt in zip(batch.rows, prompts[2 * N :], strict=False):
        assert prompt == [*first.ids.tolist(), *question]


def test_batch__first_attempts_equal_grpo() -> None:
    batch, _ = make_batch()
    simulator = world()
    plan = cpi.GroupPlan(fresh=N)
    groups = collect(simulator, starts(simulator), plan, None, np.random.default_rng(0))
    advantages = cpi.group_advantages([group.returns for group in groups])
    assert_rows_equal(batch.rows[: 2 * N], make_rows(groups, advantages))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_batch__alpha_zero_gives_independent_groups(scale: Any) -> None:
    batch, _ = make_batch(alpha=0.0, config={"scale_rewards": scale})
    first, second = returns(batch)
    assert first.std() and second.std()
    expected = [
        *cpi.group_advantages(list(first), scale),
        *cpi.group_advantages(list(second), scale),
    ]
    assert [row.advantage for row in batch.rows] == np.concatenate(expected).tolist()


def test_batch__bonus_on_second_attempt_only() -> None:
    batch, _ = make_batch(config={"scale_rewards": "none"}, seed=1)
    first, second = returns(batch)
    assert (second - first).std()
    shaped = second + 2.0 * (second - first)
    expected = [first - first.mean(1, keepdims=True), shaped - shaped.mean(1, keepdims=True)]
    actual = np.reshape([row.advantage for row in batch.rows], (2, 2, N))
    np.testing.assert_allclose(actual, expected, atol=1e-12)
    assert all(row.beta is None for row in batch.rows)


def test_batch__stage_one_kl_on_first_reward_on_second() -> None:
    batch, _ = make_batch(step=2, kl=0.3, config={"scale_rewards": "none"})
    after, _ = make_batch(step=3, kl=0.3, config={"scale_rewards": "none"})
    _, second = returns(batch)
    assert all(row.advantage == 0 and row.beta == 0.3 for row in batch.rows[: 2 * N])
    assert all(row.beta is None for row in batch.rows[2 * N :])
    actual = np.reshape([row.advantage for row in batch.rows[2 * N :]], (2, N))
    np.testing.assert_allclose(actual, second - second.mean(1, keepdims=True), atol=1e-12)
    assert any(row.advantage for row in after.rows[: 2 * N])
    for row, other in zip(batch.rows, after.rows, strict=True):  # both stages sample the same
        np.testing.assert_array_equal(row.ids, other.ids)


def test_batch__ledger_counts_both_attempts() -> None:
    batch, simulator = make_batch()
    ledger = batch.ledger
    tokens = sum(row.trained for row in batch.rows)
    assert ledger.episodes == ledger.trained_episodes == 4 * N
    assert ledger.steps == ledger.trained_steps == tokens
    assert ledger.localizer_cost == ledger.resets_drawn == ledger.fallbacks == 0
    assert len(sampled_prompts(simulator, 0)) == len(sampled_prompts(simulator, 1)) == 2 * N


def test_batch__metrics_by_hand() -> None:
    batch, _ = make_batch()
    first, second = returns(batch)
    assert batch.metrics["fresh/reward"] == pytest.approx(first.mean())
    assert batch.metrics["score/second_reward"] == pytest.approx(second.mean())
    assert batch.metrics["reward"] == pytest.approx((first.mean() + second.mean()) / 2)
    assert batch.metrics["score/fixed"] == pytest.approx(second[first == 0].mean())
    assert batch.metrics["score/broken"] == pytest.approx(1 - second[first == 1].mean())
    assert all(np.isfinite(value) for value in batch.metrics.values())


def test_records__full_prompt_and_trained_tokens() -> None:
    batch, simulator = make_batch()
    records = batch.records()
    assert [len(record["continuations"]) for record in records] == [N, N] + [1] * (2 * N)
    flat = [
        (record, continuation) for record in records for continuation in record["continuations"]
    ]
    for row, (record, continuation) in zip(batch.rows, flat, strict=True):
        assert continuation["ids"] == row.ids[row.trained_from :].tolist()
        assert continuation["mask"] == [1] * row.trained and continuation["tokens"] == row.trained
        assert continuation["advantage"] == row.advantage
        prompt = row.ids[: row.trained_from]
        assert record["prompt"] == simulator.tokenizer.decode(prompt)
        assert record["prompt_tokens"] == len(prompt)


def test_batch__reproducible() -> None:
    assert_rows_equal(make_batch(seed=3)[0].rows, make_batch(seed=3)[0].rows)
