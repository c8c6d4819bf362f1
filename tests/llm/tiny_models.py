"""Tiny language models with seeded weights, without a download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

VOCABULARY = 64
MAX_LENGTH = 256

#: Options of a vLLM engine that several tests may run at once, on a CPU or a GPU.
VLLM: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "kv_cache_gib": 0.125,
    "gpu_memory_utilization": 0.04,
}


def tiny_qwen2(*, tied: bool = True, seed: int = 0) -> Any:
    """A Qwen2 of 0.08 M parameters, none of them constant, with head_dim 32 (vLLM's CPU minimum).

    Large weights make distributions over tokens far from uniform: mean entropy 3.0 of at most 4.2
    nats, mean largest probability 0.2.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=VOCABULARY - 1,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        model = Qwen2ForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + noise if "norm" in name else noise)
    return model


def save(model: Any, folder: Path) -> Path:
    """Save a model, without a progress bar."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder)
    return folder


def logprobs(model: Any, prompt: Sequence[int], ids: ArrayLike) -> NDArray[np.float64]:
    """Log-prob of each of `ids` after `prompt`, at temperature 1, by one pass without a cache."""
    import torch

    sampled = np.asarray(ids)
    tokens = torch.tensor([[*prompt, *sampled.tolist()]])
    with torch.no_grad():
        table = model(tokens).logits[0].double().log_softmax(-1).numpy()
    return table[np.arange(len(prompt) - 1, tokens.shape[1] - 1), sampled]
