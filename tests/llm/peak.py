"""Measured peak memory of updates: `python -m tests.llm.peak OPTIONS …` prints a line of JSON each.

OPTIONS is full, or tries, lora and checkpointing joined by +. Prints the peak growth of a process
in bytes during an update of a model of 7 M parameters, and the prediction of
`llm.planning.footprint`. Each measurement has its own process, forked after the imports.
"""

from __future__ import annotations

import json
import os
import sys

ROWS, PROMPT, COMPLETION = 6, 16, 240


def architecture() -> object:
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
    )


def measure(lora: bool, checkpointing: bool, tries: bool) -> dict[str, float]:
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    from llm.learner.rows import Row
    from llm.learner.tries import Pack, pack
    from llm.models.logprobs import completion_logprobs, trie_logprobs
    from llm.models.lora import LoraOptions, adapt
    from llm.models.policy import trainable
    from llm.planning.footprint import Footprint
    from tests.bench.peak import peak_bytes

    torch.set_num_threads(1)
    options = LoraOptions(r=16 if lora else 0)
    footprint = Footprint(architecture(), options, bf16=False)
    if tries:  # a prompt of half of the tokens, and one row or as many as fill the positions
        one_row, predicted = (
            footprint.update(1, 256, rows * (256 // ROWS), checkpointing, tries=True)
            for rows in (1, ROWS)
        )
    else:
        one_row, predicted = (
            footprint.update(rows, PROMPT, COMPLETION, checkpointing) for rows in (1, ROWS)
        )
    policy = adapt(
        AutoModelForCausalLM.from_config(architecture(), dtype=torch.float32),
        options,
        checkpointing,
    )

    draws = np.random.default_rng(0)

    def update(rows: int) -> None:
        if tries:
            start, new = np.arange(256), 256 // ROWS
            batch = [
                Row(np.concatenate([start, tail]), 256, 256 + new, np.zeros(new), 1.0)
                for tail in draws.integers(4096, size=(rows, new))
            ]
            packed = pack(batch, [Pack(list(range(rows)), 0)], torch.device("cpu"))
            trie_logprobs(policy, packed.tries).sum().backward()
            return
        ids = torch.randint(4096, (rows, PROMPT + COMPLETION))
        present = torch.ones_like(ids)
        present[0, -1] = 0  # one shorter row, so that the mask matters
        mask = torch.zeros_like(ids, dtype=torch.bool)
        mask[:, PROMPT:] = present[:, PROMPT:].bool()
        completion_logprobs(policy, ids, present, mask).sum().backward()

    for parameter in trainable(policy).values():
        parameter.grad = torch.zeros_like(parameter)
    update(1)  # one-off allocations of the libraries
    before = peak_bytes()
    update(ROWS)
    return {"measured": float(peak_bytes() - before), "predicted": float(predicted - one_row)}


def main() -> None:
    import peft  # noqa: F401
    import torch
    import transformers

    _ = torch.nn.Linear, transformers.AutoModelForCausalLM  # imported when they are first used
    for options in sys.argv[1:]:
        process = os.fork()
        if process == 0:
            words = options.split("+")
            choices = ["lora" in words, "checkpointing" in words, "tries" in words]
            print(json.dumps(measure(*choices)), flush=True)
            os._exit(0)
        os.waitpid(process, 0)


if __name__ == "__main__":
    main()
