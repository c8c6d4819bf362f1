"""Properties of a Transformers architecture that this package depends on."""

from __future__ import annotations

import inspect
from typing import Any

#: Names of the maximum length in Transformers' configurations.
LENGTH_NAMES = ("max_position_embeddings", "max_seq_len", "max_sequence_length", "n_ctx")

#: The length of a model without a limit, such as one with relative positions (Bloom).
UNLIMITED = 2**31 - 1

#: Transformers' names of layers with a state that is not keys and values of tokens.
RECURRENT_LAYERS = {"conv", "hybrid", "hybrid_sliding", "linear_attention", "mamba"}


def context_length(config: Any) -> int:
    """Maximum number of tokens of a sequence, from a model's configuration."""
    text = config.get_text_config()
    lengths = (getattr(text, name, None) for name in LENGTH_NAMES)
    return next((int(length) for length in lengths if length), UNLIMITED)


def without_adapters(model: Any) -> Any:
    """The Transformers model within a PEFT model; any other model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def position_ids(module: Any, positions: Any) -> dict[str, Any]:
    """Keyword argument with the positions, if the module's forward pass takes one.

    Models with relative positions (Bloom, MPT) derive them from the attention mask. A PEFT model
    passes on what its base model takes.
    """
    takes = "position_ids" in inspect.signature(without_adapters(module).forward).parameters
    return {"position_ids": positions} if takes else {}


def check_cache(model: type, config: Any) -> None:
    """Refuse a model with recurrent layers, by its class and its configuration.

    Their state cannot be cut back to a token, nor selected row by row as keys and values can.

    Raises
    ------
    ValueError
        The message names the model's class.
    """
    layers = getattr(config.get_text_config(), "layer_types", None) or ()
    if getattr(model, "_is_stateful", False) or RECURRENT_LAYERS & set(layers):
        raise ValueError(
            f"model: {model.__name__} has recurrent layers, but --engine transformers needs "
            "a cache of keys and values; use a model with attention layers alone, or --engine vllm"
        )


def remove_noise(config: Any) -> None:
    """Set all dropout probabilities and noise levels of a configuration to 0.

    Some models read them when they are built, others in each forward pass.
    """
    from transformers import PreTrainedConfig

    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            remove_noise(value)
        elif ("drop" in name or "jitter" in name) and type(value) in (int, float):
            setattr(config, name, type(value)(0))  # configurations check the type
