"""Measured peak memory of an update: `python -m tests.llm.peak OPTION …` prints JSON.

OPTION is any of lora, checkpointing. Prints the peak growth of the process in bytes during an
update of a model of 11 M parameters, and the prediction of `llm.planning.footprint`. Each
measurement needs its own process.
"""

from __future__ import annotations

import json
import sys

ROWS, PROMPT, COMPLETION = 6, 16, 240


def architecture() -> object:
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
    )


def measure(lora: bool, checkpointing: bool) -> dict[str, float]:
    import torch
    from transformers import AutoModelForCausalLM

    from llm.models.logprobs import completion_logprobs
    from llm.models.lora import LoraOptions, adapt
    from llm.models.policy import trainable
    from llm.planning.footprint import Footprint
    from tests.bench.peak import peak_bytes

    torch.set_num_threads(1)
    options = LoraOptions(r=16 if lora else 0)
    footprint = Footprint(architecture(), options, bf16=False)
    predicted = footprint.update(ROWS, PROMPT, COMPLETION, checkpointing)
    policy = adapt(
        AutoModelForCausalLM.from_config(architecture(), dtype=torch.float32),
        options,
        checkpointing,
    )

    def update(rows: int) -> None:
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
    one_row = footprint.update(1, PROMPT, COMPLETION, checkpointing)
    return {"measured": float(peak_bytes() - before), "predicted": float(predicted - one_row)}


if __name__ == "__main__":
    print(json.dumps(measure("lora" in sys.argv, "checkpointing" in sys.argv)))
