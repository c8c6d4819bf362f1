"""Critique-GRPO on a scripted policy: union groups, off-policy rows, costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cpi
from cpi.core.collect import collect
from cpi.core.episodes import Episode, Prefix
from llm.algorithms.batch import Batch
from llm.algorithms.critique_grpo import CritiqueGRPO, best, request
from llm.config.baselines import CritiqueGRPOOptions
from llm.learner.rows import make_rows
from llm.thoughts.simulator import ThoughtSimulator, token_ids
from tests.llm.algorithms.worlds import (
    assert_rows_equal,
    sampled_prompts,
    settings,
    setup,
    starts,
    world,
)

N, K = 4, 2


def make_batch(seed: int = 0, **options: Any) -> tuple[Batch, ThoughtSimulator]:
    simulator = world()
    values = {"answers": N, "refinements": K, "gamma": 0.2, **options}
    config = settings("critique_grpo", critique_grpo=CritiqueGRPOOptions(**values))
    critique = CritiqueGRPO(setup(simulator, config))
    return critique.batch(1, range(2), np.random.default_rng(seed)), simulator


def sample_answers(number: int = N, seed: int = 0) -> Any:
    simulator = world()
    plan = cpi.GroupPlan(fresh=number)
    return collect(simulator, starts(simulator), plan, None, np.random.default_rng(seed))


def test_batch__no_refinements_equals_grpo() -> None:
    batch, simulator = make_batch(refinements=0)
    groups = sample_answers()
    advantages = cpi.group_advantages([group.returns for group in groups])
    assert_rows_equal(batch.rows, make_rows(groups, advantages))
    assert batch.ledger == groups.ledger
    assert len(simulator.engine.calls) == 1  # type: ignore[attr-defined]


def test_check__room_for_refinements_only_if_there_are_any() -> None:
    simulator = world(room=20)  # prompt 2, answers 12 each
    for refinements in (0, 1):
        options = CritiqueGRPOOptions(answers=N, refinements=refinements)
        config = settings("critique_grpo", critique_grpo=options)
        critique = CritiqueGRPO(setup(simulator, config))
        if refinements:
            with pytest.raises(ValueError, match="two attempts of 12 tokens"):
                critique.check(starts(simulator))
        else:
            critique.check(starts(simulator))


def test_batch__rows_are_answers_then_off_policy_refinements() -> None:
    batch, simulator = make_batch()
    groups = sample_answers()
    refined = {tuple(ids) for ids in _refinements()}
    returns = []
    for number, group in enumerate(groups):
        rows = batch.rows[number * (N + K) : (number + 1) * (N + K)]
        prompt = list(group.prefix.start.ids)
        for row in rows:  # refinements have the original prompt, too
            assert row.ids[: row.trained_from].tolist() == prompt
            assert row.trained_to == len(row.ids)
        for row, episode in zip(rows, group.episodes, strict=False):
            assert row.ids.tolist() == [*prompt, *token_ids(episode.steps)]
            assert row.gamma == 0 and np.isfinite(row.logprobs).all()
        for row in rows[N:]:
            assert tuple(row.ids[len(prompt) :].tolist()) in refined
            assert row.gamma == 0.2 and np.isnan(row.logprobs).all()
            assert len(row.logprobs) == row.trained
        texts = [simulator.tokenizer.decode(row.ids[len(prompt) :]) for row in rows]
        returns.append([float("g" in text) for text in texts])
    assert np.std(returns)
    expected = np.concatenate(cpi.group_advantages(returns))
    assert [row.advantage for row in batch.rows] == expected.tolist()


def _refinements() -> list[list[int]]:
    """The token ids that the engine samples after the critiques."""
    _, simulator = make_batch()
    prompts, params = simulator.engine.calls[1]  # type: ignore[attr-defined]
    completions = simulator.engine.generate(prompts, params)
    return [group[0].ids.tolist() for group in completions]


def test_batch__refinement_sampled_after_its_answer() -> None:
    _, simulator = make_batch()
    question = simulator.tokenizer("?").input_ids
    expected = [
        [*group.prefix.start.ids, *token_ids(episode.steps), *question]
        for group in sample_answers()
        for episode in group.episodes
    ]
    assert sampled_prompts(simulator, 1) == expected


def test_request__reveals_only_correctness() -> None:
    groups = sample_answers()
    requests = {request(episode) for group in groups for episode in group.episodes}
    assert len(requests) == 2
    assert any("is correct" in text for text in requests)
    for group in groups:
        for episode in group.episodes:
            assert ("is incorrect" in request(episode)) == episode.failed == (episode.ret == 0)
            assert "secret" not in request(episode)


def test_best__highest_rewards_first_ties_at_random() -> None:
    episodes = [
        Episode(Prefix("start"), (i,), ret, ret < 1, 1)
        for i, ret in enumerate([0.0, 1.0, 0.0, 1.0, 1.0, 0.5])
    ]
    drawn = [best(episodes, 4, np.random.default_rng(seed)) for seed in range(300)]
    assert all([e.ret for e in four] == [1.0, 1.0, 1.0, 0.5] for four in drawn)
    firsts = np.bincount([four[0].steps[0] for four in drawn], minlength=6)
    assert firsts[[1, 3, 4]].min() > 70 and firsts[[0, 2, 5]].sum() == 0


def test_batch__ledger_counts_answers_and_all_refinements() -> None:
    batch, simulator = make_batch()
    fresh = sum(episode.cost for group in sample_answers() for episode in group.episodes)
    refined = sum(map(len, _refinements()))
    kept = [row for row in batch.rows if row.gamma]
    ledger = batch.ledger
    assert ledger.episodes == 2 * 2 * N
    assert ledger.steps == fresh + refined == simulator_tokens(simulator)
    assert ledger.trained_episodes == 2 * (N + K)
    assert ledger.trained_steps == fresh + sum(row.trained for row in kept)
    assert ledger.localizer_cost == 0


def simulator_tokens(simulator: ThoughtSimulator) -> int:
    calls = list(simulator.engine.calls)  # type: ignore[attr-defined]
    return sum(
        len(completion.ids)
        for prompts, params in calls
        for group in simulator.engine.generate(prompts, params)
        for completion in group
    )


def test_batch__metrics_by_hand() -> None:
    batch, simulator = make_batch()
    before = [episode.ret for group in sample_answers() for episode in group.episodes]
    texts = [simulator.tokenizer.decode(ids) for ids in _refinements()]
    after = np.array(["g" in text for text in texts], dtype=float)
    metrics = batch.metrics
    assert metrics["fresh/reward"] == pytest.approx(np.mean(before))
    assert metrics["critique/refined_reward"] == pytest.approx(after.mean())
    assert metrics["critique/correction_rate"] == pytest.approx(after[np.equal(before, 0)].mean())
    assert metrics["critique/chosen_reward"] >= metrics["critique/refined_reward"]
    assert all(np.isfinite(value) for value in metrics.values())  # NaN log-probs count nowhere


def test_records__contain_the_union() -> None:
    batch, _ = make_batch()
    records = batch.records()
    assert [len(record["continuations"]) for record in records] == [N + K, N + K]
    flat = [continuation for record in records for continuation in record["continuations"]]
    for row, continuation in zip(batch.rows, flat, strict=True):
        assert continuation["ids"] == row.ids[row.trained_from :].tolist()
        assert sum(continuation["mask"]) == continuation["tokens"] == row.trained
