"""Parity between engine and trainer: agreement within rounding, and detected differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from llm.engines.transformers import TransformersEngine
from llm.learner.parity import (
    BFLOAT16_MEAN,
    FLOAT32,
    PROBE_TOKENS,
    Parity,
    ParityError,
    check_parity,
)
from llm.learner.rows import MicroBatch
from llm.models.logprobs import completion_logprobs
from tests.llm.small import ScriptedEngine
from tests.llm.tiny_models import MAX_LENGTH, VOCABULARY, tiny_qwen2

CPU = torch.device("cpu")

#: Of unequal lengths, the longest first.
PROMPTS = [[(7 * i + 3 * t) % VOCABULARY for t in range(30 - 9 * i)] for i in range(3)]

Logprobs = Callable[[MicroBatch], torch.Tensor]


def trainer(
    model: Any, temperature: float = 1.0, bf16: bool = False, top_p: float = 1.0
) -> Logprobs:
    def logprobs(batch: MicroBatch) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return completion_logprobs(
                model, batch.input_ids, batch.attention_mask, batch.mask,
                temperature=temperature, top_p=top_p,
            )  # fmt: skip

    return logprobs


def check(engine: Any, logprobs: Logprobs, temperature: float = 1.0) -> Parity:
    return check_parity(engine, logprobs, PROMPTS, temperature=temperature, device=CPU)


@pytest.mark.parametrize(("tied", "temperature"), [(True, 0.5), (False, 1.0), (True, 1.7)])
def test_check_parity__same_weights_agree(tied: bool, temperature: float) -> None:
    model = tiny_qwen2(tied=tied)
    parity = check(TransformersEngine(model), trainer(model, temperature), temperature)
    assert parity.holds
    assert parity.tokens == PROBE_TOKENS * len(PROMPTS)
    assert parity.mean <= parity.max < 2e-5
    assert str(parity).startswith("parity ok: engine against trainer over 144 tokens, |Δ log-prob|")
    assert "(max ≤ 0.0001 for float32)" in str(parity)


def test_check_parity__fewer_tokens_after_long_prompts() -> None:
    model = tiny_qwen2()
    prompts = [[t % VOCABULARY for t in range(length)] for length in (MAX_LENGTH - 5, 3)]
    parity = check_parity(
        TransformersEngine(model), trainer(model), prompts, temperature=1.0, device=CPU
    )
    assert parity.tokens == 2 * 5


STALE = {
    "all weights": lambda model: tiny_qwen2(seed=1),
    "a norm, by a thousandth": lambda model: scaled(model, "model.layers.1.input_layernorm.weight"),
    "a bias, by a thousandth": lambda model: scaled(model, "model.layers.0.self_attn.q_proj.bias"),
}


def scaled(model: Any, name: str) -> Any:
    with torch.no_grad():
        model.get_parameter(name).mul_(1.001)
    return model


@pytest.mark.parametrize("change", STALE)
def test_check_parity__stale_weights_detected(change: str) -> None:
    engine = TransformersEngine(tiny_qwen2())
    model = STALE[change](tiny_qwen2())
    with pytest.raises(
        ParityError, match=r"^parity FAILED: .* over 144 tokens, .*different weights.* Nothing was"
    ):
        check(engine, trainer(model))
    engine.sync_weights(model.state_dict())
    assert check(engine, trainer(model)).holds


@pytest.mark.parametrize(("engine_at", "trainer_at"), [(1.0, 1.001), (0.7, 1.0)])
def test_check_parity__other_temperature_detected(engine_at: float, trainer_at: float) -> None:
    model = tiny_qwen2()
    engine = TransformersEngine(model)
    with pytest.raises(ParityError, match="only one of them applies the model's changes"):
        check(engine, trainer(model, trainer_at), engine_at)
    assert check(engine, trainer(model, engine_at), engine_at).holds


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_check_parity__non_finite_logprob_detected(bad: float, dtype: torch.dtype) -> None:
    def logprobs(batch: MicroBatch) -> torch.Tensor:
        return batch.logprobs.index_fill(0, torch.tensor([5]), bad)

    engine = ScriptedEngine(lambda prompt, params, j: [1] * PROBE_TOKENS)
    engine.dtype = dtype  # type: ignore[misc]
    with pytest.raises(ParityError, match=r"mean (nan|inf), max (nan|inf) nats"):
        check(engine, logprobs)


def test_check_parity__differences_and_engine_requests() -> None:
    engine = ScriptedEngine(lambda prompt, params, j: [1] * PROBE_TOKENS)
    engine.dtype = torch.bfloat16  # type: ignore[misc]
    off = torch.zeros(PROBE_TOKENS * len(PROMPTS))
    off[3], off[100] = 1.0, -2.0
    parity = check(engine, lambda batch: batch.logprobs + off, temperature=0.7)
    assert parity.mean == pytest.approx(3 / len(off))
    assert parity.max == pytest.approx(2.0)
    ((prompts, params),) = engine.calls
    assert prompts == PROMPTS
    for p in params:
        assert (p.n, p.temperature, p.top_p, p.stop_token_ids) == (1, 0.7, 1.0, ())
    assert len({p.seed for p in params}) == len(
        PROMPTS
    )  # so that equal prompts have different samples


@pytest.mark.parametrize(
    ("mean", "largest", "dtype", "top_p", "holds"),
    [
        (0.0, FLOAT32, torch.float32, 1.0, True),
        (0.0, 1.01 * FLOAT32, torch.float32, 1.0, False),
        (FLOAT32, 1.0, torch.float32, 0.9, True),
        (1.01 * FLOAT32, 1.0, torch.float32, 0.9, False),
        (BFLOAT16_MEAN, 3.0, torch.bfloat16, 1.0, True),
        (1.01 * BFLOAT16_MEAN, 0.2, torch.bfloat16, 0.9, False),
        (math.nan, math.nan, torch.float32, 0.9, False),
        (math.nan, math.nan, torch.bfloat16, 1.0, False),
    ],
)
def test_parity__bounds_max_in_float32_and_mean_with_top_p_or_in_bfloat16(
    mean: float, largest: float, dtype: torch.dtype, top_p: float, holds: bool
) -> None:
    parity = Parity(10, mean, largest, dtype, top_p)
    assert parity.holds == holds
    assert str(parity).startswith(f"parity {'ok' if holds else 'FAILED'}: ")
    limit = "mean ≤ 0.1 for bfloat16"
    if dtype == torch.float32:
        limit = f"{'max' if top_p == 1 else 'mean'} ≤ 0.0001 for float32"
    assert str(parity).endswith(f"({limit})")


def test_check_parity__token_at_the_edge_of_a_nucleus() -> None:
    engine = ScriptedEngine(lambda prompt, params, j: [1] * PROBE_TOKENS)
    edge = torch.zeros(PROBE_TOKENS * len(PROMPTS))
    edge[7] = 1e-3

    def differing(batch: MicroBatch) -> torch.Tensor:
        return batch.logprobs + edge

    parity = check_parity(engine, differing, PROMPTS, temperature=1.0, top_p=0.9, device=CPU)
    assert parity.max > FLOAT32
    with pytest.raises(ParityError, match=r"max ≤ 0\.0001"):
        check(engine, differing)


@pytest.mark.parametrize("change", STALE)
def test_check_parity__stale_weights_detected_with_top_p(change: str) -> None:
    model = STALE[change](tiny_qwen2())
    with pytest.raises(ParityError, match=r"mean ≤ 0\.0001 for float32"):
        check_parity(
            TransformersEngine(tiny_qwen2()), trainer(model, top_p=0.9), PROMPTS, temperature=1.0,
            top_p=0.9, device=CPU,
        )  # fmt: skip


def test_check_parity__bfloat16_agrees_within_rounding() -> None:
    model = tiny_qwen2()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    engine = TransformersEngine(model, dtype=torch.bfloat16)
    parity = check(engine, trainer(model, bf16=True))
    assert FLOAT32 < parity.mean < BFLOAT16_MEAN
    with pytest.raises(ParityError, match=r"mean ≤ 0\.1 for bfloat16"):
        check(engine, trainer(tiny_qwen2(seed=1), bf16=True))


def test_check_parity__different_samples_of_equal_prompts() -> None:
    model = tiny_qwen2()
    seen = []

    def logprobs(batch: MicroBatch) -> torch.Tensor:
        seen.extend(batch.input_ids.tolist())
        return trainer(model)(batch)

    check_parity(TransformersEngine(model), logprobs, [PROMPTS[0]] * 3, temperature=1.0, device=CPU)
    assert len({tuple(row) for row in seen}) == 3
    assert np.shape(seen) == (3, len(PROMPTS[0]) + PROBE_TOKENS)
