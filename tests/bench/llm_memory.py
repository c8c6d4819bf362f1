"""Peak memory with a large vocabulary: `python -m tests.bench.llm_memory HOW`.

HOW is, for log-probs and their gradient, `chunked` as in training, or `naive`, through the logits
of the full sequence; for an update, `shared` or `separate`: whether a prefix that rows share is
computed once. Prints the bytes that are added to the process at its peak.
"""

from __future__ import annotations

import json
import sys

#: One row of a full-scale run. The decoder is small: only the head matters.
VOCABULARY, LENGTH, HIDDEN_SIZE = 151_936, 4096, 64


def measure(how: str) -> dict[str, float]:
    """Additional bytes at the peak, and the mean log-prob, which must be equal for both methods."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    from llm.models.logprobs import completion_logprobs
    from tests.bench.peak import peak_bytes

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=2 * HIDDEN_SIZE,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    ids = torch.randint(VOCABULARY, (1, LENGTH))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 0] = False
    for parameter in model.parameters():  # gradients are allocated in both cases
        parameter.grad = torch.zeros_like(parameter)
    before = peak_bytes()
    if how == "chunked":
        logprobs = completion_logprobs(model, ids, torch.ones_like(ids), mask)
    else:
        table = model(ids, use_cache=False).logits[0, :-1].log_softmax(-1)
        logprobs = table.gather(-1, ids[0, 1:, None])[:, 0]
    mean = logprobs.mean()
    mean.backward()
    return {"bytes": float(peak_bytes() - before), "logprob": float(mean)}


def update(share: bool) -> dict[str, float]:
    """Additional bytes at the peak of an update: 4 fresh rows, 4 from the middle of one of them."""
    import numpy as np
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from llm.learner.options import LossConfig, UpdateOptions
    from llm.learner.updater import PolicyUpdater
    from tests.bench.llm_update import srpo
    from tests.bench.peak import peak_bytes

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=49_152, hidden_size=256, intermediate_size=1024, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    learner = PolicyUpdater(
        model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0), LossConfig(),
        UpdateOptions(per_device_train_batch_size=8, share_prefixes=share),
        max_completion_length=1024,
    )  # fmt: skip
    for parameter in model.parameters():  # gradients are allocated in both cases
        parameter.grad = torch.zeros_like(parameter)
    rows = srpo(1024, 1024, np.random.default_rng(0))[:8]
    before = peak_bytes()
    learner(rows, np.random.default_rng(0))
    return {"bytes": float(peak_bytes() - before)}


if __name__ == "__main__":
    how = sys.argv[1]
    print(json.dumps(measure(how) if how in ("chunked", "naive") else update(how == "shared")))
