"""Parity: whether the engine and the trainer mean the same distribution.

An engine that holds other weights than the trainer (a failed sync, a stale cache, another
temperature, logits that only one of them scales) still produces plausible text, and training goes
quietly wrong. So the engine's log-probs of a few samples of its own are compared with the
trainer's, at the run's temperature and without top-p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llm.common.errors import ReportedError
from llm.engines.engine import Engine, SamplingParams
from llm.learner.rows import MicroBatch, Row, micro_batches

#: Largest difference allowed for float32 weights, and largest mean difference for bfloat16, whose
#: eight bits of mantissa move single log-probs by tenths.
FLOAT32_MAX, BFLOAT16_MEAN = 1e-4, 0.05

#: Tokens of each probe; more than a vLLM cache block.
PROBE_TOKENS = 48


class ParityError(ReportedError):
    """Engine and trainer disagree."""


@dataclass(frozen=True)
class Parity:
    """Differences |log-prob of the engine − log-prob of the trainer| over some tokens, in nats."""

    tokens: int
    mean: float
    max: float
    dtype: torch.dtype

    @property
    def holds(self) -> bool:
        """Whether they are within rounding."""
        if self.dtype == torch.float32:
            return self.max <= FLOAT32_MAX
        return self.mean <= BFLOAT16_MEAN

    def __str__(self) -> str:
        limit = (
            f"max ≤ {FLOAT32_MAX:g}" if self.dtype == torch.float32 else f"mean ≤ {BFLOAT16_MEAN:g}"
        )
        verdict = "ok" if self.holds else "FAILED"
        return (
            f"parity {verdict}: engine against trainer over {self.tokens} tokens, |Δ log-prob| "
            f"mean {self.mean:.1e}, max {self.max:.1e} nats ({limit} for "
            f"{str(self.dtype).removeprefix('torch.')})"
        )


@torch.no_grad()
def check_parity(
    engine: Engine,
    logprobs: Callable[[MicroBatch], torch.Tensor],
    prompts: Sequence[Sequence[int]],
    *,
    temperature: float,
    device: torch.device,
) -> Parity:
    """Sample from the engine, and score the samples with the trainer.

    Parameters
    ----------
    engine : Engine
    logprobs : function of a MicroBatch
        The trainer's.
    prompts : sequence of token ids
    temperature : float
        The run's.
    device : torch.device
        The trainer's.

    Raises
    ------
    ParityError
        If they differ by more than rounding.
    """
    longest = max(map(len, prompts))
    room = min(PROBE_TOKENS, engine.max_model_len - longest)
    params = [
        SamplingParams(max_tokens=room, temperature=temperature, seed=i)
        for i in range(len(prompts))
    ]
    samples = engine.generate(prompts, params)
    rows = [
        Row(np.array([*prompt, *sample.ids]), len(prompt), len(prompt) + len(sample.ids),
            sample.logprobs, 1.0)
        for prompt, (sample,) in zip(prompts, samples, strict=True)
    ]  # fmt: skip
    (batch,) = micro_batches(rows, range(len(rows)), len(rows), device)
    difference = (batch.logprobs - logprobs(batch)).abs().double()
    parity = Parity(
        difference.numel(), float(difference.mean()), float(difference.max()), engine.dtype
    )
    if not parity.holds:  # a NaN does not hold either
        raise ParityError(
            f"{parity}; the two hold different weights, or the model changes its logits in a way "
            "that one of them does not know. Nothing was trained"
        )
    return parity
