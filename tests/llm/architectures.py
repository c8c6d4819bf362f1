"""Published config.json files of public models, and a tiny Olmo3 configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Folder name → content of config.json.
PUBLISHED: dict[str, dict[str, Any]] = {
    "Olmo-3-7B-Instruct": {
        "architectures": ["Olmo3ForCausalLM"],
        "model_type": "olmo3",
        "vocab_size": 100278,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 65536,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
    },
    "Qwen2.5-14B-Instruct": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": 152064,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
    },
    "Qwen2.5-1.5B-Instruct": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    },
}

#: Parameter counts, as published.
PARAMETERS = {
    "Olmo-3-7B-Instruct": 7_298_011_136,
    "Qwen2.5-14B-Instruct": 14_770_033_664,
    "Qwen2.5-1.5B-Instruct": 1_543_714_304,
}


def write(folder: Path) -> dict[str, Path]:
    """Write a folder per model; returns the folders by name."""
    for name, config in PUBLISHED.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    return {name: folder / name for name in PUBLISHED}


def tiny_olmo3(max_position_embeddings: int = 64) -> Any:
    """A tiny configuration; three layers in four attend to the last 8 tokens only."""
    from transformers import Olmo3Config

    return Olmo3Config(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=4,
        num_attention_heads=2, sliding_window=8, max_position_embeddings=max_position_embeddings,
        pad_token_id=None, bos_token_id=None, eos_token_id=63,
    )  # fmt: skip
