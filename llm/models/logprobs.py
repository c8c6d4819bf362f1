"""Log-probabilities of tokens, without ever holding the logits of a batch.

The logits of B sequences of T tokens over V words are B·T·V numbers: 16 × 4096 × 152k in float32
are 40 GB, several times over in the backward pass. Here they exist for a chunk of the tokens that
are asked for, once in the forward pass and once more in the backward pass, which computes them
again. What remains is the decoder's own memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

#: Bytes of float32 logits in a chunk of the default size.
CHUNK_BYTES = 64 * 2**20

#: What some configurations do to logits after the head (Gemma, Cohere, Granite, Falcon-H1, …).
LOGIT_CHANGES = (
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
    chunk_size: int | None = None,
) -> Tensor:
    """log softmax((hidden · weightᵀ + bias) / temperature) at the targets.

    Parameters
    ----------
    hidden : Tensor (N, D)
    weight : Tensor (V, D)
        Of the language-model head.
    targets : Tensor (N,) of int64
        In 0, …, V − 1.
    bias : Tensor (V,), optional
    temperature : float
        > 0.
    chunk_size : int, optional
        Tokens whose logits exist at once; by default as many as make 64 MiB of float32. It does not
        change the result.

    Returns
    -------
    Tensor (N,)
        In float32, or float64 if the inputs are. Products are in the inputs' precision (autocast's
        if that is on), the softmax and sums over chunks never in less than float32. It can be
        differentiated once.

    Raises
    ------
    ValueError
        If shapes do not fit, or temperature or chunk size are not positive.
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
    if chunk_size is None:
        chunk_size = max(1, CHUNK_BYTES // (4 * len(weight)))
    if chunk_size < 1:
        raise ValueError(f"chunk_size: {chunk_size} is not ≥ 1")
    # Autocast does not reach into a backward pass, which here repeats the forward pass.
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    hidden, weight = hidden.to(dtype), weight.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    logprobs: Tensor = _TokenLogprobs.apply(hidden, weight, bias, targets, temperature, chunk_size)
    return logprobs


def completion_logprobs(
    model: torch.nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    chunk_size: int | None = None,
) -> Tensor:
    """log π(token | tokens before it in its row) wherever the mask is true.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        A causal language model whose head is one linear layer. Adapters in the decoder take part;
        an adapter of the head is refused.
    input_ids : Tensor (B, T) of int64
    attention_mask : Tensor (B, T)
        0 at padding, on the right (or on the left: positions are counted without it).
    mask : Tensor (B, T) of bool
        Tokens asked for, N in all. None is a row's first token or padding.
    temperature, chunk_size
        See `token_logprobs`.

    Returns
    -------
    Tensor (N,)
        Row by row.

    Raises
    ------
    ValueError
        If shapes do not fit, the mask asks for what has no predecessor, or the model computes
        logits in another way.
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
        position_ids=positions,
        use_cache=False,
    ).last_hidden_state
    asked = mask[:, 1:]
    return token_logprobs(
        hidden[:, :-1][asked],
        head.weight,
        input_ids[:, 1:][asked],
        bias=head.bias,
        temperature=temperature,
        chunk_size=chunk_size,
    )


class CompletionLogprobs(torch.nn.Module):
    """`completion_logprobs` of a model as a module, which is what FSDP needs to divide it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, mask: Tensor, temperature: float
    ) -> Tensor:
        """See `completion_logprobs`."""
        return completion_logprobs(
            self.model, input_ids, attention_mask, mask, temperature=temperature
        )


def _decoder_and_head(model: Any) -> tuple[Any, torch.nn.Linear]:
    """The two halves of a causal language model, if nothing else makes its logits."""
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError("model: prompt learning adds tokens that the decoder alone does not see")
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder, head = base.get_decoder(), base.get_output_embeddings()
    if decoder is base or base.config.is_encoder_decoder:
        raise ValueError(f"model: {type(base).__name__} is not a decoder with a head")
    # A subclass (LoRA on the head, quantized weights) would compute more than weight and bias say.
    if type(head) is not torch.nn.Linear:
        raise ValueError(
            f"model: the head is a {type(head).__name__}, not a torch.nn.Linear; leave it out of"
            " target_modules, modules_to_save and quantization"
        )
    config = base.config.get_text_config()
    for name in LOGIT_CHANGES:
        value = getattr(config, name, None)
        if value is not None and value != 1:
            raise ValueError(f"model: {name} = {value} changes its logits, which is not supported")
    return decoder, head


class _TokenLogprobs(torch.autograd.Function):
    """The gradient of log softmax(z)_y with respect to the logits z is (1[y] − softmax(z))."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk_size: int,
    ) -> Tensor:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        logprobs = torch.empty(len(hidden), dtype=dtype, device=hidden.device)
        normalizers = torch.empty_like(logprobs)
        for chunk in _chunks(len(hidden), chunk_size):
            logits = linear(hidden[chunk], weight, bias).to(dtype).div_(temperature)
            normalizers[chunk] = logits.logsumexp(-1)
            logprobs[chunk] = logits.gather(-1, targets[chunk, None])[:, 0] - normalizers[chunk]
        ctx.save_for_backward(hidden, weight, bias, targets, normalizers)
        ctx.temperature, ctx.chunk_size = temperature, chunk_size
        return logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalizers = ctx.saved_tensors
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        dtype = normalizers.dtype
        d_hidden = torch.empty_like(hidden) if for_hidden else None
        d_weight = torch.zeros_like(weight, dtype=dtype) if for_weight else None
        d_bias = torch.zeros_like(bias, dtype=dtype) if for_bias else None
        for chunk in _chunks(len(hidden), ctx.chunk_size):
            here = grad[chunk, None]
            logits = linear(hidden[chunk], weight, bias).to(dtype).div_(ctx.temperature)
            # In place, as all that is as large as the logits.
            slopes = logits.sub_(normalizers[chunk, None]).exp_().mul_(-here)
            slopes.scatter_add_(-1, targets[chunk, None], here).div_(ctx.temperature)
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
        )


def _chunks(size: int, chunk_size: int) -> Iterator[slice]:
    for start in range(0, size, chunk_size):
        yield slice(start, start + chunk_size)
