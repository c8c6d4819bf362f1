"""Prompts that a Transformers model has read: keys and values, and logits of the next token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from llm.engines.engine import EngineError
from llm.models.architecture import position_ids

#: Tokens whose log-probs are computed at once.
CHUNK = 8


class Context(NamedTuple):
    """Rows of prompts that the model has read.

    Attributes
    ----------
    logits : Tensor (B, V)
        Of the next token.
    mask : Tensor (B, T)
        1 for each token, 0 for padding.
    position : Tensor (B,)
        Position of the last token.
    cache : Transformers cache
    """

    logits: torch.Tensor
    mask: torch.Tensor
    position: torch.Tensor
    cache: Any

    def select(self, rows: Sequence[int]) -> Context:
        """Some rows, perhaps repeated; the cache of this context becomes theirs."""
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        return Context(self.logits[index], self.mask[index], self.position[index], self.cache)


def read(model: Any, prompts: Sequence[Sequence[int]]) -> Context:
    """Compute prompts, in one batch.

    Raises
    ------
    EngineError
        If the model keeps no cache.
    """
    ids, mask = padded(prompts, model.device)
    positions = positions_of(mask)
    output = model(
        input_ids=ids,
        attention_mask=mask,
        use_cache=True,
        logits_to_keep=1,
        **position_ids(model, positions),
    )
    cache: Any = getattr(output, "past_key_values", None)
    if not hasattr(cache, "batch_select_indices"):
        raise EngineError(
            f"{type(model).__name__} keeps no cache of keys and values that this engine "
            "can use; use a causal language model that does, or --engine vllm"
        )
    return Context(output.logits[:, -1], mask, positions[:, -1], cache)


def extend(model: Any, context: Context, tokens: Sequence[Sequence[int]]) -> Context:
    """Read equally many further tokens of each row; the cache of the context grows."""
    ids = torch.tensor(tokens, device=context.mask.device)
    mask = torch.cat([context.mask, torch.ones_like(ids)], dim=1)
    steps = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    positions = context.position[:, None] + steps
    output = model(
        input_ids=ids,
        attention_mask=mask,
        past_key_values=context.cache,
        use_cache=True,
        logits_to_keep=1,
        **position_ids(model, positions),
    )
    return Context(output.logits[:, -1], mask, positions[:, -1], context.cache)


def new_tokens(
    kept: Mapping[tuple[int, ...], int], prompts: Sequence[tuple[int, ...]]
) -> int | None:
    """Smallest number of tokens by which all prompts exceed kept ones, or None."""
    lengths = sorted({len(prompts[0]) - len(each) for each in kept})
    for more in lengths:
        if more >= 0 and all(prompt[: len(prompt) - more] in kept for prompt in prompts):
            return more
    return None


def padded(
    texts: Sequence[Sequence[int]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of texts, padded on the left, and their mask."""
    longest = max(map(len, texts))
    ids = torch.zeros((len(texts), longest), dtype=torch.long)
    mask = torch.zeros((len(texts), longest), dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, longest - len(text) :] = torch.tensor(text)
        mask[row, longest - len(text) :] = 1
    return ids.to(device), mask.to(device)


def positions_of(mask: torch.Tensor) -> torch.Tensor:
    """Positions of tokens, which padding on the left does not count."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def logprobs_of(logits: torch.Tensor, targets: torch.Tensor) -> NDArray[np.float64]:
    """Log-probs of targets (T,) from logits (T, V), without a table of all log-probs."""
    pairs = zip(logits.split(CHUNK), targets.to(logits.device).split(CHUNK), strict=True)
    parts = []
    for chunk, target in pairs:
        values = chunk.float()
        parts.append(values.gather(-1, target[:, None])[:, 0] - values.logsumexp(-1))
    return torch.cat(parts).double().cpu().numpy()
