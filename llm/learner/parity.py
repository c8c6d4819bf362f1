"""Parity check: engine and trainer compute the same distribution.

They may differ after a failed sync, with a stale cache, another temperature, or logits that only
one of them scales. The engine's text then still looks plausible, and training goes wrong silently.
So both score a few of the engine's samples, at the run's temperature and top-p.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llm.common.errors import ReportedError
from llm.engines.engine import Engine, SamplingParams
from llm.learner.rows import MicroBatch, Row, micro_batches

#: Limit on the largest difference in float32. With top-p it is one on the mean: rounding may move a
#: token of probability p in or out of a nucleus, which changes a log-prob by p.
FLOAT32 = 1e-4

#: Limit on the mean difference in bfloat16, whose eight bits of mantissa move log-probs by tenths.
#: Of SmolLM2-135M-Instruct the mean is 0.04 to 0.06: 0.03 from the rounding of either side.
BFLOAT16_MEAN = 0.1

#: Limits on the mean importance ratio of a step whose rollouts are on-policy.
RATIO_LIMITS = 0.8, 1.25

#: Tokens of each sample; more than a vLLM cache block.
PROBE_TOKENS = 48


class ParityError(ReportedError):
    """Engine and trainer compute different log-probs."""


@dataclass(frozen=True)
class Parity:
    """Differences |log-prob of the engine − log-prob of the trainer| over some tokens, in nats."""

    tokens: int
    mean: float
    max: float
    dtype: torch.dtype
    top_p: float = 1.0

    @property
    def holds(self) -> bool:
        """Whether the differences are within rounding."""
        statistic, limit = self._limit
        return bool(getattr(self, statistic) <= limit)

    @property
    def _limit(self) -> tuple[str, float]:
        """The statistic that is limited, and its limit."""
        if self.dtype == torch.float32:
            return "max" if self.top_p == 1 else "mean", FLOAT32
        return "mean", BFLOAT16_MEAN

    def __str__(self) -> str:
        limit = "{} ≤ {:g}".format(*self._limit)
        result = "ok" if self.holds else "FAILED"
        return (
            f"parity {result}: engine against trainer over {self.tokens} tokens, |Δ log-prob| "
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
    top_p: float = 1.0,
    device: torch.device,
) -> Parity:
    """Sample from the engine, score the samples with the trainer, and compare log-probs.

    Parameters
    ----------
    engine : Engine
    logprobs : function of a MicroBatch
        The trainer's log-probs of a micro-batch.
    prompts : sequence of token ids
    temperature, top_p : float
        Those of the run; `logprobs` uses the same.
    device : torch.device
        The trainer's device.

    Raises
    ------
    ParityError
        If the log-probs differ by more than rounding.
    """
    longest = max(map(len, prompts))
    room = min(PROBE_TOKENS, engine.max_model_len - longest)
    params = [
        SamplingParams(max_tokens=room, temperature=temperature, top_p=top_p, seed=i)
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
        difference.numel(), float(difference.mean()), float(difference.max()), engine.dtype, top_p
    )
    if not parity.holds:  # a NaN does not hold either
        raise ParityError(
            f"{parity}; the two have different weights, or only one of them applies the model's "
            "changes to its logits. Nothing was trained"
        )
    return parity


def off_policy(metrics: Mapping[str, float]) -> str | None:
    """Complaint about an update whose log-probs are not those of the engine; None if they are.

    Parameters
    ----------
    metrics : mapping of name to float
        Those of an update on rollouts of the same policy.
    """
    ratio = metrics.get("sampling/importance_sampling_ratio/mean", 1.0)
    difference = metrics.get("sampling/sampling_logp_difference/mean", 0.0)
    low, high = RATIO_LIMITS
    if low <= ratio <= high and difference <= BFLOAT16_MEAN:
        return None
    return (
        f"the update's log-probs are not those of the engine: importance ratio {ratio:.2g} (1 if "
        f"they were), |Δ log-prob| {difference:.2g} nats a token, on average. Causes: dropout "
        "(disable_dropout true and lora.dropout 0 turn it off), or rounding in bfloat16 over long "
        "completions (bf16 false)"
    )
