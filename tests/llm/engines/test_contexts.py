"""Prompts that are read once: the same results as of prompts that are read in each call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm.engines import SamplingParams
from llm.engines.contexts import new_tokens
from llm.engines.transformers import TransformersEngine
from tests.llm.engines.test_contract import PROMPTS, TOLERANCE, assert_same, expected_logprobs
from tests.llm.tiny_models import tiny_qwen2

ENDS = [[5, 6, 7], [5, 6], [9]]


@pytest.fixture
def engines(tiny_model: Callable[[bool], Path]) -> list[TransformersEngine]:
    """An engine that keeps prompts, and one that does not."""
    keeping, plain = (TransformersEngine(tiny_model(True)) for _ in range(2))
    keeping.keep_prompts = True
    return [keeping, plain]


def scores(engine: Any, more: Sequence[int]) -> list[Any]:
    """Log-probs of `ENDS` after each prompt and some further tokens, in another order."""
    pairs = [([*prompt, *more], end) for prompt in reversed(PROMPTS) for end in ENDS]
    found: list[Any] = engine.logprobs([p for p, _ in pairs], [e for _, e in pairs])
    return found


def test_keep_prompts__changes_no_result(engines: list[TransformersEngine]) -> None:
    params = [SamplingParams(8, n=2, seed=seed) for seed in range(len(PROMPTS))]
    first, second = ([e.generate(PROMPTS, params), e.generate(PROMPTS, params)] for e in engines)
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            for found, expected in zip(a, b, strict=True):
                assert_same(found, expected)
    for more in ([], [3], [3, 4], []):  # longer prompts, and shorter ones again
        for found, expected in zip(*(scores(e, more) for e in engines), strict=True):
            assert np.abs(found - expected).max() <= TOLERANCE


def test_keep_prompts__reads_new_tokens_only(engines: list[TransformersEngine]) -> None:
    keeping, plain = engines
    read: list[int] = []
    for engine in engines:
        engine.generate(PROMPTS, [SamplingParams(1)] * len(PROMPTS))
        before = engine.stats.cached_tokens
        scores(engine, [3, 4])
        read.append(engine.stats.prompt_tokens - engine.stats.cached_tokens)
        assert engine.stats.cached_tokens - before == (
            sum(map(len, PROMPTS)) * (3 if engine is keeping else 2) + 2 * 2 * len(PROMPTS)
        )
    assert keeping.stats.prompt_tokens == plain.stats.prompt_tokens and read[0] < read[1]


def test_keep_prompts__not_after_new_weights(engines: list[TransformersEngine]) -> None:
    keeping, _ = engines
    scores(keeping, [])
    other = tiny_qwen2(tied=True, seed=1)
    keeping.sync_weights(other.state_dict())
    expected = expected_logprobs(other, PROMPTS[-1], ENDS[0], 1.0)
    assert np.abs(scores(keeping, [])[0] - expected).max() <= TOLERANCE


def test_new_tokens__of_prompts_that_begin_with_kept_ones() -> None:
    kept = {(1, 2): 0, (3,): 1}
    assert new_tokens(kept, [(3,), (1, 2)]) == 0
    assert new_tokens(kept, [(1, 2, 4), (3, 4)]) == 1
    assert new_tokens(kept, [(1, 2, 4), (3,)]) is None  # not equally many
    assert new_tokens(kept, [(1,)]) is None
    assert new_tokens({}, [(1,)]) is None
