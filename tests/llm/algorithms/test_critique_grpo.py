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
    equal,
    seen,
    settings,
    setup,
    starts,
    world,
)

N, K = 4, 2


def made(seed: int = 0, **options: Any) -> tuple[Batch, ThoughtSimulator]:
    simulator = world()
    values = {"answers": N, "refinements": K, "gamma": 0.2, **options}
    config = settings("critique_grpo", critique_grpo=CritiqueGRPOOptions(**values))
    critique = CritiqueGRPO(setup(simulator, config))
    return critique.batch(1, range(2), np.random.default_rng(seed)), simulator


def answers(number: int = N, seed: int = 0) -> Any:
    simulator = world()
    plan = cpi.GroupPlan(fresh=number)
    return collect(simulator, starts(simulator), plan, None, np.random.default_rng(seed))


def test_without_refinements_it_is_grpo() -> None:
    batch, simulator = made(refinements=0)
    groups = answers()
    advantages = cpi.group_advantages([group.returns for group in groups])
    equal(batch.rows, make_rows(groups, advantages))
    assert batch.ledger == groups.ledger
    assert len(simulator.engine.calls) == 1  # type: ignore[attr-defined]


def test_room_for_a_refinement_is_asked_for_where_there_is_one() -> None:
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


def test_rows_of_the_union() -> None:
    batch, simulator = made()
    groups = answers()
    refined = {tuple(ids) for ids in _refinements()}
    returns = []
    for number, group in enumerate(groups):
        rows = batch.rows[number * (N + K) : (number + 1) * (N + K)]
        prompt = list(group.prefix.start.ids)
        for row in rows:  # also a refinement's prompt is the original one
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
    """What the engine says after the answers and the critiques."""
    _, simulator = made()
    prompts, params = simulator.engine.calls[1]  # type: ignore[attr-defined]
    completions = simulator.engine.generate(prompts, params)
    return [group[0].ids.tolist() for group in completions]


def test_a_refinement_is_sampled_after_its_answer() -> None:
    _, simulator = made()
    question = simulator.tokenizer("?").input_ids
    expected = [
        [*group.prefix.start.ids, *token_ids(episode.steps), *question]
        for group in answers()
        for episode in group.episodes
    ]
    assert seen(simulator, 1) == expected


def test_the_critique_tells_one_bit() -> None:
    groups = answers()
    said = {request(episode) for group in groups for episode in group.episodes}
    assert len(said) == 2
    assert any("is correct" in text for text in said)
    for group in groups:
        for episode in group.episodes:
            assert ("is incorrect" in request(episode)) == episode.failed == (episode.ret == 0)
            assert "secret" not in request(episode)


def test_right_refinements_come_first_and_equals_at_random() -> None:
    episodes = [
        Episode(Prefix("start"), (i,), ret, ret < 1, 1)
        for i, ret in enumerate([0.0, 1.0, 0.0, 1.0, 1.0, 0.5])
    ]
    drawn = [best(episodes, 4, np.random.default_rng(seed)) for seed in range(300)]
    assert all([e.ret for e in four] == [1.0, 1.0, 1.0, 0.5] for four in drawn)
    firsts = np.bincount([four[0].steps[0] for four in drawn], minlength=6)
    assert firsts[[1, 3, 4]].min() > 70 and firsts[[0, 2, 5]].sum() == 0


def test_what_it_costs() -> None:
    batch, simulator = made()
    fresh = sum(episode.cost for group in answers() for episode in group.episodes)
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


def test_metrics_by_hand() -> None:
    batch, simulator = made()
    before = [episode.ret for group in answers() for episode in group.episodes]
    texts = [simulator.tokenizer.decode(ids) for ids in _refinements()]
    after = np.array(["g" in text for text in texts], dtype=float)
    metrics = batch.metrics
    assert metrics["fresh/reward"] == pytest.approx(np.mean(before))
    assert metrics["critique/refined_reward"] == pytest.approx(after.mean())
    assert metrics["critique/correction_rate"] == pytest.approx(after[np.equal(before, 0)].mean())
    assert metrics["critique/chosen_reward"] >= metrics["critique/refined_reward"]
    assert all(np.isfinite(value) for value in metrics.values())  # NaN log-probs count nowhere


def test_records_are_the_union() -> None:
    batch, _ = made()
    records = batch.records()
    assert [len(record["continuations"]) for record in records] == [N + K, N + K]
    flat = [told for record in records for told in record["continuations"]]
    for row, told in zip(batch.rows, flat, strict=True):
        assert told["ids"] == row.ids[row.trained_from :].tolist()
        assert sum(told["mask"]) == told["tokens"] == row.trained
