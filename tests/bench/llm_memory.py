"""Memory of log-probs over a large vocabulary: `python -m tests.bench.llm_memory HOW`.

HOW is `chunked`, as in training, or `naive`, through the logits of the full sequence. Prints the
memory that one forward and backward pass adds to the process at its peak, in bytes.
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


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
