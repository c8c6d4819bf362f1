"""Parts of the Transformers engine's time: `python -m tests.bench.llm_sampling ROUNDS [MODEL]`.

64 completions of 64 tokens are sampled from an untrained model with a vocabulary of 49,152 (width
256, 4 layers), or from MODEL. Prints JSON: the seconds of each part in each round. A part does not
include the parts within it.

decoder   forward passes without head and cache
head      logits of the last tokens
cache     appended keys and values
sampler   tokens and their log-probs from logits
other     masks, stops, and rows that are dropped

`fresh` are eight samples of eight prompts each; `resets` are eight continuations of a prefix that
ends in the middle of one of them. The third kind computes these prefixes, and samples one token of
each. Keys and values kept from the fresh rollouts would save at most that: 9 % of the call for
resets, 3 % of a step's sampling. They are therefore not kept. Requests for a localization begin
with other tokens than the rollouts: nothing that is kept would serve them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np

SAMPLES, PROMPT, COMPLETION, VOCABULARY = 64, 100, 64, 49_152

PARTS = ("decoder", "head", "cache", "sampler", "other")


class Clock:
    """Seconds by part; of nested parts, the inner one counts."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._open: list[str] = []
        self._since = time.perf_counter()

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time within as that of a part."""
        self._switch()
        self._open.append(name)
        yield
        self._switch()
        self._open.pop()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose time counts as that of a part."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return call


def model_of(name: str | None) -> Any:
    """A model from its folder, or an untrained one."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

    if name is not None:
        return AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=1024, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
    )  # fmt: skip
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config)


def measure(rounds: int, name: str | None = None) -> dict[str, Any]:
    """Seconds of each part, for fresh rollouts and for resets."""
    import torch
    from transformers.cache_utils import DynamicLayer

    from llm.engines import SamplingParams
    from llm.engines.sampler import Sampler
    from llm.engines.transformers import TransformersEngine

    torch.set_num_threads(1)
    engine = TransformersEngine(model_of(name))
    timed: list[tuple[Any, str, str]] = [
        (engine._model.get_decoder(), "forward", "decoder"),
        (engine._model.get_output_embeddings(), "forward", "head"),
        (DynamicLayer, "update", "cache"),
        (Sampler, "__call__", "sampler"),
    ]
    draws = np.random.default_rng(0)

    def sample(prompts: list[list[int]], new: int) -> tuple[list[Any], dict[str, float]]:
        clock, n = Clock(), SAMPLES // len(prompts)
        with ExitStack() as stack:
            for owner, method, part in timed:
                function = clock.timed(part, getattr(owner, method))
                stack.enter_context(mock.patch.object(owner, method, function))
            stack.enter_context(clock.part("other"))
            answers = engine.generate(
                prompts, [SamplingParams(new, n=n, seed=i) for i in range(len(prompts))]
            )
        return answers, clock.seconds

    kinds = ("fresh", "resets", "prefixes of the resets alone")
    readings: dict[str, Any] = {kind: [] for kind in kinds}
    for _ in range(rounds + 1):  # the first warms up
        prompts = [draws.integers(VOCABULARY, size=PROMPT).tolist() for _ in range(8)]
        answers, fresh = sample(prompts, COMPLETION)
        half = COMPLETION // 2
        kept = [p + c[0].ids[:half].tolist() for p, c in zip(prompts, answers, strict=True)]
        seconds = (fresh, sample(kept, half)[1], sample(kept, 1)[1])
        for kind, each in zip(kinds, seconds, strict=True):
            readings[kind].append(each)
    return {kind: each[1:] for kind, each in readings.items()}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), *sys.argv[2:])))
