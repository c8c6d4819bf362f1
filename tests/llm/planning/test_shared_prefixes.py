"""Tokens and memory of updates with shared prefixes, against packs of rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.config.train import TrainConfig, parse_config
from llm.learner.rows import Row
from llm.learner.tries import plan_packs, shard_packs, trie_cost
from llm.planning.demand import Lengths
from llm.planning.shared_prefixes import expected_tokens, lines, most_tokens, shares
from tests.cpi.worlds import repeatable

WIDTH = 16

#: A model of that width; the mask of a trie then takes much of its memory.
MODEL: Any = SimpleNamespace(width=WIDTH, why_not_shared="")


def parsed(*argv: str) -> TrainConfig:
    return parse_config(["--model=m", *argv], "prog")


def step_rows(config: TrainConfig, prompt: int, draws: np.random.Generator) -> list[Row]:
    """Rows of a step with early stops and resets; some groups have no signal."""
    plan, longest = config.group_plan(), config.sampling.max_completion_length
    rows = []

    def add(prefix: list[int], kept: int) -> list[int]:
        tokens = draws.integers(1, longest - kept + 1)
        ids = [*prefix, *draws.integers(5, 9, size=tokens).tolist()]
        rows.append(Row(np.array(ids), len(prefix), len(ids), np.zeros(tokens), 1.0))
        return ids

    for number in range(config.prompts_per_step):
        start = [number, *draws.integers(5, 9, size=draws.integers(0, prompt)).tolist()]
        episodes = [add(start, 0) for _ in range(plan.fresh) if draws.random() < 0.9]
        for _ in range(plan.resets if episodes else 0):
            seed = episodes[draws.integers(len(episodes))]
            kept = int(draws.integers(min(len(seed) - len(start), longest - 1) + 1))
            for _ in range(plan.per_reset):
                add(seed[: len(start) + kept], kept)
    return rows


@repeatable
@given(
    seed=st.integers(0, 10**6),
    prompt=st.integers(1, 60),
    completion=st.integers(1, 60),
    size=st.integers(1, 12),
    ranks=st.integers(1, 3),
    resets=st.integers(0, 2),
)
def test_plans_are_upper_bounds(
    seed: int, prompt: int, completion: int, size: int, ranks: int, resets: int
) -> None:
    config = parsed(
        "--algorithm=rrpo", "--prompts_per_step=3", "--plan.fresh=5", f"--plan.resets={resets}",
        f"--plan.per_reset={3 * (resets > 0)}", f"--sampling.max_completion_length={completion}",
        "--sampling.max_thoughts=100", f"--update.per_device_train_batch_size={size}",
    )  # fmt: skip
    rows = step_rows(config, prompt, np.random.default_rng(seed))
    if not rows:
        return
    longest = max(len(row.ids) for row in rows)
    limit = size * trie_cost(longest, WIDTH)
    packs = plan_packs(rows, range(len(rows)), WIDTH, limit)
    lengths = Lengths(prompt)
    assert sum(pack.tokens for pack in packs) <= most_tokens(config, MODEL, lengths)
    # Memory is α tokens + β mask entries with α ≥ 4 W β: it is enough to look at both ends.
    planned, length = lines(config, ranks, lengths, WIDTH), prompt + completion
    assert planned <= size
    for packs_of in shard_packs(packs, WIDTH, longest, limit, ranks):
        for mine in packs_of:
            tokens = len(mine) * max((pack.tokens for pack in mine), default=0)
            work = sum(trie_cost(max(p.tokens for p in mine), WIDTH) for _ in mine)
            if ranks == 1:
                assert tokens <= planned * length
                assert work <= planned * trie_cost(length, WIDTH)
            assert tokens <= size * length and work <= size * trie_cost(length, WIDTH)


def test_most_tokens__prompts_may_be_shorter() -> None:
    flags = ["--algorithm=grpo", "--prompts_per_step=2", "--sampling.max_completion_length=100"]

    def most(prompt: int, *more: str) -> int:
        return most_tokens(parsed(*flags, *more), MODEL, Lengths(prompt))

    # Eight completions of 100 tokens. Row k + 1 joins a trie if 20,000 k < p (1024 + p): prompts of
    # 15 tokens are not worth sharing, those of 100 are in two tries, and those of 1000 in one.
    assert most(15) == 2 * (8 * 15 + 800)
    assert most(100) == 2 * (2 * 100 + 800)
    assert most(1000) == 2 * (1000 + 800)
    # A prompt of 60 is in two tries, but one of 55 in three.
    assert most(60) == 2 * (3 * 55 + 800)
    # Rows of a prompt may be in different steps.
    assert most(1000, "--update.steps_per_generation=2") == 2 * 8 * 1100


@pytest.mark.parametrize(
    ("flags", "tokens"),
    [
        (["--algorithm=grpo"], 1000 + 8 * 50),
        (["--algorithm=rrpo"], 1000 + 4 * 50 + 4 * 25),
        (["--algorithm=rrpo", "--plan.fresh=0", "--plan.resets=2"], 1000 + 2 * (25 + 4 * 25)),
        # A second attempt repeats the prompt, the first one, and a request of 20 tokens.
        (["--algorithm=score"], 1000 + 4 * (50 + 20 + 50)),
        (["--algorithm=critique_grpo"], 1000 + 8 * 50),
        (
            ["--algorithm=spo_tree", "--spo_tree.branches=[3,2]", "--spo_tree.segment_tokens=20"],
            1000 + 3 * 20 + 6 * 30,
        ),
        (["--algorithm=grpo", "--update.steps_per_generation=2"], 2 * 1000 + 8 * 50),
    ],
)
def test_expected_tokens__every_prefix_once(flags: list[str], tokens: int) -> None:
    config = parsed(*flags, "--prompts_per_step=3", "--sampling.max_completion_length=100")
    assert expected_tokens(config, MODEL, Lengths(1000, 20)) == 3 * tokens
    assert shares(config, MODEL)
    assert not shares(parsed(*flags, "--update.share_prefixes=false"), MODEL)
    assert not shares(config, SimpleNamespace(width=WIDTH, why_not_shared="it has none"))
