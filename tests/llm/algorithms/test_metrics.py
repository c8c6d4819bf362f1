"""Metrics of a collection, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

import cpi
from cpi.core.collect import Collection, Group, Ledger
from cpi.core.episodes import Episode, Prefix
from llm.algorithms.metrics import adaptive_metrics, collection_metrics
from llm.learner.rows import make_rows
from llm.tasks import ChainReasoning, Example
from llm.thoughts.simulator import Prompt, Thought, token_ids
from tests.llm.scripted import collected, sloppy

START = Prompt((1, 2), Example("x", "a"))


def thought(tokens: int, score: float, end: str = "delimiter") -> Thought:
    return Thought((3,) * tokens, np.full(tokens, score), "t", end)  # type: ignore[arg-type]


def episode(prefix: Prefix, suffix: tuple[Thought, ...], ret: float) -> Episode:
    return Episode(prefix, (*prefix.steps, *suffix), ret, ret < 1, len(token_ids(suffix)) + 1)


def groups() -> Collection:
    empty = Prefix(START)
    first = thought(2, -1.0)
    seed = episode(empty, (first, thought(3, -9.0), thought(1, -9.0, "stop")), 0.0)
    fresh = [seed, episode(empty, (thought(4, -0.5, "stop"),), 1.0)]
    kept = seed.prefix(1)
    continuations = [
        episode(kept, (thought(1, -2.0, "stop"),), 1.0),
        episode(kept, (thought(5, -2.0, "cut"),), 0.0),
        episode(kept, (thought(2, -2.0, "stop"),), 1.0),
    ]
    fallback = [episode(empty, (thought(n, -1.0, "stop"),), 0.25) for n in (7, 9)]
    other = [episode(empty, (thought(1, 0.0, "stop"),), 1.0) for _ in range(2)]
    sampled = [
        Group(0, empty, fresh),
        Group(0, kept, continuations, seed),
        Group(0, fresh[1].prefix(0), fallback, fresh[1]),
        Group(1, empty, other),
    ]
    return Collection(sampled, Ledger())


def test_adaptive_metrics__by_hand() -> None:
    empty = Prefix(START)
    fresh = [episode(empty, (thought(3, -1.0),), 0.0) for _ in range(2)]
    group = Group(0, empty, fresh)
    again = [episode(empty, (thought(1, -1.0),), 0.0)]
    solved = [episode(empty, (thought(4, -1.0),), 1.0)]
    resets = [Group(0, empty, again, fresh[0]), Group(0, empty, solved, again[0])]
    lost = Group(1, empty, fresh), Group(1, empty, again, fresh[0])
    right = Group(2, empty, solved)
    metrics = adaptive_metrics(Collection([group, *resets, *lost, right], Ledger()))
    # An episode costs a token more than its thoughts have.
    assert metrics == pytest.approx(
        {
            "adaptive/started": 3,
            "adaptive/prompts": 2 / 3,
            "adaptive/tokens": (2 + 5 + 2) / (8 + 8 + 5 + 2 + 5 + 2),
            "adaptive/solved": 1 / 2,
            "adaptive/rounds": 3 / 2,
        }
    )
    assert adaptive_metrics(Collection([right], Ledger())) == {
        "adaptive/started": 1.0,
        "adaptive/prompts": 0.0,
        "adaptive/tokens": 0.0,
    }


def test_collection_metrics__by_hand() -> None:
    collection = groups()
    advantages = cpi.group_advantages([group.returns for group in collection])
    metrics = collection_metrics(collection, advantages, make_rows(collection, advantages))
    scores = [-1, -1, -9, -9, -9, -9, *[-0.5] * 4, *[-2] * 8, *[-1] * 16, 0, 0]
    lengths = [6, 4, 3, 7, 4, 7, 9, 1, 1]
    assert metrics == pytest.approx(
        {
            "reward": (0 + 1 + 1 + 0 + 1 + 0.25 * 2 + 2) / 9,
            "reward_std": (math.sqrt(1 / 2) + math.sqrt(1 / 3) + 0 + 0) / 4,
            "frac_reward_zero_std": 2 / 4,
            "completions/mean_length": sum(lengths) / 9,
            "completions/min_length": 1,
            "completions/max_length": 9,
            "completions/clipped_ratio": 1 / 9,
            "thoughts/mean": (3 + 1 + 2 + 2 + 2 + 1 + 1 + 1 + 1) / 9,
            "entropy": -sum(scores) / len(scores),
            "fresh/reward": 3 / 4,
            "reset/reward": 2.5 / 5,
            "reset/position": (1 / 3 + 0) / 2,
            "reset/correction_rate": 2 / 5,
            "reset/empty_prefix_rate": 1 / 2,
            "reset/informative_group_rate": 1 / 2,
            "reset/suffix_tokens": (2 + 6 + 3 + 8 + 10) / 5,  # discarded tokens included
        }
    )


def test_collection_metrics__only_fresh_or_only_reset_groups() -> None:
    collection = groups()
    for part, missing in (([0, 3], "reset/"), ([1, 2], "fresh/")):
        chosen = Collection([collection[i] for i in part], Ledger())
        advantages = cpi.group_advantages([group.returns for group in chosen])
        metrics = collection_metrics(chosen, advantages, make_rows(chosen, advantages))
        assert metrics and not [name for name in metrics if name.startswith(missing)]


def test_collection_metrics__no_entropy_without_trained_tokens() -> None:
    cut = [episode(Prefix(START), (thought(3, -1.0, "cut"),), r) for r in (0.0, 1.0)]
    collection = Collection([Group(0, Prefix(START), cut)], Ledger())
    advantages = cpi.group_advantages([group.returns for group in collection])
    rows = make_rows(collection, advantages, mask_truncated_completions=True)
    metrics = collection_metrics(collection, advantages, rows)
    assert metrics["entropy"] == 0.0 and metrics["completions/clipped_ratio"] == 1.0


def test_collection_metrics__fallbacks_count_as_fresh() -> None:
    task = ChainReasoning(train=4, test=1)
    collection, _ = collected(task, sloppy(task, 0.0))  # nothing fails, so nothing is reset
    advantages = cpi.group_advantages([group.returns for group in collection])
    metrics = collection_metrics(collection, advantages, make_rows(collection, advantages))
    assert collection.ledger.fallbacks == 2 and metrics["fresh/reward"] == metrics["reward"] == 1.0
    assert not [name for name in metrics if name.startswith("reset/")]


def test_collection_metrics__fallbacks_not_counted_twice() -> None:
    empty = Prefix(START)
    right, wrong = (episode(empty, (thought(1, -1.0, "stop"),), ret) for ret in (1.0, 0.0))
    seed = wrong
    collection = Collection(
        [
            Group(0, empty, [right, right]),
            Group(0, empty, [right, right]),  # a fallback
            Group(1, empty, [wrong, right]),
            Group(1, seed.prefix(0), [wrong, wrong], seed),
        ],
        Ledger(),
    )
    advantages = cpi.group_advantages([group.returns for group in collection])
    metrics = collection_metrics(collection, advantages, make_rows(collection, advantages))
    assert metrics["fresh/reward"] == 3 / 4
