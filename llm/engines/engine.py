"""Protocol of inference engines: token ids of prompts in, sampled tokens with log-probs out.

Two engines implement it: `TransformersEngine`, in this process and the default, and `VLLMEngine`.
Both sample from the model at the temperature and top-p of the request. They return the log-prob of
each sampled token *under that distribution*. A repeated seed gives the same samples, whatever else
is in the batch, up to rounding of the logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from llm.common.errors import ReportedError

if TYPE_CHECKING:
    import torch

#: Largest seed. Neighbouring seeds are independent, as engines key sample j by the pair (seed, j).
#: (vLLM's own key is seed + j; see `llm.engines.vllm`.)
MAX_SEED = 2**62


class EngineError(ReportedError):
    """The engine cannot continue; the message gives the cause and the cure."""


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters of one prompt, with the names and meanings of vLLM.

    Parameters
    ----------
    max_tokens : int
        Maximum length of a completion, ≥ 1.
    n : int
        Number of samples.
    temperature : float
        Divides the logits. At 0 decoding is greedy, with log-probs at temperature 1 without top-p.
    top_p : float
        Sample from the fewest tokens whose probabilities sum to at least this, in (0, 1].
    stop_token_ids : tuple of int
        A completion ends after the first of these tokens, and includes it. EOS must be listed.
    seed : int
        In 0 … 2⁶²; the random numbers of sample j depend only on (seed, j).

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    max_tokens: int
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    stop_token_ids: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.n < 1:
            raise ValueError(f"max_tokens={self.max_tokens}, n={self.n}: both must be at least 1")
        if not (self.temperature >= 0 and np.isfinite(self.temperature)):
            raise ValueError(f"temperature: {self.temperature} is not a number ≥ 0")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: {self.top_p} is not in (0, 1]")
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed: {self.seed} is not in 0 … 2^62")


class Completion(NamedTuple):
    """One sampled continuation of a prompt.

    Attributes
    ----------
    ids : array (T,), int64
        Sampled tokens, including the stop token.
    logprobs : array (T,), float64
        Log-probs of the tokens in nats, under the distribution they were drawn from (after
        temperature and top-p).
    finish_reason : {"stop", "length"}
        "stop" if the last token is a stop token; "length" if `max_tokens` was reached.
    """

    ids: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    finish_reason: Literal["stop", "length"]


@dataclass
class EngineStats:
    """Counts of tokens and seconds since the engine started; subtract two for an interval.

    `prompt_tokens` counts the prompt of every sample. `cached_tokens` counts those of them that an
    earlier sample or request had already computed.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0

    def __sub__(self, other: EngineStats) -> EngineStats:
        return EngineStats(
            **{f.name: getattr(self, f.name) - getattr(other, f.name) for f in fields(self)}
        )


class Engine(Protocol):
    """Samples from a language model whose weights can be replaced.

    Attributes
    ----------
    max_model_len : int
        Maximum number of tokens of a prompt and its completion together.
    dtype : torch.dtype
        Type of the weights that `sync_weights` expects.
    stats : EngineStats
        Work done so far.
    """

    max_model_len: int
    dtype: torch.dtype
    stats: EngineStats

    def generate(
        self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]
    ) -> list[list[Completion]]:
        """Sample `params[i].n` completions of each `prompts[i]`, in order.

        Raises
        ------
        ValueError
            If a prompt is empty, leaves no room for `max_tokens`, or has a token outside the
            model's vocabulary.
        EngineError
            If the engine is closed or has died.
        """
        ...

    def logprobs(
        self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[NDArray[np.float64]]:
        """Log-probs of the tokens of given continuations, at temperature 1; nothing is sampled.

        Parameters
        ----------
        prompts : sequence of token ids
        continuations : sequence of token ids
            One per prompt; may be empty.

        Raises
        ------
        ValueError, EngineError
            As `generate`; prompt and continuation leave room for one more token.
        """
        ...

    def sync_weights(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Replace the weights, and drop caches computed with the old ones.

        `state_dict` is the full one of the Hugging Face model. It has `lm_head.weight` even if
        embeddings are tied.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a shape or dtype differs. The weights are then
            unchanged.
        EngineError
            If the engine is closed or has died.
        """
        ...

    def sleep(self) -> None:
        """Free device memory until `wake`, if the device supports it."""
        ...

    def wake(self) -> None:
        """Undo `sleep`."""
        ...

    def close(self) -> None:
        """Free all resources; may be called twice."""
        ...


def check_requests(
    prompts: Sequence[Sequence[int]],
    params: Sequence[SamplingParams],
    max_model_len: int,
    vocab_size: int,
) -> None:
    """Check requests against the limits of the model.

    Raises
    ------
    ValueError
        If there is not one `SamplingParams` per prompt, or a prompt is empty, too long, or has a
        token outside the vocabulary.
    """
    if len(prompts) != len(params):
        raise ValueError(f"params: {len(params)} for {len(prompts)} prompts")
    for number, (prompt, p) in enumerate(zip(prompts, params, strict=True)):
        if not len(prompt):
            raise ValueError(f"prompts: number {number} is empty; it needs at least one token")
        if len(prompt) + p.max_tokens > max_model_len:
            raise ValueError(
                f"prompts: number {number} has {len(prompt)} tokens, which leaves no room for "
                f"max_tokens={p.max_tokens} in max_model_len={max_model_len}; shorten the prompt "
                "or max_tokens, or raise max_model_len"
            )
        # An id without an embedding would crash an engine in another process.
        ids = np.asarray(prompt)
        lowest, highest = int(ids.min()), int(ids.max())
        if lowest < 0 or highest >= vocab_size:
            raise ValueError(
                f"prompts: number {number} has a token outside the model's vocabulary, "
                f"0 … {vocab_size - 1}: {lowest if lowest < 0 else highest}"
            )


def check_texts(
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    max_model_len: int,
    vocab_size: int,
) -> list[list[int]]:
    """Check prompts with given continuations; returns the complete texts.

    Raises
    ------
    ValueError
        As `check_requests`, for requests of one more token.
    """
    if len(prompts) != len(continuations):
        raise ValueError(f"continuations: {len(continuations)} for {len(prompts)} prompts")
    check_requests(prompts, [SamplingParams(1)] * len(prompts), max_model_len, vocab_size)
    texts = [[*map(int, p), *map(int, c)] for p, c in zip(prompts, continuations, strict=True)]
    check_requests(texts, [SamplingParams(1)] * len(texts), max_model_len, vocab_size)
    return texts


def check_state(
    expected: Mapping[str, torch.Tensor],
    state_dict: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
) -> None:
    """Check names, shapes and types of new weights, before any is loaded.

    Parameters
    ----------
    expected : mapping of name to tensor
        Tensors of the expected shapes; they may be on the meta device.
    state_dict : mapping of name to tensor
    dtype : torch.dtype
        Type of the engine's floating-point weights.

    Raises
    ------
    ValueError
        If a name is missing or unknown, or a shape or dtype differs.
    """
    missing = sorted(expected.keys() - state_dict.keys())
    unknown = sorted(state_dict.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(
            f"state_dict: not this engine's model; missing {_first_names(missing)}, "
            f"unknown {_first_names(unknown)}"
        )
    for name, tensor in state_dict.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"state_dict: {name} has shape {tuple(tensor.shape)}, "
                f"the engine's has {tuple(expected[name].shape)}"
            )
        if tensor.is_floating_point() and tensor.dtype != dtype:
            raise ValueError(f"state_dict: {name} is {tensor.dtype}, the engine's is {dtype}")


def _first_names(names: Sequence[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
