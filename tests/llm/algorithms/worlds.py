"""A scripted policy and its task for tests of algorithms, and gradients of rows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llm.algorithms import Setup
from llm.common.progress import Reporter
from llm.config.train import TrainConfig
from llm.engines import SamplingParams
from llm.learner.options import LossConfig, UpdateOptions
from llm.learner.rows import Row
from llm.learner.updater import PolicyUpdater
from llm.tasks import Example, Task
from llm.thoughts.options import ThoughtLimits
from llm.thoughts.simulator import Prompt, ThoughtSimulator
from tests.llm.small import Answer, ScriptedEngine, word_tokenizer

#: Tokens of the small world; a text with a "g" is right.
WORDS = ("a", "b", "c", "g", ".", "?", "x", "y")
EOS = len(WORDS) + 1  # after the unknown token


class Good(Task):
    """A text with a "g" is right; thoughts end with ".", and "?" requests a second attempt."""

    delimiter = "."

    def examples(self, split: str) -> list[Example]:
        return [Example("one", "xa", "secret"), Example("two", "yb", "secret")]

    def reward(self, example: Example, completion: str) -> float:
        return float("g" in completion)

    def follow_up(self, example: Example, request: str) -> str:
        return "?"


def at_random(prompt: Sequence[int], p: SamplingParams, j: int) -> list[int]:
    """Random words, then EOS: a function of the request's seed, the sample and the prompt."""
    rng = np.random.default_rng([p.seed, j, len(prompt)])
    length = int(rng.integers(1, 7))
    ids = rng.choice(5, size=length, p=[0.25, 0.25, 0.2, 0.2, 0.1]).tolist()
    return [*ids, EOS] + [0] * 40


class Scored(ScriptedEngine):
    """Engine with made-up log-probs between 0 and −1.2, by token and position."""

    @staticmethod
    def _completion(words: Sequence[int], p: SamplingParams, j: int) -> Any:
        completion = ScriptedEngine._completion(words, p, j)
        ids = completion.ids
        scores = -0.05 * ((7 * ids + 3 * np.arange(len(ids))) % 25)
        return completion._replace(logprobs=scores.astype(np.float64))


def world(
    answer: Answer = at_random, most: int = 12, task: Task | None = None, room: int = 10_000
) -> ThoughtSimulator:
    limits = ThoughtLimits(most, max_thoughts=50, max_thought_tokens=50)
    tokenizer = word_tokenizer(WORDS)
    assert tokenizer.eos_token_id == EOS
    return ThoughtSimulator(Scored(answer, room), tokenizer, task or Good(), limits)


def starts(simulator: ThoughtSimulator) -> list[Prompt]:
    return [simulator.prompt(example) for example in simulator.task.examples("train")]


def setup(simulator: ThoughtSimulator, config: TrainConfig) -> Setup:
    """A setup with both problems of the world, and without exact values."""
    return Setup(
        config,
        simulator,
        simulator.task,
        starts(simulator),
        lambda prompts: None,
        Reporter(1),  # type: ignore[arg-type,return-value]
    )


def settings(algorithm: str, **options: Any) -> TrainConfig:
    return TrainConfig(model="none", algorithm=algorithm, **options)


def sampled_prompts(simulator: ThoughtSimulator, call: int) -> list[list[int]]:
    """The prompts of an engine call, one for each sample."""
    prompts, params = simulator.engine.calls[call]  # type: ignore[attr-defined]
    return [prompt for prompt, p in zip(prompts, params, strict=True) for _ in range(p.n)]


def assert_rows_equal(rows: Sequence[Row], others: Sequence[Row]) -> None:
    """Compare rows field by field; NaN equals NaN."""
    assert len(rows) == len(others) > 0
    for row, other in zip(rows, others, strict=True):
        for one, two in zip(row, other, strict=True):
            np.testing.assert_array_equal(one, two)


def gradient(
    policy: Any, rows: Sequence[Row], loss: LossConfig, size: int = 32, reference: Any = None
) -> dict[str, torch.Tensor]:
    """The gradient: the change of a copy of the policy in one SGD step at rate 1."""
    model = copy.deepcopy(policy)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    constant = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    options = UpdateOptions(per_device_train_batch_size=size, max_grad_norm=0.0)
    update = PolicyUpdater(
        model, optimizer, constant, loss, options, max_completion_length=20, reference=reference
    )
    update(rows, np.random.default_rng(0))
    after = dict(model.named_parameters())
    return {name: (p - after[name]).detach() for name, p in policy.named_parameters()}


def assert_gradients_close(
    actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> None:
    """Compare gradients up to rounding."""
    for name, tensor in expected.items():
        largest = float(tensor.abs().max())
        assert largest > 0, name
        torch.testing.assert_close(actual[name], tensor, rtol=0, atol=1e-6 * largest)
