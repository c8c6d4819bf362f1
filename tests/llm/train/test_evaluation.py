"""pass@k against the enumeration of subsets, and an evaluation computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from llm.common.statistics import pass_at_k
from llm.engines import SamplingParams
from llm.tasks import Example
from llm.thoughts.options import ThoughtLimits
from llm.thoughts.simulator import Prompt, ThoughtSimulator
from llm.train.evaluation import evaluate
from tests.llm.small import EOS, Essay, ScriptedEngine, word_tokenizer


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k__equals_enumeration(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            chosen = list(combinations([True] * c + [False] * (n - c), k))
            share = sum(map(any, chosen)) / len(chosen)
            assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-15)


def test_pass_at_k__large_numbers() -> None:
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01)
    assert pass_at_k(10_000, 5_000, 5_001) == 1.0


def test_pass_at_k__is_unbiased() -> None:
    # Over c ~ Binomial(n, p), the mean is the probability that one of k passes, 1 − (1 − p)ᵏ.
    n, p = 6, 0.3
    draws = np.random.default_rng(0).binomial(n, p, 20_000)
    for k in range(1, n + 1):
        estimates = np.array([pass_at_k(n, c, k) for c in range(n + 1)])[draws]
        error = 4 * estimates.std() / np.sqrt(len(draws))
        assert abs(estimates.mean() - (1 - (1 - p) ** k)) < error + 1e-12


@pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4), (0, 0, 1)])
def test_pass_at_k__impossible_numbers_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"n={n}, c={c}, k={k}: 0 ≤ c ≤ n and 1 ≤ k ≤ n"):
        pass_at_k(n, c, k)


WORDS = word_tokenizer(["p", "q", "good", "bad"])
ID = WORDS.get_vocab()

#: Completions of the prompts "p" and "q", sample by sample.
COMPLETIONS = {
    "p": ["good " + EOS, "bad " + EOS, "bad bad bad bad bad", "good " + EOS],
    "q": ["bad " + EOS, "bad " + EOS, "bad bad " + EOS, "bad " + EOS],
}


def test_evaluate__metrics_by_hand() -> None:
    def answer(prompt: Sequence[int], params: SamplingParams, j: int) -> list[int]:
        return [ID[word] for word in COMPLETIONS[WORDS.decode(prompt)][j].split()]

    engine = ScriptedEngine(answer)
    sim = ThoughtSimulator(engine, WORDS, Essay(), ThoughtLimits(5, 3, 5))
    prompts = [Prompt((ID[word],), Example(word, word)) for word in COMPLETIONS]
    metrics = evaluate(sim, prompts, 4, np.random.default_rng(0))
    assert metrics == pytest.approx(
        {
            "eval/pass@1": (2 / 4 + 0) / 2,
            "eval/pass@4": (1 + 0) / 2,
            "eval/reward": 2 / 8,
            "eval/completions/mean_length": (2 + 2 + 5 + 2 + 2 + 2 + 3 + 2) / 8,
            "eval/completions/clipped_ratio": 1 / 8,
        }
    )
    once = evaluate(sim, prompts, 1, np.random.default_rng(0))
    assert once["eval/pass@1"] == 0.5 and "eval/pass@4" not in once
    assert len(engine.calls) == 2  # one per evaluation
    evaluate(sim, prompts, 4, np.random.default_rng(0))
    assert engine.calls[2] == engine.calls[0]  # the same random numbers
