"""Attention within tries of tokens: every token sees its own prefix, and no sibling.

A model takes such masks as Transformers' four-dimensional ones, one for each kind of layer. Whether
it uses them rightly is tested on the model itself (`why_not_shared`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llm.models.architecture import RECURRENT_LAYERS, position_ids, without_adapters

#: Kinds of layers that the masks describe.
LAYERS = {"full_attention", "sliding_attention"}

#: Attention functions that take masks of four dimensions, and whether they take them as booleans.
TAKES_BOOLEANS = {"sdpa": True, "eager": False}


class Tries(NamedTuple):
    """P tries, padded on the right to L nodes, and the M tokens to predict in all their rows.

    Attributes
    ----------
    input_ids : Tensor (P, L)
        Token of each node, in depth-first order.
    depth : Tensor (P, L)
        Number of tokens before it: its position.
    end : Tensor (P, L)
        One past its last descendant. Padding has no descendants.
    source : Tensor (M,)
        The node before each token, counted over all tries: trie · L + node.
    targets : Tensor (M,)
        The token.
    """

    input_ids: Tensor
    depth: Tensor
    end: Tensor
    source: Tensor
    targets: Tensor


def tree_masks(config: Any, depth: Tensor, end: Tensor, dtype: torch.dtype) -> Any:
    """Attention masks of tries, as the decoder of a model takes them.

    Parameters
    ----------
    config : Transformers configuration
        Its attention function, sliding window and kinds of layers count.
    depth, end : Tensor (P, L)
        See `Tries`.
    dtype : torch.dtype
        Of the masks, for a function that adds them to the scores.

    Returns
    -------
    Tensor (P, 1, L, L), or dict of them by kind of layer
        Where token i may see token j: i is j or a descendant of j, and within the window.
    """
    text = config.get_text_config()
    node = torch.arange(end.shape[1], device=end.device)
    own = (node[None, :, None] >= node) & (node[None, :, None] < end[:, None, :])

    def mask(window: int | None) -> Tensor:
        seen = own
        if window is not None:
            seen = own & (depth[:, :, None] < depth[:, None, :] + window)
        seen = seen[:, None]
        if TAKES_BOOLEANS[text._attn_implementation]:
            return seen
        zero = torch.zeros((), dtype=dtype, device=end.device)
        return torch.where(seen, zero, torch.finfo(dtype).min)

    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None)
    if not kinds:
        return mask(window)
    masks = {"full_attention": lambda: mask(None), "sliding_attention": lambda: mask(window)}
    return {kind: masks[kind]() for kind in sorted(set(kinds))}


def attention_width(config: Any) -> int:
    """W at which a token of a trie of N costs 4 W + N: linear layers, and attention with its mask.

    Linear layers cost as much as dense attention to 4 D others at hidden size D (measured, D from
    256 to 576; 6 D by the number of operations). Memory grows alike: each layer keeps a mask of N²
    entries, and per token more than 4 D numbers. Eager attention keeps copies of the scores of each
    head: at most as much as 2 masks for each head (traced, with and without checkpointing).
    """
    text = config.get_text_config()
    if TAKES_BOOLEANS.get(text._attn_implementation, True):
        return int(text.hidden_size)
    return max(1, int(text.hidden_size) // (2 * int(text.num_attention_heads)))


def unsupported(model: Any) -> str:
    """Why a model cannot take such masks, from its configuration; "" if nothing speaks against."""
    base = without_adapters(model)
    config = base.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    decoder = base.get_decoder()
    if getattr(type(base), "_is_stateful", False) or RECURRENT_LAYERS & kinds:
        return "it has recurrent layers"
    if kinds - LAYERS:
        return f"it has layers of the kind {min(kinds - LAYERS)}"
    if config._attn_implementation not in TAKES_BOOLEANS:
        return f"its attention, {config._attn_implementation}, takes no masks of single tokens"
    if not position_ids(decoder, True):
        return "its positions follow from the attention mask"
    return ""


@contextlib.contextmanager
def short_window(model: Any, window: int = 3) -> Iterator[None]:
    """Shorten the sliding windows of a model, so that short rows show whether they are right."""
    config = without_adapters(model).config.get_text_config()
    before = getattr(config, "sliding_window", None)
    if before is not None:
        config.sliding_window = min(before, window)
    try:
        yield
    finally:
        if before is not None:
            config.sliding_window = before
