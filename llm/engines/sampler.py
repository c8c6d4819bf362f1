"""Draws of tokens from logits: temperature, top-p, and inversion of the distribution function.

The vocabulary is large, so every pass over a table of logits costs time. Probabilities are float32.
Their distribution function is in float64, but only at the ends of blocks of tokens, and within the
block that the random number selects.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from llm.engines.engine import SamplingParams
from llm.models.logprobs import nucleus_floor

#: Tokens of a block.
BLOCK = 256


class Sampler:
    """Draws one token per row, with its log-prob.

    Parameters
    ----------
    params : sequence of SamplingParams
        Of each row.
    device : torch.device
    """

    def __init__(self, params: Sequence[SamplingParams], device: torch.device) -> None:
        self.greedy = torch.tensor([p.temperature == 0 for p in params], device=device)
        self.temperature = torch.tensor([p.temperature or 1.0 for p in params], device=device)
        top_p = [p.top_p if p.temperature else 1.0 for p in params]
        self.top_p = torch.tensor(top_p, device=device)
        self.plain = all(p.temperature == 1 for p in params)
        self.truncates = min(top_p) < 1
        self.any_greedy = any(p.temperature == 0 for p in params)

    def __call__(
        self, logits: torch.Tensor, u: NDArray[np.float64], rows: NDArray[np.intp]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and log-probs (B,) from logits (B, V) and uniform numbers (B,) of `rows`."""
        logits = logits.float()
        index = torch.from_numpy(rows).to(logits.device)
        if not self.plain:
            logits = logits / self.temperature[index, None]
        if self.truncates:
            floor = nucleus_floor(logits, self.top_p[index])
            logits = logits.masked_fill(logits < floor[:, None], -torch.inf)
        probs = logits.softmax(-1)
        drawn = invert(probs, torch.from_numpy(u).to(probs.device))
        if self.any_greedy:
            drawn = torch.where(self.greedy[index], probs.argmax(-1), drawn)
        return drawn, probs.gather(-1, drawn[:, None])[:, 0].double().log()


def invert(probs: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """The first token up to which the probabilities of a row sum to more than u of their total.

    Parameters
    ----------
    probs : Tensor (B, V), float32
        Need not sum to 1.
    u : Tensor (B,), float64
        In [0, 1 − 2⁻⁵³].

    Returns
    -------
    Tensor (B,)
        Never a token of probability 0.
    """
    # x u < x for every x > 0, also after rounding: a point is always before the end of its table.
    full = probs.shape[1] // BLOCK * BLOCK
    parts = [probs[:, :full].unflatten(1, (-1, BLOCK)).sum(-1)] if full else []
    masses = torch.cat([*parts, probs[:, full:].sum(-1, keepdim=True)], dim=1).double()
    ends = masses.cumsum(-1)
    point = u[:, None] * ends[:, -1:]
    # Probabilities that are not numbers, of weights that are not, have no block and no token: any
    # will do, as its log-prob stops the run.
    block = torch.searchsorted(ends, point, right=True).clamp_(max=masses.shape[1] - 1)
    mass = masses.gather(1, block)
    share = (point - (ends.gather(1, block) - mass)) / mass

    tokens = block * BLOCK + torch.arange(BLOCK, device=probs.device)
    last = probs.shape[1] - 1
    inside = probs.gather(1, tokens.clamp(max=last)).double().masked_fill_(tokens > last, 0)
    inside.cumsum_(-1)
    # A share is below 1, as x u < x. It can be below 0, as the start of a block is rounded.
    point = share.clamp_(min=0) * inside[:, -1:]
    found = block * BLOCK + torch.searchsorted(inside, point, right=True)
    return found.clamp_(max=last)[:, 0]
