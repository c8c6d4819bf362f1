"""Tokens and memory of an update whose rows share prefixes, before any row is known.

Upper bounds assume that rows have nothing in common but their prompt. Expectations know the
prefixes of resets, branches and second attempts.
"""

from __future__ import annotations

import math

import numpy as np

from llm.config.demand import Rows
from llm.config.train import TrainConfig
from llm.learner.rows import Row
from llm.learner.tries import joins, plan_packs, trie_cost
from llm.planning.demand import TYPICAL, Lengths, demand
from llm.planning.footprint import Footprint


def shares(config: TrainConfig, footprint: Footprint) -> bool:
    """Whether rows share prefixes, as far as can be known without the weights."""
    return config.update.share_prefixes and not footprint.why_not_shared


def lines(config: TrainConfig, gpus: int, lengths: Lengths, width: int) -> int:
    """Tries as long as the longest row that take as much memory as a process's micro-batch.

    A micro-batch costs at most as much as `per_device_train_batch_size` of the longest rows (see
    `llm.learner.tries.trie_cost`), and at most as much as all rows of the step: as separate rows,
    or as a trie for each prompt.
    """
    step = demand(config, lengths.request)
    rows = sum(kind.number for kind in step.rows)
    separate = math.ceil(rows / config.update.steps_per_generation / gpus)
    longest = lengths.prompt + step.longest[0]
    completions = sum(kind.number * (kind.context + kind.trained) for kind in step.rows)
    whole = lengths.prompt + completions // config.prompts_per_step
    tries = min(math.ceil(config.prompts_per_step / gpus), separate)
    together = math.ceil(tries * trie_cost(whole, width) / trie_cost(longest, width))
    return min(config.update.per_device_train_batch_size, max(separate, together))


def expected_tokens(config: TrainConfig, footprint: Footprint, lengths: Lengths) -> int:
    """Expected tokens through the model in a pass over the rows of a step."""
    expected = demand(config, lengths.request, TYPICAL).rows
    # Fewer than all where an adaptive plan keeps costs equal.
    prompts = min(config.prompts_per_step, expected[0].prefixes)
    kinds = [
        kind._replace(number=kind.number // prompts, prefixes=kind.prefixes // prompts)
        for kind in expected
    ]
    rows = _typical_rows(kinds, lengths.prompt)
    limit = _limit(config, footprint.width, max(len(row.ids) for row in rows))
    parts = config.update.steps_per_generation
    packs = [
        pack
        for part in range(parts)
        for pack in plan_packs(rows, range(part, len(rows), parts), footprint.width, limit)
    ]
    return prompts * sum(pack.tokens for pack in packs)


def most_tokens(config: TrainConfig, footprint: Footprint, lengths: Lengths) -> int:
    """Maximum tokens through the model in a pass over the rows of a step.

    Each of a prompt's tries computes the prompt. There are most tries if all completions are as
    long as the longest, but prompts need not be as long: shorter ones may not be worth sharing.
    """
    step, prompts = demand(config, lengths.request), config.prompts_per_step
    rows = sum(kind.number for kind in step.rows) // prompts
    completions = sum(kind.number * (kind.context + kind.trained) for kind in step.rows)
    if config.update.steps_per_generation > 1:  # a step's rows may have no prompt in common
        return prompts * rows * lengths.prompt + completions
    most = 0
    for prompt in range(lengths.prompt, 0, -1):
        if most >= rows * prompt:
            break
        most = max(most, prompt * _tries(config, footprint.width, rows, prompt, step.longest[0]))
    return prompts * most + completions


def _limit(config: TrainConfig, width: int, longest: int) -> int:
    return config.update.per_device_train_batch_size * trie_cost(longest, width)


def _tries(config: TrainConfig, width: int, rows: int, prompt: int, completion: int) -> int:
    """Tries of equally long rows that have only their prompt in common; see `plan_packs`."""
    length = prompt + completion
    limit = _limit(config, width, length)
    tries, tokens = 0, 0
    for _ in range(rows):
        if tries and joins(tokens, tokens + completion, length, width, limit):
            tokens += completion
        else:
            tries, tokens = tries + 1, length
    return tries


def _typical_rows(kinds: list[Rows], prompt: int) -> list[Row]:
    """Rows of a prompt: each prefix of a kind continues a row of the kind before, if there is one.

    What a row does not share is a token of its own, repeated.
    """
    rows: list[Row] = []
    before: list[Row] = []
    own = 1
    for kind in kinds:
        mine = []
        for prefix in range(kind.prefixes):
            old = before[prefix % len(before)].ids if before else np.zeros(prompt, dtype=np.int64)
            ids = np.full(prompt + kind.context, own)  # a request follows what is kept
            kept = min(len(old), len(ids))
            ids[:kept] = old[:kept]
            own += 1
            for _ in range(kind.number // kind.prefixes):
                full = np.concatenate([ids, np.full(kind.trained, own)])
                mine.append(Row(full, len(ids), len(full), np.zeros(0), 1.0))
                own += 1
        rows, before = rows + mine, mine or before
    return rows
