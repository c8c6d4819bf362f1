"""Draws of tokens: the inverse of the distribution function, and log-probs of what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from llm.engines import SamplingParams
from llm.engines.sampler import BLOCK, Sampler, invert

CPU = torch.device("cpu")

ZERO = torch.zeros((), dtype=torch.float64)

SIZES = [1, 3, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 7]

#: The largest number below 1 that a generator draws.
HIGHEST = 1 - 2**-53


def table(rows: int, size: int, seed: int = 0) -> torch.Tensor:
    """Probabilities of which half are 0, others of very different size."""
    draws = np.random.default_rng(seed)
    weights = np.exp(draws.normal(scale=4, size=(rows, size))) * (draws.random((rows, size)) < 0.5)
    weights[:, size // 2] = 1.0
    return torch.tensor(weights / weights.sum(1, keepdims=True), dtype=torch.float32)


@pytest.mark.parametrize("size", SIZES)
def test_invert__is_the_textbook_inverse(size: int) -> None:
    rows = 200
    probs = table(rows, size)
    u = np.random.default_rng(1).random(rows)
    drawn = invert(probs, torch.tensor(u)).numpy()
    ends = np.cumsum(probs.double().numpy(), axis=1)
    ends /= ends[:, -1:]
    # Blocks are summed in float32, so ends are exact to some 1e-7.
    at = ends[np.arange(rows), drawn]
    before = np.where(drawn > 0, ends[np.arange(rows), np.maximum(drawn - 1, 0)], 0.0)
    assert (before <= u + 1e-6).all() and (u <= at + 1e-6).all()
    expected = np.array([np.searchsorted(e, x, side="right") for e, x in zip(ends, u, strict=True)])
    assert (drawn == expected).mean() > 0.98


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("u", [0.0, HIGHEST])
def test_invert__never_a_token_of_probability_zero(size: int, u: float) -> None:
    probs = table(500, size, seed=2)
    drawn = invert(probs, torch.full((500,), u, dtype=torch.float64))
    possible = [np.flatnonzero(row) for row in probs.numpy()]
    assert drawn.tolist() == [int(each[-1 if u else 0]) for each in possible]


def test_invert__numbers_at_the_end_of_a_block() -> None:
    """Masses of very different size: only then are sums rounded in float64."""
    probs = table(500, 8 * BLOCK, seed=4)
    sizes = 10 ** -torch.tensor(np.random.default_rng(0).uniform(0, 14, size=(500, 8)))
    probs *= sizes.float().repeat_interleave(BLOCK, dim=1)
    probs[:, ::BLOCK] = probs[:, BLOCK - 1 :: BLOCK] = 0.0
    ends = probs.unflatten(1, (-1, BLOCK)).sum(-1).double().cumsum(-1)
    for block in range(7):
        for u in (ends[:, block] / ends[:, -1], (ends[:, block] / ends[:, -1]).nextafter(ZERO)):
            drawn = invert(probs, u)
            assert (probs.gather(1, drawn[:, None]) > 0).all()


def test_invert__each_token_in_proportion_to_its_probability() -> None:
    """Evenly spaced numbers: every token as often as its probability says, to one part in n."""
    probs, n = table(1, 2 * BLOCK + 5, seed=3), 20_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    drawn = invert(probs.expand(n, -1), u)
    counts = torch.bincount(drawn, minlength=probs.shape[1])
    assert (counts / n - probs[0].double()).abs().max() < 1.5 / n
    assert (drawn.diff() >= 0).all()


def sample(params: SamplingParams, logits: torch.Tensor, u: NDArray[np.float64]) -> torch.Tensor:
    rows = np.arange(len(logits))
    drawn, logprobs = Sampler([params] * len(logits), CPU)(logits, u, rows)
    return torch.stack([drawn.double(), logprobs])


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_sampler__logprobs_are_exact(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 8 * torch.randn((300, 1000), generator=generator)
    u = np.random.default_rng(0).random(300)
    drawn, logprobs = sample(SamplingParams(1, temperature=temperature), logits, u)
    exact = (logits.double() / (temperature or 1.0)).log_softmax(-1)
    expected = exact.gather(1, drawn.long()[:, None])[:, 0]
    # The difference of two logits, up to 60 nats, is rounded to 4e-6.
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=5e-6)
    if not temperature:
        assert drawn.tolist() == logits.argmax(-1).tolist()


def test_sampler__a_row_does_not_depend_on_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn((64, 5000), generator=generator)
    u = np.random.default_rng(0).random(64)
    together = sample(SamplingParams(1), logits, u)
    for k in (0, 17, 63):
        alone = sample(SamplingParams(1), logits[k : k + 1], u[k : k + 1])
        assert torch.equal(alone[:, 0], together[:, k])
