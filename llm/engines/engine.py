"""What an inference engine is: prompts as token ids in, sampled tokens with log-probs out.

Two engines speak this protocol, `TransformersEngine` (embedded, the default) and `VLLMEngine`. Both
sample from the model's own distribution at the request's temperature and top-p, return the log-prob
of each sampled token *under that distribution*, and repeat their samples for a repeated seed,
whatever else is in the batch (up to rounding of the logits).
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

#: Any seeds will do, neighbours too: an engine keys the stream of a sample by the pair (seed, j).
#: (vLLM by itself would use seed + j; see `llm.engines.vllm`.)
MAX_SEED = 2**62


class EngineError(ReportedError):
    """The engine cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class SamplingParams:
    """How to continue one prompt; names and meaning are vLLM's.

    Parameters
    ----------
    max_tokens : int
        Longest completion, ≥ 1.
    n : int
        Number of samples.
    temperature : float
        Divides the logits; 0 is greedy, and log-probs are those at temperature 1, without top-p.
    top_p : float
        Sample from the fewest tokens whose probabilities sum to at least this, in (0, 1].
    stop_token_ids : tuple of int
        A completion ends with the first of these, which is its last token. EOS must be named here.
    seed : int
        In 0 … 2⁶²; sample j depends on (seed, j) alone.

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
        Its tokens, the stop token included.
    logprobs : array (T,), float64
        Log-prob of each under the distribution it was drawn from (temperature, top-p included), in
        nats.
    finish_reason : {"stop", "length"}
        Whether its last token is a stop token; "length" is a cut.
    """

    ids: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    finish_reason: Literal["stop", "length"]


@dataclass
class EngineStats:
    """Work done since the engine started; differences of two are work done between them.

    `prompt_tokens` counts the prompt of every sample, `cached_tokens` those of them that were not
    computed anew because a sample or a request before had computed them.
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
    """Samples from a language model, and takes new weights.

    Attributes
    ----------
    max_model_len : int
        Most tokens of a prompt and its completion together.
    dtype : torch.dtype
        Of the weights that `sync_weights` expects.
    stats : EngineStats
    """

    max_model_len: int
    dtype: torch.dtype
    stats: EngineStats

    def generate(
        self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]
    ) -> list[list[Completion]]:
        """`params[i].n` completions of `prompts[i]`, in order; one batch.

        Raises
        ------
        ValueError
            If a prompt is empty, leaves no room for `max_tokens`, or has a token outside the
            model's vocabulary.
        EngineError
            If the engine is closed or has died.
        """
        ...

    def sync_weights(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Take these weights, and forget all that was cached under the old ones.

        The whole state dict of the Hugging Face model: `lm_head.weight` also where embeddings are
        tied.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a shape or dtype differs. Nothing has changed then.
        EngineError
            If the engine is closed or has died.
        """
        ...

    def sleep(self) -> None:
        """Free device memory until `wake`, where the device supports it; else do nothing."""
        ...

    def wake(self) -> None:
        """Undo `sleep`."""
        ...

    def close(self) -> None:
        """Free everything. May be called twice."""
        ...


def check_requests(
    prompts: Sequence[Sequence[int]],
    params: Sequence[SamplingParams],
    max_model_len: int,
    vocab_size: int,
) -> None:
    """Refuse requests that no engine could serve.

    Raises
    ------
    ValueError
        If there is not one `SamplingParams` per prompt, or a prompt is empty, too long, or has a
        token that the model does not know.
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
        # An id that no embedding answers to would be the end of an engine in another process.
        ids = np.asarray(prompt)
        lowest, highest = int(ids.min()), int(ids.max())
        if lowest < 0 or highest >= vocab_size:
            raise ValueError(
                f"prompts: number {number} has a token outside the model's vocabulary, "
                f"0 … {vocab_size - 1}: {lowest if lowest < 0 else highest}"
            )


def check_state(
    expected: Mapping[str, torch.Tensor],
    state_dict: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
) -> None:
    """Refuse weights that do not fit, before any of them is loaded.

    Parameters
    ----------
    expected : mapping of name to tensor
        Of the right shapes; values are not looked at (they may be on the meta device).
    state_dict : mapping of name to tensor
    dtype : torch.dtype
        Of the engine's floating-point weights.

    Raises
    ------
    ValueError
        If a name is missing or unknown, or a shape or dtype differs.
    """
    missing = sorted(expected.keys() - state_dict.keys())
    unknown = sorted(state_dict.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(
            f"state_dict: not this engine's model; missing {_some(missing)}, "
            f"unknown {_some(unknown)}"
        )
    for name, tensor in state_dict.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"state_dict: {name} has shape {tuple(tensor.shape)}, "
                f"the engine's has {tuple(expected[name].shape)}"
            )
        if tensor.is_floating_point() and tensor.dtype != dtype:
            raise ValueError(f"state_dict: {name} is {tensor.dtype}, the engine's is {dtype}")


def _some(names: Sequence[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
