"""Log-probabilities of tokens, without storing the logits of a whole batch.

The logits of B sequences of T tokens over a vocabulary of V are B·T·V numbers. In float32, 16 ×
4096 × 152k of them take 40 GB, and the backward pass needs several such tensors. Here logits exist
only for a chunk of the selected tokens at a time. The backward pass computes them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from llm.models.architecture import position_ids, without_adapters
from llm.models.tree_attention import Tries, tree_masks

#: Bytes of the float32 logits of a chunk, at the default chunk size.
CHUNK_BYTES = 64 * 2**20

#: Tokens among which the end of a nucleus is looked for first.
NUCLEUS = 1024

#: Options of configurations that change logits after the head (Gemma, Cohere, Granite, Falcon-H1).
LOGIT_TRANSFORMS = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    chunk_size: int | None = None,
) -> Tensor:
    """Compute log softmax((hidden · weightᵀ + bias) / temperature) at the targets.

    With `top_p`, the softmax is over the nucleus alone: the distribution that engines sample from.

    Parameters
    ----------
    hidden : Tensor (N, D)
    weight : Tensor (V, D)
        Weight of the language-model head.
    targets : Tensor (N,) of int64
        In 0, …, V − 1.
    bias : Tensor (V,), optional
    temperature : float
        > 0.
    top_p : float
        In (0, 1]; see `nucleus_floor`. The nucleus of a target outside it reaches down to it. So
        every log-prob is finite, and rounding at the nucleus's edge changes little. The gradient
        takes the nucleus as fixed.
    chunk_size : int, optional
        Number of tokens whose logits exist at once; by default 64 MiB in float32. It does not
        change the result.

    Returns
    -------
    Tensor (N,)
        In float32, or float64 if the inputs are. Matrix products use the precision of the inputs,
        or of autocast if it is on. The softmax and the sums over chunks use at least float32. Only
        first derivatives are supported.

    Raises
    ------
    ValueError
        If shapes do not match, or temperature, top-p or chunk size is out of range.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden and weight: shapes {tuple(hidden.shape)} and {tuple(weight.shape)} are not"
            " (tokens, width) and (vocabulary, width)"
        )
    if targets.shape != hidden.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(
            f"targets: {targets.dtype} of shape {tuple(targets.shape)} is not torch.int64 of shape"
            f" {tuple(hidden.shape[:1])}, one per token"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias: shape {tuple(bias.shape)} is not {tuple(weight.shape[:1])}, one per word"
        )
    if not temperature > 0:
        raise ValueError(f"temperature: {temperature} is not > 0")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p: {top_p} is not in (0, 1]")
    if chunk_size is None:
        chunk_size = max(1, CHUNK_BYTES // (4 * len(weight)))
    if chunk_size < 1:
        raise ValueError(f"chunk_size: {chunk_size} is not ≥ 1")
    # Cast here, because autocast is off in the backward pass, which repeats the products.
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    hidden, weight = hidden.to(dtype), weight.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    logprobs: Tensor = _TokenLogprobs.apply(
        hidden, weight, bias, targets, temperature, top_p, chunk_size
    )
    return logprobs


def nucleus_floor(logits: Tensor, top_p: float | Tensor) -> Tensor:
    """Smallest logit of the nucleus: the fewest tokens with total probability ≥ top_p.

    Parameters
    ----------
    logits : Tensor (N, V)
    top_p : float or Tensor (N,)
        In (0, 1].

    Returns
    -------
    Tensor (N,)
        Tokens whose logits equal it all belong to the nucleus. −∞ at top_p = 1.
    """
    top_p = torch.as_tensor(top_p, dtype=logits.dtype, device=logits.device).expand(len(logits))
    top = logits.amax(-1, keepdim=True)
    needed = top_p[:, None] * (logits - top).exp_().sum(-1, keepdim=True)

    def floor(ranked: Tensor, top: Tensor, needed: Tensor) -> tuple[Tensor, Tensor]:
        weights = (ranked - top).exp_()
        total = weights.cumsum(-1)
        reached = total[:, -1] >= needed[:, 0]
        size = (total.sub_(weights) < needed).sum(-1, keepdim=True).clamp(min=1)
        return ranked.gather(-1, size - 1)[:, 0], reached

    # Sorting all logits takes ten times as long, and most nuclei are small.
    floors, reached = floor(logits.topk(min(NUCLEUS, logits.shape[1])).values, top, needed)
    floors[top_p == 1] = -torch.inf
    rest = ~reached & (top_p < 1)
    if rest.any():
        ranked = logits[rest].sort(-1, descending=True).values
        floors[rest] = floor(ranked, top[rest], needed[rest])[0]
    return floors


def completion_logprobs(
    model: torch.nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    chunk_size: int | None = None,
) -> Tensor:
    """Compute log π(token | preceding tokens of its row) wherever the mask is true.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        A causal language model whose head is one linear layer. Adapters in the decoder are applied;
        an adapter on the head is an error.
    input_ids : Tensor (B, T) of int64
    attention_mask : Tensor (B, T)
        0 at padding, on the right or left; position ids do not count padding.
    mask : Tensor (B, T) of bool
        The N selected tokens. None may be padding or the first token of a row.
    temperature, top_p, chunk_size
        See `token_logprobs`.

    Returns
    -------
    Tensor (N,)
        Log-probs in the order of rows.

    Raises
    ------
    ValueError
        If shapes do not match, a selected token has no predecessor, or the model computes logits in
        another way.
    """
    shape = tuple(input_ids.shape)
    if input_ids.ndim != 2:
        raise ValueError(f"input_ids: shape {shape} is not (rows, length)")
    for name, values in (("attention_mask", attention_mask), ("mask", mask)):
        if values.shape != input_ids.shape:
            raise ValueError(f"{name}: shape {tuple(values.shape)} is not {shape}, as input_ids'")
    if mask.dtype != torch.bool:
        raise ValueError(f"mask: dtype {mask.dtype} is not torch.bool")
    present = attention_mask.bool()
    predicted = torch.zeros_like(mask)
    predicted[:, 1:] = present[:, :-1] & present[:, 1:]
    if bool((mask & ~predicted).any()):
        row, column = (mask & ~predicted).nonzero()[0].tolist()
        raise ValueError(
            f"mask: row {row} asks for token {column}, which is padding or has no token before it"
        )

    decoder, head = _decoder_and_head(model)
    positions = (present.long().cumsum(1) - 1).clamp(min=0)
    hidden = decoder(
        input_ids=input_ids,
        attention_mask=attention_mask,
        use_cache=False,
        **position_ids(decoder, positions),
    ).last_hidden_state
    selected = mask[:, 1:]
    return token_logprobs(
        hidden[:, :-1][selected],
        head.weight,
        input_ids[:, 1:][selected],
        bias=head.bias,
        temperature=temperature,
        top_p=top_p,
        chunk_size=chunk_size,
    )


def trie_logprobs(
    model: torch.nn.Module, tries: Tries, *, temperature: float = 1.0, top_p: float = 1.0
) -> Tensor:
    """Compute log π(token | tokens before it in its row) for rows that are packed as tries.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        See `completion_logprobs`; one for which `llm.learner.tries.why_not_shared` is "".
    tries : Tries
    temperature, top_p
        See `token_logprobs`.

    Returns
    -------
    Tensor (M,)
        Log-probs of `tries.targets`.
    """
    decoder, head = _decoder_and_head(model)
    device = tries.input_ids.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else decoder.dtype
    hidden = decoder(
        input_ids=tries.input_ids,
        attention_mask=tree_masks(decoder.config, tries.depth, tries.end, dtype),
        position_ids=tries.depth,
        use_cache=False,
    ).last_hidden_state
    return token_logprobs(
        hidden.flatten(0, 1)[tries.source],
        head.weight,
        tries.targets,
        bias=head.bias,
        temperature=temperature,
        top_p=top_p,
    )


class CompletionLogprobs(torch.nn.Module):
    """`completion_logprobs` or `trie_logprobs` as a module, so that FSDP can shard the model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        mask: Tensor,
        temperature: float,
        top_p: float = 1.0,
        tries: Tries | None = None,
    ) -> Tensor:
        """See `completion_logprobs`; with `tries`, only they count."""
        if tries is not None:
            return trie_logprobs(self.model, tries, temperature=temperature, top_p=top_p)
        return completion_logprobs(
            self.model, input_ids, attention_mask, mask, temperature=temperature, top_p=top_p
        )


def _decoder_and_head(model: Any) -> tuple[Any, torch.nn.Linear]:
    """Decoder and head of a model; raises if other parts change its logits."""
    from transformers import PreTrainedModel

    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError("model: prompt learning adds tokens that the decoder alone does not see")
    base = without_adapters(model)
    decoder, head = base.get_decoder(), base.get_output_embeddings()
    # A head within another module follows further layers (BERT).
    direct = isinstance(decoder, PreTrainedModel) and head in base.children()
    if decoder is base or not direct or base.config.is_encoder_decoder:
        raise ValueError(f"model: {type(base).__name__} is not a decoder with a head")
    # Subclasses (LoRA on the head, quantized weights) do not compute weight · x + bias.
    if type(head) is not torch.nn.Linear:
        raise ValueError(
            f"model: the head is a {type(head).__name__}, not a torch.nn.Linear; leave it out of"
            " target_modules, modules_to_save and quantization"
        )
    config = base.config.get_text_config()
    for name in LOGIT_TRANSFORMS:
        value = getattr(config, name, None)
        if value is not None and value != 1:
            raise ValueError(f"model: {name} = {value} changes its logits, which is not supported")
    return decoder, head


class _TokenLogprobs(torch.autograd.Function):
    """Chunked log softmax(z)_y; its gradient in the logits z is 1[y] − softmax(z).

    With top-p, logits below the nucleus's floor are −∞.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        top_p: float,
        chunk_size: int,
    ) -> Tensor:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        logprobs = torch.empty(len(hidden), dtype=dtype, device=hidden.device)
        normalizers = torch.empty_like(logprobs)
        floors = None if top_p == 1 else torch.empty_like(logprobs)
        for chunk in _chunks(len(hidden), chunk_size):
            logits = linear(hidden[chunk], weight, bias).to(dtype).div_(temperature)
            at_targets = logits.gather(-1, targets[chunk, None])[:, 0]
            if floors is not None:
                floors[chunk] = torch.minimum(nucleus_floor(logits, top_p), at_targets)
                logits.masked_fill_(logits < floors[chunk, None], -torch.inf)
            normalizers[chunk] = logits.logsumexp(-1)
            logprobs[chunk] = at_targets - normalizers[chunk]
        ctx.save_for_backward(hidden, weight, bias, targets, normalizers, floors)
        ctx.temperature, ctx.chunk_size = temperature, chunk_size
        return logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalizers, floors = ctx.saved_tensors
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        dtype = normalizers.dtype
        d_hidden = torch.empty_like(hidden) if for_hidden else None
        d_weight = torch.zeros_like(weight, dtype=dtype) if for_weight else None
        d_bias = torch.zeros_like(bias, dtype=dtype) if for_bias else None
        for chunk in _chunks(len(hidden), ctx.chunk_size):
            upstream = grad[chunk, None]
            logits = linear(hidden[chunk], weight, bias).to(dtype).div_(ctx.temperature)
            if floors is not None:
                logits.masked_fill_(logits < floors[chunk, None], -torch.inf)
            # In place, so that no second tensor is as large as the logits.
            slopes = logits.sub_(normalizers[chunk, None]).exp_().mul_(-upstream)
            slopes.scatter_add_(-1, targets[chunk, None], upstream).div_(ctx.temperature)
            if d_bias is not None:
                d_bias += slopes.sum(0)
            slopes = slopes.to(hidden.dtype)
            if d_hidden is not None:
                d_hidden[chunk] = slopes @ weight
            if d_weight is not None and d_weight.dtype == hidden.dtype:
                d_weight.addmm_(slopes.T, hidden[chunk])
            elif d_weight is not None:
                d_weight += slopes.T @ hidden[chunk]
        return (
            d_hidden,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None else d_bias.to(bias.dtype),
            None,
            None,
            None,
            None,
        )


def _chunks(size: int, chunk_size: int) -> Iterator[slice]:
    for start in range(0, size, chunk_size):
        yield slice(start, start + chunk_size)
