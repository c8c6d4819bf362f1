"""VinePPO on a scripted policy: values, advantages of thoughts, rows and costs by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from llm.algorithms.batch import Batch
from llm.algorithms.vineppo import VinePPO, scaled
from llm.config.baselines import VinePPOOptions
from llm.engines import SamplingParams
from llm.thoughts.simulator import ThoughtSimulator
from tests.llm.algorithms.worlds import EOS, WORDS, settings, setup, world

A, B, G, DOT = (WORDS.index(word) for word in ("a", "b", "g", "."))
#: Tokens of a prompt.
PROMPT = 2


def ladder(prompt: Sequence[int], p: SamplingParams, j: int) -> list[int]:
    """Completions "a . b . g" and "a . b"; values ¼ of the prompt, ½ after "a .", ¾ after "b ."."""
    written = list(prompt[PROMPT:])
    if p.n == 2:
        return [A, DOT, B, DOT, G, EOS] if j == 0 else [A, DOT, B, EOS]
    successes = {0: 1, 2: 2, 4: 3}[len(written)]
    return [G if j < successes else B, EOS]


def make_batch(scale: str = "none") -> tuple[Batch, ThoughtSimulator]:
    simulator = world(ladder)
    options = VinePPOOptions(completions=2, samples=4)
    config = settings("vineppo", vineppo=options, scale_rewards=scale)
    batch = VinePPO(setup(simulator, config)).batch(1, range(2), np.random.default_rng(0))
    return batch, simulator


def test_batch__advantages_of_thoughts_by_hand() -> None:
    batch, simulator = make_batch()
    # Of "a . b . g": ½ − ¼, ¾ − ½, 1 − ¾. Of "a . b": ½ − ¼, 0 − ½.
    expected = [0.25, 0.25, 0.25, 0.25, -0.5] * 2
    assert [row.advantage for row in batch.rows] == pytest.approx(expected)
    trained = [row.ids[row.trained_from : row.trained_to].tolist() for row in batch.rows]
    assert trained == [[A, DOT], [B, DOT], [G, EOS], [A, DOT], [B, EOS]] * 2
    assert [row.trained_from for row in batch.rows] == [PROMPT + k for k in (0, 2, 4, 0, 2)] * 2
    # One call for completions, and one for the values of all prefixes.
    (prompts, params), (prefixes, samples) = simulator.engine.calls  # type: ignore[attr-defined]
    assert (len(prompts), params[0].n, samples[0].n) == (2, 2, 4)
    assert [len(prefix) - PROMPT for prefix in prefixes] == [0, 2, 4, 2] * 2


def test_batch__costs_by_hand() -> None:
    batch, _ = make_batch()
    ledger = batch.ledger
    assert (ledger.trained_episodes, ledger.trained_steps) == (4, 2 * (6 + 4))
    assert (ledger.episodes, ledger.steps) == (4 + 2 * 4 * 4, 20 + 2 * 4 * 4 * 2)
    assert sum(row.trained for row in batch.rows) == ledger.trained_steps
    assert batch.metrics["vineppo/value_tokens"] == pytest.approx(64 / 84)
    assert batch.metrics["vineppo/informative_rate"] == 1
    assert batch.metrics["reward"] == batch.metrics["fresh/reward"] == 0.5
    assert batch.metrics["thoughts/mean"] == 2.5


def test_batch__advantages_of_a_completion_sum_to_its_gain_over_the_prompt() -> None:
    simulator = world()
    config = settings("vineppo", vineppo=VinePPOOptions(3, 2), scale_rewards="none")
    batch = VinePPO(setup(simulator, config)).batch(1, range(2), np.random.default_rng(3))
    records = batch.records()
    totals: list[float] = []
    for row in batch.rows:
        if row.trained_from == PROMPT:
            totals.append(0.0)
        totals[-1] += row.advantage
    assert len(totals) == 6 and len(records) == len(batch.rows) > 6
    for three in (totals[:3], totals[3:]):
        # Reward 0 or 1, less one value of the prompt, a half or a whole number.
        assert {round(2 * (total - three[0])) / 2 for total in three} <= {-1, 0, 1}
        assert np.allclose(np.mod(2 * np.array(three), 1), 0)


def test_scaled__root_mean_square_of_prompt_or_batch() -> None:
    gains = [np.array([x]) for x in (3.0, -4.0, 0.0, 1.0)]
    by_prompt: Any = np.array([3, -4]) / (np.sqrt(12.5) + 1e-4)
    assert np.concatenate(scaled(gains, [0, 0, 1, 1], "group"))[:2] == pytest.approx(by_prompt)
    root = np.sqrt(26 / 4) + 1e-4
    expected = np.array([3, -4, 0, 1]) / root
    assert np.concatenate(scaled(gains, [0, 0, 1, 1], "batch")) == pytest.approx(expected)
    assert scaled(gains, [0, 0, 1, 1], "none") == gains
    assert scaled([np.zeros(1)], [0], "group") == [0]
