"""Losses and gradients of rows with a mask, off-policy rows, and rows with a KL coefficient."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from llm.learner.losses import LossInputs, policy_loss
from llm.learner.options import CorrectionMode, LossConfig, LossType
from llm.learner.rows import Row
from llm.models.policy import load_policy
from tests.llm.algorithms.worlds import assert_gradients_close, gradient
from tests.llm.small import dense_logprobs

PLAIN = LossConfig(vllm_importance_sampling_correction=False)
MODES: tuple[CorrectionMode, ...] = get_args(CorrectionMode)
LOSS_TYPES: tuple[LossType, ...] = get_args(LossType)


def f64(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def inputs(gammas: Any, **changes: Any) -> LossInputs:
    """Two rows, of two tokens and one."""
    values = {
        "logprobs": f64([-0.5, -2.0, -1.0]).requires_grad_(),
        "old_logprobs": None,
        "sampling_logprobs": None,
        "ref_logprobs": None,
        "advantages": f64([2.0, -1.0]),
        "row": torch.tensor([0, 0, 1]),
        "weights": f64([0.5, 0.5, 0.25]),
        "gammas": None if gammas is None else f64(gammas),
        **changes,
    }
    return LossInputs(**values)


def config(loss_type: LossType, **changes: Any) -> LossConfig:
    high = 5.0 if loss_type == "cispo" else None
    return LossConfig(loss_type, epsilon_high=high, **changes)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("mode", MODES)
def test_policy_loss__off_policy_tokens_by_hand(loss_type: LossType, mode: CorrectionMode) -> None:
    # Row 0 is of another policy: no ratio, no clip, no correction for its NaN log-probs. The old
    # policy is far away from it, which has no effect.
    far = {"old_logprobs": f64([-5.0, 0.0, -1.0]), "sampling_logprobs": f64([math.nan] * 2 + [-1])}
    given = inputs([0.1, 0.0], **far)
    out = policy_loss(given, config(loss_type, vllm_importance_sampling_mode=mode))
    p = np.exp([-0.5, -2.0])
    shaped = -2.0 * 0.5 * (p / (p + 0.1)).sum()
    on_policy = 0.25 * (1.0 if loss_type != "cispo" else -1.0)  # −r A, or −A log π, at r = 1
    assert out.loss.item() == pytest.approx(shaped + on_policy)
    (slope,) = torch.autograd.grad(out.loss, given.logprobs)
    # d f/d log π = γ π/(π + γ)².
    assert slope[:2].tolist() == pytest.approx((-2.0 * 0.5 * 0.1 * p / (p + 0.1) ** 2).tolist())
    assert slope[2].item() == pytest.approx(0.25)
    for name, flags in out.tokens.items():
        if name.startswith("clipped") and not name.endswith("_in_row"):
            assert flags[:2].tolist() == [0.0, 0.0]


def test_policy_loss__off_policy_gradient_matches_finite_differences() -> None:
    def loss(logprobs: Tensor) -> Tensor:
        return policy_loss(inputs([0.3, 0.05], logprobs=logprobs), PLAIN).loss

    assert torch.autograd.gradcheck(loss, (f64([-0.1, -4.0, -0.7]).requires_grad_(),))


def test_policy_loss__gamma_zero_equals_no_gamma() -> None:
    old = f64([-0.9, -1.5, -1.0])
    plain = inputs(None, old_logprobs=old)
    zero = inputs([0.0, 0.0], old_logprobs=old)
    one, two = policy_loss(plain, PLAIN), policy_loss(zero, PLAIN)
    assert torch.equal(one.loss, two.loss)
    for given, out in ((plain, one), (zero, two)):
        out.loss.backward()
        assert given.logprobs.grad is not None
    assert torch.equal(plain.logprobs.grad, zero.logprobs.grad)  # type: ignore[arg-type]
    assert one.tokens.keys() == two.tokens.keys()
    assert all(torch.equal(one.tokens[name], two.tokens[name]) for name in one.tokens)


def test_policy_loss__kl_coefficient_per_row() -> None:
    ref = f64([-0.6, -1.0, -2.0])
    alone = [
        policy_loss(inputs(None, ref_logprobs=ref), replace(PLAIN, beta=beta)).loss
        for beta in (0.3, 0.7)
    ]
    same = inputs(None, ref_logprobs=ref, betas=f64([0.3, 0.3]))
    assert_close(policy_loss(same, PLAIN).loss, alone[0])
    mixed = policy_loss(inputs(None, ref_logprobs=ref, betas=f64([0.3, 0.7])), PLAIN).loss
    none = policy_loss(inputs(None), PLAIN).loss
    log_ref = ref - f64([-0.5, -2.0, -1.0])
    kl = (log_ref.exp() - log_ref - 1) * f64([0.5, 0.5, 0.25])
    assert_close(mixed - none, 0.3 * kl[:2].sum() + 0.7 * kl[2])


def test_loss_inputs__shapes_of_gammas_and_betas_checked() -> None:
    with pytest.raises(ValueError, match=r"gammas: shape \(3,\) is not that of advantages, \(2,\)"):
        inputs([0.1, 0.1, 0.1])
    with pytest.raises(ValueError, match=r"betas: shape \(1,\) is not that of advantages, \(2,\)"):
        inputs(None, betas=f64([0.1]))


# --- through a model ---


@pytest.fixture(scope="module")
def policy(tiny_model: Callable[[bool], Path]) -> Any:
    return load_policy(str(tiny_model(True)), device=torch.device("cpu")).double()


@pytest.fixture(scope="module")
def reference(policy: Any) -> Any:
    other = copy.deepcopy(policy).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return other


def mixed_rows() -> list[Row]:
    """Rows with a mask, off-policy rows, rows with a KL term, rows without advantage."""
    rng = np.random.default_rng(0)

    def row(tokens: int, advantage: float, **more: Any) -> Row:
        mask = more.get("mask")
        trained = tokens if mask is None else int(mask.sum())
        ids = rng.integers(1, 63, 4 + tokens)
        return Row(ids, 4, 4 + tokens, np.full(trained, np.nan), advantage, **more)

    return [
        row(5, 1.0, mask=np.array([True, False, False, True, True])),
        row(3, -0.5, gamma=0.1),
        row(6, 0.0, beta=0.4),
        row(2, 0.0),
        row(4, 0.7, beta=0.0),
        row(3, 0.9, mask=np.zeros(3, dtype=bool)),
        row(7, -1.2, gamma=0.3, mask=np.arange(7) % 2 == 0),
    ]


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_updater__micro_batch_size_changes_nothing(
    policy: Any, reference: Any, loss_type: LossType
) -> None:
    loss = config(loss_type)
    full = gradient(policy, mixed_rows(), loss, reference=reference)
    for size in (1, 2, 3):
        assert_gradients_close(gradient(policy, mixed_rows(), loss, size, reference), full)


def test_updater__gradient_of_mixed_rows_by_hand(policy: Any, reference: Any) -> None:
    rows = mixed_rows()
    actual = gradient(policy, rows, PLAIN, reference=reference)
    total = sum(row.trained for row in rows)
    assert total == 3 + 3 + 6 + 2 + 4 + 0 + 4
    loss = torch.zeros((), dtype=torch.float64)
    policy.zero_grad()
    for row in rows:
        places = np.arange(row.trained_from, row.trained_to)
        places = places if row.mask is None else places[row.mask]
        logp = dense_logprobs(policy, row.ids)[places - 1]
        if row.gamma:
            p = logp.exp()
            loss = loss - (row.advantage * p / (p + row.gamma)).sum() / total
        else:
            loss = loss - (row.advantage * logp).sum() / total
        if row.beta:
            log_ref = dense_logprobs(reference, row.ids)[places - 1].detach() - logp
            k3 = log_ref.exp() - log_ref - 1
            # The ratio is 1, and its gradient that of log π.
            loss = loss + row.beta * (k3 + k3.detach() * (logp - logp.detach())).sum() / total
    loss.backward()
    assert_gradients_close(actual, {name: p.grad for name, p in policy.named_parameters()})
    policy.zero_grad()


def test_updater__kl_row_without_gradient_at_reference(policy: Any, reference: Any) -> None:
    held = [row for row in mixed_rows() if row.beta]
    assert len(held) == 1 and held[0].advantage == 0
    still = gradient(policy, held, PLAIN, reference=copy.deepcopy(policy))
    assert all(float(value.abs().max()) < 1e-12 for value in still.values())
    moved = gradient(policy, held, PLAIN, reference=reference)
    assert all(float(value.abs().max()) > 1e-6 for value in moved.values())
