"""Update with and without shared prefixes: `python -m tests.bench.llm_update ROUNDS`.

Prints seconds of processor time for each shape of rows, and the tokens that go through the model.
The floor is the time of the matrix products alone that the shared tokens need, both ways.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from llm.learner.rows import Row

#: Tokens of the prompt and of a completion.
SHAPES = [(100, 100), (300, 60), (50, 500)]
PROMPTS, GROUP, VOCABULARY = 4, 8, 512


def grpo(prompt: int, completion: int, rng: np.random.Generator) -> list[Row]:
    """For each prompt, eight fresh rollouts."""
    rows = []
    for _ in range(PROMPTS):
        start = rng.integers(VOCABULARY, size=prompt)
        rows += [_row(start, prompt, completion, rng) for _ in range(GROUP)]
    return rows


def srpo(prompt: int, completion: int, rng: np.random.Generator) -> list[Row]:
    """For each prompt, four fresh rollouts, and four from the middle of one of them."""
    rows = []
    for _ in range(PROMPTS):
        start = rng.integers(VOCABULARY, size=prompt)
        fresh = [_row(start, prompt, completion, rng) for _ in range(GROUP // 2)]
        half = completion // 2
        kept = fresh[0].ids[: prompt + half]
        rows += fresh
        rows += [_row(kept, len(kept), completion - half, rng) for _ in range(GROUP // 2)]
    return rows


def _row(prefix: Any, trained_from: int, tokens: int, rng: np.random.Generator) -> Row:
    ids = np.concatenate([prefix, rng.integers(VOCABULARY, size=tokens)])
    return Row(ids, trained_from, len(ids), np.full(tokens, -6.0), float(rng.normal()))


def products(model: Any, batches: list[tuple[Any, int]]) -> Callable[[], None]:
    """The products with the model's weights, for these batches; the head sees trained tokens alone.

    A linear layer takes three: for its output, for the gradient of its input and of its weights.
    """
    import torch

    head = model.get_output_embeddings()
    jobs = []
    for batch, trained in batches:
        for layer in (m for m in model.modules() if isinstance(m, torch.nn.Linear)):
            tokens = trained if layer is head else batch.input_ids.numel()
            x = torch.randn(tokens, layer.in_features)
            jobs.append((x, layer.weight.detach(), torch.randn(tokens, layer.out_features)))

    def run() -> None:
        for x, weight, gradient in jobs:
            torch.mm(x, weight.T)
            torch.mm(gradient, weight)
            torch.mm(gradient.T, x)

    return run


def main(rounds: int) -> dict[str, Any]:
    """Time all updates in turn, on one thread."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from llm.learner.options import LossConfig, UpdateOptions
    from llm.learner.updater import PolicyUpdater

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=1024, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
    )  # fmt: skip
    base = Qwen2ForCausalLM(config)

    def updater(share: bool) -> PolicyUpdater:
        model = copy.deepcopy(base)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
        options = UpdateOptions(per_device_train_batch_size=GROUP, share_prefixes=share)
        return PolicyUpdater(
            model, optimizer, schedule, LossConfig(), options, max_completion_length=512
        )

    results: dict[str, Any] = {}
    for prompt, completion in SHAPES:
        makers: tuple[Callable[..., list[Row]], ...] = (grpo, srpo)
        for make in makers:
            rows = make(prompt, completion, np.random.default_rng(0))
            updates = {"shared": updater(True), "separate": updater(False)}
            assert not updates["shared"].why_not_shared
            batches = {
                name: list(update._batches(rows, update._plan(rows, range(len(rows)))))
                for name, update in updates.items()
            }
            result: dict[str, Any] = {
                name: {"step": [], "tokens": sum(batch.input_ids.numel() for batch, _ in own)}
                for name, own in batches.items()
            }
            contestants: dict[str, Callable[[], Any]] = {
                name: partial(update, rows, np.random.default_rng(0))
                for name, update in updates.items()
            }
            contestants["floor"] = products(base, batches["shared"])
            result["floor"] = {"step": []}
            for _ in range(rounds):
                for name, call in contestants.items():
                    began = time.process_time()
                    call()
                    result[name]["step"].append(time.process_time() - began)
            results[f"{make.__name__.upper()} {prompt}/{completion}"] = result
    return results


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
